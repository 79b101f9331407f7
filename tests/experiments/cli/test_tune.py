"""`scaling tune` finds the rule that made the losses, and refuses brackets that never close."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cli import tune
from experiments.cli.__main__ import main
from experiments.cli.join.tuning import DOUBLINGS, Reach
from scaling.planning.plan import Plan
from scaling.planning.rules import Scale, read_rule
from scaling.spec import RunSpec, run_columns

STUDY = """
name = "tuned"
[model]
head_dim = 8
aspect_ratio = 16
[data]
source = "{folder}/*.txt"
sequence_length = 16
holdout_fraction = 0.2
allow_repeats = true
[training]
schedule = "wsd"
batch_sequences = 4
learning_rate = 0.02
warmup_tokens = 128
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
round_to_steps = 4
[grid]
kind = "product"
params = [3400, 12600, 49000]
tokens = [4096, 16384]
[evaluation]
tokens = 400
every_tokens = 4096
"""
K, A, B = 0.5, -0.4, 0.1
Loss = Callable[[RunSpec], float | None]
Tune = Callable[..., int]


def best(params: float, tokens: float) -> float:
    return K * params**A * tokens**B


def parabola(run: RunSpec) -> float:
    off = math.log(run.schedule.peak / best(run.params.non_embedding, run.tokens))
    return 3.0 + 0.05 * off**2


@pytest.fixture
def scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """The command on a study whose runs end with these losses; none is one that diverged.

    `plans` of the function are the plans that were trained.
    """
    (tmp_path / "text.txt").write_text(" ".join(f"the union of {i} people" for i in range(3000)))
    study = tmp_path / "tuned.toml"
    plans: list[Plan] = []

    def command(loss: Loss = parabola, change: tuple[str, str] = ("", ""), *more: str) -> int:
        def train(plan: Plan, toml: bytes, results: str, workers: int | None) -> None:
            plans.append(plan)
            rows = [
                {**run_columns(run, plan.corpus), **_ended(run, loss(run))} for run in plan.runs
            ]
            folder = Path(results) / plan.study.name
            folder.mkdir(parents=True, exist_ok=True)
            pd.DataFrame(rows).to_parquet(folder / "runs.parquet")

        study.write_text(STUDY.format(folder=tmp_path).replace(*change))
        monkeypatch.setattr(tune, "_train", train)
        words = ["scaling", "tune", str(study), "--results", str(tmp_path)]
        if "--bootstrap" not in more:
            words += ["--bootstrap", "200"]
        monkeypatch.setattr(sys, "argv", [*words, *more])
        return main()

    command.plans = plans  # type: ignore[attr-defined]
    return command


def _ended(run: RunSpec, loss: float | None) -> dict[str, Any]:
    status = "completed" if loss is not None else "diverged"
    return {"run_id": run.run_id, "trunk_id": run.trunk_id, "run_kind": run.run_kind,
            "status": status, "loss": loss}  # fmt: skip


def ids(plans: Sequence[Plan]) -> list[set[str]]:
    return [{run.run_id for run in plan.runs} for plan in plans]


@pytest.mark.parametrize("start", [0.02, 0.0025, 0.3])
def test_the_rule_that_made_the_losses_is_found_wherever_the_sweep_begins(
    scaling: Any, tmp_path: Path, start: float
) -> None:
    assert scaling(parabola, ("learning_rate = 0.02", f"learning_rate = {start}")) == 0
    rule = read_rule(tmp_path / "tuned" / "rule.toml", "learning_rate")
    assert rule.schedule == "plateau" and len(rule.optima) == 6
    run = scaling.plans[0].points[0]
    for each in rule.optima:
        assert each.optimum == pytest.approx(best(each.params, each.tokens), rel=1e-3)
        assert each.tried[0] < each.optimum < each.tried[1]
    at = Scale(run.params, run.batch_tokens, run.tokens)
    assert rule.value(at) == pytest.approx(best(run.params.non_embedding, run.tokens), rel=1e-2)
    low, high = rule.bracket() or (0, 0)
    assert low < 1 < high


def regrets_in(file: Path, column: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(file.read_text())["regret"][column]
    return found


def test_a_rule_of_the_right_form_costs_nothing_where_it_was_not_fitted(
    scaling: Any, tmp_path: Path
) -> None:
    assert scaling(parabola, ("", ""), "--json", str(tmp_path / "a.json")) == 0
    found = regrets_in(tmp_path / "a.json", "learning_rate")
    assert len(found) == 6
    for each in found:
        assert each["value"] == pytest.approx(best(each["params"], each["tokens"]), rel=1e-2)
        assert each["nats"] == pytest.approx(0, abs=1e-5)


def test_a_rule_is_judged_at_each_point_by_the_rule_of_the_others(
    scaling: Any, tmp_path: Path, capsys: Any
) -> None:
    """One point lies a factor of 1.3 off: its own rule leans to it, that of the others does not."""

    def odd(run: RunSpec) -> float:
        shift = 1.3 if (run.params.non_embedding, run.tokens) == place else 1.0
        off = math.log(run.schedule.peak / (shift * best(run.params.non_embedding, run.tokens)))
        return 3.0 + 0.05 * off**2

    place = (0.0, 0)
    assert scaling(odd) == 0
    point = max(scaling.plans[0].points, key=lambda run: (run.params.non_embedding, run.tokens))
    place = (point.params.non_embedding, point.tokens)
    assert scaling(odd, ("", ""), "--json", str(tmp_path / "a.json")) == 0
    *_, last = regrets_in(tmp_path / "a.json", "learning_rate")
    assert (last["params"], last["tokens"]) == place
    assert last["value"] == pytest.approx(best(*place), rel=1e-2)
    assert last["nats"] == pytest.approx(0.05 * math.log(1.3) ** 2, rel=2e-2)
    assert "judged at each point by the rule of all other points" in capsys.readouterr().out


def test_a_point_whose_best_is_a_bound_has_no_regret(scaling: Any, tmp_path: Path) -> None:
    def falls_off(run: RunSpec) -> float | None:
        """Runs of the smallest size diverge just above their best rate."""
        return (
            None if run.params.non_embedding < 5000 and run.schedule.peak > 0.02 else parabola(run)
        )

    study = ("params = [3400, 12600, 49000]", "params = [3400, 12600, 24000, 49000]")
    assert scaling(falls_off, study, "--json", str(tmp_path / "a.json")) == 0
    found = regrets_in(tmp_path / "a.json", "learning_rate")
    assert [each["nats"] is None for each in found] == [True] * 2 + [False] * 6
    assert "at or beyond an end" in found[0]["reason"]


def bowl(run: RunSpec) -> float:
    """Least at a rate and a batch that follow size and tokens."""
    off = math.log(run.batch_tokens / (0.6 * run.tokens**0.6))
    return parabola(run) + 0.02 * off**2


def test_the_batch_that_made_the_losses_is_found_too(scaling: Any, tmp_path: Path) -> None:
    change = ("tokens = [4096, 16384]", "tokens = [8192, 32768]")
    told = ("--out", str(tmp_path / "r.toml"), "--json", str(tmp_path / "a.json"))
    assert scaling(bowl, change, "--batch", *told) == 0
    assert len(scaling.plans) > 1  # the best batch lies beyond twice the study's
    rule = read_rule(tmp_path / "r-batch.toml", "batch_sequences")
    assert rule.follows == ("tokens",) and len(rule.optima) == 6
    assert rule.source == "measured by scaling tune: tuned, best batch at 6 points"
    for each in rule.optima:
        assert each.optimum == pytest.approx(0.6 * each.tokens**0.6, rel=2e-2)
        assert each.tried[0] < each.optimum < each.tried[1]
    run = scaling.plans[0].points[0]
    at = Scale(run.params, 0, 20_000)
    assert rule.value(at) == pytest.approx(0.6 * 20_000**0.6, rel=2e-2)
    rate = read_rule(tmp_path / "r.toml", "learning_rate")
    for each in rate.optima:
        assert each.optimum == pytest.approx(best(each.params, each.tokens), rel=1e-2)
    for column in ("learning_rate", "batch_tokens"):
        costs = regrets_in(tmp_path / "a.json", column)
        assert len(costs) == 6 and max(each["nats"] for each in costs) < 1e-4


@pytest.mark.parametrize(
    "change, said",
    [
        (("batch_sequences = 4", "batch_sequences = 3"), "= 3 cannot be halved"),
        (("batch_sequences = 4", 'batch_sequences = "olmo-core"'), "Give a number from which"),
        (("16384", "16640"), "multiples of 512 tokens, so batches"),
    ],
)
def test_a_batch_that_cannot_be_tuned_is_refused_before_anything_is_trained(
    scaling: Any, capsys: Any, change: tuple[str, str], said: str
) -> None:
    assert scaling(bowl, change, "--batch") == 2
    assert said in capsys.readouterr().err
    assert scaling.plans == []


def test_a_batch_of_one_sequence_is_halved_no_further() -> None:
    assert Reach(smaller=3, larger=1).batches(4) == (1, 2, 4, 8)
    assert Reach(smaller=1, larger=2).batches(6) == (3, 6, 12, 24)


def test_a_wider_sweep_keeps_every_run_before_it(scaling: Any) -> None:
    assert scaling(parabola, ("learning_rate = 0.02", "learning_rate = 0.0025")) == 0
    rounds = ids(scaling.plans)
    assert len(rounds) > 1
    assert all(before < after for before, after in pairwise(rounds))


def test_a_bracket_that_never_closes_is_refused_in_a_line(scaling: Any, capsys: Any) -> None:
    assert scaling(lambda run: 3.0 - 0.1 * math.log(run.schedule.peak)) == 2
    error = capsys.readouterr().err.strip()
    assert "\n" not in error
    assert "[training] learning_rate = 0.02: of rates from" in error
    assert "the highest is still the best" in error and f"after {DOUBLINGS} doublings" in error
    assert len(scaling.plans) == DOUBLINGS


def test_rates_that_diverge_end_a_sweep_and_leave_no_optimum(scaling: Any, capsys: Any) -> None:
    def falls_off(run: RunSpec) -> float | None:
        return None if run.schedule.peak > 0.025 else 3.0 - 0.1 * math.log(run.schedule.peak)

    assert scaling(falls_off) == 2
    assert "0 of 6 points have a best rate inside" in capsys.readouterr().err
    assert len(scaling.plans) == 1


@pytest.mark.parametrize(
    "change, said",
    [
        (("3400, 12600, 49000", "3400, 12600"), "[grid] has 2 sizes and 2 budgets"),
        (("4096, 16384", "4096"), "[grid] has 3 sizes and 1 budgets"),
        (("beta1", "learning_rate_factor = 2.0\nbeta1"), "learning_rate_factor = 2: `scaling"),
        (("[evaluation]", '[sweep]\n"training.beta1" = [0.8]\n[evaluation]'), "[sweep] training.b"),
        (("head_dim", 'parametrization = "mup"\nhead_dim'), '[model] parametrization = "mup" has'),
    ],
)
def test_a_study_that_cannot_be_tuned_is_refused_before_anything_is_trained(
    scaling: Any, capsys: Any, change: tuple[str, str], said: str
) -> None:
    assert scaling(parabola, change) == 2
    assert said in capsys.readouterr().err
    assert scaling.plans == []


def test_options_are_refused_before_anything_is_trained(scaling: Any) -> None:
    for wrong in (("--level", "90"), ("--bootstrap", "1000000"), ("--out", "rule.json")):
        assert scaling(parabola, ("", ""), *wrong) == 2
    assert scaling.plans == []


def test_a_file_that_is_no_rule_of_this_command_is_not_replaced(
    scaling: Any, tmp_path: Path, capsys: Any
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("mine = true")
    assert scaling(parabola, ("", ""), "--out", str(mine)) == 2
    assert mine.read_text() == "mine = true" and "--overwrite" in capsys.readouterr().err


def test_a_sweep_reaches_by_doublings() -> None:
    assert Reach().multiples == (0.5, 0.707, 1.0, 1.41, 2.0)
    assert set(Reach().multiples) < set(Reach(2, 1).multiples)


def test_a_rule_says_which_optimiser_it_was_measured_with(scaling: Any, tmp_path: Path) -> None:
    file = tmp_path / "tuned" / "rule.toml"
    assert scaling() == 0
    assert read_rule(file, "learning_rate").optimizer == "adamw"
    assert scaling(parabola, ("beta1", 'optimizer = "muon"\nbeta1')) == 0
    assert read_rule(file, "learning_rate").optimizer == "muon"


def test_a_rule_without_resamples_claims_no_intervals(scaling: Any, tmp_path: Path) -> None:
    assert scaling(parabola, ("", ""), "--bootstrap", "0") == 0
    assert "nan" not in (tmp_path / "tuned" / "rule.toml").read_text()
