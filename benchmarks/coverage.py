"""Do the intervals of coefficients hold the truth as often as they say?

    python benchmarks/coverage.py [--json FILE] [--repeats 200] [--only clustered] [--rows FILE]

Runs are simulated from a known law; an interval of nominal 90% should hold each coefficient,
and the allocation exponent β/(α+β), in 85 to 95% of the tables that give one. Where one does not,
nearly every table's result must carry a warning that quotes this benchmark, or says that there is
no interval; otherwise the exit status is 1. The means quoted are `quoted` in the file, which a
test compares with the warnings. A setting that does not warn has only its coverage to show and
is simulated twice as often; it counts as inside up to one standard deviation of 400 tables at the
limit (.832 to .961). `--rows FILE` judges the rows of an earlier run anew.

This is the unit test of the machinery: real tables are also misspecified, which no interval of
coefficients knows.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import itertools
import json
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.effective_clusters import MANY
from analysis.fitting.fit import fit
from analysis.fitting.functionals import interval_over_draws
from analysis.fitting.warnings import FEW_ROWS, HALF
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.solver.priors import Prior

LEVEL = 0.9
LOW, HIGH = 0.85, 0.95
TABLES = 400  # whose Monte Carlo error the limits allow: .832 to .961
FEW, SOME, ROWS = "3 to 6 clusters", "6 to 12 clusters", "few rows"  # what is quoted
NEARLY_ALL = 0.95  # of the tables of a setting carry the warning
SD = 0.01  # of log loss
NOISES = ("homoscedastic", "heteroscedastic", "clustered", "heavy-tailed")
# The curved laws (without a closed form) bend well inside the tokens simulated, 1e6 to 1e13.
TRUTHS: Mapping[str, Mapping[str, float]] = {
    "chinchilla": published("besiroglu-2024").coefficients,
    "m4": {"E": 1.5, "e_0": 8.0, "alpha": 1.0, "b": 1600, "c": 0.3},
    "bnsl_1": {"a": 1.5, "b": 60, "c0": 0.15, "c1": 0.4, "d1": 3e9, "f1": 0.3},
    "kaplan_n": {"N_c": 8.8e13, "alpha_N": 0.076},
}
KNOWN = 0.01  # sd of the prior, relative


@dataclass(frozen=True)
class Setting:
    rows: int
    clusters: int  # equal to rows: every row its own
    noise: str
    law: str = "chinchilla"
    design: str = "trunks"  # of one size each, with the same budgets
    sd: float = SD

    @property
    def independent(self) -> bool:
        return self.rows == self.clusters


class Outcome(NamedTuple):
    """Of one simulated table."""

    held: Mapping[str, bool]  # did the interval, where one was given, hold the truth?
    clusters: Mapping[str, float]  # effective number
    warned: tuple[str, ...]


def settings() -> Iterator[Setting]:
    for rows, counts in ((40, (4, 8, 16, 40)), (240, (4, 8, 16, 240))):
        for clusters, noise in itertools.product(counts, NOISES):
            if noise != "clustered" or clusters < rows:  # one row a cluster: homoscedastic
                yield Setting(rows, clusters, noise)
    # Either side of where the warnings end.
    yield Setting(100, 100, "homoscedastic")
    yield Setting(100, 100, "heavy-tailed")
    yield Setting(240, 30, "clustered")
    yield Setting(240, 48, "clustered")
    for name, rows in itertools.product(("m4", "bnsl_1"), (40, 120)):
        yield Setting(rows, rows, "homoscedastic", name)
    # Few sizes with several seeds, alike, unlike, and as many sizes as runs.
    for design, sd in itertools.product(("5 + 5", "7 + 3", "10 sizes"), (0.1, 0.004)):
        yield Setting(10, 10, "homoscedastic", "kaplan_n", design, sd)
    yield Setting(27, 27, "homoscedastic", design="3 sizes x 3 budgets x 3 seeds")
    # All trunks but the first few stop at one budget.
    yield Setting(18, 12, "clustered", design="2 long trunks")
    yield Setting(24, 12, "clustered", design="4 long trunks")
    yield Setting(72, 36, "clustered", design="12 long trunks")
    # Two sizes, so that E is what a prior says.
    yield Setting(30, 30, "homoscedastic", design="prior of E")
    yield Setting(120, 120, "homoscedastic", design="prior of E")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--only", choices=[*NOISES, *TRUTHS])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rows", type=Path, help="a file of this benchmark: simulate nothing")
    options = parser.parse_args()
    chosen = [s for s in settings() if options.only in (None, s.noise, s.law)]
    rows = [] if options.rows is None else json.loads(options.rows.read_text())["rows"]
    with ProcessPoolExecutor(options.processes) as pool:
        for setting in chosen if options.rows is None else []:
            rows.append(measure(pool, setting, options.repeats, options.draws))
            print(line(rows[-1]), flush=True)
    value = finished(rows)
    print(value["quoted"], value["ratios"])
    if options.json:
        options.json.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")
    failed = [row for row in value["rows"] if not (row["covers"] or row["warns"])]
    for row in failed:
        print(line(row))
    if failed:
        sys.exit(f"{len(failed)} of {len(rows)} settings neither cover nor warn")


def measure(pool: Executor, setting: Setting, repeats: int, draws: int) -> dict[str, Any]:
    """Coverage of every coefficient and of the allocation exponent over simulated tables."""

    def outcomes_of(seeds: range) -> list[Outcome]:
        many = (itertools.repeat(setting), itertools.repeat(draws), seeds)
        return list(pool.map(outcome, *many, chunksize=5))

    outcomes = outcomes_of(range(repeats))
    if np.mean([bool(o.warned) for o in outcomes]) < NEARLY_ALL:
        outcomes += outcomes_of(range(repeats, 2 * repeats))
    given = {name: [o.held[name] for o in outcomes if name in o.held] for name in names(setting)}
    coverage = {name: float(np.mean(held)) for name, held in given.items() if len(held) > 0}
    warned = float(np.mean([bool(o.warned) for o in outcomes]))
    return {
        **asdict(setting), "repeats": len(outcomes), "draws": draws, "coverage": coverage,
        "given": {name: len(held) / len(outcomes) for name, held in given.items()},
        "effective": {
            name: float(np.median([o.clusters.get(name, np.inf) for o in outcomes]))
            for name in TRUTHS[setting.law]
        },
        "covers": all(inside(value) for value in coverage.values()),
        "warned": warned, "warns": warned >= NEARLY_ALL,
    }  # fmt: skip


def names(setting: Setting) -> tuple[str, ...]:
    extra = ("allocation",) * (setting.law == "chinchilla")
    return (*TRUTHS[setting.law], *extra)


def quoted(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Mean coverage where a coefficient rests on few clusters, by how few, and on few rows.

    Of the mean, that of single settings is a sample: the least and the largest of many would say
    how many there are.
    """
    found: dict[str, list[float]] = {name: [] for name in (FEW, SOME, ROWS)}
    for row in rows:
        usual = {k: v for k, v in row["coverage"].items() if row["given"][k] > 1 - NEARLY_ALL}
        known = {k: row["effective"].get(k) for k in usual if k in row["effective"]}
        own = {k: np.inf if count is None else count for k, count in known.items()}
        for name, count in own.items():
            if count < MANY:
                found[FEW if count < HALF else SOME].append(usual[name])
        if row["rows"] < FEW_ROWS and own and min(own.values()) >= MANY:
            found[ROWS] += [usual[name] for name in own]
    return {
        name: f"{np.mean(each):.2f}".replace("0.", ".") if each else ""
        for name, each in found.items()
    }


