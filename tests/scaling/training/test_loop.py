"""A run ends with the same bits however often it was interrupted, and learns."""

from __future__ import annotations

import functools
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from models.sharding import make_mesh
from scaling.data.corpus import Corpus
from scaling.data.holdout import holdout_windows
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store import checksums
from scaling.store.records import Refusal
from scaling.store.steps import checkpoint_steps, read_steps
from scaling.training import checkpoint, step
from scaling.training import loop as training
from scaling.training.jax_setup import configure_jax
from scaling.training.loop import Diverged, Interrupted, Progress, Trained, train
from scaling.training.step import make_program

CLOCK = ["tokens_per_s", "mfu", "mfu_causal"]
PlanOf = Callable[..., Plan]

program_once = functools.cache(make_program)

CALL = 4  # steps, of the tests' study


@pytest.fixture(scope="module", autouse=True)
def programs(cache: Path) -> Iterator[None]:
    """Compile each program once; that other processes agree is shown in test_worker.py."""
    configure_jax()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "make_program", program_once)
        yield


@pytest.fixture(scope="module")
def runs(plan: PlanOf) -> tuple[RunSpec, ...]:
    return plan().runs


@pytest.fixture(scope="module")
def undisturbed(
    runs: tuple[RunSpec, ...], corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Trained]]:
    """The folder of the trunk and its two branches, trained without interruption."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, [bring(run, folder, corpus) for run in runs]


def program(spec: RunSpec) -> Any:
    return step.program_of(spec, make_mesh())  # of the programs that are made once


def final(spec: RunSpec, results: Path) -> list[bytes]:
    """The bits of parameters, moments and step at the end of a run."""
    folder = results / spec.run_id / "checkpoints"
    state = checkpoint.restore(
        folder, checkpoint_steps(folder)[-1], program(spec).abstract, spec.run_id
    )
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def assert_same(spec: RunSpec, one: Path, other: Path) -> None:
    """Identical parameters, and records in every column that comes from no clock."""
    assert final(spec, one) == final(spec, other)
    tables = (read_steps(folder / spec.run_id).drop(columns=CLOCK) for folder in (one, other))
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    evals = (pd.read_parquet(folder / spec.run_id / "evals.parquet") for folder in (one, other))
    pd.testing.assert_frame_equal(*evals, check_exact=True)


def bring(run: RunSpec, results: Path, corpus: Corpus, **more: Any) -> Trained:
    """Train a run beside its trunk."""
    return train(run, results / run.run_id, corpus, trunk=results / run.trunk_id, **more)


def stop_after(calls: int) -> Callable[[], bool]:
    left = iter(range(calls - 1))
    return lambda: next(left, None) is None


def test_a_run_stopped_after_every_single_call_ends_with_the_same_bits(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
) -> None:
    for run, expected in zip(runs, undisturbed[1], strict=True):
        calls = (run.schedule.steps - run.first_step) // CALL
        for _ in range(calls - 1):
            with pytest.raises(Interrupted):
                bring(run, tmp_path, corpus, should_stop=stop_after(1))
        assert bring(run, tmp_path, corpus) == expected
        assert_same(run, undisturbed[0], tmp_path)


def test_a_run_with_muon_that_was_stopped_ends_with_the_same_bits(
    plan: PlanOf, corpus: Corpus, tmp_path: Path
) -> None:
    run = plan(training={"optimizer": "muon"}, model={"parametrization": "mup"}).runs[0]
    whole = bring(run, tmp_path / "whole", corpus)
    with pytest.raises(Interrupted):
        bring(run, tmp_path / "halved", corpus, should_stop=stop_after(3))
    assert bring(run, tmp_path / "halved", corpus) == whole
    assert_same(run, tmp_path / "whole", tmp_path / "halved")


@pytest.mark.parametrize("calls", [1, 2, 3, 5, 9])
def test_a_run_killed_between_checkpoints_ends_with_the_same_bits(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    calls: int,
) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: training.Progress) -> None:
        if progress.step == calls * CALL:
            raise Killed

    with pytest.raises(Killed):
        bring(runs[0], tmp_path, corpus, report=kill)
    bring(runs[0], tmp_path, corpus)
    assert_same(runs[0], undisturbed[0], tmp_path)


def test_a_segment_without_its_checkpoint_is_trained_again(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Killed(BaseException):
        pass

    def finish(writing: checkpoint.Writing, before_naming: Callable[[], None]) -> None:
        if int(writing.target.name) > 20:
            writing.checkpointer.close()  # its threads, which end with a process
            raise Killed
        checkpoint_finish(writing, before_naming)

    checkpoint_finish = checkpoint.Writing.finish
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(checkpoint.Writing, "finish", finish)
        bring(runs[0], tmp_path, corpus)
    assert read_steps(tmp_path / runs[0].run_id)["step"].max() > 20
    bring(runs[0], tmp_path, corpus)
    assert_same(runs[0], undisturbed[0], tmp_path)


def test_a_run_trains_on_while_its_checkpoint_is_written_after_its_rows(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trunk, ahead, finish = runs[0], threading.Event(), checkpoint.Writing.finish
    folder = tmp_path / trunk.run_id

    def finish_late(writing: checkpoint.Writing, before: Callable[[], None]) -> None:
        assert ahead.wait(60)
        assert int(writing.target.name) <= read_steps(folder)["step"].max()
        finish(writing, before)

    def look(progress: training.Progress) -> None:
        if progress.step == 12:  # the first checkpoint is of step 8
            assert checkpoint_steps(folder / "checkpoints") == []
            ahead.set()

    monkeypatch.setattr(checkpoint.Writing, "finish", finish_late)
    bring(trunk, tmp_path, corpus, report=look)
    assert ahead.is_set()
    assert_same(trunk, undisturbed[0], tmp_path)


def test_a_disk_that_is_found_full_while_the_run_trains_on_ends_it_and_loses_nothing(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(files: Any) -> None:
        if any("32.saving" in str(file) for file in files.values()):
            raise OSError(28, "No space left on device")
        return checksums_of(files)

    threads, checksums_of = set(threading.enumerate()), checksums.checksums
    with monkeypatch.context() as patch, pytest.raises(Refusal, match=r"32: .*No space left"):
        patch.setattr(checksums, "checksums", full)
        bring(runs[0], tmp_path, corpus)
    assert checkpoint_steps(tmp_path / runs[0].run_id / "checkpoints")[-1] == 24
    bring(runs[0], tmp_path, corpus)
    assert_same(runs[0], undisturbed[0], tmp_path)
    left = [each for each in threading.enumerate() if each not in threads]
    assert not [each for each in left if each.name.startswith(("ahead", "saver", "async_save"))]


@pytest.mark.parametrize("missing", ["branch point", "all"])
def test_a_cooldown_by_replay_equals_one_from_the_trunks_checkpoint(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    missing: str,
) -> None:
    trunk, branch = runs[0], runs[2]
    if missing != "all":
        shutil.copytree(undisturbed[0] / trunk.run_id, tmp_path / trunk.run_id)
        checkpoint.keep(tmp_path / trunk.run_id / "checkpoints", {20})
    bring(branch, tmp_path, corpus)
    assert_same(branch, undisturbed[0], tmp_path)


@pytest.mark.slow
def test_a_run_with_dropout_ends_with_the_same_bits_too(
    plan: PlanOf, corpus: Corpus, tmp_path: Path
) -> None:
    """Stopped on the way, or a cooldown by replay of its trunk."""
    trunk, branch, _ = plan(model={"overrides": {"dropout": 0.2}}).runs
    for run in (trunk, branch):
        bring(run, tmp_path / "undisturbed", corpus)
    with pytest.raises(Interrupted):
        bring(trunk, tmp_path / "stopped", corpus, should_stop=stop_after(3))
    bring(trunk, tmp_path / "stopped", corpus)
    assert_same(trunk, tmp_path / "undisturbed", tmp_path / "stopped")
    bring(branch, tmp_path / "replayed", corpus)
    assert_same(branch, tmp_path / "undisturbed", tmp_path / "replayed")


# Orbax leaves the tasks that read the other arrays to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_truncated_checkpoint_is_set_aside_and_the_one_before_used(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    trunk = runs[0]
    with pytest.raises(Interrupted):
        bring(trunk, tmp_path, corpus, should_stop=stop_after(7))
    folder = tmp_path / trunk.run_id / "checkpoints"
    assert checkpoint_steps(folder) == [20, 24, 28]
    data = max((folder / "28").rglob("d/*"), key=lambda file: file.stat().st_size)
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    bring(trunk, tmp_path, corpus)
    assert (folder / "28.unreadable").is_dir()
    assert_same(trunk, undisturbed[0], tmp_path)


def test_a_bit_flipped_in_a_logged_loss_is_found_and_its_steps_trained_again(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
) -> None:
    trunk = runs[0]
    with pytest.raises(Interrupted):
        bring(trunk, tmp_path, corpus, should_stop=stop_after(7))
    folder = tmp_path / trunk.run_id
    segment = max((folder / "steps").iterdir())
    loss = np.float64(read_steps(folder)["loss"].iloc[-1]).tobytes()
    data = segment.read_bytes()
    assert data.count(loss) == 1  # so that it decodes, to another number
    at = data.index(loss)
    segment.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    bring(trunk, tmp_path, corpus)
    assert segment.with_suffix(".unreadable").exists()
    assert_same(trunk, undisturbed[0], tmp_path)


@pytest.mark.parametrize("lost", [0, 1], ids=["the first segment", "one between"])
def test_a_run_whose_rows_are_deleted_while_it_trains_has_no_end_and_trains_them_again(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    lost: int,
) -> None:
    trunk = runs[0]
    folder = tmp_path / trunk.run_id

    def deleting(progress: Progress) -> None:
        if progress.step == 36:  # of 40
            sorted((folder / "steps").iterdir())[lost].unlink()

    with pytest.raises(
        Refusal, match=r"steps 1 to 40 were logged, and 8 of them, from .* are gone"
    ):
        bring(trunk, tmp_path, corpus, report=deleting)
    assert not (folder / "steps.parquet").exists() and not (folder / "evals.parquet").exists()
    assert bring(trunk, tmp_path, corpus) == undisturbed[1][0]
    assert_same(trunk, undisturbed[0], tmp_path)


def test_a_longer_budget_extends_its_trunk_and_keeps_its_steps(
    plan: PlanOf, corpus: Corpus, undisturbed: tuple[Path, list[Trained]], tmp_path: Path
) -> None:
    short, long = plan().runs[0], plan(grid={"tokens": [1536, 3072, 4096]}).runs[0]
    shutil.copytree(undisturbed[0] / short.run_id, tmp_path / short.run_id)
    bring(long, tmp_path, corpus)
    before, after = (read_steps(folder / short.run_id) for folder in (undisturbed[0], tmp_path))
    assert after["step"].tolist() == list(range(1, long.schedule.steps + 1))
    pd.testing.assert_frame_equal(after[: len(before)], before, check_exact=True)

    bring(long, tmp_path / "afresh", corpus)
    assert final(long, tmp_path) == final(long, tmp_path / "afresh")


def test_steps_are_recorded_once_each_with_their_tokens_flops_and_rates(
    runs: tuple[RunSpec, ...], undisturbed: tuple[Path, list[Trained]]
) -> None:
    branch = runs[2]
    table = read_steps(undisturbed[0] / branch.run_id)
    assert table["step"].tolist() == list(range(41, 49))
    assert (table["tokens"] == table["step"] * 64).all()
    assert (table["flops"] == table["tokens"] * branch.flops_per_token).all()
    expected = 0.02 * (1 - np.sqrt(np.arange(8) / 8))
    assert table["lr"].tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    evaluated = read_steps(undisturbed[0] / runs[0].run_id).dropna(subset="val_loss")
    assert evaluated["step"].tolist() == [12, 24, 36, 40]  # every 768 tokens, and the end


def test_the_loss_starts_near_that_of_guessing_and_goes_down(
    runs: tuple[RunSpec, ...], undisturbed: tuple[Path, list[Trained]]
) -> None:
    loss = read_steps(undisturbed[0] / runs[0].run_id)["loss"]
    assert abs(loss[0] - (np.log(256) + 0.5)) < 0.5  # logits of unit variance cost half a nat
    assert loss[-5:].mean() < loss[:5].mean() - 1
    trunk, short, long = (trained.holdout.loss for trained in undisturbed[1])
    assert long < trunk < short


def test_the_held_out_loss_is_that_of_the_final_checkpoint(
    runs: tuple[RunSpec, ...], corpus: Corpus, undisturbed: tuple[Path, list[Trained]]
) -> None:
    """Recomputed window by window, from logits, in float64."""
    from flax import nnx

    from models.decoder.model import Decoder

    run, trained = runs[2], undisturbed[1][2]
    state = checkpoint.restore(
        undisturbed[0] / run.run_id / "checkpoints", 48, program(run).abstract, run.run_id
    )
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(run.model, rngs=nnx.Rngs(0))))
    windows = holdout_windows(corpus, 16, 400).tokens
    logits = jax.jit(lambda p, t: nnx.merge(graph, p)(t))(
        state.params, jnp.asarray(windows[:, :-1])
    )
    exact = np.asarray(logits, np.float64)
    chosen = np.take_along_axis(exact, windows[:, 1:, None], -1)[..., 0]
    expected = (np.log(np.exp(exact).sum(-1)) - chosen).mean()
    # Float32 logits; the mean of hundreds of tokens.
    assert trained.holdout.loss == pytest.approx(expected, rel=1e-6)
    recorded = read_steps(undisturbed[0] / run.run_id)["val_loss"].iloc[-1]
    assert recorded == trained.holdout.loss


def test_the_seed_changes_the_data_order_and_the_initialisation(
    plan: PlanOf, corpus: Corpus
) -> None:
    zero, one = (plan(grid={"seeds": [seed]}).runs[0] for seed in (0, 1))
    tokens = [corpus.batches(16, 4, run.seed).at(0) for run in (zero, one)]
    assert (tokens[0] != tokens[1]).any()
    embeddings = [
        np.asarray(program(run).initial().params["embedding"][...]) for run in (zero, one)
    ]
    assert (embeddings[0] != embeddings[1]).mean() > 0.99


def test_a_call_of_eight_steps_equals_four_calls_of_two(
    runs: tuple[RunSpec, ...], corpus: Corpus
) -> None:
    compiled = program(runs[0])
    tokens = corpus.batches(16, 4, 0).span(0, 8)
    rates = np.linspace(0.01, 0.02, 8, dtype=np.float32)

    def after(chunk: int) -> list[bytes]:
        state = compiled.initial()
        for at in range(0, 8, chunk):
            part = slice(at, at + chunk)
            state, _ = compiled.train(
                state, compiled.put_batches(tokens[part]), compiled.put_rates(rates[part])
            )
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]

    assert after(8) == after(2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_or_gradient_that_is_not_finite_ends_the_run_with_its_step(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    bad: float,
) -> None:
    run = runs[0]
    advance = training._Loop._advance

    def poisoned(loop: Any, state: Any, call: Any) -> Any:
        state, metrics = advance(loop, state, call)
        loss = np.asarray(metrics.loss).copy()
        loss[2] = bad if call.first == 24 else loss[2]
        return state, metrics._replace(loss=loss)

    monkeypatch.setattr(training._Loop, "_advance", poisoned)
    with pytest.raises(Diverged, match=rf"loss {bad}.* at step 27"):
        bring(run, tmp_path, corpus)
    assert read_steps(tmp_path / run.run_id)["step"].tolist() == list(range(1, 28))


def test_a_rate_that_explodes_is_a_divergence_even_when_only_the_held_out_loss_shows_it(
    plan: PlanOf, corpus: Corpus, tmp_path: Path
) -> None:
    run = plan(training={"learning_rate": 1000.0, "warmup_tokens": 64}).runs[0]
    with pytest.raises(Diverged):
        bring(run, tmp_path, corpus)


def test_worse_than_guessing_over_the_window_is_a_divergence(
    plan: PlanOf, corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate so low that the loss stays where it starts, half a nat above ln V."""
    run = plan(training={"learning_rate": 1e-9}).runs[0]
    monkeypatch.setattr(training, "DIVERGENCE_WINDOW", 8)
    # After a warmup of 4 steps and a window of 8.
    with pytest.raises(Diverged, match=r"mean loss of 8 steps above ln V = 5\.545 at step 13"):
        bring(run, tmp_path, corpus)


