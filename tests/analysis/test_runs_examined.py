"""What a law does not use is looked at before it is fitted, and said."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.caution import source_warnings
from analysis.envelope import envelope
from analysis.fit import fit
from analysis.forecast import leave_out_largest, seed_scatter
from analysis.isoflop import optima
from analysis.laws import law
from analysis.published import published
from analysis.runs.cells import cells
from analysis.runs.contradictions import compute, contradictions
from analysis.runs.examine import examine
from analysis.runs.settings import pooled, replicates, settings
from analysis.runs.sweep import best_rows, sweep
from analysis.runs.table import usable
from analysis.runs.trajectories import trajectories
from analysis.runs.vocabulary import is_label, is_rate, may_be_setting
from analysis.scatter import scatter_of
from analysis.simulation import noise_of
from analysis.uncertainty import clusters_of
from scaling.store.records import Refusal

LAW = law("chinchilla")
TRUTH = published("besiroglu-2024")


@pytest.fixture(scope="module")
def runs(grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    return simulate(TRUTH, grid, noise=0.005)


def twice(rows: pd.DataFrame, **columns: object) -> pd.DataFrame:
    return pd.concat([rows, rows.assign(**columns)], ignore_index=True)


# --- repeats ----------------------------------------------------------------------------------


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


def test_replicates_that_do_not_differ_have_no_scatter(runs: pd.DataFrame) -> None:
    same = twice(runs.assign(seed=0), seed=1)
    assert seed_scatter(same, ["params", "tokens"]) is None
    found = fit(LAW, same, bootstrap=20)
    assert found.diagnostics is not None and found.diagnostics.lack_of_fit is None
    with pytest.raises(Refusal, match="equal losses"):
        noise_of(same)


# --- variants ---------------------------------------------------------------------------------


def test_two_recipes_are_named_and_are_no_seeds(runs: pd.DataFrame) -> None:
    table = twice(runs.assign(recipe="a"), recipe="b", loss=runs["loss"] * 1.04)
    found = fit(LAW, table, bootstrap=20)
    (caution,) = found.cautions
    assert caution.startswith("recipe (2 values) differs among rows of equal params and tokens")
    assert caution.endswith("Choose: --where 'recipe==a'")
    assert found.diagnostics is not None and found.diagnostics.lack_of_fit is None
    assert leave_out_largest(found).seed_sd is None
    for read in (envelope, lambda t: optima(t, "parabola")):
        with pytest.raises(Refusal, match="2 values of recipe"):
            read(table)
    with pytest.raises(Refusal, match="two seeds"):
        noise_of(table)


def test_seeds_of_each_recipe_are_still_replicates(runs: pd.DataFrame) -> None:
    seeds = twice(runs.assign(seed=0, wall_time=1.5), seed=1, loss=runs["loss"] * 1.001)
    table = twice(seeds.assign(recipe="a"), recipe="b", loss=seeds["loss"] * 1.04)
    assert np.bincount(replicates(table)).tolist() == [2] * 96
    assert settings(seeds) == []


def test_what_came_out_of_a_run_is_no_setting(runs: pd.DataFrame) -> None:
    other = np.random.default_rng(0).normal(size=len(runs))
    table = twice(
        runs.assign(tags=[["a"]] * len(runs), hellaswag=other, train_loss=1.0, gpus=8, run_id="x"),
        hellaswag=other + 0.1, train_loss=2.0, gpus=16, run_id="y", loss=runs["loss"] + 0.01,
    )  # fmt: skip
    assert settings(table) == []


def test_of_columns_that_vary_together_one_is_named(runs: pd.DataFrame) -> None:
    table = twice(runs.assign(lr=0.01, warmup_steps=10, recipe="a"),
                  lr=0.02, warmup_steps=20, recipe="b", loss=runs["loss"] * 1.01)  # fmt: skip
    assert len(settings(table)) == 1


def test_a_best_rate_at_the_edge_of_its_sweep_is_said(runs: pd.DataFrame) -> None:
    rates = [1e-4, 1e-3, 1e-2]
    sweep = pd.concat([runs.assign(lr=r, loss=runs["loss"] * (1 + r)) for r in rates])
    assert "at 48 of 48 points (the lowest at 48)" in pooled(sweep)[1]
    study = sweep.assign(variant="training.learning_rate=" + sweep["lr"].map(str))
    assert "at 48 of 48 points" in pooled(study)[-1]
    inside = pd.concat([runs.assign(lr=r, loss=runs["loss"] + abs(r - 1e-3)) for r in rates])
    assert len(pooled(inside)) == 1


def test_a_step_logged_again_after_a_restart_is_no_replicate(runs: pd.DataFrame) -> None:
    table = twice(runs.assign(trunk_id="a"), loss=runs["loss"] * 1.001)
    assert np.bincount(replicates(table)).max() == 1


# --- runs and their checkpoints ---------------------------------------------------------------


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
        found = trajectories(each)
        assert found.runs is not None and found.runs.nunique() == 4
        assert "32 of 40 rows had not decayed their learning rate" in found.cautions[0]


def test_the_interval_counts_runs_and_recommend_repeats_the_caution(
    grid: pd.DataFrame, simulate: Callable[..., pd.DataFrame]
) -> None:
    table = simulate(TRUTH, grid, noise=0.003)
    table = table.assign(run=table["params"].rank(method="dense").map("run {:g}".format))
    found = fit(LAW, table, bootstrap=50)
    assert found.data.clusters == 8 and max(found.clusters.values()) < 8
    assert any("run names 8 runs" in each for each in found.warnings)
    assert clusters_of(found.table).max() == 7  # and so for whatever is computed from the fit
    assert fit(LAW, table, bootstrap=50, cluster="none").data.clusters == 48
    mine = table.assign(mine=table["tokens"])
    assert fit(LAW, mine, bootstrap=50, cluster="mine").data.clusters == 6


def test_ends_of_different_lengths_can_be_kept_by_the_remedy() -> None:
    short = logged().assign(tokens=lambda t: t["tokens"] / 3, run=lambda t: t["run"] + " short")
    (caution,) = trajectories(pd.concat([logged(), short], ignore_index=True)).cautions
    assert caution.endswith("Fit the last row of each run alone: --where 'lr<=0.0001'")
    (alone,) = trajectories(logged()).cautions
    assert "tell nothing of D" in alone and "--where" not in alone


def test_a_size_label_is_no_run_and_a_name_that_may_be_one_counts_as_one(
    grid: pd.DataFrame,
) -> None:
    sizes = grid.assign(model_size=grid["params"].map("{:.0f}M".format), loss=3.0)
    assert trajectories(sizes).runs is None
    assert trajectories(sizes.rename(columns={"model_size": "model"})).runs is None
    named = sizes.assign(model="llama-" + sizes["model_size"])
    found = trajectories(named)
    assert found.runs is not None and "--cluster none" in found.warnings[0]
    assert trajectories(named.assign(model=None, note=[1.5, "x"] * 24)).runs is None
    each = sizes.assign(run_id=range(len(sizes)))
    assert trajectories(each).runs is None


def test_a_column_that_is_not_there_is_refused_as_a_cluster(grid: pd.DataFrame) -> None:
    with pytest.raises(Refusal, match="--cluster batch"):
        trajectories(grid, "batch")


# --- rows far off, and budgets -----------------------------------------------------------------


def test_one_absurd_loss_is_named_and_does_not_widen_forecasts(runs: pd.DataFrame) -> None:
    typo = runs.copy()
    typo.loc[20, "loss"] = typo.loc[20, "loss"] * 10
    right, wrong = (fit(LAW, t, bootstrap=0) for t in (runs, typo))
    (caution,) = wrong.cautions
    assert caution.startswith("row 21 (loss ") and "Perplexity" not in caution
    assert f"--where 'loss!={float(typo.loc[20, 'loss'])!r}'" in caution
    assert scatter_of(wrong).sd < 3 * scatter_of(right).sd
    assert f"instead of {wrong.rmse_log:.2g}, " in caution
    assert f"rms log residual {wrong.rmse_log:.2g}" in wrong.summary()
    assert fit(LAW, runs, bootstrap=0).cautions == ()


def test_where_many_rows_are_far_off_the_law_is_and_not_the_rows(runs: pd.DataFrame) -> None:
    table = runs.copy()
    table.loc[::6, "loss"] *= 1.5
    found = fit(LAW, table, bootstrap=0)
    assert found.cautions == () and found.rmse_log > 0.1


def test_budgets_that_6nd_contradicts_lead_to_the_tokens_that_do_not(grid: pd.DataFrame) -> None:
    budget = 6 * grid["params"] * grid["tokens"]
    wrong = grid.assign(flops_budget=budget, tokens_true=grid["tokens"])
    wrong["tokens"] *= np.where(grid["params"] < 1e9, 4, 1)
    (said,) = contradictions(wrong, compute(wrong))
    assert said.startswith("6 N D is not flops_budget in ") and "by a factor of up to 4 " in said
    assert said.endswith("--tokens-column tokens_true")
    near = grid.assign(budget_flops=budget * 1.3)
    assert contradictions(near, compute(near)) == []


def test_recommend_says_first_that_budgets_are_contradictions(runs: pd.DataFrame) -> None:
    budget = 6 * runs["params"] * runs["tokens"] / np.where(runs["params"] < 1e9, 4, 1)
    typo = runs.assign(budget_flops=budget).copy()
    typo.loc[20, "loss"] *= 10
    said = source_warnings(fit(LAW, typo, bootstrap=0))
    assert said[0].startswith("Of the runs: 6 N D is not budget_flops")
    assert said[1].startswith("Of the runs: row 21 (loss ")


def test_columns_are_known_by_the_words_of_their_names() -> None:
    for name in ("run_id", "wandb/name", "startedAt time", "tokens_per_s", "Unnamed: 0", "notes"):
        assert is_label(name)
    for name in ("dataset_name", "seed", "loss", "lr", "batch_time"):
        assert not is_label(name)
    assert is_rate("train/lr") and is_rate("learning_rate") and not is_rate("learning_rate_factor")
    cells, point = pd.Series([1.0, 1.0, 2.0, 2.0]), np.array([0, 1, 0, 1])
    names = ("lr", "val_loss", "tokens_b", "seed", "odd", "config/odd")
    chosen = [name for name in names if may_be_setting(name, cells, point)]
    assert chosen == ["lr", "odd", "config/odd"]


def seeded(runs: pd.DataFrame) -> pd.DataFrame:
    """Three seeds of every run, whose losses differ."""
    noise = np.random.default_rng(1).normal(1, 0.003, (3, len(runs)))
    parts = [runs.assign(seed=s, loss=runs["loss"] * noise[s]) for s in range(3)]
    return pd.concat(parts, ignore_index=True)


@pytest.mark.parametrize(("name", "digits"), [("hellaswag", 2), ("wall", 1), ("peak", 1)])
def test_what_was_measured_and_rounded_is_no_setting(
    runs: pd.DataFrame, name: str, digits: int
) -> None:
    table = seeded(runs)
    score = 1.5 - table["loss"] / 4 + np.random.default_rng(2).normal(0, 0.01, len(table))
    table[name] = (score * (1 if digits == 2 else 10)).round(digits)
    assert table[name].nunique() > 8
    assert settings(table) == [] and pooled(table) == []
    assert len(optima(table, "parabola")) and np.bincount(replicates(table)).tolist() == [3] * 48


def test_a_number_of_few_values_that_come_again_at_every_point_is_a_setting(
    runs: pd.DataFrame,
) -> None:
    table = twice(runs.assign(z=0.0), z=1e-4, loss=runs["loss"] * 1.01)
    assert [each.column for each in settings(table)] == ["z"]


def test_runs_of_one_d_in_whole_batches_of_several_sizes_are_at_one_point(
    grid: pd.DataFrame,
) -> None:
    parts = []
    for batch in (96, 160, 224):
        tokens = (grid["tokens"] / (batch * 2048)).round() * batch * 2048
        parts.append(grid.assign(tokens=tokens, batch_size=batch, loss=3 + abs(batch - 160) / 1e4))
    table = pd.concat(parts, ignore_index=True)
    table = table[table["tokens"] > 3e8]
    assert [each.column for each in settings(table)] == ["batch_size"]
    found = sweep(table, "batch_size")
    assert {each.value for each in found.cells} == {160.0}
    assert set(usable(best_rows(table, found)).rows["batch_size"]) == {160}


def test_runs_of_nearly_one_d_are_replicates_where_a_seed_tells_them_apart(
    runs: pd.DataFrame,
) -> None:
    table = twice(runs.assign(seed=0), seed=1, tokens=runs["tokens"] * 1.004, loss=3.0)
    assert np.bincount(replicates(table)).tolist() == [2] * 48
    assert np.bincount(replicates(table.drop(columns="seed"))).max() == 1


def test_the_steps_of_a_log_are_no_one_point() -> None:
    log = pd.DataFrame({"params": 1e7, "tokens": 1e9 * np.linspace(0.5, 1, 200)})
    assert len(np.unique(cells(log, ["params", "tokens"]))) == 200
    near = pd.DataFrame({"params": [1e7, 1.0001e7, 1.1e7], "tokens": [1e9, 1.004e9, 1e9]})
    assert cells(near, ["params", "tokens"]).tolist() == [0, 0, 1]


def test_best_of_is_advised_where_it_is_taken_alone(runs: pd.DataFrame) -> None:
    def decays(*values: float) -> pd.DataFrame:
        parts = [runs.assign(weight_decay=w, loss=runs["loss"] + abs(w - 0.1)) for w in values]
        return pd.concat(parts, ignore_index=True)

    assert "--best-of weight_decay" in pooled(decays(0.05, 0.1, 0.2))[0]
    assert "--best-of" not in pooled(decays(0.0, 0.1, 0.2))[0]
    half = decays(0.1, 0.2).assign(weight_decay=lambda t: t["weight_decay"] * (t["params"] / 1e8))
    assert "--best-of" not in pooled(half)[0]
    with pytest.raises(Refusal, match=r"--where 'weight_decay==0'[.]$"):
        sweep(decays(0.0, 0.1, 0.2), "weight_decay")
    with pytest.raises(Refusal, match=r"--where 'weight_decay>0'[.]$"):
        sweep(decays(0.0, 0.05, 0.1, 0.2), "weight_decay")


def test_nothing_lies_beyond_a_sweep_down_to_zero(runs: pd.DataFrame) -> None:
    parts = [runs.assign(dropout=p, loss=runs["loss"] + p) for p in (0.0, 0.1, 0.2)]
    assert len(pooled(pd.concat(parts, ignore_index=True))) == 1


def test_runs_numbered_within_every_cell_are_seeds(runs: pd.DataFrame) -> None:
    table = seeded(runs).rename(columns={"seed": "run"}).assign(loss=lambda t: t["loss"].round(2))
    assert table.duplicated(["params", "tokens", "loss"]).any()
    for each in (table, table.assign(run=table["run"] + 1), table.drop(index=[3, 60])):
        assert len(usable(each).rows) == len(each)
    copied = pd.concat([runs.assign(id=range(48)), runs.assign(id=range(48))])
    assert len(usable(copied.reset_index(drop=True)).rows) == 48


# --- what only looks like checkpoints ---------------------------------------------------------


def ruled(grid: pd.DataFrame) -> pd.DataFrame:
    """Runs whose rate was tuned to N and D, each trained to its end."""
    return grid.assign(lr=3e-3 * (grid["tokens"] / 1e9) ** -0.4, loss=3.0)


def test_a_rate_tuned_to_tokens_is_no_schedule(grid: pd.DataFrame) -> None:
    tuned = ruled(grid)
    rounded = tuned.assign(lr=[float(f"{rate:.0e}") for rate in tuned["lr"]])
    of_both = tuned.assign(lr=tuned["lr"] * (tuned["params"] / 1e8) ** -0.2)
    for table in (tuned, rounded, of_both):
        found = trajectories(table)
        assert found.runs is None and found.cautions == ()
        assert found.warnings[0].endswith("checkpoints of one run: --cluster params")


def test_lengths_at_even_distances_may_be_checkpoints_and_are_called_no_more() -> None:
    even = pd.DataFrame(
        [(n, d * 1e9) for n in (1e7, 1e8, 1e9) for d in range(1, 6)], columns=["params", "tokens"]
    ).assign(step=lambda t: t["tokens"] / 5e5, loss=3.0)
    found = trajectories(even)
    assert found.cautions == () and found.warnings[0].startswith("params may name 3 runs or 3 s")
    assert trajectories(even.assign(lr=1e-3)).runs is None
    assert trajectories(even.assign(lr=1e-3, tokens="many")).runs is None
    assert trajectories(even.assign(uuid=[f"{i:x}" for i in range(15)])).runs is None


@pytest.mark.parametrize("name", ["experiment", "exp", "run"])
def test_a_name_of_each_size_names_no_run_where_seeds_or_ids_do(
    runs: pd.DataFrame, name: str
) -> None:
    named = runs.assign(**{name: "w" + (runs["params"] / 1e6).astype(int).astype(str)})
    seeds = seeded(named)
    for table in (seeds, seeds.drop(columns="seed")):
        found = trajectories(table)
        assert found.runs is None and found.cautions == ()
    assert fit(LAW, seeds, bootstrap=20).diagnostics.lack_of_fit is not None
    if name != "run":
        (said,) = trajectories(named.assign(uuid=[f"{i:x}" for i in range(48)])).warnings
        assert said == "uuid names every row: each counts as independent"
        assert "may name" in trajectories(named).warnings[0]


def test_models_whose_every_row_has_an_id_are_no_runs(runs: pd.DataFrame) -> None:
    sizes = runs["params"].rank(method="dense").map("model {:g}".format)
    assert trajectories(runs.assign(model=sizes)).runs is not None
    assert trajectories(runs.assign(model=sizes, id=range(48))).runs is None


def test_rows_without_a_run_beside_others_that_have_one_are_their_own(
    grid: pd.DataFrame,
) -> None:
    named = grid.assign(run=grid["params"].rank(method="dense").map("r{:g}".format), loss=3.0)
    named.loc[::6, "run"] = None
    found = trajectories(named)
    assert found.runs is not None and "8 rows without one count as runs of" in found.warnings[0]
    assert clusters_of(examine(named, ("params", "tokens"), "loss").rows).max() == 15
