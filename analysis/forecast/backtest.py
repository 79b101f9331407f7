"""How a way of forecasting does on runs of more compute than it was given.

A way is made from the runs at or below a compute cut, and asked for those above: it never sees
them. Cuts are nested, so a run may lie above several of them; `weights_of` has each run count once
in its table, each table once in its source, and each source alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.forecast.ensemble import compute_of
from scaling.store.records import Refusal

# Runs to fit to what forecasts others: a table with columns loss, run_low and run_high.
Way: TypeAlias = Callable[[pd.DataFrame], Callable[[pd.DataFrame], pd.DataFrame]]

ON_THE_CUT = 1 + 1e-9  # runs of one budget differ by rounding
FEWEST = 10  # runs at or below a cut: fewer are no table to forecast from


def cuts_at(rows: pd.DataFrame, factors: Sequence[float]) -> dict[float, float]:
    """The cuts that lie such factors below the largest compute, by their factor; those that leave
    fewer than FEWEST runs, or none above, are left out."""
    compute = compute_of(rows)
    cuts = {factor: float(compute.max()) / factor for factor in factors}
    below = {factor: int((compute <= cut * ON_THE_CUT).sum()) for factor, cut in cuts.items()}
    return {factor: cut for factor, cut in cuts.items() if FEWEST <= below[factor] < len(compute)}


def backtest(rows: pd.DataFrame, way: Way, cut: float) -> pd.DataFrame:
    """One row for each run above the cut, in FLOPs: its params, tokens and loss, what was forecast
    (`forecast`, `low`, `high`), `log_error`, ln(loss / forecast), and how many decades its compute,
    N and D lie above those of the runs that were given.

    Empty where the way refuses the runs below.
    """
    compute = compute_of(rows)
    below = compute <= cut * ON_THE_CUT
    given, later = rows[below], rows[~below]
    try:
        found = way(given)(later)
    except Refusal:
        return pd.DataFrame()
    made = later[["params", "tokens", "loss"]].assign(
        run=later.index,
        given=len(given),
        forecast=found["loss"].to_numpy(),
        low=found["run_low"].to_numpy(),
        high=found["run_high"].to_numpy(),
        decades=np.log10(compute[~below] / compute[below].max()),
    )
    for name in ("params", "tokens"):
        above = np.log10(later[name].to_numpy() / given[name].max())
        made[f"decades_{name}"] = np.maximum(above, 0.0)
    made["log_error"] = np.log(made["loss"] / made["forecast"])
    made["held"] = made["loss"].between(made["low"], made["high"])
    return made


def interval_score(loss: ArrayLike, low: ArrayLike, high: ArrayLike, level: float) -> Array:
    """Gneiting & Raftery 2007 (doi:10.1198/016214506000001437), eq. 43: the width of a central
    interval, and 2/(1 - level) times what a loss lies outside. Smaller is better."""
    loss, low, high = (np.asarray(each, dtype=float) for each in (loss, low, high))
    outside = np.maximum(low - loss, 0.0) + np.maximum(loss - high, 0.0)
    return np.asarray(high - low + 2 / (1 - level) * outside)


def weights_of(found: pd.DataFrame) -> pd.Series:
    """By columns source, table and run: each run counts once in its table, each table once in its
    source, and each source alike."""
    once = 1 / found.groupby(["source", "table", "run"])["run"].transform("size")
    of_table = once / once.groupby([found["source"], found["table"]]).transform("sum")
    return of_table / of_table.groupby(found["source"]).transform("sum")
