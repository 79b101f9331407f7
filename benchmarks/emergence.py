"""Are verdicts and threshold intervals right as often as they say?

    python benchmarks/emergence.py [--json FILE] [--repeats 100] [--only smooth]

Scores are simulated from known curves against scale: smooth (a logistic or a power law in
log-probability, one and a half decades wide), sharp (a hinge a fifth of a decade wide), U-shaped
(a dip, then a smooth rise) and null (flat at chance), with n questions (0: unknown), on so many
scales over four decades, for models that differ by their questions alone or by more (a
beta-binomial of spread ρ). `sharp` of what is smooth should be said in 5% at most, and so should
`smooth` of what is sharp and a rise of what is flat; intervals of nominal 90% should hold the
half-rise in 85 to 95%, or the curve carries a warning that names its setting; otherwise the exit
status is 1. Up to two standard deviations of the Monte Carlo beyond a limit count as inside:
eighty-five settings are judged.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.special import expit

from analysis.emergence.metrics import metric
from analysis.emergence.series import Series
from analysis.emergence.thresholds import Estimate
from analysis.emergence.verdict import FEWEST_FOR_SHARP, analyse

LEVEL = 0.9
LOW, HIGH = 0.85, 0.95
FALSE_ALARMS = 0.05
DECADES = 4.0
TABLES = 199  # simulated under the null: p-values to half a percent
SMOOTH, SHARP = 1.5, 0.2  # decades from 10% to 90%
CHANCE = 0.1
Array = np.ndarray


class Truth(NamedTuple):
    kind: str  # what should be said
    midpoint: float | None  # decades above the first scale
    width: float | None
    leaves: float | None  # where 10% of the rise is reached


@dataclass(frozen=True)
class Setting:
    curve: str
    n: int  # 0: unknown
    scales: int
    spread: float  # ρ between models
    models: int = 1  # a scale


CURVES = ("logistic", "power", "sharp", "u", "null")


def settings() -> Iterator[Setting]:
    noises = ((100, 0.0), (1000, 0.0), (1000, 0.03), (0, 0.03))
    for scales, (n, spread), curve in itertools.product((12, 8, 20, 6), noises, CURVES):
        yield Setting(curve, n, scales, spread)
    for curve in CURVES:
        yield Setting(curve, 0, 20, 0.1, models=4)  # as published: many families, unknown n


def truth_of(setting: Setting, shift: float) -> Truth:
    midpoint = DECADES / 2 + shift
    if setting.curve == "null":
        return Truth("none", None, None, None)
    if setting.curve == "u":
        return Truth("u", None, None, None)
    width = SHARP if setting.curve == "sharp" else SMOOTH
    share = 1.2005 / 3.0844 if setting.curve == "power" else 0.5
    kind = "sharp" if setting.curve == "sharp" else "smooth"
    return Truth(kind, midpoint, width, midpoint - share * width)


def mean_of(setting: Setting, t: Array, shift: float) -> Array:
    """Expected scores, chance to 0.9 (1 for the power law, which has chance 0)."""
    z = t - DECADES / 2 - shift
    if setting.curve == "power":
        return np.exp(-np.exp(-(0.3665 + 3.0844 * z / SMOOTH)))
    if setting.curve == "null":
        return np.full(len(t), CHANCE)
    if setting.curve == "sharp":
        return CHANCE + 0.8 * np.clip(0.5 + 0.8 * z / SHARP, 0, 1)
    rise = expit(2 * math.log(9) * z / SMOOTH)
    if setting.curve == "u":
        return (
            0.3
            + 0.6 * expit(2 * math.log(9) * (z - 0.8) / SMOOTH)
            - 0.2 * np.exp(-0.5 * ((z + 0.4) / 0.5) ** 2)
        )
    return CHANCE + (1 - CHANCE) * rise


def simulated(setting: Setting, seed: int) -> tuple[Series, Truth]:
    rng = np.random.default_rng([seed, setting.scales, setting.n])
    shift = float(rng.uniform(-0.5, 0.5))
    t = np.repeat(np.linspace(0, DECADES, setting.scales), setting.models)
    mean = mean_of(setting, t, shift)
    models = mean
    if setting.spread:
        mass = 1 / setting.spread - 1
        models = rng.beta(np.clip(mean, 1e-6, 1) * mass, np.clip(1 - mean, 1e-6, 1) * mass)
    value = rng.binomial(setting.n, models) / setting.n if setting.n else models
    chance = {"power": 0.0, "u": CHANCE}.get(setting.curve, CHANCE)
    n = np.full(len(t), setting.n) if setting.n else None
    series = Series("simulated", metric("acc"), "params", 10 ** (t + 7), value, n, chance=chance)
    return series, truth_of(setting, shift)


class Outcome(NamedTuple):
    verdict: str
    break_found: bool
    rise_found: bool
    held: dict[str, bool | None]  # None: no interval was given
    warned: bool
    seconds: float


def outcome(setting: Setting, seed: int) -> Outcome:
    series, truth = simulated(setting, seed)
    start = time.process_time()
    curve = analyse(series, level=LEVEL, bootstrap=TABLES, seed=seed)
    seconds = time.process_time() - start
    held: dict[str, bool | None] = {}
    if truth.midpoint is not None and truth.leaves is not None and truth.width is not None:
        held["half_rise"] = holds(curve.threshold, 10 ** (truth.midpoint + 7))
        held["leaves_chance"] = holds(curve.thresholds["leaves_chance"], 10 ** (truth.leaves + 7))
        held["width"] = holds(curve.width_decades, truth.width)
    return Outcome(
        curve.verdict,
        curve.p_value is not None and curve.p_value <= FALSE_ALARMS,
        curve.p_rise <= FALSE_ALARMS,
        held,
        any("cover" in warning for warning in curve.warnings),
        seconds,
    )


def holds(estimate: Estimate, truth: float) -> bool | None:
    if estimate.interval is None:
        return None
    low, high = estimate.interval
    return (low is None or low <= truth) and (high is None or truth <= high)


def measure(setting: Setting, outcomes: list[Outcome]) -> dict[str, Any]:
    """Shares of verdicts, of breaks and rises found, and coverage where an interval was given."""
    verdicts = [each.verdict for each in outcomes]
    row: dict[str, Any] = asdict(setting) | {"repeats": len(outcomes)}
    row |= {name: verdicts.count(name) / len(verdicts) for name in sorted(set(verdicts))}
    row["break_found"] = float(np.mean([each.break_found for each in outcomes]))
    row["rise_found"] = float(np.mean([each.rise_found for each in outcomes]))
    for name in outcomes[0].held:
        given = [each.held[name] for each in outcomes if each.held[name] is not None]
        row[f"{name}_answered"] = len(given) / len(outcomes)
        row[f"{name}_coverage"] = float(np.mean(given)) if given else None
    row["warned"] = float(np.mean([each.warned for each in outcomes]))
    row["seconds"] = float(np.mean([each.seconds for each in outcomes]))
    return row


def faults(row: dict[str, Any]) -> list[str]:
    """What a setting does not keep."""
    found = []
    slip = 2 * math.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / row["repeats"])
    if row["curve"] != "sharp" and row.get("sharp", 0) > FALSE_ALARMS + slip:
        found.append("false alarms of sharp")
    if row["curve"] == "sharp" and row.get("smooth", 0) > FALSE_ALARMS + slip:
        found.append("false alarms of smooth")
    if row["curve"] == "null" and row["rise_found"] > FALSE_ALARMS + slip:
        found.append("false alarms of a rise")
    held, answered = row.get("half_rise_coverage"), row.get("half_rise_answered", 0)
    if held is not None and answered >= 0.2 and row["warned"] < 0.95:
        count = answered * row["repeats"]
        below, above = (2 * math.sqrt(q * (1 - q) / count) for q in (LOW, HIGH))
        if not LOW - below <= held <= HIGH + above:
            found.append("coverage of the half-rise")
    return found


def ratios(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """The few numbers that say how it went."""
    smooth = [row for row in rows if row["curve"] in ("logistic", "power")]
    sharp = [row.get("sharp", 0.0) for row in rows if row["curve"] != "sharp"]
    held = [row["half_rise_coverage"] for row in rows if row.get("half_rise_coverage") is not None]
    flat = [row["rise_found"] for row in rows if row["curve"] == "null"]
    return {
        "share of settings without fault": float(np.mean([not row["faults"] for row in rows])),
        "greatest share of sharp where not sharp": max(sharp, default=None),
        "mean share of smooth where sharp": _mean(
            [row.get("smooth", 0.0) for row in rows if row["curve"] == "sharp"]
        ),
        "mean share of sharp found, 8 scales and more": _mean(
            [
                row.get("sharp", 0.0)
                for row in rows
                if row["curve"] == "sharp" and row["scales"] >= FEWEST_FOR_SHARP
            ]
        ),
        "mean share of breaks found where smooth": _mean([row["break_found"] for row in smooth]),
        "mean share of rises found where flat": _mean(flat),
        "mean coverage of the half-rise": _mean(held),
        "seconds a series": _mean([row["seconds"] for row in rows]),
    }


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--only", choices=CURVES)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    chosen = [s for s in settings() if options.only in (None, s.curve)]
    rows = []
    with ProcessPoolExecutor(options.processes) as pool:
        for setting in chosen:
            many = itertools.repeat(setting), range(options.repeats)
            rows.append(measure(setting, list(pool.map(outcome, *many, chunksize=5))))
            rows[-1]["faults"] = faults(rows[-1])
            print(json.dumps({k: v for k, v in rows[-1].items() if v is not None}), flush=True)
            if options.json:  # after every setting: all of them take an hour
                text = json.dumps({"rows": rows, "ratios": ratios(rows)}, indent=1)
                options.json.write_text(text + "\n")
    print(ratios(rows))
    failed = [row for row in rows if row["faults"]]
    if failed:
        sys.exit(f"{len(failed)} of {len(rows)} settings have faults")


if __name__ == "__main__":
    main()
