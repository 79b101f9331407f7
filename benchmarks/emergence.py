"""Are verdicts and threshold intervals right as often as they say?

    python benchmarks/emergence.py [--json FILE] [--repeats 20] [--only logistic] [--scales 8]

Scores are simulated from known curves against scale, with n questions (0: unknown), for models
that differ by their questions alone or by more (a beta-binomial of spread ρ):

- logistic, from 0 to 1 (where ρ is hardest to estimate: scores at either end do not scatter),
  over three and four decades, with ρ from 0 to .1 and a 10-90% width from .3 to 1.5 decades. .55
  and wider belong to the null of no break; .3 is sharp;
- sharp: a hinge a fifth of a decade wide; power: a power law in log-probability and a logistic
  from chance, one and a half decades wide; u: a dip, then a smooth rise; null: flat at chance.

Of smooth curves a break should be found in 7% at most and `sharp` said in 2%; `smooth` of what is
sharp and a rise of what is flat in 5%; intervals of nominal 90% should hold the half-rise in 85%
at least; otherwise the exit status is 1. A setting has too few tables to be judged alone (a share
of 5% of 20 has a standard deviation of 5%), so tables are judged pooled, by width and spread, by
scales, and by scales and spread, and a pool keeps the limit or does not: nothing is allowed for
chance. `repeats` says how many tables each setting has, `pools` how many each pool. With --only or
--scales those settings are run again and the other rows of FILE stay; where ρ = .1 a setting has
twice as many tables.
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

from analysis.emergence.inference.analyse import analyse
from analysis.emergence.inference.verdict import FEWEST_TO_COVER, significance
from analysis.emergence.response.estimate import Estimate
from analysis.emergence.scores.metrics import metric
from analysis.emergence.scores.series import Series

LEVEL = 0.9
LEAST_HELD = 0.85
SIGNIFICANT = 0.05
BREAKS, SHARPS, WRONG = 0.07, 0.02, 0.05  # most false alarms
POOLS = ("width", "spread"), ("scales",), ("scales", "spread"), ("scales", "width")  # judged
TABLES = 199  # simulated under the null: p-values to half a percent
MOST_SPREAD = 0.1  # tried: ρ between models
NULL_WIDTH, SHARP = 0.5, 0.2  # decades from 10% to 90%
Array = np.ndarray


class Truth(NamedTuple):
    midpoint: float | None  # decades above the first scale
    width: float | None
    leaves: float | None  # where 10% of the rise is reached


@dataclass(frozen=True)
class Setting:
    curve: str
    n: int  # 0: unknown
    scales: int
    spread: float  # ρ between models
    width: float = 1.5
    decades: int = 4
    chance: float = 0.1
    models: int = 1  # a scale

    @property
    def smooth(self) -> bool:
        """Of the null of no break."""
        return self.curve in ("logistic", "power") and self.width >= NULL_WIDTH

    @property
    def sharp(self) -> bool:
        return self.curve in ("logistic", "sharp") and self.width < NULL_WIDTH


CURVES = ("logistic", "power", "sharp", "u", "null")


def settings() -> Iterator[Setting]:
    noises = ((200, 0.0), (200, 0.03), (200, 0.1), (0, 0.03), (0, 0.1))
    widths = (0.55, 0.7, 1.0, 1.5, 0.3)
    for scales, decades, (n, spread), width in itertools.product((20, 10), (3, 4), noises, widths):
        yield Setting("logistic", n, scales, spread, width, decades, chance=0.0)
    for (n, spread), width in itertools.product(noises, widths):  # the fewest scales of `sharp`
        yield Setting("logistic", n, 8, spread, width, chance=0.0)
    noises = ((100, 0.0), (1000, 0.0), (1000, 0.03), (0, 0.03))
    for scales, (n, spread) in itertools.product((8, 12, 20), noises):
        yield Setting("sharp", n, scales, spread, SHARP)
    for scales, curve in itertools.product((6, 8, 12, 20), ("logistic", "power", "null")):
        yield Setting(curve, 1000, scales, 0.03)
    for scales in (8, 20):
        yield Setting("u", 1000, scales, 0.03)
    for curve, width in (("logistic", 1.5), ("sharp", SHARP), ("null", 1.5)):
        yield Setting(curve, 0, 20, 0.1, width, models=4)  # as published: families, unknown n


def truth_of(setting: Setting, shift: float) -> Truth:
    if setting.curve in ("null", "u"):
        return Truth(None, None, None)
    midpoint = setting.decades / 2 + shift
    share = 1.2005 / 3.0844 if setting.curve == "power" else 0.5
    return Truth(midpoint, setting.width, midpoint - share * setting.width)


def mean_of(setting: Setting, t: Array, shift: float) -> Array:
    """Expected scores, chance to 0.9 (1 for smooth curves; the power law has chance 0)."""
    z = t - setting.decades / 2 - shift
    chance, width = setting.chance, setting.width
    if setting.curve == "power":
        return np.exp(-np.exp(-(0.3665 + 3.0844 * z / width)))
    if setting.curve == "null":
        return np.full(len(t), chance)
    if setting.curve == "sharp":
        return chance + 0.8 * np.clip(0.5 + 0.8 * z / width, 0, 1)
    if setting.curve == "u":
        return (
            0.3
            + 0.6 * expit(2 * math.log(9) * (z - 0.8) / width)
            - 0.2 * np.exp(-0.5 * ((z + 0.4) / 0.5) ** 2)
        )
    return chance + (1 - chance) * expit(2 * math.log(9) * z / width)


def simulated(setting: Setting, seed: int) -> tuple[Series, Truth]:
    rng = np.random.default_rng([seed, setting.scales, setting.n])
    shift = float(rng.uniform(-0.5, 0.5))
    t = np.repeat(np.linspace(0, setting.decades, setting.scales), setting.models)
    mean = mean_of(setting, t, shift)
    models = mean
    if setting.spread:
        mass = 1 / setting.spread - 1
        models = rng.beta(np.clip(mean, 1e-6, 1) * mass, np.clip(1 - mean, 1e-6, 1) * mass)
    value = rng.binomial(setting.n, models) / setting.n if setting.n else models
    chance = 0.0 if setting.curve == "power" else setting.chance
    n = np.full(len(t), setting.n) if setting.n else None
    series = Series("simulated", metric("acc"), "params", 10 ** (t + 7), value, n, chance=chance)
    return series, truth_of(setting, shift)


class Outcome(NamedTuple):
    verdict: str
    break_found: bool
    rise_found: bool
    held: dict[str, bool | None]  # None: no interval was given
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
        curve.p_sharp is not None and curve.p_sharp <= significance(setting.scales),
        curve.p_trend <= SIGNIFICANT,
        held,
        seconds,
    )


def holds(estimate: Estimate, truth: float) -> bool | None:
    return None if estimate.interval is None else estimate.interval.holds(truth)


def measure(setting: Setting, outcomes: list[Outcome]) -> dict[str, Any]:
    """Shares of verdicts, of breaks and rises found, and coverage where an interval was given."""
    verdicts = [each.verdict for each in outcomes]
    row: dict[str, Any] = asdict(setting) | {"repeats": len(outcomes)}
    row |= {"is_smooth": setting.smooth, "is_sharp": setting.sharp}
    row |= {name: verdicts.count(name) / len(verdicts) for name in sorted(set(verdicts))}
    row["break_found"] = float(np.mean([each.break_found for each in outcomes]))
    row["rise_found"] = float(np.mean([each.rise_found for each in outcomes]))
    for name in outcomes[0].held:
        given = [each.held[name] for each in outcomes if each.held[name] is not None]
        row[f"{name}_answered"] = len(given) / len(outcomes)
        row[f"{name}_coverage"] = float(np.mean(given)) if given else None
    row["seconds"] = float(np.mean([each.seconds for each in outcomes]))
    return row


def pooled(rows: list[dict[str, Any]], *by: str) -> dict[str, dict[str, Any]]:
    """Shares over all tables of the settings of each pool, which is named by what they share."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(", ".join(f"{each} {row[each]:g}" for each in by), []).append(row)
    return {name: _pool(each) for name, each in groups.items()}


