"""How often does the loss of a larger run fall inside its forecast interval?

    python benchmarks/forecasts.py [--json FILE] [--data DIR]

The Chinchilla law is fitted to each published table below a compute cut, and the losses above it
are looked up in two intervals of nominal 90%: that of the fitted curve, which knows the
coefficients' uncertainty alone, and that of `scaling predict`, whose scatter grows with the
distance. A run above several cuts counts once (each time as one over their number), and sources
count alike, however many tables and runs they have.

The growth of the scatter (`forecast.scatter.GROWTH`) is set here. Of each later run the least
growth is computed with which its interval holds it; the value is the one that 90% of the runs
need at most. Coverage of a source is reported with the value that the other sources give. Exit
status 1 where GROWTH is not that value rounded up to a tenth, or where the mean over sources, each
judged by the others' value, lies outside 85 to 95%. On tables that nobody had looked at when the
growth was set (by overlapping cuts of fewer sources), intervals of 90% held 78%.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from decisions import DATA, Table, compute, tables

from analysis.array import Array
from analysis.fitting.fit import fit
from analysis.forecast.predict import predictions
from analysis.forecast.scatter import GROWTH, scatter_of
from analysis.interval import student
from analysis.laws.catalogue import law
from scaling.store.records import Refusal

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the runs lie at or below the cuts
BINS = (-1.0, 0.05, 0.5, 1.0, 1.5, 10.0)  # decades beyond the cut
LEVEL = 0.9
LOW, HIGH = 0.85, 0.95


def backtest(table: Table, share: float) -> Iterator[dict[str, Any]]:
    """A row for each run above the cut that leaves `share` of them at or below it."""
    flops = compute(table.runs)
    cut = float(np.quantile(flops, share, method="lower"))
    below = flops <= cut * (1 + 1e-9)
    try:
        source = fit(law("chinchilla"), table.runs[below], bootstrap=200, checks=False)
    except Refusal as refusal:
        print(f"{table.name}, {share:.0%}: {refusal}", file=sys.stderr)
        return
    scatter, later = scatter_of(source), table.runs[~below]
    assert scatter is not None
    reach = student(scatter.freedom, LEVEL) * scatter.sd  # without growth
    for each, run, loss in zip(predictions(source, later), later.index, later["loss"], strict=True):
        if each.curve is None or each.interval is None:
            print(f"{table.name}, {share:.0%}: {source.reason}", file=sys.stderr)
            return
        error = math.log(loss / each.loss)
        side = math.log(each.curve[error > 0] / each.loss)
        yield {
            "source": table.source,
            "table": table.name,
            "share": share,
            "run": int(run),
            "decades": each.decades_beyond,
            "log_error": error,
            "curve": each.curve[0] <= loss <= each.curve[1],
            "forecast": each.interval[0] <= loss <= each.interval[1],
            "growth": needed(error, side, reach, each.decades_beyond or 0.0),
        }


def needed(error: float, side: float, reach: float, decades: float) -> float:
    """The least growth with which the interval holds a run, -inf if none is; inf if none does.

    `forecast_ends` solved for it: error² = side² + reach²(1 + growth·decades)².
    """
    left = math.sqrt(max(error**2 - side**2, 0.0))
    if left <= reach:
        return -math.inf
    return (left / reach - 1) / decades if decades > 0 else math.inf


def value(growth: Array, weights: Array) -> float:
    """The growth that runs of a share LEVEL of the weight need at most."""
    order = np.argsort(growth)
    total = np.cumsum(weights[order])
    return float(growth[order][np.searchsorted(total, LEVEL * total[-1])])


def weights_of(found: pd.DataFrame) -> pd.Series:
    """Each run once, and each source alike."""
    once = 1 / found.groupby(["table", "run"])["share"].transform("count")
    return once / once.groupby(found["source"]).transform("sum")


def by_source(found: pd.DataFrame) -> pd.DataFrame:
    """Coverage of each source, also with the growth that the others give."""
    rows = {}
    for name, own in found.groupby("source"):
        others = found[found["source"] != name]
        given = GROWTH if others.empty else value(*_columns(others))
        rows[name] = {
            "tables": own["table"].nunique(),
            "runs": own.groupby(["table", "run"]).ngroups,
            "curve": np.average(own["curve"], weights=own["weight"]),
            "forecast": np.average(own["forecast"], weights=own["weight"]),
            "growth of others": given,
            "by that": np.average(own["growth"] <= given, weights=own["weight"]),
        }
    return pd.DataFrame(rows).T


def _columns(found: pd.DataFrame) -> tuple[Array, Array]:
    return found["growth"].to_numpy(), found["weight"].to_numpy()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [
        row for table in tables(options.data) for share in SHARES for row in backtest(table, share)
    ]
    found = pd.DataFrame(rows)
    found["weight"] = weights_of(found)
    sources = by_source(found)
    near = pd.cut(found["decades"], BINS)
    distances = pd.DataFrame(
        {
            way: found.groupby(near, observed=True).apply(
                lambda each, way=way: np.average(each[way], weights=each["weight"])
            )
            for way in ("curve", "forecast")
        }
    )
    best = value(*_columns(found))
    print(f"Share of later losses inside, nominal {LEVEL:.0%}\n")
    print(sources.round(2).to_string(), "\n")
    print(distances.round(2).to_string(), "\n")
    means = sources[["curve", "forecast", "by that"]].mean()
    print(
        f"mean over sources: curve {means['curve']:.3f}, forecast {means['forecast']:.3f}, by the "
        f"growth of the others {means['by that']:.3f}\n"
        f"growth set on all: {best:.2f}; in the program, rounded up: {GROWTH:g}"
    )
    if options.json:
        ratios = {
            "curve coverage": float(means["curve"]),
            "forecast coverage": float(means["forecast"]),
            "forecast coverage by other sources": float(means["by that"]),
            "growth": best,
        }
        table = sources.reset_index(names="source").to_dict("records")
        options.json.write_text(json.dumps({"rows": table, "ratios": ratios}, indent=1) + "\n")
    if not LOW <= means["by that"] <= HIGH:
        return 1
    return 0 if math.isclose(GROWTH, math.ceil(10 * best) / 10) else 1


if __name__ == "__main__":
    sys.exit(main())
