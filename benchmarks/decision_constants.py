"""What would the constants behind a decision be, set on all sources but the one that is judged?

    python benchmarks/decision_constants.py [--json FILE] [--data DIR]

Each independent source of runs (see decisions.tables) is left out in turn. On the others are set

- READING and DRIFT, by maximum likelihood of what the runs' own minima were off at held-out
  budgets, each source of equal weight; judged by how many of the best sizes of the source left out
  the 90% interval then holds;
- RUNS_ALONE and LAW_ALONE, and NOISE_RUNS, for the least excess loss, mean of sources; judged by
  the excess loss at the source left out, beside that of the constants as they are.

It says what each choice rests on, and is no test: the exit status is 0.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from decisions import DATA, SHARES, Curve, Table, compute, held_out, optimum, tables
from scipy.optimize import minimize

from analysis.allocation import parabola
from analysis.allocation import valley as module
from analysis.allocation.valley import Valley, valley
from analysis.array import Array
from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.recommend.choose import choose
from analysis.recommend.recommend import recommend
from scaling.store.records import Refusal

LEVEL = 0.9
DRAWS = 200
RAMPS = [(start, end) for start in (0.7, 0.8, 0.9, 1.0) for end in (0.4, 0.5, 0.6)]
NOISE_RUNS = (4.0, 8.0, 16.0, 32.0, 64.0)


@dataclass(frozen=True)
class Case:
    """One table below one cut, and the budgets above it."""

    source: str
    name: str
    fit: Fit
    valley: Valley
    budgets: Sequence[tuple[float, Curve]]


def cases(table: Table) -> list[Case]:
    """Those of a table whose runs show a valley."""
    found = []
    for share in SHARES:
        flops = compute(table.runs)
        cut = float(np.quantile(flops, share, method="lower"))
        budgets = held_out(table.runs, cut)
        seen = table.runs[flops <= cut * (1 + 1e-9)]
        try:
            source = fit(law("chinchilla"), seen, bootstrap=DRAWS, checks=False)
            each = Case(table.source, table.name, source, valley(source), budgets)
        except Refusal as refusal:
            print(f"{table.name}, {share:.0%}: {refusal}", file=sys.stderr)
            continue
        found += [each] if budgets else []
    return found


def mean_of_sources(rows: pd.DataFrame, column: str) -> pd.Series:
    """The mean over tables of their mean, by source."""
    return rows.groupby(["source", "table"])[column].mean().groupby("source").mean()


# --- READING and DRIFT --------------------------------------------------------------------------


def misses(every: Sequence[Case]) -> pd.DataFrame:
    """What ln N* by the runs was off at each budget, its draws' spread, and how far beyond."""
    rows = []
    for case in every:
        for flops, known in case.budgets:
            x = math.log(flops)
            middle = math.log(case.valley.params(flops))
            at = case.valley.draws @ np.array([1.0, x - case.valley.middle]) - middle
            at = np.clip(at, -case.valley.reach, case.valley.reach)
            rows.append(
                {
                    "source": case.source,
                    "table": case.name,
                    "off": float(known.log_n[known.best]) - middle,
                    "spread": float(np.std(at)),
                    "decades": max(0.0, x - case.valley.top) / math.log(10),
                    "draws": at,
                }
            )
    return pd.DataFrame(rows)


def likeliest(rows: pd.DataFrame) -> tuple[float, float]:
    """READING and DRIFT of normal errors beyond the spread of the draws."""
    share = 1 / rows.groupby("source")["off"].transform("size").to_numpy()
    off, spread, far = (rows[name].to_numpy() for name in ("off", "spread", "decades"))

    def unlikely(logs: Array) -> float:
        reading, drift = np.exp(logs)
        variance = spread**2 + reading**2 + (drift * far) ** 2
        return float(share @ (np.log(variance) + off**2 / variance))

    best = minimize(unlikely, np.log([0.15, 0.2]), method="Nelder-Mead").x
    return float(np.exp(best[0])), float(np.exp(best[1]))


def holds(row: pd.Series, reading: float, drift: float) -> bool:
    """Whether the interval with these constants holds the best size."""
    low, high = module.widened(
        0.0, row["draws"], math.hypot(reading, drift * row["decades"]), LEVEL
    )
    return bool(low <= row["off"] <= high)


