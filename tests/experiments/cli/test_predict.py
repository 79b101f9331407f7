"""`scaling predict` asks a law for its own features and names what it predicts."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import save_fit
from analysis.fitting.fit import fit
from analysis.laws.catalogue import LAWS
from analysis.laws.published import published
from experiments.cli.__main__ import main

RUN = {"params": 1e9, "tokens": 2e10, "flops": 1.2e20, "unique_tokens": 1e10}
BY_TABLE = {"steps": 1e4, "experts": 8.0, "loss": 2.5}
LIKE = {"X_start": 2.0, "X_max": 200.0, "e_0": 9.0, "a": 0.1, "d": 1.0}  # others are 0.3
SMALL = {"kaplan_lr": {"a": 0.01, "b": 1e-4}}  # a rate is positive up to some N


def scaling(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    return main()


def saved(name: str, folder: Path) -> Path:
    """A law with coefficients of our choosing, as fitted to runs of its own features alone."""
    law, like = LAWS[name], LIKE | SMALL.get(name, {})
    near = {
        key: float(np.clip(like.get(key, 0.3), symbol.lower, symbol.upper))
        for key, symbol in law.symbols.items()
        if not symbol.feature
    }
    at = {key: value * np.geomspace(1, 9, 12) for key, value in (RUN | BY_TABLE).items()}
    table = pd.DataFrame({key: at[key] for key in law.features})
    table[law.target] = law.predict(near, table) * np.geomspace(1, 1.01, 12)
    whole = fit(law, table, fixed=near, bootstrap=0)
    drawn = pd.DataFrame([near] * 3)
    path = folder / f"{name}.json"
    save_fit(replace(whole, draws=drawn), path)
    return path


def options(names) -> list[str]:
    return [w for n in names for w in (f"--{n.replace('_', '-')}", f"{RUN[n]:g}")]


def test_intervals_are_at_the_level_of_the_fit_unless_another_is_asked(
    monkeypatch, capsys, tmp_path
) -> None:
    grid = np.meshgrid(np.geomspace(1e7, 1e9, 4), np.geomspace(1e9, 1e11, 4))
    table = pd.DataFrame({"params": grid[0].ravel(), "tokens": grid[1].ravel()})
    noise = np.random.default_rng(0).normal(0, 0.003, 16)
    table["loss"] = published("besiroglu-2024").predict(table) * np.exp(noise)
    path = tmp_path / "half.json"
    save_fit(fit(LAWS["chinchilla"], table, bootstrap=100, level=0.5, checks=False), path)
    at = ["--params", "1e9", "--tokens", "1e11"]
    for asked, said in (([], "50%"), (["--level", "0.8"], "80%")):
        assert scaling(monkeypatch, "predict", path, *at, *asked) == 0
        assert f"{said} forecast" in capsys.readouterr().out
        assert scaling(monkeypatch, "recommend", path, "--flops", "1e21", *asked) == 0
        assert f"The {said} intervals [low … high]" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", LAWS)
def test_every_law_is_asked_by_its_own_features(monkeypatch, capsys, tmp_path, name):
    path, out, features = saved(name, tmp_path), tmp_path / "out.json", LAWS[name].features
    if by_table := [each for each in features if each in BY_TABLE]:
        assert scaling(monkeypatch, "predict", path, *options(set(features) & set(RUN))) == 2
        assert f"needs {by_table[0]}, which no option gives" in capsys.readouterr().err
        rows = pd.DataFrame([{each: (RUN | BY_TABLE)[each] for each in features}])
        rows.to_csv(tmp_path / "runs.csv", index=False)
        asked = ["--table", tmp_path / "runs.csv"]
    else:
        asked = options(features)
    assert scaling(monkeypatch, "predict", path, *asked, "--json", out) == 0
    [found] = json.loads(out.read_text())["predictions"]
    assert set(features) <= set(found) and LAWS[name].target in found
    assert f": {LAWS[name].target} " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [n for n in LAWS if len(LAWS[n].features) == 1 and {*LAWS[n].features} <= {*RUN}]
)
def test_what_a_law_does_not_use_may_be_given_and_changes_nothing(
    monkeypatch, capsys, tmp_path, name
):
    path, [feature] = saved(name, tmp_path), LAWS[name].features
    assert scaling(monkeypatch, "predict", path, *options([feature])) == 0
    alone = capsys.readouterr().out
    assert scaling(monkeypatch, "predict", path, *options(["params", "tokens"])) == 0
    assert capsys.readouterr().out == alone


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("chinchilla", ["params"], "chinchilla needs tokens. Give --tokens"),
        ("chinchilla", [], "Give --params and --tokens, or --table"),
        ("kaplan_c", ["params"], "Give --flops"),
        ("kaplan_c", ["params", "tokens", "flops"], "--flops is 6ND of --params and --tokens"),
        ("chinchilla", ["params", "tokens", "flops"], "--flops is 6ND of --params and --tokens"),
        ("data_constrained", ["params", "tokens"], "Give --unique-tokens"),
    ],
)
def test_what_is_lacking_is_named_by_its_option(monkeypatch, capsys, tmp_path, name, given, words):
    assert scaling(monkeypatch, "predict", saved(name, tmp_path), *options(given)) == 2
    assert words in capsys.readouterr().err


def test_unequal_numbers_of_values_are_refused(monkeypatch, capsys):
    source = "published:chinchilla-2022"
    asked = ("--params", "1B", "2B", "--tokens", "20B")
    assert scaling(monkeypatch, "predict", source, *asked) == 2
    assert "--params 2 and --tokens 1" in capsys.readouterr().err


def test_unique_tokens_that_moved_the_answer_stand_beside_it(monkeypatch, capsys, tmp_path):
    asked = options(["params", "tokens", "unique_tokens"])
    assert scaling(monkeypatch, "predict", saved("chinchilla", tmp_path), *asked) == 0
    assert "params 1B, tokens 20B, unique_tokens 10B: loss" in capsys.readouterr().out


def test_a_published_law_warns_where_guessing_at_random_costs_less(monkeypatch, capsys) -> None:
    for params, tokens, warned in (("67.7k", "1M", True), ("1B", "20B", False)):
        at = ["--params", params, "--tokens", tokens]
        assert scaling(monkeypatch, "predict", "published:besiroglu-2024", *at) == 0
        assert ("guessing at random" in capsys.readouterr().out) is warned


def test_many_predictions_are_a_table(monkeypatch, capsys, tmp_path) -> None:
    table = pd.DataFrame({"params": np.geomspace(1e8, 1e9, 300), "tokens": 2e10})
    table.to_csv(tmp_path / "runs.csv", index=False)
    asked = ("predict", "published:besiroglu-2024", "--table", tmp_path / "runs.csv")
    assert scaling(monkeypatch, *asked) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "… 100 more of 300 rows; --json FILE has them all" in lines
    head = next(at for at, line in enumerate(lines) if line.startswith("params  tokens"))
    assert lines[head + 1].split()[:2] == ["100M", "20B"]
