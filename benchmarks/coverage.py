"""Do the intervals of coefficients hold the truth as often as they say?

    python benchmarks/coverage.py [--json FILE] [--repeats 200] [--only clustered]

Runs are simulated from a known law; an interval of nominal 90% should hold each coefficient,
and the allocation exponent β/(α+β), in 85 to 95% of the tables. A setting outside is printed
with the warning its result carries. This is the unit test of the machinery: real tables are
also misspecified, which no interval of coefficients knows.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.fit import Fit, fit
from analysis.published import published

TRUTH = published("besiroglu-2024")
LEVEL = 0.9
SD = 0.01  # of log loss
NOISES = ("homoscedastic", "heteroscedastic", "clustered", "heavy-tailed")


@dataclass(frozen=True)
class Setting:
    rows: int
    clusters: int  # equal to rows: every row its own
    noise: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--only", choices=NOISES)
    options = parser.parse_args()
    rows = []
    for size, counts in ((40, (4, 8, 16, 40)), (240, (4, 8, 16, 240))):
        for clusters in counts:
            for noise in [options.only] if options.only else NOISES:
                if noise == "clustered" and clusters == size:
                    continue  # a cluster of one row is the homoscedastic case
                row = measure(Setting(size, clusters, noise), options.repeats, options.draws)
                print(line(row), flush=True)
                rows.append(row)
    inside = [0.85 <= value <= 0.95 for row in rows for value in row["coverage"].values()]
    warned = [bool(row["warnings"]) or row["fine"] for row in rows]
    ratios = {
        "share of coverages within .85 to .95": float(np.mean(inside)),
        "share of settings that cover or warn": float(np.mean(warned)),
    }
    print(ratios)
    if options.json:
        options.json.write_text(json.dumps({"rows": rows, "ratios": ratios}, indent=1))


def measure(setting: Setting, repeats: int, draws: int) -> dict[str, Any]:
    """Coverage of every coefficient and of the allocation exponent over simulated tables."""
    truth = dict(TRUTH.coefficients)
    hits: dict[str, list[bool]] = {name: [] for name in [*truth, "allocation"]}
    warnings: set[str] = set()
    for seed in range(repeats):
        found = fit(
            TRUTH.law, runs(setting, seed), bootstrap=draws, level=LEVEL, seed=seed, checks=False
        )
        for name, value in truth.items():
            low, high = found.interval.coefficients[name]
            hits[name].append(bool(low <= value <= high))
        hits["allocation"].append(allocation(found))
        warnings.update(w for w in found.warnings if " clusters: " in w or " rows: " in w)
    coverage = {name: float(np.mean(values)) for name, values in hits.items()}
    return {
        "rows": setting.rows, "clusters": setting.clusters, "noise": setting.noise,
        "coverage": coverage, "fine": all(0.85 <= c <= 0.95 for c in coverage.values()),
        "warnings": sorted(warnings), "repeats": repeats,
    }  # fmt: skip


def allocation(found: Fit) -> bool:
    if found.draws.empty:
        return False
    share = found.draws["beta"] / (found.draws["alpha"] + found.draws["beta"])
    low, high = np.percentile(share, [50 * (1 - LEVEL), 50 * (1 + LEVEL)])
    c = TRUTH.coefficients
    return bool(low <= c["beta"] / (c["alpha"] + c["beta"]) <= high)


def runs(setting: Setting, seed: int) -> pd.DataFrame:
    """A table whose clusters are trunks: one size each, several token budgets."""
    rng = np.random.default_rng([seed, setting.rows, setting.clusters])
    own = setting.clusters == setting.rows
    sizes = np.geomspace(5e7, 1e10, 8 if own else min(setting.clusters, 8))
    trunk = np.arange(setting.rows) % setting.clusters
    params = sizes[trunk % len(sizes)]
    ratio = np.geomspace(3, 300, -(-setting.rows // setting.clusters))
    place = np.arange(setting.rows) // setting.clusters
    tokens = params * (ratio[place] if not own else np.exp(rng.uniform(1, 6, setting.rows)))
    exact = TRUTH.predict({"params": params, "tokens": tokens})
    table = pd.DataFrame({"params": params, "tokens": tokens})
    table["loss"] = exact * np.exp(errors(setting.noise, trunk, exact, rng))
    return table if own else table.assign(trunk_id=trunk.astype(str))


def errors(noise: str, trunk: np.ndarray, exact: np.ndarray, rng: Any) -> np.ndarray:
    white = rng.normal(0, SD, len(exact))
    if noise == "heteroscedastic":
        return np.asarray(white * (exact - 1.5))
    if noise == "clustered":
        shared = rng.normal(0, SD, trunk.max() + 1)[trunk]
        return np.asarray((white + shared) / np.sqrt(2))
    if noise == "heavy-tailed":
        return np.asarray(SD * rng.standard_t(3, len(exact)) / np.sqrt(3))
    return np.asarray(white)


def line(row: dict[str, Any]) -> str:
    shown = "  ".join(f"{name} {value:.2f}" for name, value in row["coverage"].items())
    verdict = "ok" if row["fine"] else ("; ".join(row["warnings"]) or "NOT WARNED")
    return (
        f"{row['rows']:4d} rows {row['clusters']:4d} clusters {row['noise']:16s} {shown}  {verdict}"
    )


if __name__ == "__main__":
    main()
