"""How often does the loss of a larger run fall inside its forecast interval?

    python benchmarks/forecasts.py [--json FILE] [--data DIR]

The Chinchilla law is fitted to each published table below a compute cut, and the losses above it
are looked up in two intervals of nominal 90%: that of the fitted curve, which knows the
coefficients' uncertainty alone, and that of `scaling predict`, to which a scatter is added that
grows with the distance (analysis/forecast.py says by how much). The first is too narrow beyond
the data, since real laws are misspecified; the second should hold 85 to 95% over all tables, near
and far. Exit status 1 if it does not. These are the tables on which its growth was set: on others,
not in view then, it held 78%.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from decisions import DATA, compute, tables

from analysis.fit import fit
from analysis.forecast import predict
from analysis.laws import law
from scaling.store.records import Refusal

SHARES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of the runs lie at or below the cuts
BINS = (0.0, 0.5, 1.0, 1.5, 10.0)  # decades beyond the cut
LOW, HIGH = 0.85, 0.95


def backtest(name: str, runs: pd.DataFrame, share: float) -> list[dict[str, Any]]:
    """A row for each run above the cut that leaves `share` of them at or below it."""
    flops = compute(runs)
    cut = float(np.quantile(flops, share, method="lower"))
    below = flops <= cut * (1 + 1e-9)
    try:
        source = fit(law("chinchilla"), runs[below], bootstrap=200, checks=False)
    except Refusal as refusal:
        print(f"{name}, {share:.0%}: {refusal}", file=sys.stderr)
        return []
    later = runs[~below]
    return [
        {
            "table": name,
            "share": share,
            "decades": each.decades_beyond,
            "log_error": float(np.log(loss / each.loss)),
            "curve": each.curve[0] <= loss <= each.curve[1],
            "forecast": each.interval[0] <= loss <= each.interval[1],
        }
        for each, loss in zip(predict(source, later), later["loss"], strict=True)
        if each.curve is not None and each.interval is not None
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = [
        row
        for table in tables(options.data)
        for share in SHARES
        for row in backtest(table.name, table.runs, share)
    ]
    found = pd.DataFrame(rows)
    by_table = (
        found.groupby("table")[["curve", "forecast"]]
        .agg("mean")
        .assign(runs=found.groupby("table").size())
    )
    by_distance = found.groupby(pd.cut(found["decades"], BINS), observed=True)[
        ["curve", "forecast"]
    ].mean()
    print("Share of later losses inside, nominal 90%\n")
    print(by_table.round(2).to_string(), "\n")
    print(by_distance.round(2).to_string(), "\n")
    means = by_table[["curve", "forecast"]].mean()
    print(f"mean over tables: curve {means['curve']:.3f}, forecast {means['forecast']:.3f}")
    if options.json:
        ratios = {f"{way} coverage": float(means[way]) for way in means.index}
        options.json.write_text(json.dumps({"rows": rows, "ratios": ratios}, default=bool))
    return 0 if LOW <= means["forecast"] <= HIGH else 1


if __name__ == "__main__":
    sys.exit(main())
