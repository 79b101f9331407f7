"""The figures of a study: what was trained, what was fitted, and what follows from it.

Each is a matplotlib Figure outside pyplot's state; `save` writes it as PNG and SVG.
Importing this module loads matplotlib (half a second): import it only where something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.answer import NoOptimum, Recommendation
from analysis.caution import Source
from analysis.figures.answers import Answers, answers
from analysis.figures.fitted import loss_curves, residuals
from analysis.figures.forecast import loss_by_compute
from analysis.figures.frontier import frontier, tokens_per_param
from analysis.figures.isoflop import optima_figures
from analysis.figures.landscape import landscape
from analysis.figures.repeats import repeat_curves
from analysis.figures.style import save
from analysis.figures.sweep import sweep_curves
from analysis.figures.training import training_curves
from analysis.fit import Fit
from analysis.landmarks import landmarks

__all__ = [
    "Answers",
    "answers",
    "draw",
    "draw_recommended",
    "frontier",
    "landscape",
    "loss_by_compute",
    "loss_curves",
    "optima_figures",
    "repeat_curves",
    "residuals",
    "save",
    "sweep_curves",
    "tokens_per_param",
    "training_curves",
]


def draw(
    folder: Path,
    fit: Fit,
    runs: pd.DataFrame | None = None,
    steps: pd.DataFrame | None = None,
    *,
    params_column: str = "params_total",
) -> list[Path]:
    """Write every figure that the inputs allow into `folder`; returns the files' paths.

    A law of other features than params and tokens, or of another target than the loss, gets the
    residuals, and one of repeated data what repeating costs. Training curves need `steps`, and
    `runs` for each run's size. Raises Refusal for a failed fit and if a file cannot be written.
    """
    figures = {"residuals": residuals(fit)}
    if {"params", "tokens"} == set(fit.law.features) and fit.law.target == "loss":
        figures["loss"] = loss_curves(fit)
        with suppress(NoOptimum):  # a law without one has no frontier
            found = answers(fit)
            figures |= {"loss_by_compute": loss_by_compute(found), "frontier": frontier(found)}
        figures |= optima_figures(fit)
    if {"params", "tokens", "unique_tokens"} == set(fit.law.features):
        figures["repeats"] = repeat_curves(fit)
    if runs is not None and steps is not None:
        figures["training"] = training_curves(runs, steps, params_column=params_column)
    return _saved(figures, folder)


def draw_recommended(folder: Path, source: Source, asked: Sequence[Recommendation]) -> list[Path]:
    """Write the figures that show what was `asked` of `source`: loss_by_compute, frontier,
    tokens_per_param and landscape; returns the files' paths.

    Raises Refusal as `answers` does, and if a file cannot be written.
    """
    found, known = answers(source, asked), landmarks()
    figures = {
        "loss_by_compute": loss_by_compute(found),
        "frontier": frontier(found, landmarks=known),
        "tokens_per_param": tokens_per_param(found, landmarks=known),
        "landscape": landscape(found, landmarks=known),
    }
    return _saved(figures, folder)


def _saved(figures: dict[str, Figure], folder: Path) -> list[Path]:
    return [path for name, made in figures.items() for path in save(made, folder / name)]
