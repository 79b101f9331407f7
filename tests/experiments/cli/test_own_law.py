"""A law that another package declares is listed, fitted, saved, loaded and advises by name."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import fit
from analysis.laws.catalogue import GROUP, law
from experiments.cli.__main__ import main
from scaling.store.records import Refusal

MINE = """
from analysis.laws.formula import amplitude, exponent, feature, floor
from analysis.laws.law import Law

N, D, E = feature("N", "params"), feature("D", "tokens"), floor("E")
A, B, gamma = amplitude("A"), amplitude("B"), exponent("gamma")
mine = Law("mine", E + A / N**gamma + B / D**gamma, source="one exponent for both")
"""
TRUTH = {"E": 1.7, "A": 300.0, "B": 900.0, "gamma": 0.31}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Installs a module as a package that declares `mine`."""

    def install(source: str = MINE, name: str = "mine") -> None:
        (tmp_path / "my_laws.py").write_text(source)
        info = tmp_path / "my_laws-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-laws\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = my_laws:mine\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield install
    sys.modules.pop("my_laws", None)


@pytest.fixture
def runs_csv(tmp_path: Path) -> Path:
    params, tokens = np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 6))
    table = pd.DataFrame({"params": params.ravel(), "tokens": tokens.ravel()})
    powers = table**-0.31
    table["loss"] = 1.7 + 300 * powers["params"] + 900 * powers["tokens"]
    table["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.002, len(table)))
    table.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


def test_an_installed_law_works_in_every_command(
    installed: Callable[..., None], runs_csv: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    installed()
    saved = runs_csv.with_name("runs.mine.json")
    assert scaling(monkeypatch, "laws") == 0
    assert "L = E + A/N^gamma + B/D^gamma" in capsys.readouterr().out
    assert scaling(monkeypatch, "fit", runs_csv, "--law", "mine", "--bootstrap", 200) == 0
    assert json.loads(saved.read_text())["coefficients"] == pytest.approx(TRUTH, rel=0.3)
    out = runs_csv.with_name("out.json")
    both = ("--laws", "mine,separable:params,tokens,chinchilla", "--json", out)
    assert scaling(monkeypatch, "compare", runs_csv, *both) == 0
    scores = json.loads(out.read_text())["cuts"][-1]["laws"]
    assert [each["law"] for each in scores] == ["mine", "separable:params,tokens", "chinchilla"]
    assert scores[0]["mean_abs_rel_error"] < 0.005
    at = ("--params", "1B", "--tokens", "100B", "--json", out)
    assert scaling(monkeypatch, "predict", saved, *at) == 0
    loss = 1.7 + 300 / 1e9**0.31 + 900 / 1e11**0.31
    assert json.loads(out.read_text())["predictions"][0]["loss"] == pytest.approx(loss, rel=2e-3)
    assert scaling(monkeypatch, "recommend", saved, "--flops", "1e21", "--json", out) == 0
    best = json.loads(out.read_text())["recommendations"][0]
    # At equal exponents N*/D* is (A/B)^(1/gamma) whatever the budget.
    assert best["params"] / best["tokens"] == pytest.approx(3 ** (-1 / 0.31), rel=0.3)


def test_a_saved_fit_whose_law_is_not_installed_is_refused_with_the_remedy(
    installed: Callable[..., None], runs_csv: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with monkeypatch.context() as here:
        here.syspath_prepend(runs_csv.parent)
        (runs_csv.parent / "elsewhere.py").write_text(MINE)
        mine = __import__("elsewhere").mine
    sys.modules.pop("elsewhere")
    saved = runs_csv.with_name("own.json")
    save_fit(fit(mine, pd.read_csv(runs_csv), bootstrap=50, checks=False), saved)
    assert scaling(monkeypatch, "predict", saved, "--params", "1B", "--tokens", "1B") == 2
    told = capsys.readouterr().err
    assert "Install the package" in told and GROUP in told and "B/D^gamma" in told
    assert load_fit(saved, mine).coefficients == pytest.approx(TRUTH, rel=0.3)
    installed(MINE.replace("B / D**gamma", "B / D**(2 * gamma)"))
    assert scaling(monkeypatch, "predict", saved, "--params", "1B", "--tokens", "1B") == 2
    assert "Fit again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "name", "words"),
    [
        (MINE, "other", "is named 'mine'"),
        ("mine = 3", "mine", "is no Law but a int"),
        ("import nowhere", "mine", "cannot be loaded: ModuleNotFoundError.*nowhere"),
        ("raise SystemExit(0)", "mine", "cannot be loaded: SystemExit: 0"),
        (MINE.replace('"mine"', '"chinchilla"'), "chinchilla", "a law that ships"),
    ],
)
def test_a_declared_law_that_cannot_be_had_is_refused_and_the_listing_says_so(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], source: str, name: str, words: str,
) -> None:  # fmt: skip
    from analysis.laws.catalogue import own_law

    installed(source, name)
    with pytest.raises(Refusal, match=words):
        own_law(name)
    assert law("chinchilla").source.startswith("Hoffmann")
    assert scaling(monkeypatch, "laws") == 0
    assert f"law {name!r}, the entry point my_laws:mine" in capsys.readouterr().out
