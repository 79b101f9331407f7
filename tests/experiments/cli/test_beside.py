"""A fit is compared with the run table beside it: the same, one with more runs, or another."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import fit
from analysis.runs.table import read_runs
from experiments.cli.__main__ import main
from experiments.cli.join.beside import Beside, beside

REFERENCE = Path(__file__).resolve().parents[3] / "results/reference"
Command = Callable[..., int]


@pytest.fixture
def scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.chdir(tmp_path)  # short paths, which no line breaks

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
        return main()

    return run


def table(seed: int = 0) -> pd.DataFrame:
    """A grid under names of one's own, with tokens in billions; another seed has other losses."""
    params, tokens = np.meshgrid([1e6, 3e6, 1e7, 3e7], [0.1, 0.3, 1.0, 3.0])
    runs = pd.DataFrame({"N": params.ravel(), "D": tokens.ravel(), "tokens_per_s": 1.0})
    loss = 1.8 + 400 / runs["N"] ** 0.34 + 400 / (runs["D"] * 1e9) ** 0.3
    return runs.assign(eval=loss * np.exp(np.random.default_rng(seed).normal(0, 0.002, len(runs))))


OPTIONS = ("--params-column", "N", "--tokens-column", "D", "--unit", "tokens=1e9",
           "--loss-column", "eval", "--bootstrap", "0")  # fmt: skip


@pytest.fixture
def fitted(scaling: Command) -> Path:
    """A results folder without a plan, fitted with options."""
    folder = Path("grid")
    folder.mkdir()
    table().to_parquet(folder / "runs.parquet")
    assert scaling("fit", folder, *OPTIONS) == 0
    return folder / "fits/chinchilla.json"


def said(path: Path) -> Beside:
    return beside(path, load_fit(path))


def test_the_same_runs_written_anew_are_the_same_table(fitted: Path) -> None:
    file = fitted.parents[1] / "runs.parquet"
    assert said(fitted) == Beside()
    table().assign(tokens_per_s=2.0)[::-1].to_parquet(file)
    assert said(fitted) == Beside()
    table().to_csv(file.with_suffix(".csv"), index=False, float_format="%.15g")
    file.unlink()
    assert said(fitted) == Beside()


@pytest.mark.parametrize("fit", sorted(REFERENCE.glob("*/fits/*.json")), ids=str)
def test_a_fit_that_does_not_say_how_it_was_read_is_compared_by_its_rows(
    fit: Path, tmp_path: Path
) -> None:
    assert said(fit) == Beside()
    folder = tmp_path / "copy"
    (folder / "fits").mkdir(parents=True)
    for each in fit.parent.iterdir():
        (folder / "fits" / each.name).write_bytes(each.read_bytes())
    runs = pd.read_csv(fit.parents[1] / "runs.csv")
    runs.assign(loss=runs["loss"] * 1.01).to_csv(folder / "runs.csv", index=False)
    assert "fitted runs are not in" in said(folder / "fits" / fit.name).another


def test_a_grid_with_more_runs_is_said_in_a_line(
    fitted: Path, scaling: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    file = fitted.parents[1] / "runs.parquet"
    more = table(seed=1).assign(N=lambda runs: runs["N"] * 10)[:3]
    pd.concat([table(), more], ignore_index=True).to_parquet(file)
    capsys.readouterr()
    line = f"{file} has 3 runs more than when the fit was made. Fit again"
    assert scaling("predict", fitted, "--params", "1e8", "--tokens", "1e9") == 0
    assert line in " ".join(capsys.readouterr().out.split())
    assert scaling("plot", file.parent) == 0
    assert line in " ".join(capsys.readouterr().out.split())


def test_beside_the_table_of_a_grid_trained_anew_every_answer_says_so_and_none_is_drawn(
    fitted: Path, tmp_path: Path, scaling: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    file = fitted.parents[1] / "runs.parquet"
    table(seed=1).to_parquet(file)
    capsys.readouterr()
    line = f"16 of 16 fitted runs are not in {file}, beside the fit: "
    for words in (
        ("predict", fitted, "--params", "1e8", "--tokens", "1e9"),
        ("recommend", fitted, "--flops", "1e18"),
        ("show", fitted),
    ):
        assert scaling(*words, "--json", tmp_path / f"{words[0]}.json") == 0
        assert line in " ".join(capsys.readouterr().out.split())
    assert line in " ".join(json.loads((tmp_path / "predict.json").read_text())["warnings"])
    assert scaling("plot", file.parent) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert line in told and f"First: scaling fit {file.parent} --law chinchilla" in told


def test_a_table_that_cannot_be_read_as_before_is_another(fitted: Path) -> None:
    file = fitted.parents[1] / "runs.parquet"
    table().rename(columns={"eval": "loss"}).to_parquet(file)
    assert said(fitted).another == f"{file} cannot be read as when the fit was made"


def test_a_fit_beside_a_file_is_compared_with_that_file(tmp_path: Path, scaling: Command) -> None:
    file = tmp_path / "mine.csv"
    table().to_csv(file, index=False)
    assert scaling("fit", file, *OPTIONS, "--where", "N<2e7") == 0
    fit = tmp_path / "mine.chinchilla.json"
    assert said(fit) == Beside()
    table(seed=1).to_csv(file, index=False)
    assert "12 of 12 fitted runs are not in" in said(fit).another
    file.unlink()
    assert said(fit) == Beside()


def test_a_fit_of_rows_that_were_chosen_in_python_is_of_the_table_as_it_is(tmp_path: Path) -> None:
    runs = table().rename(columns={"N": "params", "D": "tokens", "eval": "loss"})
    runs.assign(tokens=runs["tokens"] * 1e9).to_csv(tmp_path / "mine.csv", index=False)
    read = read_runs(tmp_path / "mine.csv")
    save_fit(fit("chinchilla", read[read["params"] < 2e7], bootstrap=0), tmp_path / "small.json")
    assert said(tmp_path / "small.json") == Beside()


@pytest.mark.parametrize("law", ["chinchilla", "steplaw_lr"])
def test_the_best_of_a_sweep_are_chosen_again(law: str, tmp_path: Path, scaling: Command) -> None:
    rows = table().drop(columns="tokens_per_s")
    best = 4.1e-3 * (rows["N"] / 1e7) ** -0.2
    rates = [1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2]
    swept = pd.concat(
        rows.assign(learning_rate=rate, eval=rows["eval"] + 0.1 * np.log(rate / best) ** 2)
        for rate in rates
    )
    swept.to_csv(tmp_path / "swept.csv", index=False)
    asked = ("--law", law, "--best-of", "learning_rate")
    assert scaling("fit", tmp_path / "swept.csv", *OPTIONS, *asked) == 0
    fit = tmp_path / f"swept.{law}.json"
    assert said(fit) == Beside()
    swept.assign(eval=swept["eval"][::-1].to_numpy()).to_csv(tmp_path / "swept.csv", index=False)
    assert "fitted runs are not in" in said(fit).another
