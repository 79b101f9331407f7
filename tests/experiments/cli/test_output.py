"""What a command writes does not depend on whether anyone reads what it prints."""

from __future__ import annotations

import ast
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws.published import published
from experiments.cli import evaluate, tune
from experiments.cli.__main__ import MODULES, main
from scaling.planning.plan import Plan
from scaling.spec import RunSpec, run_columns
from scaling.store.manifest import Manifest, write_manifest

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = "published:besiroglu-2024"
# A command line for each command that writes files, and the files.
WRITES: dict[str, tuple[list[str], list[str]]] = {
    "plan": ([f"{ROOT}/experiments/quickstart.toml", "--json", "out.json"], ["out.json"]),
    "status": ([".", "--json", "out.json"], ["out.json"]),
    "fit": (["runs.csv", "--bootstrap", "50", "--json", "out.json"],
            ["runs.chinchilla.json", "out.json"]),
    "compare": (["runs.csv", "--laws", "kaplan_nd", "--cut", "2e19", "--json", "out.json"],
                ["out.json"]),
    "plot": ([f"{ROOT}/results/reference/repeat"], ["study/figures/repeats.svg"]),
    "laws": (["--json", "out.json"], ["out.json"]),
    "predict": ([PUBLISHED, "--params", "1B", "--tokens", "20B", "--json", "out.json"],
                ["out.json"]),
    "curve": (["curve.csv", "--to", "100", "--json", "out.json"], ["out.json"]),
    "recommend": ([PUBLISHED, "--flops", "1e20", "--json", "out.json", "--plot", "figures"],
                  ["out.json", "figures/frontier.png"]),
    "simulate": ([f"{ROOT}/experiments/quickstart.toml", "--law", PUBLISHED, "--repeats", "2",
                  "--noise", "0.01", "--json", "out.json", "--plot", "figures"],
                 ["out.json", "figures/simulated_studies.png"]),
    "eval": (["run", "--json", "out.json"], ["out.json"]),
    "emergence": (["scores.csv", "--scale", "params", "--json", "out.json", "--plot", "figures",
                   "--bootstrap", "33"], ["out.json", "figures/emergence.png"]),
    "prepare": ([f"{ROOT}/experiments/smoke.toml", "--json", "out.json"], ["out.json"]),
    "run": ([f"{ROOT}/experiments/smoke.toml", "--dry-run", "--json", "out.json"], ["out.json"]),
    "show": ([f"{ROOT}/results/reference/quickstart/fits/chinchilla.json", "--json", "out.json"],
             ["out.json"]),
    "sync": ([".", "memory://there", "--json", "out.json"], ["out.json"]),
    "models": (["gpt2", "--json", "out.json"], ["out.json"]),
    "tune": (["all.toml", "--bootstrap", "50", "--out", "rule.toml",
              "--results", ".", "--json", "out.json"], ["rule.toml", "out.json"]),
}  # fmt: skip


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every command with its definition."""
    for module in dict.fromkeys(MODULES.values()):
        tree = ast.parse(inspect.getsource(import_module(f"experiments.cli.{module}")))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and any(
                "app.command" in ast.unparse(each) for each in node.decorator_list
            ):
                yield {"evaluate": "eval"}.get(node.name, node.name), node


def test_every_command_that_writes_is_tried_without_a_reader() -> None:
    options = ("to_json", "output", "plot")
    writers = {
        name
        for name, each in functions()
        if any(argument.arg in options for argument in each.args.kwonlyargs) or name == "plot"
    }
    assert writers == set(WRITES)


def test_every_command_writes_before_it_prints() -> None:
    writes = {"write", "save_fit", "draw", "save", "draw_results"}
    for name, each in functions():
        if name == "run":  # prints while it trains; that it writes all the same is tried below
            continue
        # What is printed while the work is going on is in functions within.
        calls = [
            (node.lineno, ast.unparse(node.func).rpartition(".")[2])
            for part in each.body
            if not isinstance(part, ast.FunctionDef)
            for node in ast.walk(part)
            if isinstance(node, ast.Call) and "sys.stderr" not in ast.unparse(node)
        ]
        written = [line for line, called in calls if called in writes]
        printed = [line for line, called in calls if called in ("say", "print")]
        assert not written or max(written) < min(printed), name


def trained(plan: Plan, toml: bytes, results: str, workers: int | None) -> None:
    """The run table of a plan whose best rate falls with size."""

    def loss(run: RunSpec) -> float:
        best = 0.01 * (run.params.non_embedding / 1e5) ** -0.3
        return float(3 + 0.05 * np.log(run.schedule.peak / best) ** 2)

    folder = Path(results) / plan.study.name
    folder.mkdir(exist_ok=True)
    pd.DataFrame(
        {
            **run_columns(run, plan.corpus),
            **{"run_id": run.run_id, "run_kind": run.run_kind, "status": "completed"},
            "loss": loss(run),
        }
        for run in plan.runs
    ).to_parquet(folder / "runs.parquet")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with run and score tables; runs that were asked and found are made up."""
    params, tokens = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4))
    )
    loss = published("besiroglu-2024").predict({"params": params, "tokens": tokens})
    loss *= np.exp(np.random.default_rng(0).normal(0, 0.003, len(loss)))
    table = pd.DataFrame({"params": params, "tokens": tokens, "loss": loss})
    table.to_csv(tmp_path / "runs.csv", index=False)
    sizes = [1e6, 3e6, 1e7, 3e7, 1e8, 3e8]
    values = [0.01, 0.02, 0.1, 0.5, 0.8, 0.9]
    scores = pd.DataFrame({"task": "t", "metric": "exact_match", "params": sizes, "value": values})
    scores.assign(n=100).to_csv(tmp_path / "scores.csv", index=False)
    losses = pd.DataFrame({"step": range(1, 10), "lr": 1e-3, "loss": np.geomspace(9, 3, 9)})
    losses.to_csv(tmp_path / "curve.csv", index=False)
    score = {"run_id": "a", "params": 1, "tokens": 2, "task": "t", "shots": 0, "metric": "m",
             "value": 0.5, "stderr": None, "chance": None, "n": 1}  # fmt: skip
    monkeypatch.setattr(evaluate, "_completed", lambda paths: [tmp_path])
    answers = evaluate.Scores([score], ())
    monkeypatch.setattr(evaluate, "_scores", lambda folder, ask: answers)
    study = (ROOT / "experiments/quickstart.toml").read_text()
    (tmp_path / "all.toml").write_text(study.replace("max_run_flops", "# max_run_flops"))
    monkeypatch.setattr(tune, "_train", trained)
    nothing = Manifest.made(study="s", study_sha256="", source_sha256="", runs=[])
    write_manifest(tmp_path, nothing)
    for name in ("study.toml", "plan.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("command", WRITES)
def test_without_a_reader_everything_is_written(
    command: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, files = WRITES[command]
    if command == "plot":
        words = [str(shutil.copytree(words[0], here / "study"))]
        shutil.rmtree(here / "study/figures")
    monkeypatch.setattr(sys, "argv", ["scaling", command, *words])
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody:
        monkeypatch.setattr(sys, "stdout", nobody)
        assert main() == 0
    assert all((here / file).stat().st_size for file in files)


def scaling(*words: str, into: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m experiments.cli {' '.join(words)} {into}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        ["bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}} >&2"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip


def test_head_loses_nothing_and_the_exit_code_is_that_of_the_work(here: Path) -> None:
    done = scaling("fit", "runs.csv", "--bootstrap", "0", into="| head -1")
    assert done.stderr == "0\n" and len(done.stdout.splitlines()) == 1
    assert (here / "runs.chinchilla.json").stat().st_size
    refused = scaling("fit", "scores.csv", into="| head -1")
    assert refused.stderr.endswith("\n2\n")
    helped = scaling("models", "--help", into="| head -1")
    assert helped.stderr == "0\n" and len(helped.stdout.splitlines()) == 1


def test_help_that_cannot_be_printed_is_an_error_and_wrote_nothing(here: Path) -> None:
    for words in (["fit", "--help"], ["--help"]):
        done = scaling(*words, into="> /dev/full")
        assert "cannot print all: No space left on device\n" in done.stderr
        assert done.stderr.endswith("\n2\n")


def test_a_full_disk_under_the_output_is_said_once_all_is_written(here: Path) -> None:
    done = scaling("fit", "runs.csv", "--bootstrap", "0", into="> /dev/full")
    assert "cannot print all: No space left on device" in done.stderr
    assert done.stderr.endswith("\n2\n") and "Traceback" not in done.stderr
    assert (here / "runs.chinchilla.json").stat().st_size
