"""What a script gives in the wrong place is refused in words: which argument, and what to give."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scaling_laws as sl
from analysis.fitting.fit import Fit
from scaling.store.records import Refusal

Given = SimpleNamespace  # what the calls below are made of: a table, a fit and a published law
AT = {"params": 1e9, "tokens": 2e10}
SOURCE = r"not a fit\. Give what fit\(law, runs\) returned, load_fit\(path\) for a saved fit, or"
LAWS = r"Give a list of names: \['chinchilla', 'kaplan_nd'\]"
NUMBER = r"not a number\. Write it as a number"


@pytest.fixture(scope="module")
def given(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> Given:
    known = sl.published("chinchilla-2022")
    runs = simulate(known, grid, noise=0.003)
    return Given(runs=runs, fit=sl.fit("chinchilla", runs, bootstrap=0), known=known)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: sl.recommend(g.runs, flops=1e20), f"source is a table of [0-9]+ rows, {SOURCE}"),
        (lambda g: sl.recommend("my.json", flops=1e20), f"source is 'my.json', {SOURCE}"),
        (lambda g: sl.predict("chinchilla-2022", AT), f"source is 'chinchilla-2022', {SOURCE}"),
        (lambda g: sl.simulate(g.runs, g.fit), f"truth is a table of [0-9]+ rows, {SOURCE}"),
        (lambda g: sl.simulate(g.known, "plan.csv"), r"plan is 'plan.csv', .*read_runs\('plan.csv"),
        (lambda g: sl.simulate(g.known, g.runs, law=3), "law is 3, not a law"),
        (lambda g: sl.fit("chinchilla", Path("r.csv")), r"runs is 'r.csv'.*read_runs\('r.csv'\)"),
        (lambda g: sl.fit("chinchilla", g.fit), "runs is an object of type Fit, not a table of"),
        (lambda g: sl.fit("chinchilla", [1.0]), "runs is an object of type list, not a table of"),
        (lambda g: sl.fit(g.runs, "chinchilla"), r"law is a table.*fit\('chinchilla', runs\)"),
        (lambda g: g.fit.again("r.csv"), "rows is 'r.csv', not a table of runs"),
        (lambda g: g.fit.again(g.runs, law=3), "law is 3, not a law"),
        (lambda g: sl.compare("r.csv", ["chinchilla"]), "table is 'r.csv', not a table of runs"),
        (lambda g: sl.compare(["chinchilla"], g.runs), "table is an object of type list, not"),
        (lambda g: sl.compare(g.runs, "chinchilla, kaplan_nd"), LAWS),
        (lambda g: sl.compare(g.runs, "kaplan_n"), r"laws is 'kaplan_n', .*: \['kaplan_n'\]"),
        (lambda g: sl.compare(g.runs, sl.law("chinchilla")), LAWS),
        (lambda g: sl.compare(g.runs, g.runs), LAWS),
        (lambda g: sl.compare(g.runs, [3]), LAWS),
        (lambda g: sl.read_runs(g.runs), "path is a table of [0-9]+ rows.* fitted as it is"),
        (lambda g: sl.load_fit(g.fit), "path is an object of type Fit, not a path"),
        (lambda g: sl.law(3), "name is 3, not the name of a law"),
        (lambda g: sl.published(3), "name is 3, not the name of a law"),
        (lambda g: sl.predict(g.fit, "cells.csv"), "rows is 'cells.csv', not a table or columns"),
        (lambda g: sl.predict(g.fit, [1e9]), "rows is an object of type list, not a table or col"),
        (lambda g: sl.fit("chinchilla", g.runs, fixed=["E"]), r"fixed is an .*Give e\.g\. \{'E':"),
        (lambda g: sl.fit("chinchilla", g.runs, prior="E"), r"prior is 'E', .*e\.g\. \{'E': \("),
        (lambda g: sl.fit("chinchilla", g.runs, prior={"E": 1.8}), r"prior of E is 1.8.*\(1\.8,"),
    ],
)  # fmt: skip
def test_an_argument_of_another_kind_is_named_with_what_to_give(
    given: Given, call: Callable[[Given], Any], message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        call(given)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: sl.recommend(g.known, flops=["1B"]), f"flops is '1B', {NUMBER}"),
        (lambda g: sl.recommend(g.known, flops=[1e21, "1B"]), f"flops is '1B', {NUMBER}"),
        (lambda g: sl.recommend(g.known, loss=2.5, served="1B"), f"served is '1B', {NUMBER}"),
        (lambda g: sl.recommend(g.known, 1e21, level="90%"), f"level is '90%', {NUMBER}"),
        (lambda g: sl.simulate(g.known, g.runs, flops="1B"), f"flops is '1B', {NUMBER}"),
        (lambda g: sl.compare(g.runs, ["chinchilla"], cuts=["1B"]), f"cuts is '1B', {NUMBER}"),
        (lambda g: sl.fit("chinchilla", g.runs, bootstrap="9"), f"bootstrap is '9', {NUMBER}"),
        (lambda g: sl.fit("chinchilla", g.runs, fixed={"E": "1"}), f"fixed E is '1', {NUMBER}"),
        (lambda g: sl.fit("chinchilla", g.runs, prior={"E": (1, "s")}), f"sd of .* 's', {NUMBER}"),
    ],
)
def test_text_where_a_number_belongs_is_refused(
    given: Given, call: Callable[[Given], Any], message: str
) -> None:
    with pytest.raises(Refusal, match=message):
        call(given)


def test_one_text_is_no_list_of_conditions(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"where is 'loss>0', not a list. Give a list: \['loss>0'\]"):
        sl.read_runs(tmp_path / "runs.csv", where="loss>0")


def test_one_budget_need_not_be_in_a_list(given: Given) -> None:
    found = sl.simulate(given.known, given.runs, flops=1e22, repeats=1, draws=2)
    assert found.flops == (1e22,)


def test_a_pair_is_a_prior(given: Given) -> None:
    pair = sl.fit("chinchilla", given.runs, prior={"E": (1.8, 0.01)}, bootstrap=0)
    known = pair.settings.prior["E"]
    assert (known.value, known.sd) == (1.8, 0.01)
    again: Fit = given.fit.again(given.runs, prior={"E": (1.8, 0.01)})
    assert again.coefficients == pytest.approx(pair.coefficients)
    assert pair.coefficients != pytest.approx(given.fit.coefficients)


def test_a_saved_fit_is_loaded_by_its_public_name(given: Given, tmp_path: Path) -> None:
    from analysis.fitting.files import save_fit

    save_fit(given.fit, tmp_path / "fit.json")
    loaded = sl.load_fit(tmp_path / "fit.json")
    expected = sl.predict(given.fit, AT)["loss"].to_numpy()
    np.testing.assert_allclose(sl.predict(loaded, AT)["loss"], expected)
