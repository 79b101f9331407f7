"""Published scores of models, as curves with cuts: what forecasts of scores are judged on.

Four sources: models of many families (Ruan et al. 2024), one family over its training (Pythia), two
families (OPT and BLOOM), and single runs (the BIG-bench curves of Alabdulmohsin et al. 2022). Cuts
leave 3 to 300 times the compute ahead. A source's tables are cut at several scales, and the same
tables are asked without their chance levels too, as people give them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.emergence.scores.metrics import Metric
from analysis.emergence.scores.series import Series

CUT = 84e21  # of Ruan et al. 2024: 44 of 73 models with known FLOPs lie at or below it
LOWER = 20e21
# Chance and questions of the tasks (lm-evaluation-harness); written answers have chance 0.
EMERGENT = {"parsinlu_qa_2_acc": (0.25, 1050), "ipa_transliterate_2_bleu": (0.0, 1003),
            "ipa_transliterate_2_exact_match": (0.0, 1003)}  # fmt: skip
BENCHMARKS = {
    "MMLU": (0.25, 14042), "ARC-C": (0.25, 1172), "HellaSwag": (0.25, 10042),
    "Winograd": (0.5, 273), "TruthfulQA": (0.25, 817), "GSM8K": (0.0, 1319),
    "XWinograd": (0.5, 2325), "HumanEval": (0.0, 164),
}  # fmt: skip
LEADERBOARD = {
    "leaderboard_bbh": (0.3, 5700), "leaderboard_gpqa": (0.25, 1192),
    "leaderboard_math_hard": (0.0, 1324), "leaderboard_mmlu_pro": (0.1, 12032),
    "leaderboard_musr": (0.35, 756),
}  # fmt: skip
CHANCES = {"piqa": 0.5, "winogrande": 0.5, "wsc": 0.5, "lambada_openai": 0.0}  # others .25
PYTHIA = {"70m": 7e7, "160m": 1.6e8, "410m": 4.1e8, "1b": 1e9, "1.4b": 1.4e9, "2.8b": 2.8e9,
          "6.9b": 6.9e9, "12b": 1.2e10}  # fmt: skip
OPT_BLOOM = {
    "opt-125m": 1.25e8, "opt-350m": 3.5e8, "opt-1.3b": 1.3e9, "opt-2.7b": 2.7e9,
    "opt-6.7b": 6.7e9, "opt-13b": 1.3e10, "opt-30b": 3e10, "opt-66b": 6.6e10,
    "bloom-560m": 5.6e8, "bloom-1b1": 1.1e9, "bloom-1b7": 1.7e9, "bloom-3b": 3e9,
    "bloom-7b1": 7.1e9,
}  # fmt: skip
TRAINED = {"opt": 180e9, "bloom": 366e9}  # tokens
STEPS = 3000, 13000, 33000, 63000, 103000, 143000  # of Pythia, 2.1M tokens each


@dataclass(frozen=True, eq=False)
class Case:
    """One curve to be forecast above one cut."""

    source: str
    group: str  # of tables within a source that are reported together
    series: Series
    cut: float
    loss: Array | None = None  # of each score's model


def cases(folder: Path) -> Iterator[Case]:
    """Every curve with every cut."""
    for case in (*_ruan(folder), *_pythia(folder), *_opt_bloom(folder), *_single_runs(folder)):
        yield case
        asked_bare = case.group in ("emergent", "benchmarks", "leaderboard", "pythia, steps",
                                    "opt-bloom")  # fmt: skip
        if asked_bare and case.series.chance and case.cut in (CUT, 3e20, 8e21):
            bare = replace(case.series, chance=None)
            yield replace(case, group="chance not given", series=bare)


def _ruan(folder: Path) -> Iterator[Case]:
    base = pd.read_csv(folder / "obs-scaling/base_llm_benchmark_eval.csv")
    base["flops"] = base["FLOPs (1E21)"] * 1e21
    for group, file, tasks, cuts in (
        ("emergent", "base_llm_emergent_capability_eval.csv", EMERGENT, (CUT, LOWER)),
        ("benchmarks", "base_llm_benchmark_eval.csv", BENCHMARKS, (CUT, LOWER)),
        ("leaderboard", "base_llm_leaderboard_v2_eval.csv", LEADERBOARD, (CUT, LOWER)),
    ):
        table = pd.read_csv(folder / "obs-scaling" / file)
        table["flops"] = table["Model"].map(base.set_index("Model")["flops"])
        for name in table.columns[1:-1] if group == "emergent" else tasks:
            task = str(name)
            chance, n = tasks.get(task, (0.0, 2000))
            rows = table[["flops", task]].dropna()
            best = 100.0 if "bleu" in task else 1.0
            series = _series(task, rows["flops"], rows[task], chance, n, best)
            for cut in cuts:
                yield Case("obs-scaling", group if cut == CUT else f"{group}, lower", series, cut)


def _pythia(folder: Path) -> Iterator[Case]:
    table = pd.read_csv(folder / "pythia/pythia_v1_core_evals.csv")
    table = table[~table["model"].str.contains("MtokBS")]  # other batches, other steps
    size = table["model"].str.extract(r"pythia-([\d.]+[mb])")[0].map(PYTHIA)
    table = table.assign(flops=6 * size * table["tokens_seen"])
    at = ["model", "step", "shot"]
    written = table[table["task"].eq("lambada_openai") & table["metric"].eq("ppl")]
    loss = np.log(written.groupby(at)["value"].mean()).rename("loss")
    scores = table[table["metric"].eq("acc")].merge(loss, on=at, how="left")
    for (task, shot), rows in scores.groupby(["task", "shot"]):
        chance = CHANCES.get(str(task), 0.25)
        for group, chosen, cuts in (
            ("pythia", rows[rows["step"].eq(STEPS[-1])], (6 * 1.45e9 * 3e11, 6 * 0.6e9 * 3e11)),
            ("pythia, steps", rows[rows["step"].isin(STEPS)], (3e20,)),
        ):
            series = _series(f"{task} {shot}", chosen["flops"], chosen["value"], chance,
                             chosen["stderr"])  # fmt: skip
            for cut in cuts:
                lower = ", lower" if cut == 6 * 0.6e9 * 3e11 else ""
                # Losses are of the text that LAMBADA's last words end, asked without examples. Ways
                # are compared at one cut each, since that takes seven fits.
                known = shot == "zero-shot" and cut == cuts[0]
                loss = chosen["loss"].to_numpy(float) if known else None
                yield Case("pythia", group + lower, series, cut, loss)


def _opt_bloom(folder: Path) -> Iterator[Case]:
    table = pd.read_csv(folder / "pythia/opt_bloom_final_evals.csv")
    flops = 6 * table["model"].map(OPT_BLOOM) * table["suite"].map(TRAINED)
    table = table.assign(flops=flops)
    for each, rows in table[table["metric"].eq("acc")].groupby("task"):
        task = str(each)
        group = "opt-bloom, mmlu" if "hendrycks" in task else "opt-bloom"
        series = _series(task, rows["flops"], rows["value"], CHANCES.get(task, 0.25),
                         rows["stderr"])  # fmt: skip
        for cut in (2e21, 8e21) if group == "opt-bloom" else (8e21,):
            yield Case("opt-bloom", group, series, cut)


def _single_runs(folder: Path) -> Iterator[Case]:
    table = pd.read_csv(folder / "revisiting_lang/benchmark.lang.csv")
    for task, rows in table[table["Domain"].eq("BB")].groupby("Task"):
        series = Series(
            str(task), Metric("score", 0.0, 1.0), "tokens", rows["Seen Examples"].to_numpy(float),
            1 - rows["Loss"].to_numpy(float), chance=0.0,
        )  # fmt: skip
        for cut in (2e10, 8e10):
            yield Case("big-bench", "single runs", series, cut)


def _series(
    task: str, flops: pd.Series, value: pd.Series, chance: float, noise: int | pd.Series,
    best: float = 1.0,
) -> Series:  # fmt: skip
    x, y = flops.to_numpy(float), value.to_numpy(float)
    known = isinstance(noise, int)
    return Series(
        task, Metric("score", 0.0, best), "flops", x, y, chance=chance,
        n=np.full(len(x), float(noise)) if isinstance(noise, int) else None,
        stderr=None if known else np.asarray(noise, float),
    )  # fmt: skip
