"""`scaling curve` carries on a table, one of its curves, or a run's own records."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli.__main__ import main
from scaling.store.records import write_table
from scaling.store.steps import STEP_COLUMNS

STEPS = np.arange(1, 301)


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = pd.DataFrame({"step": STEPS, "lr": 1e-3, "loss": 1.5 + 9 / np.sqrt(STEPS)})
    rows.to_csv(tmp_path / "curve.csv", index=False)
    return tmp_path / "curve.csv"


def test_a_table_is_carried_on_to_a_step(table: Path, monkeypatch, capsys) -> None:
    out = table.with_name("out.json")
    assert scaling(monkeypatch, "curve", table, "--to", "1k", "--json", out) == 0
    found, printed = json.loads(out.read_text()), capsys.readouterr().out
    assert found["step"] == 1000 and found["loss"] == pytest.approx(1.5 + 9 / 1000**0.5, rel=0.01)
    low, high = found["interval"]["loss"]
    assert low < found["loss"] < high and f"{found['loss']:.4f}" in printed
    assert found["curve"][0]["step"] == 301


def test_the_rates_to_come_are_read_from_a_table(table: Path, monkeypatch, capsys) -> None:
    rest = table.with_name("rest.csv")
    rest.write_text("step,lr\n301,1e-3\n800,1e-3\n1000,0\n")
    ends = {}
    for name, options in {"kept": ("--to", 1000), "decayed": ("--schedule", rest)}.items():
        out = table.with_name(f"{name}.json")
        assert scaling(monkeypatch, "curve", table, *options, "--json", out) == 0
        ends[name] = json.loads(out.read_text())["loss"]
    assert ends["decayed"] < ends["kept"]


def test_a_run_s_folder_is_read_and_its_validation_losses(tmp_path: Path, monkeypatch) -> None:
    run, out = tmp_path / "abc", tmp_path / "out.json"
    rows = pd.DataFrame({name: STEPS.astype(float) for name in STEP_COLUMNS})
    loss = 2 + 5 / np.sqrt(STEPS)
    rows = rows.assign(step=STEPS, lr=1e-3, val_loss=np.where(STEPS % 10 == 0, loss, np.nan))
    write_table(run / "steps.parquet", rows)
    asked = ("curve", run, "--to", 600, "--loss-column", "val_loss", "--json", out)
    assert scaling(monkeypatch, *asked) == 0
    assert json.loads(out.read_text())["loss"] == pytest.approx(2 + 5 / 600**0.5, rel=0.01)


def test_of_several_curves_one_is_named(table: Path, monkeypatch, capsys) -> None:
    rows = pd.read_csv(table)
    both = pd.concat([rows.assign(curve="a"), rows.assign(curve="b", loss=rows["loss"] + 1)])
    both.to_csv(table, index=False)
    assert scaling(monkeypatch, "curve", table, "--to", 400) == 2
    assert "--name" in (said := capsys.readouterr().err) and "a, b" in said
    assert scaling(monkeypatch, "curve", table, "--to", 400, "--name", "b") == 0
    assert scaling(monkeypatch, "curve", table, "--to", 400, "--loss-column", "perplexity") == 2
    assert "no such column" in capsys.readouterr().err
