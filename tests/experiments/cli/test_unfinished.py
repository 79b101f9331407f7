"""A part of a grid is fitted as what it is; a fit that ended badly says so beside its numbers."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit
from analysis.forecast.predict import predictions
from experiments.cli.__main__ import main
from experiments.cli.join.planned import RUN_TABLE
from experiments.cli.join.unfinished import unfinished
from scaling.store.manifest import COUNTED, PLAN, Manifest, write_manifest
from scaling.store.records import Refusal

STUDY = b"a study"


def grid(budgets: bool = False) -> pd.DataFrame:
    """The points of a plan: four sizes on four numbers of tokens, the smallest with two seeds."""
    points = [
        {"params_total": n, "tokens": d, "seed": seed, "run_kind": "cooldown"}
        for n in (1e6, 4e6, 1.6e7, 6.4e7)
        for d in (1e8, 3e8, 1e9, 3e9)
        for seed in ((0, 1) if n == 1e6 else (0,))
    ]
    table = pd.DataFrame(points)
    table["run_id"] = [f"{number:012x}" for number in range(len(table))]
    table["budget_flops"] = 6 * table["params_total"] * table["tokens"] if budgets else np.nan
    return table


def plan_of(points: list[dict[Any, Any]]) -> Manifest:
    """The plan of these points, all of one trunk."""
    each = {"trunk_id": "f" * 12, "first_step": 0, "steps": 1, "flops": 1.0, "config": {}}
    same = dict.fromkeys(COUNTED, 1)
    runs = [
        {
            **each,
            **{name: point[name] for name in ("run_id", "run_kind")},
            "columns": {**same, **{n: point[n] for n in point if n not in ("run_id", "run_kind")}},
        }
        for point in points
    ]
    digest = hashlib.sha256(STUDY).hexdigest()
    return Manifest.made(study="s", study_sha256=digest, source_sha256="", runs=runs)


def written(folder: Path, plan: pd.DataFrame, without: Any, status: str = "failed") -> Path:
    """A results folder of this plan in which some of its runs have no loss."""
    folder.mkdir()
    trunk = {"run_id": "f" * 12, "run_kind": "trunk", "params_total": 1e6, "tokens": 3e9, "seed": 0}
    write_manifest(folder, plan_of([trunk, *plan.to_dict("records")]))
    (folder / "study.toml").write_bytes(STUDY)
    runs = plan.assign(status="completed")
    runs["loss"] = 1.8 + 400 / runs["params_total"] ** 0.34 + 400 / runs["tokens"] ** 0.3
    runs["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.002, len(runs)))
    runs.loc[without, ["status", "loss"]] = [status, np.nan]
    # Of two seeds one failed; of one seed, none has ended.
    kept = runs if status != "failed" else runs[~(without & (runs["seed"] == 0))]
    kept.to_parquet(folder / "runs.parquet")
    return folder


def test_a_finished_grid_and_a_table_without_a_plan_say_nothing(tmp_path: Path) -> None:
    plan = grid()
    folder = written(tmp_path / "all", plan, plan["tokens"] < 0)
    assert unfinished(folder) == ()
    (folder / PLAN).unlink()
    assert unfinished(folder) == unfinished(tmp_path / "nothing.csv") == ()


def test_a_plan_that_is_damaged_or_gone_is_said_of_the_fit(tmp_path: Path) -> None:
    plan = grid()
    folder = written(tmp_path / "part", plan, plan["tokens"] == 3e9)
    (folder / "plan.csv").touch()
    data = bytearray((folder / PLAN).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / PLAN).write_bytes(data)
    [said] = unfinished(folder)
    assert said.startswith(f"nothing shows whether the grid is finished: {folder / PLAN} cannot be")
    (folder / PLAN).unlink()
    [said] = unfinished(folder)
    assert f"finished: {folder} holds no plan" in said


def test_the_table_of_another_plan_is_not_fitted(tmp_path: Path) -> None:
    plan = grid()
    folder = written(tmp_path / "all", plan, plan["tokens"] < 0)
    table = pd.read_parquet(folder / RUN_TABLE)
    for other, count in (
        (table.assign(run_id=[f"a{each[1:]}" for each in table["run_id"]]), 20),
        (table.assign(run_id=["a" * 12, *table["run_id"][1:]]), 1),
        (table.drop(columns="run_id"), 20),
    ):
        other.to_parquet(folder / RUN_TABLE)
        with pytest.raises(Refusal, match=rf"{count} of 20 runs in .* are not in .*plan\.json: .*"):
            unfinished(folder)


def test_a_study_that_is_not_the_one_planned_is_said(tmp_path: Path) -> None:
    plan = grid()
    folder = written(tmp_path / "all", plan, plan["tokens"] < 0)
    (folder / "study.toml").write_bytes(STUDY + b"\n")
    [said] = unfinished(folder)
    assert re.search(r"study\.toml is not the study \w{12} that was planned: it has changed", said)


def test_what_is_missing_is_named_by_size_tokens_and_seed(tmp_path: Path) -> None:
    plan = grid()
    out = (plan["params_total"] == 4e6) | ((plan["params_total"] == 1e6) & (plan["tokens"] > 5e8))
    folder = written(tmp_path / "some", plan, out)
    for path in (folder, folder / "runs.parquet"):
        assert unfinished(path) == (
            "the grid is not finished: 12 of 20 planned runs have a loss (2 failed, 6 not ended). "
            "Missing are N = 1M at D = 1B and 3B (seed 0); N = 4M altogether. `scaling run` trains "
            "them. Failed are N = 1M at D = 1B and 3B (seed 1). `scaling run --retry failed` "
            "trains them again; until then this is the fit of another design than was planned",
        )


def test_what_has_ended_is_not_to_come(tmp_path: Path) -> None:
    plan = grid()
    out = plan["params_total"] == 4e6
    assert unfinished(written(tmp_path / "diverged", plan, out, "diverged")) == ()
    folder = written(tmp_path / "damaged", plan, out, "judged otherwise")
    assert "N = 4M altogether. `scaling run` trains them;" in unfinished(folder)[0]
    runs = pd.read_parquet(folder / "runs.parquet")
    runs.assign(status=runs["status"].replace("judged otherwise", "failed")).to_parquet(
        folder / "runs.parquet"
    )
    assert unfinished(folder) == (
        "the grid is not whole: 16 of 20 planned runs have a loss (4 failed). Failed are N = 4M "
        "altogether. `scaling run --retry failed` trains them again; until then this is the fit "
        "of another design than was planned",
    )


def test_of_a_grid_of_budgets_the_budgets_are_named(tmp_path: Path) -> None:
    plan = grid(budgets=True)
    out = (plan["params_total"] == 6.4e7) & (plan["tokens"] > 5e8)
    [said] = unfinished(written(tmp_path / "budgets", plan, out))
    assert "Missing are N = 64M at C = 3.84e17 and 1.15e18" in said


def test_a_fit_of_a_part_says_so_and_every_answer_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = grid()
    folder = written(tmp_path / "part", plan, plan["tokens"] == 3e9)
    words = ["fit", str(folder), "--bootstrap", "0"]
    monkeypatch.setattr(sys, "argv", ["scaling", *words])
    assert main() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "warning: the grid is not finished: 15 of 20 planned runs have a loss" in said
    path = folder / "fits" / "chinchilla.json"
    assert any("the grid is not finished" in each for each in load_fit(path).cautions)
    ask = [
        "predict",
        str(path),
        "--params",
        "1e7",
        "--tokens",
        "1e9",
        "--json",
        str(tmp_path / "p"),
    ]
    monkeypatch.setattr(sys, "argv", ["scaling", *ask])
    assert main() == 0
    assert "Of the runs: the grid is not finished" in " ".join(capsys.readouterr().out.split())
    # Without draws it has no intervals either, and says so beside the number.
    (prediction,) = json.loads((tmp_path / "p").read_text())["predictions"]
    fit = load_fit(path)
    assert prediction.get("doubt", "") == predictions(fit, fit.table[:1])[0].doubt


def test_predictions_of_a_fit_that_is_weakly_identified_say_so_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params, tokens = np.meshgrid([1.0e7, 1.1e7, 1.2e7, 1.3e7], [1.0e9, 1.1e9, 1.2e9, 1.3e9])
    runs = pd.DataFrame({"params": params.ravel(), "tokens": tokens.ravel()})
    runs["loss"] = 1.8 + 400 / runs["params"] ** 0.34 + 400 / runs["tokens"] ** 0.3
    runs["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.02, len(runs)))
    runs.to_csv(tmp_path / "near.csv", index=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["scaling", "fit", "near.csv", "--bootstrap", "40"])
    assert main() == 0
    capsys.readouterr()
    status = load_fit(tmp_path / "near.chinchilla.json").status.value.replace("_", " ")
    assert status in ("weakly identified", "at bound")
    for sizes in (["1e9"], ["1e9"] * 9):
        asked = ["--params", *sizes, "--tokens", *sizes]
        monkeypatch.setattr(sys, "argv", ["scaling", "predict", "near.chinchilla.json", *asked])
        assert main() == 0
        assert capsys.readouterr().out.count(status.replace("at", "at a")) > len(sizes)
