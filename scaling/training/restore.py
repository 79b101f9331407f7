"""The model that a finished run ended with, brought back from its last checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from scaling.data.corpus import Corpus
from scaling.data.verified import loaded
from scaling.planning.deriving import evaluation_layout
from scaling.spec import RunSpec, has_own_id, read_spec
from scaling.store.checksums import Damaged
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal
from scaling.store.run_record import read_run
from scaling.tasks.vocabulary import Vocabulary, vocabulary_of
from scaling.training import checkpoint
from scaling.training.jax_setup import configure_jax
from scaling.training.step import Program, make_program, mesh_of
from scaling.training.target import target_here


@dataclass(frozen=True)
class Finished:
    """A run that completed, and its model."""

    spec: RunSpec
    corpus: Corpus
    program: Program
    params: Any

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Its tokeniser. Raises Refusal for a corpus of tokens whose texts are not known."""
        return vocabulary_of(self.corpus)


def finished(folder: Path) -> Finished:
    """The run in a folder, with the parameters of its last step.

    Raises Refusal for one that has not completed, whose checkpoint is missing or damaged, or
    whose corpus, and with it the tokeniser, is not in this machine's cache.
    """
    status = read_run(folder).status
    if status != "completed":
        raise Refusal(f"{folder} is {status}: only a completed run has a model to evaluate.")
    spec = read_spec(folder)
    if not has_own_id(spec):
        raise Refusal(
            f"{folder} was trained by another program than architecture = {spec.architecture!r} is "
            "now. Bring the source back that it was trained with."
        )
    step = spec.schedule.steps
    if not (folder / "checkpoints" / str(step)).is_dir():
        raise Refusal(
            f"{folder} has no checkpoint of its last step, {step}. Copy its checkpoints here, or "
            "delete the run's folder and run the study again."
        )
    configure_jax()
    # Checked, its tokeniser too, which puts the questions.
    corpus = loaded(spec.corpus, cache_folder() / "corpora")
    layout = evaluation_layout(spec, target_here())
    mesh = mesh_of(layout)
    program = make_program(spec.architecture, spec.model, spec.optimizer, spec.seed, layout, mesh)
    # The moments stay on the host: they are twice as large as the parameters.
    wanted = program.abstract._replace(moments=())
    try:
        state = checkpoint.restore(folder / "checkpoints", step, wanted, spec.run_id)
    except Damaged as error:
        raise Damaged(
            f"{error}. Delete that file if it is there, and give `scaling run` of its study with "
            "--retry failed, which makes the checkpoint again."
        ) from error
    return Finished(spec, corpus, program, state.params)
