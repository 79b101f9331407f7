"""Rows of the same run count once, whatever they are called; another seed is another run."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.fitting.fit import fit
from analysis.forecast.leave_out import leave_out_largest
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.table import usable

LAW = law("chinchilla")
TRUTH = published("besiroglu-2024")


def twice(rows: pd.DataFrame, **columns: object) -> pd.DataFrame:
    return pd.concat([rows, rows.assign(**columns)], ignore_index=True)


def test_the_same_rows_three_times_give_the_interval_of_the_rows_once(runs: pd.DataFrame) -> None:
    thrice = pd.concat([runs.assign(name=f"export {i}", wall_time=i) for i in range(3)])
    once, again = (fit(LAW, t, bootstrap=100) for t in (runs, thrice.reset_index(drop=True)))
    assert again.interval == once.interval
    assert again.data.clusters == once.data.clusters == len(runs)
    assert again.excluded["reason"].value_counts().to_dict() == {"repeats of other rows": 96}


def test_repeats_are_named_by_row_and_leave_no_sd_of_a_seed(runs: pd.DataFrame) -> None:
    table = pd.concat([runs, runs.iloc[[3, 47]]], ignore_index=True)
    found = fit(LAW, table, bootstrap=0)
    assert "rows 49 and 50 repeat rows 4 and 48: each run counts once" in found.warnings
    assert leave_out_largest(found).seed_sd is None


def test_another_seed_or_loss_is_no_repeat(runs: pd.DataFrame) -> None:
    assert len(usable(twice(runs.assign(seed=0), seed=1)).rows) == 2 * len(runs)
    assert len(usable(twice(runs, loss=runs["loss"] + 0.001)).rows) == 2 * len(runs)
    assert len(usable(twice(runs.assign(tags=[["a"]] * len(runs)))).rows) == len(runs)


def test_runs_numbered_within_every_cell_are_seeds(
    seeded: Callable[[pd.DataFrame], pd.DataFrame], runs: pd.DataFrame
) -> None:
    table = seeded(runs).rename(columns={"seed": "run"}).assign(loss=lambda t: t["loss"].round(2))
    assert table.duplicated(["params", "tokens", "loss"]).any()
    for each in (table, table.assign(run=table["run"] + 1), table.drop(index=[3, 60])):
        assert len(usable(each).rows) == len(each)
    copied = pd.concat([runs.assign(id=range(48)), runs.assign(id=range(48))])
    assert len(usable(copied.reset_index(drop=True)).rows) == 48