def intervals(every: Sequence[Case]) -> pd.DataFrame:
    rows = misses(every)
    found = []
    for source, own in rows.groupby("source"):
        reading, drift = likeliest(rows[rows["source"] != source])
        shipped = module.READING, module.DRIFT
        found.append(
            {
                "left out": source,
                "budgets": len(own),
                "READING": reading,
                "DRIFT": drift,
                "held": own.apply(holds, axis=1, args=(reading, drift)).mean(),
                "held, as shipped": own.apply(holds, axis=1, args=shipped).mean(),
            }
        )
    return pd.DataFrame(found).set_index("left out")


def default_holds(every: Sequence[Case]) -> pd.Series:
    """How often the interval of `scaling recommend` holds the best size, by source."""
    rows = []
    for case in every:
        chosen = choose(case.fit)
        for flops, known in case.budgets:
            [each] = recommend(case.fit, flops, chosen=chosen, level=LEVEL)
            if each.interval is not None:
                low, high = each.interval.params
                held = low <= math.exp(known.log_n[known.best]) <= high
                rows.append({"source": case.source, "table": case.name, "held": float(held)})
    return mean_of_sources(pd.DataFrame(rows), "held")


# --- what the decision costs --------------------------------------------------------------------


def priced(every: Sequence[Case]) -> pd.DataFrame:
    """Excess loss, %, of the constants as they are: a row a budget."""
    rows = []
    for case in every:
        for flops, known in case.budgets:
            own, laws = case.valley.params(flops), optimum(case.fit, flops)
            weight = 0.0 if math.isnan(laws) else case.valley.law_weight
            params = own if weight == 0 else own ** (1 - weight) * laws**weight
            rows.append(
                {
                    "source": case.source,
                    "table": case.name,
                    "excess": 100 * known.excess(params)[0],
                }
            )
    return pd.DataFrame(rows)


def costs(every: Sequence[Case]) -> pd.DataFrame:
    """By source (rows) and by choice of constants (columns), excess loss in %."""
    found = {"as shipped": mean_of_sources(priced(every), "excess")}
    for start, end in RAMPS:
        with patch.multiple(module, RUNS_ALONE=start, LAW_ALONE=end):
            found[f"ramp {start} {end}"] = mean_of_sources(priced(every), "excess")
    for count in NOISE_RUNS:
        with patch.object(parabola, "NOISE_RUNS", count):
            again = [
                Case(c.source, c.name, c.fit, valley(c.fit, draws=0), c.budgets) for c in every
            ]
        found[f"noise {count:g}"] = mean_of_sources(priced(again), "excess")
    return pd.DataFrame(found)


def left_out(table: pd.DataFrame, kind: str) -> pd.DataFrame:
    """The choice that is best for the other sources, and what it costs at each."""
    of = table[[name for name in table if name.startswith(kind)]]
    rows = []
    for source in table.index:
        best = str(of.drop(source).mean().idxmin())
        costs_here = {"set on the others": best, "excess %": of.loc[source, best]}
        rows.append(
            {"left out": source, **costs_here, "as shipped": table.loc[source, "as shipped"]}
        )
    return pd.DataFrame(rows).set_index("left out")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of fits to few runs
    every = [case for table in tables(options.data) for case in cases(table)]
    spans, table = intervals(every), costs(every)
    ramps, noises = left_out(table, "ramp"), left_out(table, "noise")
    held = default_holds(every)
    for title, shown in (
        ("READING and DRIFT, set on the other sources", spans),
        ("Weight of the law", ramps),
        ("Noise of the valley", noises),
        ("Excess loss, %, of every choice", table.T),
    ):
        print(f"{title}\n{shown.round(3).to_string()}\n")
    print(f"Best sizes inside the default's 90% interval\n{held.round(2).to_string()}")
    print(f"mean of sources {held.mean():.2f}")
    if options.json:
        parts = {"intervals": spans, "ramps": ramps, "noises": noises, "costs": table}
        values = {name: json.loads(part.to_json(orient="index")) for name, part in parts.items()}
        options.json.write_text(json.dumps({**values, "default_held": held.to_dict()}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
