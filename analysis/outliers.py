"""Rows so far off the law that they are likelier a slip of the pen than a run.

A robust objective sets them aside, so coefficients mostly stay. But the scatter of the runs, by
which forecasts are as wide as they are, is a mean of squares: one row would make all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.estimate import Estimate
from analysis.expression import Array
from analysis.laws import Law
from analysis.model import Data, Model, to_coefficients
from analysis.newton import Mask
from analysis.runs.rows import listed, row_called
from analysis.search import descend

FAR = 10.0  # × the scatter of the others: no noise between runs has such tails
SCATTER = 0.002  # of log loss, at least: seeds of large models differ by half of it
SHARE = 0.02  # of the rows; where more are as far off, it is the law that is off
SHOWN = 3  # rows that are named
NORMAL = 1.4826  # sd over median |residual| of a normal distribution
MOVED = 0.5  # standard errors: a coefficient that moves by more is named
SHIFTED = 0.1  # of a coefficient: its error, where a fit has none


class Outliers(NamedTuple):
    """The rms of all log residuals; the rows far off, and what the fit would be without them."""

    rms: float
    cautions: tuple[str, ...] = ()


def outliers(
    law: Law, rows: pd.DataFrame, data: Data, weights: Array, problem: Model, point: Array,
    fixed: Mask, se: Mapping[str, float],
) -> Outliers:  # fmt: skip
    """Rows far off the optimum `point` of `problem`, which is `law` on `data`.

    None where losses have no logarithm, where too many rows are far off, or too few are left.
    `se` of the coefficients says which of them moved.
    """
    with np.errstate(all="ignore"):
        off = np.abs(np.log(_predicted(law, problem, point, data) / data.observed))
    whole = float(np.sqrt(np.mean(off**2)))
    if not np.isfinite(off).all():
        return Outliers(whole)
    far = _far(off, int((~fixed).sum()))
    count = int(far.sum())
    if count == 0:
        return Outliers(whole)
    end = point
    if not fixed.all():
        kept = (weights * ~far)[None]
        end = descend(problem, point[None], kept, fixed, max_iterations=150).theta[0]
    expected = _predicted(law, problem, end, data)
    off = np.abs(np.log(expected / data.observed))
    scatter = max(NORMAL * float(np.median(off[~far])), SCATTER)
    farthest = [int(at) for at in np.argsort(-off) if far[at]]
    named = [
        f"{row_called(rows, at)} ({law.target} {data.observed[at]:.4g}, by the others "
        f"{expected[at]:.4g})"
        for at in farthest[:SHOWN]
    ] + [f"{count - SHOWN} more"] * (count > SHOWN)
    drop = " ".join(f"'{law.target}!={float(data.observed[at])!r}'" for at in farthest[:SHOWN])
    it, lies = ("it", "is") if count == 1 else ("them", "are")
    times = off[far].max() / scatter
    return Outliers(
        whole,
        (
            f"{listed(named)} {lies} off by {times:.0f} times the scatter of the others. "
            f"Without {it}: rms log residual {float(np.sqrt(np.mean(off[~far] ** 2))):.2g} "
            f"instead of {whole:.2g}, {_moved(law, problem, point, end, se)}. Forecast intervals "
            f"count {it} as {FAR:g} times the scatter. Correct {it}, or leave {it} out: --where "
            f"{drop}",
        ),
    )


def capped(residuals: Array, free: int) -> Array:
    """Log residuals, those of outliers counted as FAR times the scatter of the others."""
    off = np.abs(residuals)
    far = _far(off, free)
    most = FAR * max(NORMAL * float(np.median(off[~far])), SCATTER)
    return np.where(far, np.clip(residuals, -most, most), residuals)


def bulk(fit: Estimate) -> pd.DataFrame:
    """The rows of the fit but those far off its law, which make minima that no other run has."""
    with np.errstate(all="ignore"):
        columns = {name: fit.table[name].to_numpy() for name in fit.law.features}
        off = np.abs(np.log(fit.predict(columns) / fit.table[fit.law.target].to_numpy()))
    if not np.isfinite(off).all():
        return fit.table
    return fit.table[~_far(off, len(fit.law.coefficients) - len(fit.fixed))]


def _far(off: Array, free: int) -> NDArray[np.bool_]:
    """Which log residuals are outliers': none where too many rows are far off, or too few are left
    for so many free coefficients."""
    far = np.asarray(off > FAR * max(NORMAL * float(np.median(off)), SCATTER))
    count = int(far.sum())
    few = count <= max(1, SHARE * len(off)) and len(off) - count >= free + 2
    return far if few else np.zeros_like(far)


def _predicted(law: Law, problem: Model, point: Array, data: Data) -> Array:
    coefficients = to_coefficients(law, problem.leave(point[None])[0])
    columns = {s.column: data.features[n] for n, s in law.symbols.items() if s.feature}
    with np.errstate(all="ignore"):
        return np.broadcast_to(law.predict(coefficients, columns), data.n)


def _moved(law: Law, problem: Model, point: Array, end: Array, se: Mapping[str, float]) -> str:
    before, after = (to_coefficients(law, problem.leave(p[None])[0]) for p in (point, end))
    large = []
    for name in law.coefficients:
        was, now = float(before[name]), float(after[name])
        error = se[name] if se[name] > 0 else SHIFTED * abs(was)
        if abs(now - was) > MOVED * error:
            large.append(f"{name} {now:.3g} instead of {was:.3g}")
    return ", ".join(large) or "the coefficients stay"
