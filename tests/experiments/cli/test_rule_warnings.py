"""A plan says where a rule is used outside what it was measured on, and what few steps cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.join.plan import plan_study
from experiments.cli.join.rule_warnings import rule_warnings
from experiments.cli.render.plan import Shown, plan_text
from scaling.study import parse_study, read_study

EXPERIMENTS = Path(__file__).parents[3] / "experiments"
Warn = Callable[..., list[str]]


@pytest.fixture
def warned(tmp_path: Path) -> Warn:
    """The warnings about a study of one size, two budgets and these settings."""
    rule = tmp_path / "rate.toml"
    (tmp_path / "text.txt").write_text(" ".join(f"the union of {i} people" for i in range(3000)))

    def make(
        measured: str = "{}",
        of: str = "plateau",
        more: str = "",
        sweep: dict[str, Any] | None = None,
        **training: Any,
    ) -> list[str]:
        rule.write_text(
            f'gives = "learning_rate"\nsource = "the tests"\nschedule = "{of}"\n'
            f"factor = 0.01\nmeasured = {measured}\n{more}"
        )
        raw: dict[str, Any] = {
            "name": "tiny",
            "model": {"head_dim": 8, "aspect_ratio": 16},
            "data": {
                **{"source": str(tmp_path / "*.txt"), "sequence_length": 16},
                **{"holdout_fraction": 0.2, "allow_repeats": True},
            },
            "training": {
                **{"schedule": "wsd", "batch_sequences": 4, "learning_rate": str(rule)},
                **{"warmup_tokens": 128, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
                **{"clip_norm": 1.0, "round_to_steps": 4, **training},
            },
            "grid": {"kind": "product", "params": [3400], "tokens": [4096, 16384]},
            "evaluation": {"tokens": 400, "every_tokens": 1024},
        }
        return rule_warnings(plan_study(parse_study({**raw, "sweep": sweep or {}}, "t")).plan)

    return make


def test_a_rule_inside_its_range_is_not_doubted(warned: Warn) -> None:
    assert warned("{ params = [3000, 4000], tokens = [4000, 17000] }") == []


@pytest.mark.parametrize(
    "measured, said",
    [
        ("{ params = [1e6, 2e6] }", "N = 1M to 2M; of 2 points 2 at N = 3.38k lie outside"),
        ("{ tokens = [4000, 5000] }", "D = 4k to 5k; of 2 points 1 at D = 16.4k lie outside"),
    ],
)
def test_a_rule_outside_its_range_is_doubted_by_number(
    warned: Warn, measured: str, said: str
) -> None:
    (warning,) = warned(measured)
    assert warning.startswith("[training] learning_rate = ") and said in warning


def test_a_rule_that_follows_the_declared_d_is_judged_by_it(warned: Warn) -> None:
    more = "powers = { tokens = { exponent = 0.1 } }\n"
    at = "{ tokens = [1e4, 1e4] }"
    assert warned(at, more=more, nominal_tokens=10_000) == []
    (warning,) = warned(at, more=more, nominal_tokens=20_000)
    assert "2 at D = 20k" in warning


def test_every_rule_of_a_sweep_is_judged_once(warned: Warn) -> None:
    sweep = {"training.learning_rate_factor": [0.5, 1, 2]}
    (warning,) = warned("{ params = [1e6, 2e6] }", sweep=sweep)
    assert "of 6 points 6 at" in warning


def test_a_peak_is_no_rate_of_a_plateau_unless_its_source_says_how(warned: Warn) -> None:
    (warning,) = warned(of="decay")
    assert "the peak of a schedule that decays" in warning and "schedule = 'wsd'" in warning
    assert warned(of="decay", more="on_plateau = 0.5\n") == []
    (warning,) = warned(of="plateau", schedule="cosine")
    assert "the rate of a plateau, and schedule = 'cosine'" in warning


def test_a_rate_measured_with_another_optimiser_is_doubted(warned: Warn) -> None:
    (warning,) = warned(optimizer="muon")
    assert "was measured with adamw, and optimizer = 'muon'" in warning
    assert "`scaling tune`" in warning
    assert warned(more='optimizer = "muon"\n', optimizer="muon") == []
    both = {"training.optimizer": ["adamw", "muon"]}
    assert len(warned(sweep=both)) == 1


def test_a_batch_that_leaves_few_steps_is_named_with_one_that_would_do() -> None:
    study = read_study(EXPERIMENTS / "accelerator.toml")
    plan = plan_study(study).plan
    (few,) = [each for each in rule_warnings(plan) if "few steps" in each]
    assert few.startswith("34 of 69 points have few steps, 450 to 4,496: their batch is 4 to 15")
    most = int(few.split("batch_sequences = ")[1].split()[0])
    training = dataclasses.replace(study.training, batch_sequences=most)
    smaller = plan_study(dataclasses.replace(study, training=training)).plan
    assert not [each for each in rule_warnings(smaller) if "few steps" in each]


def test_how_a_batch_by_a_rule_is_rounded_is_said() -> None:
    study = read_study(EXPERIMENTS / "accelerator.toml")
    training = dataclasses.replace(study.training, batch_sequences="olmo-core", round_to_steps=1)
    grid = dataclasses.replace(study.grid, budgets=(3.16e19, 1e20), replicate_seeds=())
    planned = plan_study(dataclasses.replace(study, training=training, grid=grid))
    text = " ".join(plan_text(Shown(planned)).split())
    assert "Batch by 'olmo-core', 327680 (N / 1.08e+08)^0.666667 tokens: " in text
    for run in planned.plan.runs:
        exact = 327680 * (run.params.non_embedding / 1.08e8) ** (2 / 3) / run.sequence_length
        assert abs(run.batch_sequences / exact - 1) <= 1 / 16 and run.batch_sequences % 8 == 0