def _pool(rows: list[dict[str, Any]]) -> dict[str, Any]:
    smooth = [row for row in rows if row["is_smooth"]]
    sharp = [row for row in rows if row["is_sharp"]]
    flat = [row for row in rows if row["curve"] == "null"]
    given = [
        row | {"repeats": row["half_rise_answered"] * row["repeats"]}
        for row in rows
        if row.get("half_rise_coverage") is not None
    ]
    return {
        "tables": sum(row["repeats"] for row in rows),
        "smooth tables": sum(row["repeats"] for row in smooth),
        "breaks found where smooth": _share(smooth, "break_found"),
        "sharp where not sharp": _share([row for row in rows if not row["is_sharp"]], "sharp"),
        "smooth where sharp": _share(sharp, "smooth"),
        "rises found where flat": _share(flat, "rise_found"),
        "coverage of the half-rise": _share(given, "half_rise_coverage"),
    }


def _share(rows: list[dict[str, Any]], value: str) -> float | None:
    """Of all tables of the rows; None of none."""
    tables = sum(row["repeats"] for row in rows)
    return sum(row.get(value, 0.0) * row["repeats"] for row in rows) / tables if tables else None


def faults(pool: dict[str, Any]) -> list[str]:
    """What a pool does not keep."""
    limits = {
        "breaks found where smooth": BREAKS, "sharp where not sharp": SHARPS,
        "smooth where sharp": WRONG, "rises found where flat": WRONG,
    }  # fmt: skip
    found = [name for name, most in limits.items() if (pool[name] or 0.0) > most]
    held = pool["coverage of the half-rise"]
    return (
        [*found, "coverage of the half-rise"] if held is not None and held < LEAST_HELD else found
    )