def test_the_share_of_the_peak_is_logged_by_both_counts_where_the_peak_is_known(
    runs: tuple[RunSpec, ...],
    corpus: Corpus,
    undisturbed: tuple[Path, list[Trained]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, trunk = [], runs[0]

    def peak(device_kind: str, dtype: str) -> float:
        asked.append((device_kind, dtype))
        return 1e12

    monkeypatch.setattr(training, "peak_flops", peak)
    bring(trunk, tmp_path, corpus)
    assert asked == [("cpu", "float32")]
    steps = read_steps(tmp_path / trunk.run_id)
    for column, flops in (
        ("mfu", trunk.flops_per_token),
        ("mfu_causal", trunk.causal_flops_per_token),
    ):
        expected = flops * steps["tokens_per_s"] / 1e12
        assert steps[column].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    # Of a CPU none is known: null in the file, and not 0.
    file = undisturbed[0] / trunk.run_id / "steps.parquet"
    table = pq.read_table(file, columns=["mfu", "mfu_causal"])
    assert [column.null_count for column in table.columns] == [table.num_rows] * 2


def test_speed_is_measured_without_compilation_evaluations_and_checkpoints(
    runs: tuple[RunSpec, ...], corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only these, and steps of a second each, move."""
    now = 0.0
    ready = deque[float]()  # when the devices are through with each call that nobody waited for

    def moves(owner: Any, name: str, seconds: float) -> None:
        real = getattr(owner, name)

        def slow(*arguments: Any, **more: Any) -> Any:
            nonlocal now
            now += seconds
            return real(*arguments, **more)

        monkeypatch.setattr(owner, name, slow)

    def advance(loop: Any, state: Any, call: Any) -> Any:
        nonlocal now
        if call.steps not in compiled:
            compiled.add(call.steps)
            now += 1000
        began = max([now, *ready])
        ready.append(began + call.steps)
        return real_advance(loop, state, call)

    def log(loop: Any, *of_call: Any) -> None:
        nonlocal now
        now = max(now, ready.popleft())
        real_log(loop, *of_call)

    compiled: set[int] = set()
    real_advance, real_log = training._Loop._advance, training._Loop._log
    monkeypatch.setattr(training._Loop, "_advance", advance)
    monkeypatch.setattr(training._Loop, "_log", log)
    monkeypatch.setattr(training.time, "perf_counter", lambda: now)
    moves(training.Evaluations, "begin", 100)
    moves(training.Saver, "begin", 10)
    bring(runs[0], tmp_path, corpus)
    speed = read_steps(tmp_path / runs[0].run_id)["tokens_per_s"]
    assert speed.tolist() == pytest.approx([runs[0].batch_tokens] * len(speed), rel=1e-9)
