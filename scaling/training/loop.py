"""Train one run from where its files left off to its end.

The loop does arithmetic on the absolute step and nothing else: batches, rates, evaluations and
checkpoints are functions of it, so a run that was killed ends with the same bits.

Several processes (scaling/training/processes.py) go through it together. Each makes the same
decisions from the same numbers; files are read and written by the one that leads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from models.devices import peak_flops
from scaling.data.corpus import Corpus
from scaling.data.holdout import HoldoutLoss
from scaling.schedule import learning_rates
from scaling.spec import RunSpec
from scaling.store.failpoint import failpoint
from scaling.store.steps import (
    forget_steps_after,
    merge_steps,
    read_steps,
    refuse_missing,
    write_segment,
)
from scaling.training.agreement import agreed
from scaling.training.ahead import made_ahead
from scaling.training.evaluations import Evaluation, Evaluations
from scaling.training.inputs import batches_of, made_beside
from scaling.training.processes import here
from scaling.training.resume import own_checkpoint, trunk_checkpoint, whole_until
from scaling.training.saver import Saver
from scaling.training.step import Metrics, TrainState, mesh_of, program_of

NO_SETS: Mapping[str, Corpus] = MappingProxyType({})
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
    sets: Mapping[str, HoldoutLoss]  # by the names of validation sets
    train_loss: float  # mean of the last steps, nats/token


def train(
    spec: RunSpec,
    folder: Path,
    corpus: Corpus,
    *,
    sets: Mapping[str, Corpus] = NO_SETS,
    trunk: Path | None = None,
    mesh: Mesh | None = None,
    before_commit: Callable[[], None] = lambda: None,
    report: Callable[[Progress], None] = lambda progress: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Bring the run in `folder` to its end and return its held-out loss, and those on `sets`.

    Goes on from the last checkpoint; a cooldown starts from one of its trunk's run folder, which is
    only read. `before_commit` is called before anything is written, and may raise.
    Without a `mesh`, it is laid out on all devices that this process sees, and those of the
    processes that it was joined with, which all call this; of these only one writes, and all stop
    where any should.
    The same bits return on the same kind and number of devices.
    Raises Diverged, Interrupted (after a checkpoint), Refusal (files, disk; Abandoned on processes
    that do not lead), or what jax raises;
    of a device out of memory scaling/training/exhausted.py says what to try.
    """
    return _Loop(spec, folder, trunk, corpus, sets, mesh, before_commit).run(report, should_stop)


@dataclass(frozen=True)
class Call:
    """The steps from `first` to `end` (excluded) and what they need, on the devices."""

    first: int
    end: int
    tokens: jax.Array  # int32, shape (steps, B, T + 1)
    rates: jax.Array  # float32, shape (steps,)

    @property
    def steps(self) -> int:
        return self.end - self.first


@dataclass(frozen=True)
class Pause:
    """What is done after a call whose rows are logged, while the devices go on with the next."""

    evaluation: Evaluation | None
    saves: bool  # a checkpoint was begun, and is committed once its rows are written


