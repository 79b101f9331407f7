"""Train one run from where its files left off to its end.

The loop does arithmetic on the absolute step and nothing else: batches, rates, evaluations and
checkpoints are functions of it, so a run that was killed ends with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
from jax.sharding import Mesh

from scaling.data.corpus import Corpus
from scaling.data.holdout import HoldoutLoss, holdout_windows, summarise_holdout
from scaling.schedule import learning_rates
from scaling.spec import RunSpec
from scaling.store.failpoint import failpoint
from scaling.store.records import Refusal, write_table
from scaling.store.scores import HOLDOUT, join_scores, scored_steps, write_scores
from scaling.store.steps import (
    forget_steps_after,
    merge_steps,
    read_steps,
    write_segment,
)
from scaling.training import checkpoint
from scaling.training.inputs import batches_of, context_scores, evaluator_of
from scaling.training.judge import holdout_losses
from scaling.training.resume import own_checkpoint, trunk_checkpoint, whole_until
from scaling.training.step import Metrics, TrainState, program_of

DIVERGENCE_WINDOW = 50  # steps whose mean loss may not exceed that of guessing, ln V


class Diverged(Exception):
    """The loss or the gradient is no longer finite, or worse than guessing."""


class Interrupted(Exception):
    """Asked to stop; a checkpoint was written and the run can go on later."""


@dataclass(frozen=True)
class Progress:
    """Where a run is, for whoever watches."""

    step: int
    first_step: int
    last_step: int
    tokens_per_s: float


@dataclass(frozen=True)
class Trained:
    """What a finished run is worth."""

    holdout: HoldoutLoss
    train_loss: float  # mean of the last steps, nats/token


def train(
    spec: RunSpec,
    folder: Path,
    corpus: Corpus,
    *,
    trunk: Path | None = None,
    mesh: Mesh | None = None,
    before_commit: Callable[[], None] = lambda: None,
    report: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Bring the run in `folder` to its end and return its held-out loss.

    Goes on from the last checkpoint; a cooldown starts from one of its trunk's run folder, which is
    only read. `before_commit` is called before anything is written, and may raise.
    Without a `mesh`, state and batch are split over as many of this process's devices as divide
    a microbatch. The same bits return on the same kind and number of devices.
    Raises Diverged, Interrupted (after a checkpoint), or Refusal (files, disk).
    """
    return _Loop(spec, folder, trunk, corpus, mesh, before_commit).run(report, should_stop)