def inside(coverage: float) -> bool:
    """Within the limits, up to one standard deviation of TABLES at the limit.

    The same however many tables were simulated: fewer are no reason to be content with less.
    """
    low, high = (np.sqrt(p * (1 - p) / TABLES) for p in (LOW, HIGH))
    return bool(LOW - low <= coverage <= HIGH + high)


def finished(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The file's contents, of rows as `measure` gives them: what covers, ratios, what is quoted."""
    rows = [
        {
            **row,
            # Infinite for what rests on no run; JSON has no such number.
            "effective": {
                name: None if count is None or np.isinf(count) else count
                for name, count in row["effective"].items()
            },
            "covers": all(inside(value) for value in row["coverage"].values()),
        }
        for row in rows
    ]
    within = [LOW <= value <= HIGH for row in rows for value in row["coverage"].values()]
    ratios = {
        f"share of coverages within {LOW} to {HIGH}": float(np.mean(within)),
        "share of settings that cover or warn": float(
            np.mean([row["covers"] or row["warns"] for row in rows])
        ),
    }
    said = {name: text for name, text in quoted(rows).items() if text}
    return {"rows": rows, "ratios": ratios, "quoted": said}


def outcome(setting: Setting, draws: int, seed: int) -> Outcome:
    table, truth = runs(setting, seed), TRUTHS[setting.law]
    prior = {}
    if setting.design == "prior of E":  # itself a measurement, with the error it says
        off = np.random.default_rng([seed, 5]).normal(0, KNOWN)
        prior = {"E": Prior(truth["E"] * np.exp(off), KNOWN)}
    found = fit(
        law(setting.law), table, bootstrap=draws, level=LEVEL, seed=seed, checks=False, prior=prior
    )
    bounds = {k: b for k, b in found.interval.coefficients.items() if not np.isnan(b.low)}
    held = {name: b.low <= truth[name] <= b.high for name, b in bounds.items()}
    if setting.law == "chinchilla" and len(found.draws):
        low, high = interval_over_draws(found, allocation, LEVEL)
        held["allocation"] = bool(low[0] <= allocation(truth) <= high[0])
    without = (found.reason,) * (found.interval.method == "none")
    return Outcome(held, found.effective_clusters, found.interval.warnings or without)


def allocation(c: Any) -> Any:
    return c["beta"] / (c["alpha"] + c["beta"])


def runs(setting: Setting, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng([seed, setting.rows, setting.clusters])
    table, trunk = design(setting, rng)
    true = law(setting.law)
    columns = {name: table[name].to_numpy() for name in true.features}
    exact = true.predict(TRUTHS[setting.law], columns)
    error = errors(setting.noise, trunk, exact, rng) * setting.sd
    table["loss"] = exact * np.exp(error)
    return table if setting.independent else table.assign(trunk_id=trunk.astype(str))


def design(setting: Setting, rng: Any) -> tuple[pd.DataFrame, np.ndarray]:
    """Params and tokens of the runs, and the trunk of each."""
    rows, kind = np.arange(setting.rows), setting.design
    trunk = rows % setting.clusters
    if setting.law == "kaplan_n":
        sizes = np.geomspace(1e6, 1e9, 10) if kind == "10 sizes" else np.repeat(
            [1e6, 1e9], [int(count) for count in kind.split(" + ")]
        )  # fmt: skip
        return pd.DataFrame({"params": sizes, "tokens": 1e9}), trunk
    if setting.law != "chinchilla":
        return pd.DataFrame({"tokens": np.geomspace(1e6, 1e13, setting.rows)}), trunk
    if "seeds" in kind:
        params, ratio = np.geomspace(5e7, 1e10, 3)[rows % 3], np.geomspace(3, 300, 3)[rows // 3 % 3]
    elif kind == "prior of E":
        params = np.array([1e8, 3e9])[rows % 2]
        ratio = np.geomspace(3, 300, setting.rows // 2)[rows // 2]
    elif "long" in kind:
        long = int(kind.split()[0])
        trunk = np.concatenate([np.arange(setting.clusters), np.repeat(np.arange(long), 3)])
        place = np.concatenate([np.zeros(setting.clusters, int), np.tile([1, 2, 3], long)])
        params = np.geomspace(5e7, 1e10, 6)[trunk % 6]
        return pd.DataFrame({"params": params, "tokens": 1e9 * 4.0**place}), trunk
    else:
        sizes = np.geomspace(5e7, 1e10, 8 if setting.independent else min(setting.clusters, 8))
        params, place = sizes[trunk % len(sizes)], rows // setting.clusters
        ratio = np.geomspace(3, 300, place.max() + 1)[place]
        if setting.independent:
            ratio = np.exp(rng.uniform(1, 6, setting.rows))
    return pd.DataFrame({"params": params, "tokens": params * ratio}), trunk


def errors(noise: str, trunk: np.ndarray, exact: np.ndarray, rng: Any) -> np.ndarray:
    """Of sd 1 in all, but where they follow the loss."""
    white = rng.normal(0, 1, len(exact))
    if noise == "heteroscedastic":
        return np.asarray(white * (exact - 1.5))
    if noise == "clustered":
        shared = rng.normal(0, 1, trunk.max() + 1)[trunk]
        return np.asarray((white + shared) / np.sqrt(2))
    if noise == "heavy-tailed":
        return np.asarray(rng.standard_t(3, len(exact)) / np.sqrt(3))
    return np.asarray(white)


def line(row: dict[str, Any]) -> str:
    shown = "  ".join(f"{name} {value:.3f}" for name, value in row["coverage"].items())
    verdict = "covers" if row["covers"] else "" if row["warns"] else "NEITHER COVERS NOR WARNS"
    warned = f"warned {row['warned']:.0%}" if row["warned"] else ""
    return (
        f"{row['law']} {row['rows']:4d} rows {row['clusters']:4d} clusters {row['noise']:16s} "
        f"{'' if row['design'] == 'trunks' else row['design']} "
        f"{shown}  {' '.join(filter(None, (verdict, warned)))}"
    )


if __name__ == "__main__":
    main()
