"""`scaling show`: a saved fit, printed again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from analysis.text import paragraph
from experiments.cli.app import app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import say

FitPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FIT")]


@app.command
def show(fit: FitPath, /, *, output: Outputs = TO_TERMINAL) -> None:
    """Print a saved fit again: its coefficients, intervals, checks and warnings.

        scaling show results/quickstart/fits/chinchilla.json

    Args:
        fit: A file that `scaling fit` wrote.
    """
    from analysis.fitting.files import said_by
    from experiments.cli.join.saved import saved_fit
    from experiments.cli.render.fit import conclusion, next_text

    found, said = saved_fit(fit), said_by(fit)
    output.write(said)
    texts = [found.summary()]
    if approaches := said.get("approaches"):
        texts.append(paragraph(approaches["sentence"]))
    say("\n\n".join([*texts, conclusion(found)]))
    if advised := next_text(found, fit):
        say(advised)
