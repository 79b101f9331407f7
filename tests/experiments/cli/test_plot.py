"""`scaling plot` draws what was fitted, wherever the fit is, and needs no column named again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws.published import published
from experiments.cli.__main__ import main
from experiments.cli.plot import _steps
from scaling.store.checksums import checksums
from scaling.store.records import Refusal, write_json, write_table
from scaling.store.run_record import RunRecord
from scaling.store.steps import STEP_COLUMNS


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


@pytest.mark.parametrize("by", ["its seal", "its record"])
def test_steps_that_are_damaged_are_not_drawn(tmp_path: Path, by: str) -> None:
    run = tmp_path / "runs" / ("0" * 12)
    rows = pd.DataFrame({name: [1.0, 2.0] for name in STEP_COLUMNS}).astype({"step": "int64"})
    write_table(run / "steps.parquet", rows)
    file = run / "steps.parquet"
    if by == "its record":  # of an earlier version, whose tables had no seal
        rows.to_parquet(file, index=False)
    record = RunRecord.made(
        run_id=run.name, trunk_id=run.name, run_kind="full", study="s", status="completed",
        config={"schedule": {"steps": 2}}, files=checksums({"steps.parquet": file}),
    )  # fmt: skip
    write_json(run / "run.json", record.plain())
    assert len(_steps(tmp_path)) == 2
    value = np.float64(2.0).tobytes()
    damaged = file.read_bytes().replace(value, np.float64(2.5).tobytes())
    assert damaged != file.read_bytes()
    file.write_bytes(damaged)
    with pytest.raises(Refusal, match=r"steps\.parquet has changed since it was written"):
        _steps(tmp_path)
    (run / "run.json").unlink()
    write_json(run / "run.json", {})
    if by == "its seal":
        with pytest.raises(Refusal, match=r"steps\.parquet cannot be read \(it has changed"):
            _steps(tmp_path)


def test_scores_that_cannot_be_drawn_name_the_command_that_has_the_options(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = pd.DataFrame(
        {"params": [1e6, 1e7], "task": "t", "metric": "brier", "value": [0.2, 0.1]}
    )
    scores.to_parquet(tmp_path / "scores.parquet")
    assert scaling(monkeypatch, "plot", tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.index("scaling emergence") < line.index("--metric")
