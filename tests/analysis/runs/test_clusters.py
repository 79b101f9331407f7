"""Checkpoints of one run are one cluster; rows of several runs are not taken for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.effective_clusters import clusters_of
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.checks.before_fit import examine
from analysis.runs.clusters import find_clusters
from scaling.store.records import Refusal

LAW = law("chinchilla")
TRUTH = published("besiroglu-2024")


def logged(runs: int = 4, rows: int = 10, decayed: bool = False) -> pd.DataFrame:
    """Checkpoints of runs of several sizes under one cosine."""
    share = np.linspace(1 / rows, 1, rows)
    rate = np.full(rows, 1e-4) if decayed else 1e-3 * (0.55 + 0.45 * np.cos(np.pi * share))
    parts = [
        pd.DataFrame({"run": f"size {i}", "params": 1e7 * 3**i, "tokens": 1e9 * share,
                      "step": 100 * np.arange(rows), "lr": rate, "loss": 3.0 - share / 10})
        for i in range(runs)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def test_checkpoints_of_a_run_are_one_cluster_by_whatever_column_names_it() -> None:
    table = logged()
    table["run_time"] = range(len(table))
    others = [table.rename(columns={"run": name}) for name in ("trunk_id", "model", "wandb_id")]
    for each in (table, *others, table.drop(columns="run")):
        found = find_clusters(each)
        assert found.runs is not None and found.runs.nunique() == 4
        assert "32 of 40 rows had not decayed their learning rate" in found.cautions[0]


def test_the_interval_counts_runs_and_recommend_repeats_the_caution(
    grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]
) -> None:
    table = simulate(TRUTH, grid, noise=0.003)
    table = table.assign(run=table["params"].rank(method="dense").map("run {:g}".format))
    found = fit(LAW, table, bootstrap=50)
    assert found.data.clusters == 8 and max(found.effective_clusters.values()) < 8
    assert any("run names 8 runs" in each for each in found.warnings)
    assert clusters_of(found.table).max() == 7  # and so for whatever is computed from the fit
    assert fit(LAW, table, bootstrap=50, cluster="none").data.clusters == 48
    mine = table.assign(mine=table["tokens"])
    assert fit(LAW, mine, bootstrap=50, cluster="mine").data.clusters == 6


def test_ends_of_different_lengths_can_be_kept_by_the_remedy() -> None:
    short = logged().assign(tokens=lambda t: t["tokens"] / 3, run=lambda t: t["run"] + " short")
    (caution,) = find_clusters(pd.concat([logged(), short], ignore_index=True)).cautions
    assert caution.endswith("Fit the last row of each run alone: --where 'lr<=0.0001'")
    (alone,) = find_clusters(logged()).cautions
    assert "do not show what D does" in alone and "--where" not in alone


def test_a_size_label_is_no_run_and_a_name_that_may_be_one_counts_as_one(
    grid: pd.DataFrame,
) -> None:
    sizes = grid.assign(model_size=grid["params"].map("{:.0f}M".format), loss=3.0)
    assert find_clusters(sizes).runs is None
    assert find_clusters(sizes.rename(columns={"model_size": "model"})).runs is None
    named = sizes.assign(model="llama-" + sizes["model_size"])
    found = find_clusters(named)
    assert found.runs is not None and "--cluster none" in found.warnings[0]
    assert find_clusters(named.assign(model=None, note=[1.5, "x"] * 24)).runs is None
    each = sizes.assign(run_id=range(len(sizes)))
    assert find_clusters(each).runs is None


def test_a_column_that_is_not_there_is_refused_as_a_cluster(grid: pd.DataFrame) -> None:
    with pytest.raises(Refusal, match="--cluster batch"):
        find_clusters(grid, "batch")


def ruled(grid: pd.DataFrame) -> pd.DataFrame:
    """Runs whose rate was tuned to N and D, each trained to its end."""
    return grid.assign(lr=3e-3 * (grid["tokens"] / 1e9) ** -0.4, loss=3.0)


def test_a_rate_tuned_to_tokens_is_no_schedule(grid: pd.DataFrame) -> None:
    tuned = ruled(grid)
    rounded = tuned.assign(lr=[float(f"{rate:.0e}") for rate in tuned["lr"]])
    of_both = tuned.assign(lr=tuned["lr"] * (tuned["params"] / 1e8) ** -0.2)
    for table in (tuned, rounded, of_both):
        found = find_clusters(table)
        assert found.runs is None and found.cautions == ()
        assert found.warnings[0].endswith("checkpoints of one run: --cluster params")


def test_lengths_at_even_distances_may_be_checkpoints_and_are_called_no_more() -> None:
    even = pd.DataFrame(
        [(n, d * 1e9) for n in (1e7, 1e8, 1e9) for d in range(1, 6)], columns=["params", "tokens"]
    ).assign(step=lambda t: t["tokens"] / 5e5, loss=3.0)
    found = find_clusters(even)
    assert found.cautions == () and found.warnings[0].startswith("params may name 3 runs or 3 s")
    assert find_clusters(even.assign(lr=1e-3)).runs is None
    assert find_clusters(even.assign(lr=1e-3, tokens="many")).runs is None
    assert find_clusters(even.assign(uuid=[f"{i:x}" for i in range(15)])).runs is None


@pytest.mark.parametrize("name", ["experiment", "exp", "run"])
def test_a_name_of_each_size_names_no_run_where_seeds_or_ids_do(
    seeded: Callable[[pd.DataFrame], pd.DataFrame], runs: pd.DataFrame, name: str
) -> None:
    named = runs.assign(**{name: "w" + (runs["params"] / 1e6).astype(int).astype(str)})
    seeds = seeded(named)
    for table in (seeds, seeds.drop(columns="seed")):
        found = find_clusters(table)
        assert found.runs is None and found.cautions == ()
    assert fit(LAW, seeds, bootstrap=20).diagnostics.lack_of_fit is not None
    if name != "run":
        (said,) = find_clusters(named.assign(uuid=[f"{i:x}" for i in range(48)])).warnings
        assert said == "uuid names every row: each counts as independent"
        assert "may name" in find_clusters(named).warnings[0]


def test_models_whose_every_row_has_an_id_are_no_runs(runs: pd.DataFrame) -> None:
    sizes = runs["params"].rank(method="dense").map("model {:g}".format)
    assert find_clusters(runs.assign(model=sizes)).runs is not None
    assert find_clusters(runs.assign(model=sizes, id=range(48))).runs is None


def test_rows_without_a_run_beside_others_that_have_one_are_their_own(
    grid: pd.DataFrame,
) -> None:
    named = grid.assign(run=grid["params"].rank(method="dense").map("r{:g}".format), loss=3.0)
    named.loc[::6, "run"] = None
    found = find_clusters(named)
    assert found.runs is not None and "8 rows without one count as runs of" in found.warnings[0]
    assert clusters_of(examine(named, ("params", "tokens"), "loss").rows).max() == 15
