"""A run goes on under another layout than it was begun with: other devices, other layers."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from scaling.data.corpus import Corpus
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.store.steps import checkpoint_steps, read_steps
from scaling.training import checkpoint, step
from scaling.training.jax_setup import configure_jax
from scaling.training.layouts import laid_out, names
from scaling.training.loop import Interrupted, train
from scaling.training.step import make_program, program_of

PlanOf = Callable[..., Plan]

# Two layers in microbatches of eight sequences, which eight devices divide.
TWO_LAYERS: dict[str, Any] = {
    "grid": {"params": [6500], "tokens": [6144]},
    "training": {"batch_sequences": 8},
}
UNROLLED: dict[str, Any] = {"layers": "unrolled", "remat": "none"}
# Half of the batch, at a length of 32.
SCANNED: dict[str, Any] = {"layers": "scanned", "remat": "full", "microbatch_tokens": 128}


program_once = functools.cache(make_program)


@pytest.fixture(scope="module", autouse=True)
def programs(cache: Path) -> Iterator[None]:
    """Compile each program once."""
    configure_jax()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "make_program", program_once)
        yield


def runs(plan: PlanOf, hardware: dict[str, Any]) -> tuple[RunSpec, ...]:
    return plan(**TWO_LAYERS, hardware=hardware).runs


def bring(run: RunSpec, results: Path, corpus: Corpus, **more: Any) -> float:
    """Train a run beside its trunk; returns its held-out loss."""
    trained = train(run, results / run.run_id, corpus, trunk=results / run.trunk_id, **more)
    return trained.holdout.loss


def begin(run: RunSpec, results: Path, corpus: Corpus) -> int:
    """Train the first half of a run; returns the step of its last checkpoint."""
    half = run.schedule.steps // 2
    reached = [0]
    with pytest.raises(Interrupted):
        bring(
            run,
            results,
            corpus,
            report=lambda progress: reached.append(progress.step),
            should_stop=lambda: reached[-1] + 4 >= half,
        )
    return checkpoint_steps(results / run.run_id / "checkpoints")[-1]


def same_science(one: tuple[RunSpec, ...], other: tuple[RunSpec, ...]) -> None:
    assert [run.run_id for run in one] == [run.run_id for run in other]
    assert one != other


def assert_goes_on(run: RunSpec, results: Path, corpus: Corpus, half: int, expected: Any) -> None:
    """Finishing it trains no step before `half` again, and gives the undisturbed losses."""
    steps: list[int] = []
    bring(run, results, corpus, report=lambda progress: steps.append(progress.step))
    assert min(steps) > half
    losses = read_steps(results / run.run_id)["loss"].to_numpy()
    # The first half is the same arithmetic in another order, and so is the second: roundings of
    # float32 that the training itself does not enlarge over 40 steps.
    np.testing.assert_allclose(losses, expected, rtol=2e-4)


@pytest.mark.parametrize(
    "first, then", [(UNROLLED, SCANNED), pytest.param(SCANNED, UNROLLED, marks=pytest.mark.slow)]
)
def test_a_trunk_goes_on_with_its_layers_laid_out_otherwise(
    plan: PlanOf, corpus: Corpus, tmp_path: Path, first: dict[str, Any], then: dict[str, Any]
) -> None:
    before, after = runs(plan, first), runs(plan, then)
    same_science(before, after)
    assert before[0].model.n_layers == 2
    bring(before[0], tmp_path / "undisturbed", corpus)
    expected = read_steps(tmp_path / "undisturbed" / before[0].run_id)["loss"].to_numpy()
    half = begin(before[0], tmp_path, corpus)
    assert 0 < half < after[0].schedule.steps
    assert_goes_on(after[0], tmp_path, corpus, half, expected)
    # And a branch, off the checkpoint of the other layout.
    shutil.rmtree(tmp_path / after[0].run_id)
    shutil.copytree(tmp_path / "undisturbed" / before[0].run_id, tmp_path / after[0].run_id)
    branch = bring(after[1], tmp_path, corpus)
    assert branch == pytest.approx(bring(before[1], tmp_path / "undisturbed", corpus), rel=2e-4)


def test_what_moves_from_one_layout_to_the_other_and_back_keeps_every_bit(
    plan: PlanOf, tmp_path: Path
) -> None:
    programs = [program_of(runs(plan, hardware)[0]) for hardware in (UNROLLED, SCANNED)]
    state = programs[0].initial()
    # Moments too are other numbers than zeros.
    state = state._replace(moments=jax.tree.map(lambda leaf: leaf + 3, state.moments))
    for number, program in enumerate((programs[1], programs[0])):
        checkpoint.begin(tmp_path, number, state, "0" * 12).finish()
        state = checkpoint.restore(tmp_path, number, program.abstract, "0" * 12)
    expected, found = names(programs[0].initial()), names(state)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        more = 3 if name[0] == "moments" else 0
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(leaf) + more)


def test_the_initial_values_are_the_same_in_every_layout(plan: PlanOf) -> None:
    unrolled, scanned = (program_of(runs(plan, each)[0]) for each in (UNROLLED, SCANNED))
    stacked = {name: np.asarray(leaf) for name, leaf in names(scanned.initial()).items()}
    found = names(laid_out(stacked, unrolled.abstract))
    for name, leaf in names(unrolled.initial()).items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(leaf))


def test_a_checkpoint_of_another_shape_is_refused_by_its_array(
    plan: PlanOf, tmp_path: Path
) -> None:
    unrolled, scanned = (program_of(runs(plan, each)[0]) for each in (UNROLLED, SCANNED))
    state = {name: np.asarray(leaf) for name, leaf in names(unrolled.initial()).items()}
    short = {name: leaf for name, leaf in state.items() if name[:3] != ("params", "blocks", "1")}
    with pytest.raises(Refusal, match=r"array params/blocks/.* there is .*another model"):
        laid_out(short, scanned.abstract)


@pytest.mark.slow
def test_a_checkpoint_of_another_run_of_the_same_shape_is_not_gone_on_from(
    plan: PlanOf, corpus: Corpus, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mine, other = (plan(grid={"seeds": [seed]}).runs for seed in (0, 1))
    for run in (mine[0], other[0]):
        bring(run, tmp_path / "undisturbed", corpus)
    begin(mine[0], tmp_path, corpus)
    checkpoints = tmp_path / mine[0].run_id / "checkpoints"
    last = checkpoint_steps(checkpoints)[-1]
    theirs = tmp_path / "undisturbed" / other[0].run_id / "checkpoints"
    shutil.rmtree(checkpoints / str(last))
    shutil.copytree(theirs / "20", checkpoints / str(last))
    bring(mine[0], tmp_path, corpus)
    assert f"is step 20 of run {other[0].run_id}, not step {last}" in capfd.readouterr().err
    assert (checkpoints / f"{last}.unreadable").is_dir()
    tables = (
        read_steps(folder / mine[0].run_id)["loss"].tolist()
        for folder in (tmp_path / "undisturbed", tmp_path)
    )
    assert len({tuple(table) for table in tables}) == 1
    # Nor does a branch start from another trunk; that folder is left as it is.
    shutil.rmtree(checkpoints / "20")
    shutil.copytree(theirs / "20", checkpoints / "20")
    found = bring(mine[1], tmp_path, corpus)
    assert f"20 is step 20 of run {other[0].run_id}" in capfd.readouterr().err
    assert (checkpoints / "20").is_dir()
    assert found == bring(mine[1], tmp_path / "undisturbed", corpus)


EIGHT = """
import json, sys
from pathlib import Path
from pydantic import TypeAdapter
import jax
from scaling.data.corpus import load
from scaling.spec import RunSpec
from scaling.training.jax_setup import configure_jax
sys.path.insert(0, {tests!r})
from test_layouts import begin
configure_jax()
given = json.loads(sys.stdin.read())
run = TypeAdapter(RunSpec).validate_python(given["run"])
assert jax.device_count() == 8
corpus = load(run.corpus, Path(given["corpora"]))
print(begin(run, Path(given["results"]), corpus))
"""


@pytest.mark.slow
def test_a_trunk_goes_on_on_one_device_after_eight(
    plan: PlanOf, corpus: Corpus, cache: Path, tmp_path: Path
) -> None:
    from pydantic import TypeAdapter

    run = runs(plan, UNROLLED)[0]
    bring(run, tmp_path / "undisturbed", corpus)
    expected = read_steps(tmp_path / "undisturbed" / run.run_id)["loss"].to_numpy()
    given = {
        "run": TypeAdapter(RunSpec).dump_python(run),
        "corpora": str(cache / "corpora"),
        "results": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", EIGHT.format(tests=str(Path(__file__).parent))],
        input=json.dumps(given),
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_goes_on(run, tmp_path, corpus, int(done.stdout.splitlines()[-1]), expected)