def result(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What is kept: a row a setting, the pools, and the numbers that docs/emergence.md quotes."""
    pools = {name: pool for by in POOLS for name, pool in pooled(rows, *by).items()}
    return {"rows": rows, "pools": pools, "ratios": ratios(rows, pools)}


def ratios(rows: list[dict[str, Any]], pools: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The few numbers that say how it went: means over settings, or the worst pool."""
    smooth = [row for row in rows if row["is_smooth"]]
    sharp = [row for row in rows if row["is_sharp"]]
    not_sharp = [row for row in rows if not row["is_sharp"]]
    hinges = [row for row in rows if row["curve"] == "sharp"]
    narrow = [row for row in sharp if row["curve"] == "logistic"]
    held = [row for row in rows if row.get("half_rise_coverage") is not None]
    return {
        "settings": len(rows),
        "tables": sum(row["repeats"] for row in rows),
        "pools": len(pools),
        "share of pools without fault": float(
            np.mean([not faults(each) for each in pools.values()])
        ),
        "breaks found where smooth": _means(smooth, "break_found"),
        "breaks found where smooth, by width and spread": _means(
            smooth, "break_found", "width", "spread"
        ),
        "breaks found where smooth, by scales": _means(smooth, "break_found", "scales"),
        "greatest pooled share of breaks found where smooth": _most(
            pools, "breaks found where smooth"
        ),
        "sharp where not sharp": _means(not_sharp, "sharp"),
        "greatest pooled share of sharp where not sharp": _most(pools, "sharp where not sharp"),
        "greatest pooled share of smooth where sharp": _most(pools, "smooth where sharp"),
        "sharp found of hinges, by scales": _means(hinges, "sharp", "scales"),
        "sharp found at a width of .3, by scales and decades": _means(
            narrow, "sharp", "scales", "decades"
        ),
        "rises found where flat": _means(
            [row for row in rows if row["curve"] == "null"], "rise_found"
        ),
        "coverage of the half-rise": _means(held, "half_rise_coverage"),
        "coverage of the half-rise, by spread": _means(held, "half_rise_coverage", "spread"),
        "coverage of the half-rise of few scales, by spread": _means(
            [row for row in held if row["scales"] < FEWEST_TO_COVER],
            "half_rise_coverage",
            "spread",
        ),
        "coverage of the half-rise, by scales": _means(held, "half_rise_coverage", "scales"),
        "least pooled coverage of the half-rise": min(
            each["coverage of the half-rise"]
            for each in pools.values()
            if each["coverage of the half-rise"] is not None
        ),
        "seconds a series": _means(rows, "seconds"),
    }


def _means(rows: list[dict[str, Any]], value: str, *by: str) -> dict[str, float]:
    """The mean of `value` in the rows of each group, named by what they share."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        name = ", ".join(f"{each} {row[each]:g}" for each in by) or "all"
        groups.setdefault(name, []).append(row.get(value, 0.0))
    return {name: float(np.mean(values)) for name, values in groups.items()}


def _most(pools: dict[str, dict[str, Any]], name: str) -> float:
    return max(each[name] or 0.0 for each in pools.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--only", choices=CURVES)
    parser.add_argument("--scales", type=int, nargs="+")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    old = []
    if options.json and options.json.exists():
        old = json.loads(options.json.read_text())["rows"]
    rows = {setting: row for row in old for setting in settings() if _is_of(row, setting)}
    with ProcessPoolExecutor(options.processes) as pool:
        for setting in settings():
            if options.only not in (None, setting.curve):
                continue
            if options.scales and setting.scales not in options.scales:
                continue
            count = options.repeats * (2 if setting.spread == MOST_SPREAD else 1)
            many = itertools.repeat(setting), range(count)
            rows[setting] = measure(setting, list(pool.map(outcome, *many, chunksize=5)))
            print(json.dumps({k: v for k, v in rows[setting].items() if v is not None}), flush=True)
            if options.json:  # after every setting: all of them take half an hour
                kept = result([rows[each] for each in settings() if each in rows])
                options.json.write_text(json.dumps(kept, indent=1) + "\n")
    found = result(list(rows.values()))
    print(found["ratios"])
    failed = {name: faults(each) for name, each in found["pools"].items() if faults(each)}
    if failed:
        sys.exit(f"{len(failed)} of {len(found['pools'])} pools have faults: {failed}")


def _is_of(row: dict[str, Any], setting: Setting) -> bool:
    return all(row[name] == value for name, value in asdict(setting).items())


if __name__ == "__main__":
    main()