class _Loop:
    """The state of one run while it trains."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        trunk: Path | None,
        corpus: Corpus,
        mesh: Mesh | None,
        before_commit: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.trunk = trunk
        self.before_commit = before_commit
        self.batches = batches_of(spec, corpus)
        self.windows = holdout_windows(corpus, spec.sequence_length, spec.holdout_tokens)
        self.bytes_per_token = corpus.info.bytes_per_token
        self.program = program_of(spec, mesh)
        self.evaluator = None if spec.tasks is None else evaluator_of(spec, corpus, self.program)
        self.scores: dict[int, pd.DataFrame] = {}  # of evaluated steps, since the last checkpoint
        self.rows: list[dict[str, Any]] = []  # logged since the last segment
        self.recent: list[float] = []  # losses of the divergence window
        self.clock = time.perf_counter()
        self.tokens_per_s = 0.0

    def run(self, report: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Trained:
        spec = self.spec
        state, step = self._resume(should_stop)
        holdout: HoldoutLoss | None = None
        waiting: tuple[int, Metrics] | None = None
        self.clock = time.perf_counter()
        while step < spec.schedule.steps:
            state, metrics = self._advance(state, step)
            # Metrics are read one call late, so that the device never waits for the host.
            if waiting is not None:
                self._log(*waiting)
            waiting = (step, metrics)
            step = self._end_of_call(step)
            ends, stop = step == spec.schedule.steps, should_stop()
            due = ends or step in spec.checkpoint_at or self._every(step, spec.checkpoint_every)
            evaluates = ends or self._every(step, spec.evaluate_every)
            if due or evaluates or stop:
                self._log(*waiting)
                waiting = None
                pause = time.perf_counter()
                if evaluates:
                    losses = self._holdout_losses(state.params)
                    holdout = summarise_holdout(losses, self.windows, self.bytes_per_token)
                    self.rows[-1]["val_loss"] = holdout.loss
                    self.rows[-1]["val_loss_stderr"] = holdout.stderr
                    if not math.isfinite(holdout.loss):  # the last update, which no loss shows
                        self._give_up(f"held-out loss {holdout.loss} at step {step}")
                    self._score(state.params, losses, step)
                if due or stop:
                    self._commit(state, step)
                self.clock += time.perf_counter() - pause
            report(Progress(step, spec.first_step, spec.schedule.steps, self.tokens_per_s))
            if stop and not ends:
                raise Interrupted(f"stopped at step {step} of {spec.schedule.steps}")
        if holdout is None:  # resumed after the last checkpoint: nothing was left to train
            holdout = self._judge_again(state.params, step)
        self.before_commit()
        merge_steps(self.folder)
        failpoint("steps-merged")
        self._write_evals()
        failpoint("evals-written")
        return Trained(holdout, float(np.mean(self.recent)))

    def _judge_again(self, params: Any, step: int) -> HoldoutLoss:
        """The held-out loss of a run that is trained, written where its last step has none."""
        losses = self._holdout_losses(params)
        holdout = summarise_holdout(losses, self.windows, self.bytes_per_token)
        steps = read_steps(self.folder)
        last = steps["step"] == step
        if steps.loc[last, "val_loss"].isna().any():
            self.before_commit()
            self._score(params, losses, step)
            self._write_scores()
            steps.loc[last, ["val_loss", "val_loss_stderr"]] = holdout.loss, holdout.stderr
            merge_steps(self.folder, steps)
        return holdout

    @staticmethod
    def _every(step: int, every: int) -> bool:
        return step % every == 0

    def _advance(self, state: TrainState, step: int) -> tuple[TrainState, Metrics]:
        """The call that `step` begins, to its end."""
        count = self._end_of_call(step) - step
        tokens = self.program.put_batches(self.batches.span(step, count))
        rates = self.program.put_rates(learning_rates(self.spec.schedule, step, count))
        with jax.transfer_guard("disallow"):
            return self.program.train(state, tokens, rates)

    def _end_of_call(self, step: int) -> int:
        """Where the call that `step` is in ends: whoever resumes runs the same programs."""
        spec = self.spec
        every = (spec.hardware.steps_per_call, spec.evaluate_every, spec.checkpoint_every)
        events = (*spec.checkpoint_at, spec.first_step, spec.schedule.steps)
        return min(
            *(step - step % steps + steps for steps in every),
            *(event for event in events if event > step),
        )

    def _resume(self, should_stop: Callable[[], bool]) -> tuple[TrainState, int]:
        """The last whole checkpoint of this run, else where it branches off, else step 0.

        Damaged checkpoints, and other runs', are set aside. One that is whole and still cannot be
        read has another cause: Refusal, and nothing is thrown away. Rows that are missing or cannot
        be read are trained again, from the checkpoint before them.
        """
        spec, folder = self.spec, self.folder
        limit = min(spec.schedule.steps, whole_until(spec, folder))
        found = own_checkpoint(spec, folder, self.program.abstract, limit)
        forget_steps_after(folder, found[1] if found else spec.first_step)
        failpoint("resumed")
        if found:
            self.recent = read_steps(folder)["loss"].tolist()[-DIVERGENCE_WINDOW:]
            return found
        if spec.run_kind == "cooldown":
            return self._branch_point(should_stop), spec.first_step
        return self.program.initial(), 0

    def _branch_point(self, should_stop: Callable[[], bool]) -> TrainState:
        """The trunk's state where this cooldown starts.

        The trunk keeps a checkpoint there; if the study has since gained this budget, the steps
        from the checkpoint before are trained again, to the same bits.
        """
        assert self.trunk is not None, "a cooldown needs its trunk's folder"
        wanted, of_trunk = self.spec.first_step, (self.spec, self.trunk, self.program.abstract)
        found = trunk_checkpoint(*of_trunk, wanted)
        if found is None or found[1] < wanted:  # perhaps it moved just now, the trunk published
            found = trunk_checkpoint(*of_trunk, wanted)
        state, step = found or (self.program.initial(), 0)
        while step < wanted:
            if should_stop():
                raise Interrupted(f"stopped on the way to the branch point at step {wanted}")
            state, _ = self._advance(state, step)
            step = self._end_of_call(step)
        return state

    def _log(self, first: int, metrics: Metrics) -> None:
        """Turn the metrics of one call into rows. Raises Diverged."""
        spec = self.spec
        losses, norms = np.asarray(metrics.loss), np.asarray(metrics.grad_norm)
        now = time.perf_counter()
        self.tokens_per_s = len(losses) * spec.batch_tokens / max(now - self.clock, 1e-9)
        self.clock = now
        flops_per_token = spec.flops_per_token
        rates = learning_rates(spec.schedule, first, len(losses))
        for offset, (loss, norm, rate) in enumerate(zip(losses, norms, rates, strict=True)):
            step = first + offset + 1
            tokens = step * spec.batch_tokens
            self.rows.append(
                {
                    "step": step,
                    "tokens": float(tokens),
                    "flops": flops_per_token * tokens,
                    "loss": float(loss),
                    "val_loss": math.nan,
                    "val_loss_stderr": math.nan,
                    "lr": float(rate),
                    "grad_norm": float(norm),
                    "tokens_per_s": self.tokens_per_s,
                    "mfu": math.nan,  # no published peak for float32 on a CPU to divide by
                }
            )
            # On the host: fast math may fold a NaN check away inside a compiled program.
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._give_up(f"loss {loss}, gradient norm {norm} at step {step}")
            self.recent = [*self.recent, float(loss)][-DIVERGENCE_WINDOW:]
            guessing = math.log(spec.model.vocab_size)
            if (
                step > spec.schedule.warmup_steps + DIVERGENCE_WINDOW
                and len(self.recent) == DIVERGENCE_WINDOW
                and np.mean(self.recent) > guessing
            ):
                self._give_up(
                    f"mean loss of {DIVERGENCE_WINDOW} steps above ln V = {guessing:.3f} "
                    f"at step {step}"
                )

    def _holdout_losses(self, params: Any) -> np.ndarray:
        sequences = self.spec.microbatch_sequences
        return holdout_losses(self.program, params, self.windows, sequences)

    def _score(self, params: Any, losses: np.ndarray, step: int) -> None:
        """Put the tasks to the model, to be written before the next checkpoint."""
        if self.evaluator is not None:
            rows = [*self.evaluator.scores(params), *context_scores(losses, self.windows)]
            self.scores[step] = pd.DataFrame(rows).assign(run=self.spec.run_id, step=step)

    def _write_scores(self) -> None:
        for evaluated, scores in self.scores.items():
            write_scores(self.folder, evaluated, scores)
            failpoint("scores-written")
        self.scores = {}

    def _write_evals(self) -> None:
        """Every evaluation of the run as one table."""
        evals = self._evals()
        if self.evaluator is not None:
            if lost := set(evals["step"]) - scored_steps(self.folder):
                raise Refusal(
                    f"{self.folder / 'evals'}: the answers of step {min(lost)} can no longer be "
                    "read. Run the study with --retry failed: it asks again."
                )
            evals = join_scores(self.folder, evals)
        write_table(self.folder / "evals.parquet", evals)

    def _evals(self) -> pd.DataFrame:
        """Every held-out evaluation of the run, a row a metric."""
        steps = read_steps(self.folder)
        steps = steps[steps["val_loss"].notna()]
        common = {"run": self.spec.run_id, "step": steps["step"], "task": HOLDOUT}
        n = self.windows.tokens.shape[0] * self.spec.sequence_length
        units = {"loss": 1.0}
        if self.bytes_per_token is not None:
            units["bits_per_byte"] = 1 / (math.log(2) * self.bytes_per_token)
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

    def _give_up(self, reason: str) -> None:
        self.before_commit()
        write_segment(self.folder, self.rows)
        merge_steps(self.folder)
        raise Diverged(reason)

    def _commit(self, state: TrainState, step: int) -> None:
        """Rows first, then the checkpoint: a checkpoint never lacks the rows that led to it."""
        self.before_commit()
        failpoint("commit")
        self._write_scores()
        write_segment(self.folder, self.rows)
        self.rows = []
        failpoint("segment-written")
        folder = self.folder / "checkpoints"
        checkpoint.save(folder, step, state, self.spec.run_id)
        failpoint("checkpoint-saved")
        checkpoint.keep(folder, {*checkpoint.last_steps(folder, step), *self.spec.checkpoint_at})
        failpoint("checkpoints-kept")
