"""`scaling prepare`: read and tokenise the text of a study before it is planned or trained."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import arg

from experiments.cli.app import app
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import say

ConfigPath = Annotated[
    tyro.conf.Positional[Path],
    arg(metavar="STUDY.toml", help="A study file, or a TOML file with its [data] section alone."),
]


@app.command
def prepare(
    study: ConfigPath,
    /,
    *,
    processes: int | None = None,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Make the corpus of a study: read its text, hold out a part, tokenise the rest.

    The corpus is kept in the cache (~/.cache/scaling-laws, or SCALING_CACHE), where `scaling plan`
    and `scaling run` find it. These make it too if it is not there, in one process; this command
    takes all cores, which pays from some hundred megabytes on. It may be interrupted or killed and
    given again: the parts that are done are checked and kept. What comes out does not depend on the
    number of processes.

        scaling prepare my_study.toml
        scaling prepare corpus.toml --processes 16 --json corpus.json

    Args:
        processes: Number of processes to read and tokenise with. The default is one per core.
    """
    from experiments.cli.progress import Preparation
    from experiments.cli.render.prepare import Prepared, prepared_json, prepared_text
    from scaling.data.prepare import prepare as prepare_corpus
    from scaling.data.processes import Processes
    from scaling.launch.slots import core_count
    from scaling.store.paths import cache_folder
    from scaling.study import data_section_of, study_bytes

    section = data_section_of(study_bytes(study), str(study))
    count = core_count() if processes is None else processes
    began = time.monotonic()
    with Processes(count) as working, Preparation() as watch:
        corpus = prepare_corpus(section, cache_folder() / "corpora", watch, working)
    made = Prepared(
        corpus=corpus,
        section=section,
        processes=count,
        seconds=None if watch.step is None else time.monotonic() - began,
        went_on=watch.went_on,
    )
    output.write(prepared_json(made))
    say(prepared_text(made))
    say(f"Next: scaling plan {study}")