class _Loop:
    """The state of one run while it trains."""

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        trunk: Path | None,
        corpus: Corpus,
        sets: Mapping[str, Corpus],
        mesh: Mesh | None,
        before_commit: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.folder = folder
        self.trunk = trunk
        self.corpus = corpus
        self.before_commit = before_commit
        self.batches = batches_of(spec, corpus)
        self.program = program_of(spec, mesh)
        self.mesh = mesh or mesh_of(self.program.layout)
        device = self.mesh.devices.flat[0]
        peak = peak_flops(device.device_kind, spec.dtype) or math.nan
        self.peak_flops = peak * self.program.layout.devices  # FLOP/s of all; NaN: not known
        self.causal_flops_per_token = spec.causal_flops_per_token
        self.evaluations = Evaluations(spec, folder, corpus, self.program, sets)
        self.saver = Saver(folder / "checkpoints", spec.run_id, spec.checkpoint_at, before_commit)
        self.holdout: HoldoutLoss | None = None  # of the last evaluation
        self.rows: list[dict[str, Any]] = []  # logged since the last segment
        self.resumed = spec.first_step  # the step that this session goes on from
        self.evaluated: set[int] = set()  # steps up to there with a held-out loss
        self.recent: list[float] = []  # losses of the divergence window
        # What the devices were asked for and nobody has looked at; never both.
        self.called: tuple[Call, Metrics] | None = None
        self.pause: Pause | None = None
        self.clock = time.perf_counter()  # when the devices began what is logged next
        self.tokens_per_s = 0.0

    def run(self, report: Callable[[Progress], None], should_stop: Callable[[], bool]) -> Trained:
        spec = self.spec
        should_stop = agreed(should_stop, self.mesh)
        state, step = self._resume(should_stop)
        lengths = set[int]()  # of calls that are compiled
        self.clock = time.perf_counter()
        noted = here().failures_noted(self.folder.name, but=(Diverged, Interrupted))
        with self.saver, self._calls(step, spec.schedule.steps) as calls, noted:
            for call in calls:
                if compiles := call.steps not in lengths:
                    self._catch_up()  # so that compiling slows down no call but in its own time
                state, metrics = self._advance(state, call)
                if compiles:
                    lengths.add(call.steps)
                    self.clock = time.perf_counter()
                # All is looked at one call late, so that the devices never wait for the host.
                self._catch_up()
                self.called = call, metrics
                step = call.end
                ends, stop = step == spec.schedule.steps, should_stop()
                due = ends or step in spec.checkpoint_at or self._every(step, spec.checkpoint_every)
                evaluates = self._evaluates(step)
                if due or evaluates or stop:
                    self._catch_up()
                    self.pause = self._begin_pause(state, step, evaluates, due or stop)
                if ends or stop:
                    self._catch_up()
                    self.saver.wait()
                self.saver.look()
                report(Progress(step, spec.first_step, spec.schedule.steps, self.tokens_per_s))
                if stop and not ends:
                    raise Interrupted(f"stopped at step {step} of {spec.schedule.steps}")
        if self.holdout is None:  # resumed after the last checkpoint: nothing was left to train
            self.holdout = self._judge_again(state.params, step)
        sets = self.evaluations.judge_sets(state.params)
        here().lead("end", self._write_tables)
        return Trained(self.holdout, sets, float(np.mean(self.recent)))

    def _write_tables(self) -> None:
        self.before_commit()
        rows, last = read_steps(self.folder), self.spec.schedule.steps
        evaluated = (step for step in range(self.resumed + 1, last) if self._evaluates(step))
        refuse_missing(rows, self.spec.first_step, last, {last, *self.evaluated, *evaluated})
        merge_steps(self.folder, rows)
        failpoint("steps-merged")
        self.evaluations.write_table()
        failpoint("evals-written")

    def _begin_pause(self, state: TrainState, step: int, evaluates: bool, saves: bool) -> Pause:
        """All that needs the state, which the next call overwrites."""
        evaluation = self.evaluations.begin(state.params, step) if evaluates else None
        if saves:
            self.saver.begin(step, state)
        self.clock = time.perf_counter()
        return Pause(evaluation, saves)

    def _catch_up(self) -> None:
        """Log the last call, or finish the last pause. Raises Diverged."""
        if self.called is not None:
            called, self.called = self.called, None
            self._log(*called)
        if self.pause is not None:
            pause, self.pause = self.pause, None
            if pause.evaluation is not None:
                self._finish_evaluation(pause.evaluation)
            if pause.saves:
                self._commit()

    def _finish_evaluation(self, evaluation: Evaluation) -> None:
        self.holdout = self.evaluations.finish(evaluation)
        self.clock = time.perf_counter()
        self.rows[-1]["val_loss"] = self.holdout.loss
        self.rows[-1]["val_loss_stderr"] = self.holdout.stderr
        if not math.isfinite(self.holdout.loss):  # the last update, which no loss shows
            self._give_up(f"held-out loss {self.holdout.loss} at step {evaluation.step}")

    def _judge_again(self, params: Any, step: int) -> HoldoutLoss:
        """The held-out loss of a run that is trained, written where its last step has none."""
        holdout = self.evaluations.finish(self.evaluations.begin(params, step))

        def write() -> None:
            steps = read_steps(self.folder)
            last = steps["step"] == step
            if steps.loc[last, "val_loss"].isna().any():
                self.before_commit()
                self.evaluations.write_scores()
                steps.loc[last, ["val_loss", "val_loss_stderr"]] = holdout.loss, holdout.stderr
                merge_steps(self.folder, steps)

        here().lead("judged", write)
        return holdout

    def _evaluates(self, step: int) -> bool:
        return step == self.spec.schedule.steps or self._every(step, self.spec.evaluate_every)

    @staticmethod
    def _every(step: int, every: int) -> bool:
        return step % every == 0

    @contextmanager
    def _calls(self, first: int, last: int) -> Iterator[Iterator[Call]]:
        """The calls between two steps, each made before it is needed."""
        with (
            made_beside(self.batches, self.spec, self.corpus, first, last),
            made_ahead(self._call, self._spans(first, last)) as calls,
        ):
            yield calls

    def _spans(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """The first step of each call between two steps, and the one after its last."""
        while first < last:
            end = self._end_of_call(first)
            yield first, end
            first = end

    def _call(self, span: tuple[int, int]) -> Call:
        first, end = span
        batches = self.batches.span(first, end - first, self.program.own_rows)
        tokens = self.program.put_batches(batches)
        rates = learning_rates(self.spec.schedule, first, end - first)
        return Call(first, end, tokens, self.program.put_rates(rates))

    def _advance(self, state: TrainState, call: Call) -> tuple[TrainState, Metrics]:
        with jax.transfer_guard("disallow"):
            return self.program.train(state, call.tokens, call.rates)

    def _end_of_call(self, step: int) -> int:
        """Where the call that `step` is in ends: whoever resumes runs the same programs."""
        spec = self.spec
        every = (self.program.layout.steps_per_call, spec.evaluate_every, spec.checkpoint_every)
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
        limit = here().lead("whole", lambda: min(spec.schedule.steps, whole_until(spec, folder)))
        found = own_checkpoint(spec, folder, self.program.abstract, limit)

        self.resumed = found[1] if found else spec.first_step

        def last_losses() -> list[float]:
            forget_steps_after(folder, self.resumed)
            failpoint("resumed")
            rows = read_steps(folder)
            self.evaluated = set(rows["step"][rows["val_loss"].notna()])
            return rows["loss"].tolist()[-DIVERGENCE_WINDOW:] if found else []

        self.recent = here().lead("last losses", last_losses)
        if found:
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
        with self._calls(step, wanted) as calls:
            for call in calls:
                if should_stop():
                    raise Interrupted(f"stopped on the way to the branch point at step {wanted}")
                state, _ = self._advance(state, call)
        return state

    def _log(self, call: Call, metrics: Metrics) -> None:
        """Turn the metrics of one call into rows. Raises Diverged."""
        spec, first = self.spec, call.first
        losses, norms = np.asarray(metrics.loss), np.asarray(metrics.grad_norm)
        now = time.perf_counter()
        self.tokens_per_s = len(losses) * spec.batch_tokens / max(now - self.clock, 1e-9)
        self.clock = now
        flops_per_token = spec.flops_per_token
        share_per_flop = self.tokens_per_s / self.peak_flops
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
                    "mfu": flops_per_token * share_per_flop,
                    "mfu_causal": self.causal_flops_per_token * share_per_flop,
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

    def _give_up(self, reason: str) -> None:
        def write() -> None:
            self.before_commit()
            write_segment(self.folder, self.rows)
            merge_steps(self.folder)

        here().lead("given up", write)
        raise Diverged(reason)

    def _commit(self) -> None:
        """Rows first, then the checkpoint: a checkpoint never lacks the rows that led to it."""
        here().lead("rows", self._write_rows)
        self.rows, self.evaluations.scores = [], {}
        self.saver.commit()

    def _write_rows(self) -> None:
        self.before_commit()
        failpoint("commit")
        self.evaluations.write_scores()
        write_segment(self.folder, self.rows)
        failpoint("segment-written")
