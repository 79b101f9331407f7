"""The evaluations of a run while it trains: held-out losses, tasks' answers, and their tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.data.corpus import Corpus
from scaling.data.holdout import (
    HoldoutLoss,
    holdout_windows,
    summarise_holdout,
)
from scaling.spec import RunSpec
from scaling.store.failpoint import failpoint
from scaling.store.records import Refusal, write_table
from scaling.store.scores import HOLDOUT, join_scores, scored_steps, write_scores
from scaling.store.steps import read_steps
from scaling.training.inputs import context_scores, evaluator_of
from scaling.training.judge import Judging, holdout_losses, judge
from scaling.training.step import Program


@dataclass(frozen=True)
class Evaluation:
    """What a model was asked after a step: the answers are there, the losses may not be yet."""

    step: int
    judging: Judging
    answers: tuple[dict[str, Any], ...]  # scores of the tasks


class Evaluations:
    """What the models of one run are asked, and what they said since the last checkpoint."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        corpus: Corpus,
        program: Program,
        sets: Mapping[str, Corpus],
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.program = program
        self.windows = holdout_windows(corpus, spec.sequence_length, spec.holdout_tokens)
        self.sets = sets
        self.evaluator = None if spec.tasks is None else evaluator_of(spec, corpus, program)
        self.scores: dict[int, pd.DataFrame] = {}  # of evaluated steps, not written yet

    def begin(self, params: Any, step: int) -> Evaluation:
        """Ask for all losses without waiting, and put the tasks to the model, which waits."""
        judging = judge(self.program, params, self.windows)
        answers = () if self.evaluator is None else tuple(self.evaluator.scores(params))
        return Evaluation(step, judging, answers)

    def finish(self, evaluation: Evaluation) -> HoldoutLoss:
        """Wait for the losses; scores are kept for `write_scores`."""
        losses = evaluation.judging.losses()
        if self.evaluator is not None:
            rows = [*evaluation.answers, *context_scores(losses, self.windows)]
            step = evaluation.step
            self.scores[step] = pd.DataFrame(rows).assign(run=self.spec.run_id, step=step)
        return summarise_holdout(losses, self.windows)

    def judge_sets(self, params: Any) -> dict[str, HoldoutLoss]:
        """The losses on the validation sets, one set after another: at the end of a run alone.

        They would multiply the cost of each evaluation, and nothing on the way is chosen by them.
        """
        found = {}
        for name, text in self.sets.items():
            windows = holdout_windows(text, self.spec.sequence_length, self.spec.holdout_tokens)
            losses = holdout_losses(self.program, params, windows)
            found[name] = summarise_holdout(losses, windows)
        return found

    def write_scores(self) -> None:
        """Write the scores of the evaluations since the last checkpoint."""
        for evaluated, scores in self.scores.items():
            write_scores(self.folder, evaluated, scores)
            failpoint("scores-written")

    def write_table(self) -> None:
        """Every evaluation of the run as one table. Raises Refusal if answers are lost."""
        evals = self._holdout_table()
        if self.evaluator is not None:
            if lost := set(evals["step"]) - scored_steps(self.folder):
                raise Refusal(
                    f"{self.folder / 'evals'}: the answers of step {min(lost)} can no longer be "
                    "read. Run the study with --retry failed: it asks again."
                )
            evals = join_scores(self.folder, evals)
        write_table(self.folder / "evals.parquet", evals)

    def _holdout_table(self) -> pd.DataFrame:
        """Every held-out evaluation of the run, a row a metric."""
        steps = read_steps(self.folder)
        steps = steps[steps["val_loss"].notna()]
        common = {"run": self.spec.run_id, "step": steps["step"], "task": HOLDOUT}
        n = self.windows.document.size
        units = {"loss": 1.0}
        if (per_token := self.windows.bytes_per_token) is not None:
            units["bits_per_byte"] = 1 / (math.log(2) * per_token)
        metrics = [
            pd.DataFrame(
                {
                    **common,
                    "metric": metric,
                    "value": unit * steps["val_loss"],
                    "stderr": unit * steps["val_loss_stderr"],
                    "n": n,
                }
            )
            for metric, unit in units.items()
        ]
        return pd.concat(metrics, ignore_index=True)
