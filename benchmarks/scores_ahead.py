"""How well are the scores of larger models forecast, and do the intervals hold them?

    python benchmarks/scores_ahead.py [--json FILE] [--data DIR]

Published scores are fitted up to a compute cut by `scaling emergence --cut`, and those above it
are compared with the forecast, with the scores of the largest scale seen (persistence) and with a
logistic by least squares whose slope is bounded. The priors of
analysis/emergence/forecast/latent_ability.py were chosen on the tables of obs-scaling; pythia was
looked at meanwhile; opt-bloom was looked at only afterwards. Means, medians, the share of tasks won
and the skill score 1 - CRPS / CRPS of the reference are given by group. Exit status 1 if less than
85% of the scores of a group lie inside nominal 90%, or if a group's mean CRPS is above that of
persistence. Against the logistic there is no rule: on most tasks it is the better of the two, and
docs/emergence.md says by how much.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from decisions import DATA

from analysis.emergence.forecast.forecast import forecast_scores
from analysis.emergence.scores.metrics import Metric
from analysis.emergence.scores.series import Series

LOW = 0.85
REFERENCES = "persistence", "plain_logistic"
CUT = 84e21  # of Ruan et al. 2024: 44 of 73 models with known FLOPs lie at or below it
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


def curves(folder: Path) -> Iterator[tuple[str, Series, float]]:
    """A group's name, a curve and a cut at a time."""
    base = pd.read_csv(folder / "obs-scaling/base_llm_benchmark_eval.csv")
    base["flops"] = base["FLOPs (1E21)"] * 1e21
    for group, file, tasks in (
        ("emergent", "base_llm_emergent_capability_eval.csv", EMERGENT),
        ("benchmarks", "base_llm_benchmark_eval.csv", BENCHMARKS),
        ("leaderboard", "base_llm_leaderboard_v2_eval.csv", LEADERBOARD),
    ):
        table = pd.read_csv(folder / "obs-scaling" / file)
        table["flops"] = table["Model"].map(base.set_index("Model")["flops"])
        for name in table.columns[1:-1] if group == "emergent" else tasks:
            task = str(name)
            chance, n = tasks.get(task, (0.0, 2000))
            rows = table[["flops", task]].dropna()
            best = 100.0 if "bleu" in task else 1.0
            yield group, _series(task, rows["flops"], rows[task], chance, n, best), CUT
    pythia = pd.read_csv(folder / "pythia/pythia_v1_core_evals.csv")
    pythia = pythia[~pythia["model"].str.contains("MtokBS")]  # other batches, other steps
    last = pythia[pythia["step"].eq(pythia["step"].max()) & pythia["metric"].eq("acc")]
    size = last["model"].str.extract(r"pythia-([\d.]+[mb])")[0].map(PYTHIA)
    last = last.assign(flops=6 * size * last["tokens_seen"])
    for (each, shot), rows in last.groupby(["task", "shot"]):
        chance = CHANCES.get(str(each), 0.25)
        cut = 6 * 1.45e9 * 3e11
        yield "pythia", _series(f"{each} {shot}", rows["flops"], rows["value"], chance,
                                rows["stderr"]), cut  # fmt: skip
    other = pd.read_csv(folder / "pythia/opt_bloom_final_evals.csv")
    other = other[other["metric"].eq("acc")]
    other = other.assign(flops=6 * other["model"].map(OPT_BLOOM) * other["suite"].map(TRAINED))
    for each, rows in other.groupby("task"):
        task = str(each)
        for cut in (2e21, 8e21):
            group = "opt-bloom, mmlu" if "hendrycks" in task else "opt-bloom"
            yield group, _series(task, rows["flops"], rows["value"],
                                 CHANCES.get(task, 0.25), rows["stderr"]), cut  # fmt: skip


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    asked = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for group, series, cut in curves(asked.data):
        found = forecast_scores(series, cut)
        row: dict[str, Any] = {"group": group, "task": series.task, "cut": cut, "fitted": found.n}
        for how in found.judged:
            name = how.method.replace(" ", "_")
            row |= {f"{name}_error": how.error, f"{name}_crps": how.crps,
                    f"{name}_brier": how.brier, f"{name}_coverage": how.coverage}  # fmt: skip
        rows.append(row | {"scores": found.judged[0].n})
    groups = summary(pd.DataFrame(rows))
    with pd.option_context("display.width", 120):
        print(groups.round(3).T.to_string())
    if asked.json:
        kept = {"groups": groups.to_dict("index"), "rows": rows}
        asked.json.write_text(json.dumps(kept, indent=1) + "\n")
    skilled = (groups["skill over persistence"] >= 0).all()
    return 0 if skilled and (groups["inside 90%"] >= LOW).all() else 1


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row a group: its tasks, CRPS of each method, skill, tasks won and what intervals held."""
    by = table.groupby("group", sort=False)
    found = pd.DataFrame({"tasks": by.size()})
    for name in ("auto", *REFERENCES):
        found[f"{name}: mean CRPS"] = by[f"{name}_crps"].mean()
        found[f"{name}: median CRPS"] = by[f"{name}_crps"].median()
        found[f"{name}: largest CRPS"] = by[f"{name}_crps"].max()
    for name in REFERENCES:
        found[f"skill over {name}"] = 1 - found["auto: mean CRPS"] / found[f"{name}: mean CRPS"]
        medians = found["auto: median CRPS"] / found[f"{name}: median CRPS"]
        found[f"skill of medians over {name}"] = 1 - medians
        won = table["auto_crps"] < table[f"{name}_crps"]
        found[f"tasks won over {name}"] = won.groupby(table["group"]).mean()
    for name, column in (("auto", "inside 90%"), ("plain_logistic", "inside 90%, plain logistic")):
        held = (table[f"{name}_coverage"] * table["scores"]).groupby(table["group"]).sum()
        found[column] = held / by["scores"].sum()
    return found


if __name__ == "__main__":
    sys.exit(main())
