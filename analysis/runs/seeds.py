"""Draws of mean losses from seeds that are paired: each trained every setting at every N and D.

What a seed does to all runs that share it (their data order, their initial values) then stays in
each draw, and falls out of any difference between settings. A quantity that is linear in the losses
is drawn from Student's t with one degree of freedom fewer than seeds, as its values by seed say,
however runs of one seed hang together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.runs.columns.kinds import is_seed

FEWEST = 3  # with two, an interval of 90% is 4 times as wide as with many
DRAWS = 2000  # their 5% and 95% points are stable to a hundredth of the interval


def seed_column(rows: pd.DataFrame) -> str | None:
    """The column of seeds, of which a table has FEWEST different ones at least; None without."""
    named = (name for name in map(str, rows.columns) if is_seed(name))
    return next((name for name in named if rows[name].nunique() >= FEWEST), None)


def paired_means(
    rows: pd.DataFrame, by: list[str], *, draws: int = DRAWS, seed: int = 0
) -> Array | None:
    """Draws of the mean loss at each value of `by`, in their order, (draws, values).

    Two tables of the same seeds, asked with one number `seed`, have the same draws of their seeds.

    Values that lack a seed, as where a run diverged, vary by themselves, as much as all others do.
    None where fewer than FEWEST seeds have runs at most of the values.
    """
    losses = _by_seed(rows, by)
    if losses is None:
        return None
    count, whole = losses.shape[1], losses.notna().all(axis=1).to_numpy()
    # The means are those of all rows, as the curves have them.
    means = rows.groupby(by)["loss"].mean().to_numpy()
    values = losses.to_numpy(dtype=float)
    off = values[whole] - values[whole].mean(axis=1, keepdims=True)
    rng = np.random.default_rng(seed)
    # Weights of the seeds whose sums have the covariance of the means, times what makes it t.
    weight = rng.standard_normal((draws, count)) / np.sqrt(count * (count - 1))
    weight *= np.sqrt((count - 1) / rng.chisquare(count - 1, (draws, 1)))
    found = np.repeat(means[None], draws, axis=0)
    found[:, whole] += weight @ off.T
    sd = np.sqrt((off**2).sum() / (off.size - len(off)))
    seen = np.maximum(np.isfinite(values).sum(axis=1), 1)[~whole]
    found[:, ~whole] += sd / np.sqrt(seen) * rng.standard_normal((draws, int((~whole).sum())))
    return found


def paired_seeds(rows: pd.DataFrame, by: list[str]) -> frozenset[float] | None:
    """The seeds that `paired_means` draws jointly; None where it draws none."""
    losses = _by_seed(rows, by)
    return None if losses is None else frozenset(map(float, losses.columns))


def _by_seed(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame | None:
    """The mean loss at each value of `by` by seed, of the seeds that have runs at most values; None
    where fewer than FEWEST have, or none of the values has all of them."""
    column = seed_column(rows)
    if column is None:
        return None
    losses = rows.pivot_table(index=by, columns=column, values="loss", aggfunc="mean")
    losses = losses.loc[:, losses.notna().mean() > 0.5]
    whole = losses.notna().all(axis=1).to_numpy()
    return losses if losses.shape[1] >= FEWEST and whole.any() else None
