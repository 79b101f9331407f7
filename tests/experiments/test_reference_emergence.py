"""What the emergence study shows, from its committed scores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.runs.table import read_runs
from experiments.cli.join.plan import plan_study
from scaling.planning.plan import Plan
from scaling.study import read_study
from scaling.tasks.arithmetic import UnorderedAddition
from scaling.tasks.mix import TASKS
from scaling.tasks.task import evaluation_items

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "results" / "reference" / "emergence"
STUDY = ROOT / "experiments" / "emergence.toml"


@pytest.fixture(scope="module")
def scores() -> pd.DataFrame:
    return pd.read_parquet(REFERENCE / "scores.parquet")


@pytest.fixture(scope="module")
def ends(scores: pd.DataFrame) -> pd.DataFrame:
    """The zero-shot scores of the ends of decays on 1M tokens, a column a metric."""
    rows = scores[scores["final"] & (scores["run_kind"] == "cooldown") & (scores["shots"] == 0)]
    rows = rows[rows["tokens"] < 1.5e6]
    keys = ["task", "n_layers", "params_non_embedding", "seed"]
    return rows.pivot_table(index=keys, columns="metric", values="value").reset_index()


def of(ends: pd.DataFrame, task: str) -> pd.DataFrame:
    return ends[ends["task"].str.startswith(task)]


def test_the_reference_runs_are_the_runs_that_the_study_plans(
    scores: pd.DataFrame, refuse_other_runs: Callable[[Plan, pd.DataFrame], None]
) -> None:
    table = read_runs(REFERENCE / "runs.csv")
    plan = plan_study(read_study(STUDY)).plan
    refuse_other_runs(plan, table)
    assert set(table["run_id"]) == set(scores["run_id"])
    assert set(table["status"]) == {"completed"}
    assert (table["task_share"] == 0.875).all()


def test_every_size_has_five_seeds(ends: pd.DataFrame) -> None:
    assert (ends.groupby(["task", "params_non_embedding"])["seed"].nunique() >= 5).all()


def test_every_run_was_asked_the_items_that_are_held_out(scores: pd.DataFrame) -> None:
    for spec in read_study(STUDY).tasks.list:  # type: ignore[union-attr]
        given = {key: value for key, value in spec.items() if key not in ("task", "weight")}
        task = TASKS[spec["task"]](**given)
        rows = scores[scores["task"] == task.label]
        asked = evaluation_items(task, 64)
        assert set(rows["n"]) == {len(asked)}
        chance = sum(task.chance(item) or 0 for item in asked) / len(asked)
        assert set(rows[rows["metric"] == "exact_match"]["chance"].round(9)) == {round(chance, 9)}


def test_two_layers_copy_and_one_does_not_at_the_same_size(ends: pd.DataFrame) -> None:
    copy = of(ends, "copy")
    one, two = copy[copy["n_layers"] == 1], copy[copy["n_layers"] == 2]
    assert set(one["params_non_embedding"]) == {50_368}
    assert (one["exact_match"] <= 2 / 64).all()
    most = two.groupby("params_non_embedding")["exact_match"].max()
    assert (most[[55_536, 100_672]] >= 0.9).all()
    assert most[25_248] == 16 / 64  # half as large, and still sixteen times the best of one layer


def test_seeds_of_one_size_end_far_apart(ends: pd.DataFrame) -> None:
    copy = of(ends, "copy").query("n_layers == 2")
    spread = copy.groupby("params_non_embedding")["exact_match"].agg(["min", "max"])
    assert (spread["min"] == 0).all()
    assert (spread["max"] >= [0.25, 0.9, 0.9]).all()  # of the smallest size none is above .25


def test_where_no_answer_is_right_token_accuracy_and_log_probability_still_differ(
    ends: pd.DataFrame,
) -> None:
    never = of(ends, "copy").query("exact_match == 0")
    assert never["token_accuracy"].max() > 13 * never["token_accuracy"].min()
    assert never["token_accuracy"].corr(never["answer_logprob"]) > 0.8


def test_addition_is_above_chance_at_every_size(ends: pd.DataFrame) -> None:
    addition = of(ends, "addition").groupby("params_non_embedding")["exact_match"].mean()
    assert (addition > 4 / 19).all()


def test_addition_does_not_rise_where_both_orders_of_a_sum_are_held_out() -> None:
    """The same grid once more, on `addition_unordered`: the scores at the ends of its decays."""
    scores = pd.read_csv(REFERENCE / "unordered.csv").query("shots == 0 & metric == 'exact_match'")
    sums = scores[scores["task"] == "addition_unordered digits=1"]
    assert set(sums["n"]) == {len(evaluation_items(UnorderedAddition(digits=1), 64))}
    right = (sums["value"] * 27).round()
    assert len(sums) == 24 and sorted(right)[-2:] == [0, 2]  # of 27: two in one run, none in others
    copied = scores[scores["task"] == "copy length=10"]
    assert (copied.query("n_layers == 1")["value"] < 0.1).all()
    assert copied.query("n_layers == 2").groupby("params_non_embedding")["value"].max().max() == 1
