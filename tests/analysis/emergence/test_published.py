"""Emergence in published scores: what is measured resembles the published figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.emergence.inference.analyse import Curve, analyse
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series

# Columns of Ruan et al. 2024 with the verdict and the threshold (FLOPs) measured here.
ARITHMETIC = {
    "arithmetic_3ds_2_acc": 3.7e22,
    "arithmetic_3da_2_acc": 3.4e22,
    "arithmetic_2dm_2_acc": 6.4e22,
    "arithmetic_2da_2_acc": 1.4e22,
}
SIZES = {"70m": 7e7, "160m": 1.6e8, "410m": 4.1e8, "1b": 1e9, "1.4b": 1.4e9, "2.8b": 2.8e9,
         "6.9b": 6.9e9, "12b": 1.2e10}  # fmt: skip


@pytest.fixture(scope="module")
def models(reference) -> pd.DataFrame:
    """Base models with their compute and the tasks called emergent."""
    flops = pd.read_csv(reference("obs-scaling/base_llm_benchmark_eval.csv"))
    tasks = pd.read_csv(reference("obs-scaling/base_llm_emergent_capability_eval.csv"))
    joined = tasks.merge(flops[["Model", "Model Family", "FLOPs (1E21)"]], on="Model")
    return joined.dropna(subset=["FLOPs (1E21)"])


def series(models: pd.DataFrame, column: str, name: str = "acc", chance: float = 0.0) -> Series:
    rows = models.dropna(subset=[column])
    flops = rows["FLOPs (1E21)"].to_numpy() * 1e21
    family = rows["Model Family"].to_numpy()
    value = rows[column].to_numpy()
    return Series(column, metric(name), "flops", flops, value, chance=chance, group=family)


def pythia(table: pd.DataFrame, task: str, n: int, chance: float) -> Curve:
    rows = table[(table.task == task) & (table.metric == "acc") & (table.shot == "zero-shot")]
    rows = rows[(rows.step == 143000) & ~rows.model.str.contains("Mtok")]
    params = rows.model.str.split("-").str[1].map(SIZES).to_numpy()
    value, questions = rows.value.to_numpy(), np.full(len(rows), n)
    return analyse(
        Series(task, metric("acc"), "params", params, value, questions, chance=chance),
        bootstrap=99,
    )


@pytest.mark.parametrize(
    ("column", "verdicts"),
    [
        ("arithmetic_3ds_2_acc", ["smooth"]),
        # Its width's lower end lies at about half a decade, more or less by the seed.
        ("arithmetic_2da_2_acc", ["smooth", "undetermined"]),
        pytest.param("arithmetic_3da_2_acc", ["smooth"], marks=pytest.mark.slow),
        pytest.param("arithmetic_2dm_2_acc", ["smooth"], marks=pytest.mark.slow),
    ],
)
def test_arithmetic_of_many_families_rises_smoothly(models, column, verdicts):
    """Families at equal compute differ by most of the range: nothing is sharper than a decade."""
    curve = analyse(series(models, column), bootstrap=99)
    assert curve.verdict in verdicts
    low, high = curve.threshold.interval
    assert low < ARITHMETIC[column] < high < 6 * low
    assert 0.35 < curve.width_decades.interval[0] < curve.width_decades.interval[1] < 3.0
    assert curve.dispersion > 0.1


def test_parsinlu_leaves_chance_near_the_compute_of_llama_2(models):
    curve = analyse(series(models, "parsinlu_qa_2_acc", chance=0.25), bootstrap=99)
    assert curve.verdict == "smooth"
    assert 1e23 < curve.thresholds["leaves_chance"].value < 4e23


def test_exact_match_is_wider_and_later_than_bleu_of_the_same_outputs(models):
    """Of logistics from 0 to the best score."""
    exact, bleu = (
        {each.name: each.coefficients for each in analyse(one, bootstrap=33).forms}["logistic"]
        for one in (
            series(models, "ipa_transliterate_2_exact_match"),
            series(models, "ipa_transliterate_2_bleu", "bleu"),
        )
    )
    assert exact["width_decades"] > bleu["width_decades"] > 1.5
    assert exact["midpoint"] > 10**0.5 * bleu["midpoint"]


def test_half_of_exact_match_is_never_reached_and_so_not_in_range(models):
    curve = analyse(series(models, "ipa_transliterate_2_exact_match"), bootstrap=99)
    assert curve.series.value.max() < 0.5
    assert curve.threshold.value is None
    assert curve.threshold.reason.startswith("not in range")


def test_pythia_lambada_is_smooth_and_logiqa_does_not_rise(reference):
    table = pd.read_csv(reference("pythia/pythia_v1_core_evals.csv"))
    lambada = pythia(table, "lambada_openai", 5153, 0.0)
    assert lambada.verdict == "smooth"
    assert lambada.thresholds["leaves_chance"].reason.startswith("not in range: before")
    logiqa = pythia(table, "logiqa", 651, 0.25)
    assert logiqa.verdict == "none"
    assert any("worse than chance" in warning for warning in logiqa.warnings)


def test_pythia_mmlu_is_barely_above_chance_and_half_of_its_rise_is_not_bounded(reference):
    """From .252 to .284 on 14,042 questions: a rise, yet no end of it is in sight."""
    table = pd.read_csv(reference("pythia/pythia_v1_core_evals.csv"))
    curve = pythia(table, "mmlu_mean57", 14042, 0.25)
    assert curve.verdict != "sharp"
    assert curve.p_trend <= 0.05
    assert curve.predict([1.2e10]) == pytest.approx([0.28], abs=0.01)
    assert curve.threshold.value is None or not np.isfinite(curve.threshold.interval[1])


def test_four_digit_addition_is_sharp(reference):
    rows = pd.read_csv(reference("bnsl/four_digit_addition_test_ce_vs_dataset_size.csv"))
    size, loss = rows.train_set_size.to_numpy(float), rows.test_cross_entropy.to_numpy()
    curve = analyse(Series("4-digit addition", metric("loss"), "tokens", size, loss), bootstrap=99)
    assert curve.verdict == "sharp"
    assert curve.p_sharp <= 0.05
    assert 640 < curve.threshold.value < 700
    assert curve.width_decades.value < 0.3
