"""How far off are forecasts of larger runs, and how often do their intervals hold them?

    python benchmarks/forecasts.py [--json FILE] [--data DIR]

The runs of each published table at or below a compute cut are given to `scaling predict`, by the
fits of its ensemble together and by the Chinchilla law alone, and the losses above the cut are
looked up. Cuts lie at 1/3 to 1/100 of the largest compute; errors are judged at 1/10 and 1/30.

Of errors, each table has a ratio at each cut: the median absolute error of the ensemble over that
of the law alone. Means are geometric, over the tables of a source and then over sources, with an
interval by resampling sources. Of intervals, each run counts once in its table, each table once in
its source and each source alike: how many they hold, and their interval score (Gneiting & Raftery
2007) in % of the loss, beside those of the law alone.

Exit status 1 where the ratio at 1/10 is above .65 or that at 1/30 above .85, or where intervals of
nominal 90% hold fewer than 85% or more than 95%.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from decisions import DATA, Table, tables

from analysis.array import Array
from analysis.fitting.fit import fit
from analysis.forecast.backtest import Way, backtest, cuts_at, interval_score, weights_of
from analysis.forecast.predict import Prediction, law_predictions, predictions
from analysis.laws.catalogue import law

FACTORS = (3.0, 10.0, 30.0, 100.0)  # below the largest compute
JUDGED = (10.0, 30.0)
MOST = {10.0: 0.65, 30.0: 0.85}  # of the ratio to the error of the law alone
LEVEL, LOW, HIGH = 0.9, 0.85, 0.95
DECADES = (-1.0, 0.05, 0.5, 1.0, 1.5, 10.0)
TINY = 2e-4  # of the loss: errors below it are alike
RESAMPLES = 2000


def way(of: Any) -> Way:
    """The Chinchilla law fitted to runs, and what `of`, a function of a fit, forecasts by it."""

    def given(rows: pd.DataFrame) -> Any:
        source = fit(law("chinchilla"), rows, bootstrap=200, checks=False, level=LEVEL)
        return lambda later: frame(of(source, later))

    return given


def frame(found: list[Prediction]) -> pd.DataFrame:
    """Losses and their intervals; one that reaches everywhere where none is known."""
    nothing = (0.0, np.inf)
    spans = [each.interval or nothing for each in found]
    return pd.DataFrame(spans, columns=["run_low", "run_high"]).assign(
        loss=[each.loss for each in found]
    )


WAYS = {"ensemble": way(predictions), "law alone": way(law_predictions)}


def judged(table: Table) -> Iterator[pd.DataFrame]:
    """Later runs of a table by each way and cut."""
    for factor, cut in cuts_at(table.runs, FACTORS).items():
        for name, each in WAYS.items():
            found = backtest(table.runs, each, cut)
            yield found.assign(way=name, factor=factor, source=table.source, table=table.name)


def ratios(found: pd.DataFrame) -> pd.DataFrame:
    """Of each table at each cut that is judged: median absolute errors, in %, and their ratio."""
    errors = found.assign(error=found["log_error"].abs())
    keys = ["factor", "source", "table", "way"]
    median = errors.pivot_table("error", keys[:3], "way", "median")
    ratio = (median["ensemble"] + TINY) / (median["law alone"] + TINY)
    result = (100 * median).assign(ratio=ratio).reset_index()
    return result[result["factor"].isin(JUDGED)]


def mean_of(rows: pd.DataFrame) -> float:
    """The geometric mean ratio, over the tables of a source and then over sources."""
    return float(np.exp(_by_source(rows).mean()))


def _by_source(rows: pd.DataFrame) -> Array:
    logs = np.log(rows["ratio"]).groupby([rows["source"], rows["table"]]).mean()
    return np.asarray(logs.groupby("source").mean())


def resampled(rows: pd.DataFrame) -> tuple[float, float]:
    """The central 90% of that mean over sources drawn with replacement."""
    logs, rng = _by_source(rows), np.random.default_rng(0)
    drawn = rng.choice(logs, size=(RESAMPLES, len(logs))).mean(axis=1)
    low, high = np.exp(np.quantile(drawn, [0.05, 0.95]))
    return float(low), float(high)


def intervals(found: pd.DataFrame) -> pd.DataFrame:
    """Of each way and table: the share of runs held, and the interval score in % of the loss."""
    score = interval_score(found["loss"], found["low"], found["high"], LEVEL)
    rows = found.assign(score=100 * score / found["loss"])
    means = {
        key: {
            "held": np.average(each["held"], weights=each["weight"]),
            "score": np.average(each["score"], weights=each["weight"]),
            "runs": each["run"].nunique(),
        }
        for key, each in rows.groupby(["way", "source", "table"])
    }
    result = pd.DataFrame(means).T
    result.index = result.index.set_names(["way", "source", "table"])
    return result.reset_index()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    found = pd.concat(
        [each for table in tables(options.data) for each in judged(table)], ignore_index=True
    )
    found = found[found["high"] < np.inf]
    found["weight"] = found.groupby("way", group_keys=False).apply(weights_of)
    errors, spans = ratios(found), intervals(found)
    print(errors.round(2).to_string(index=False), "\n")
    print(spans.round(2).to_string(index=False), "\n")
    numbers: dict[str, float] = {}
    for factor in JUDGED:
        rows = errors[errors["factor"] == factor]
        low, high = resampled(rows)
        numbers[f"error ratio at 1/{factor:g}"] = mean_of(rows)
        print(f"errors at 1/{factor:g}: {mean_of(rows):.2f} [{low:.2f} … {high:.2f}] of the law's")
    for name, each in spans.groupby("way"):
        held = float(each.groupby("source")["held"].mean().mean())
        score = float(each["score"].median())
        numbers |= {f"{name}: held": held, f"{name}: interval score, median of tables": score}
        below = int((each["held"] < 0.8).sum())
        print(f"{name}: {held:.1%} held, {below} of {len(each)} tables below 80%; "
              f"interval score {score:.1f}% of the loss")  # fmt: skip
    far = pd.cut(found["decades"], DECADES)
    held = {
        name: each.groupby(far[each.index], observed=True).apply(
            lambda rows: np.average(rows["held"], weights=rows["weight"])
        )
        for name, each in found.groupby("way")
    }
    print("\nheld, by decades beyond\n", pd.DataFrame(held).round(2).to_string())
    if options.json:
        rows = [*errors.to_dict("records"), *spans.to_dict("records")]
        value = {"rows": rows, "ratios": numbers}
        options.json.write_text(json.dumps(value, indent=1) + "\n")
    missed = any(numbers[f"error ratio at 1/{factor:g}"] > most for factor, most in MOST.items())
    return int(missed or not LOW <= numbers["ensemble: held"] <= HIGH)


if __name__ == "__main__":
    sys.exit(main())
