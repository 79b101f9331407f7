"""`scaling plot` draws what was fitted, wherever the fit is, and needs no column named again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.published import published
from experiments.__main__ import main


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


@pytest.fixture
def runs() -> pd.DataFrame:
    """Noise-free isoFLOP runs under names of one's own."""
    params, flops = np.meshgrid(np.geomspace(3e7, 1e10, 9), np.geomspace(3e18, 1e20, 4))
    features = {"params": params.ravel(), "tokens": (flops / (6 * params)).ravel()}
    loss = published("besiroglu-2024").predict(features)
    return pd.DataFrame({"N": features["params"], "D": features["tokens"], "eval": loss})


@pytest.fixture
def table(tmp_path: Path, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The table as CSV, with a fit beside it."""
    path = tmp_path / "mine.csv"
    runs.to_csv(path, index=False)
    return _fitted(path, monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the table and one fit of it, as the reference studies are."""
    (tmp_path / "study").mkdir()
    runs.to_csv(tmp_path / "study/runs.csv", index=False)
    return _fitted(tmp_path / "study", monkeypatch)


def _fitted(path: Path, monkeypatch: pytest.MonkeyPatch, law: str = "chinchilla_tied") -> Path:
    named = ("--params-column", "N", "--tokens-column", "D", "--loss-column", "eval")
    assert scaling(monkeypatch, "fit", path, *named, "--law", law, "--bootstrap", 0) == 0
    return path


def test_a_table_that_was_fitted_is_drawn_beside_it_without_naming_its_columns(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert scaling(monkeypatch, "plot", table) == 0
    drawn = {path.stem for path in (table.parent / "mine.figures").iterdir()}
    assert drawn == {"loss", "loss_by_compute", "residuals", "frontier", "isoflop", "envelope"}


def test_a_fit_is_drawn_into_the_folder_asked_for(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = table.with_name("mine.chinchilla_tied.json")
    assert scaling(monkeypatch, "plot", fit, "--out", tmp_path / "there") == 0
    assert (tmp_path / "there/loss_by_compute.png").is_file()
    assert not (tmp_path / "mine.chinchilla_tied.figures").exists()


def test_a_folder_is_drawn_with_the_only_fit_it_has(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "fits/answer.json").write_text('{"law": "chinchilla"}')  # of `recommend --json`
    assert scaling(monkeypatch, "plot", folder) == 0
    assert (folder / "figures/isoflop.svg").is_file()


def test_which_of_several_fits_to_draw_is_asked_by_name(
    table: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _fitted(table, monkeypatch, law="chinchilla")
    assert scaling(monkeypatch, "plot", table) == 2
    assert "has fits of chinchilla, chinchilla_tied. Give --law" in capsys.readouterr().err
    assert scaling(monkeypatch, "plot", table, "--law", "m1") == 2
    assert f"First: scaling fit {table} --law m1" in capsys.readouterr().err


def test_a_table_without_a_fit_is_told_how_to_get_one(
    tmp_path: Path, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / "new.csv"
    runs.to_csv(path, index=False)
    assert scaling(monkeypatch, "plot", path) == 2
    assert f"{path} has no fit. First: scaling fit {path}" in capsys.readouterr().err


def test_a_place_that_takes_no_figures_is_refused_with_the_option_that_does(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "taken").write_text("a file")
    assert scaling(monkeypatch, "plot", table, "--out", tmp_path / "taken") == 2
    assert "Give another folder with --out" in capsys.readouterr().err


def test_a_fit_of_another_table_is_not_drawn(
    table: Path, tmp_path: Path, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    runs.to_csv(tmp_path / "mine.v2.csv", index=False)
    _fitted(tmp_path / "mine.v2.csv", monkeypatch)
    table.with_name("mine.chinchilla_tied.json").unlink()
    assert scaling(monkeypatch, "plot", table) == 2
    assert f"{table} has no fit. First: scaling fit {table}" in capsys.readouterr().err
    assert scaling(monkeypatch, "plot", tmp_path / "mine.v2.csv") == 0


def test_of_two_fits_of_a_law_that_of_the_name_fit_gives_is_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (folder / "fits/chinchilla_tied.json").read_bytes()
    (folder / "fits/chinchilla_tied-old.json").write_text('{"law": "chinchilla_tied", '
                                                          '"coefficients": {}}')  # fmt: skip
    assert scaling(monkeypatch, "plot", folder) == 0
    assert (folder / "fits/chinchilla_tied.json").read_bytes() == whole


def test_a_json_table_is_drawn_as_it_was_fitted(
    tmp_path: Path, runs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    runs.to_json(tmp_path / "mine.json", orient="records")
    assert scaling(monkeypatch, "plot", tmp_path / "mine.json") == 2
    assert f"{tmp_path / 'mine.json'} has no fit" in capsys.readouterr().err
    _fitted(tmp_path / "mine.json", monkeypatch)
    assert scaling(monkeypatch, "plot", tmp_path / "mine.json") == 0
    assert (tmp_path / "mine.figures/loss.png").is_file()
