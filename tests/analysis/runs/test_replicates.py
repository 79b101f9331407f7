"""Replicates differ in their seed alone; settings that vary at equal N and D are found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.allocation.envelope import envelope
from analysis.allocation.isoflop import optima
from analysis.design.noise import noise_of
from analysis.fitting.fit import fit
from analysis.forecast.leave_out import leave_out_largest
from analysis.forecast.scatter import seed_scatter
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.columns.kinds import is_label, is_rate, may_be_setting
from analysis.runs.replicates import cells, pooled, replicates, settings
from analysis.runs.sweep import best_rows, sweep
from analysis.runs.table import usable
from scaling.store.records import Refusal

LAW = law("chinchilla")
TRUTH = published("besiroglu-2024")


def twice(rows: pd.DataFrame, **columns: object) -> pd.DataFrame:
    return pd.concat([rows, rows.assign(**columns)], ignore_index=True)


def test_replicates_that_do_not_differ_have_no_scatter(runs: pd.DataFrame) -> None:
    same = twice(runs.assign(seed=0), seed=1)
    assert seed_scatter(same, ["params", "tokens"]) is None
    found = fit(LAW, same, bootstrap=20)
    assert found.diagnostics is not None and found.diagnostics.lack_of_fit is None
    with pytest.raises(Refusal, match="equal losses"):
        noise_of(same)


def test_two_recipes_are_named_and_are_no_seeds(runs: pd.DataFrame) -> None:
    table = twice(runs.assign(recipe="a"), recipe="b", loss=runs["loss"] * 1.04)
    found = fit(LAW, table, bootstrap=20)
    (caution,) = found.cautions
    assert caution.startswith("recipe (2 values) differs among rows of equal params and tokens")
    assert caution.endswith("Select one: --where 'recipe==a'")
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


@pytest.mark.parametrize(("name", "digits"), [("hellaswag", 2), ("wall", 1), ("peak", 1)])
def test_what_was_measured_and_rounded_is_no_setting(
    seeded: Callable[[pd.DataFrame], pd.DataFrame], runs: pd.DataFrame, name: str, digits: int
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
