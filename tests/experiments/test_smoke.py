"""The smoke study from the command line, interrupted on its way and run to its end."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli.__main__ import main

ROOT = Path(__file__).parents[2]
SMOKE = ROOT / "experiments" / "smoke.toml"

pytestmark = pytest.mark.slow  # trains 18 runs in processes of their own


def scaling(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    return main()


@pytest.fixture(scope="session")
def smoke(tmp_path_factory) -> Path:
    """The smoke study, interrupted once on its way and then run to its end."""
    results = tmp_path_factory.mktemp("results")
    command = [
        sys.executable,
        "-m",
        "experiments.cli",
        "run",
        str(SMOKE),
        "--results",
        str(results),
    ]
    log = results / "first.log"
    with log.open("wb") as file:
        first = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    while not list(results.glob("smoke/runs/*/attempts/*/steps/*.parquet")):
        assert first.poll() is None, log.read_text()
        time.sleep(0.05)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 75, log.read_text()
    second = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stdout + second.stderr
    (results / "stdout.txt").write_text(second.stdout)
    return results / "smoke"


def test_an_interrupted_study_goes_on_to_a_complete_run_table(smoke):
    table = pd.read_parquet(smoke / "runs.parquet")
    points = table[table["run_kind"] == "cooldown"]
    assert set(table["status"]) == {"completed"}
    assert len(points) == 12
    assert points["loss"].between(1.5, np.log(256)).all()
    assert len(pd.read_csv(smoke / "plan.csv")) == len(table) == 18
    evals = pd.concat(map(pd.read_parquet, smoke.glob("runs/*/evals.parquet")))
    assert list(evals) == ["run", "step", "task", "metric", "value", "stderr", "n"]
    assert set(evals["run"]) == set(table["run_id"])


def test_every_loss_in_the_table_is_the_last_evaluation_of_its_run(smoke):
    for run in pd.read_parquet(smoke / "runs.parquet").itertuples():
        steps = pd.read_parquet(smoke / "runs" / run.run_id / "steps.parquet")
        last = steps.iloc[-1]
        assert (last["val_loss"], last["val_loss_stderr"]) == (run.loss, run.loss_stderr)
        assert (last["tokens"], last["flops"]) == (run.tokens, run.flops)
        assert run.flops_6nd == 6 * run.params_total * run.tokens
        assert (np.diff(steps["step"]) == 1).all()


def test_the_printed_table_is_the_run_table(smoke):
    printed = (smoke.parent / "stdout.txt").read_text()
    for run in pd.read_parquet(smoke / "runs.parquet").itertuples():
        if run.run_kind == "cooldown":
            assert f"{run.loss:.4f} ± {run.loss_stderr:.4f}" in printed


def test_a_finished_study_trains_nothing_again(smoke, monkeypatch, capsys, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in smoke.glob("runs/*/*")}
    words = ("--results", smoke.parent, "--json", tmp_path / "run.json")
    assert scaling(monkeypatch, "run", SMOKE, *words) == 0
    assert ", 0 to do" in capsys.readouterr().out
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["table"] == str(smoke / "runs.parquet") and written["to_do"] == []
    assert (written["runs"], written["statuses"]) == (18, {"completed": 18})
    assert {path: path.stat().st_mtime_ns for path in smoke.glob("runs/*/*")} == before


def test_status_counts_what_is_done(smoke, monkeypatch, capsys, tmp_path):
    assert scaling(monkeypatch, "status", smoke, "--json", tmp_path / "s.json") == 0
    assert "18 completed" in capsys.readouterr().out
    rows = json.loads((tmp_path / "s.json").read_text())["runs"]
    assert [row["status"] for row in rows] == ["completed"] * 18


def test_fit_and_plot_make_the_files_they_name(smoke, monkeypatch, capsys, tmp_path):
    assert scaling(monkeypatch, "fit", smoke, "--bootstrap", 200) == 0
    assert "Largest run" in capsys.readouterr().out
    assert scaling(monkeypatch, "plot", smoke, "--json", tmp_path / "plot.json") == 0
    named = [Path(line) for line in capsys.readouterr().out.split()]
    assert json.loads((tmp_path / "plot.json").read_text())["figures"] == [str(p) for p in named]
    assert {path.name for path in named} >= {"loss.png", "frontier.png", "training.svg"}
    assert all(path.stat().st_size > 1000 for path in named)


def test_the_study_beside_a_fit_names_a_shape(smoke, monkeypatch, capsys):
    scaling(monkeypatch, "fit", smoke, "--bootstrap", 200)
    fit = smoke / "fits" / "chinchilla.json"
    assert scaling(monkeypatch, "recommend", fit, "--flops", "1e11") == 0
    assert re.search(r"\d+ × \d+ × \d+ \(layers × width × heads\)", capsys.readouterr().out)


def test_a_dry_run_lists_only_what_is_left(smoke, monkeypatch, capsys):
    before = {path: path.stat().st_mtime_ns for path in smoke.rglob("*")}
    assert scaling(monkeypatch, "run", SMOKE, "--results", smoke.parent, "--dry-run") == 0
    assert "smoke: 0 of 18 runs to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in smoke.rglob("*")} == before
