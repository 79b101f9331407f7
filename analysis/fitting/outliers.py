"""Rows so far off the law that they are more likely a mistake in the table than a run.

A robust objective gives them little weight, so coefficients mostly stay. But the scatter of the
runs, which sets the width of forecast intervals, is a mean of squares: one row would make all of
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.array import Array
from analysis.fitting.effective_clusters import NORMAL
from analysis.fitting.inputs import Inputs, Minimum
from analysis.laws.law import Law
from analysis.runs.messages import listed, row_called
from analysis.runs.sweep import OPTIMA
from analysis.solver.problem import predictions, to_coefficients
from analysis.solver.search import descend

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit

FAR = 10.0  # × the scatter of the others: no noise between runs has such tails
SCATTER = 0.002  # of log loss, at least: seeds of large models differ by half of it
SHARE = 0.02  # of the rows; more are no slips, but runs of another kind or in another unit
SHOWN = 3  # rows that are named
LISTED = 10  # losses that a proposed --where can leave out
MOVED = 0.5  # standard errors: a coefficient that moves by more is named
SHIFTED = 0.1  # of a coefficient: its error, where a fit has none


class Outliers(NamedTuple):
    """The rms of all log residuals; the rows far off, and what the fit would be without them."""

    rms: float
    cautions: tuple[str, ...] = ()


def outliers(inputs: Inputs, minimum: Minimum, se: Mapping[str, float]) -> Outliers:
    """Rows far off the law at its minimum.

    None where losses have no logarithm, or too few rows are left. `se` of the coefficients says
    which of them moved.
    """
    law, data, fixed = inputs.law, inputs.data, inputs.held.mask
    problem, best = minimum
    with np.errstate(all="ignore"):
        off = np.abs(np.log(predictions(law, data, best.theta) / data.observed))
    whole = float(np.sqrt(np.mean(off**2)))
    if not np.isfinite(off).all():
        return Outliers(whole)
    far = _far(off, int((~fixed).sum()))
    if not far.any():
        return Outliers(whole)
    theta = best.theta
    if not fixed.all():
        kept = (inputs.weights * ~far)[None]
        end = descend(problem, best.point[None], kept, fixed, max_iterations=150)
        theta = problem.leave(end.theta)[0]
    expected = predictions(law, data, theta)
    off = np.abs(np.log(expected / data.observed))
    moved = _moved(law, best.theta, theta, se)
    return Outliers(whole, (_caution(inputs, far, off, expected, whole, moved),))


def _caution(
    inputs: Inputs, far: NDArray[np.bool_], off: Array, expected: Array, whole: float, moved: str
) -> str:
    """Which rows are `far` by how much, and what the fit is without them.

    `off` and `expected` are log residuals and losses by the fit of the others, `whole` the rms
    residual with them.
    """
    target, observed, count = inputs.law.target, inputs.data.observed, int(far.sum())
    farthest = [int(at) for at in np.argsort(-off) if far[at]]
    named = [
        f"{row_called(inputs.rows, at)} ({target} {observed[at]:.4g}, by the others "
        f"{expected[at]:.4g})"
        for at in farthest[:SHOWN]
    ] + [f"{count - SHOWN} more"] * (count > SHOWN)
    it, lies = ("it", "is") if count == 1 else ("them", "are")
    share = count / len(far)
    kind = (
        f" They are {share:.0%} of the rows, too many for slips: did they diverge, are they in "
        "another unit, or does the law not hold for them?"
    ) * (count > max(1, SHARE * len(far)))
    losses = dict.fromkeys(float(observed[at]) for at in farthest)
    drop = " ".join(f"'{target}!={loss!r}'" for loss in losses)
    drop = f": --where {drop}" if len(losses) <= LISTED else " with --where."
    remedy = f"Correct {it}, or leave {it} out{drop}"
    if OPTIMA in inputs.rows.attrs:  # between the values of the file, where none can be left out
        remedy = f"Sweep {it} again, with more seeds or values"
    return (
        f"{listed(named)} {lies} off by {off[far].max() / _scatter(off[~far]):.0f} times the "
        f"scatter of the others. Without {it}: rms log residual "
        f"{float(np.sqrt(np.mean(off[~far] ** 2))):.2g} instead of {whole:.2g}, {moved}. Forecast "
        f"intervals count {it} as {FAR:g} times the scatter.{kind} {remedy}"
    )


def capped(residuals: Array, free: int) -> Array:
    """Log residuals, those of outliers counted as FAR times the scatter of the others."""
    off = np.abs(residuals)
    far = _far(off, free)
    most = FAR * _scatter(off[~far])
    return np.where(far, np.clip(residuals, -most, most), residuals)


def outlying(fit: Fit) -> NDArray[np.bool_]:
    """Which rows of the fit are outliers; none where losses have no logarithm."""
    with np.errstate(all="ignore"):
        columns = {name: fit.table[name].to_numpy() for name in fit.law.features}
        off = np.abs(np.log(fit.predict(columns) / fit.table[fit.law.target].to_numpy()))
    if not np.isfinite(off).all():
        return np.zeros(len(fit.table), dtype=bool)
    return _far(off, len(fit.law.coefficients) - len(fit.fixed))


def bulk(fit: Fit) -> pd.DataFrame:
    """The rows of the fit without outliers, which make minima that no other run has."""
    return fit.table[~outlying(fit)]


def _far(off: Array, free: int) -> NDArray[np.bool_]:
    """Which log residuals are outliers': none where too few are left for so many free
    coefficients. By the median, they are fewer than half."""
    far = np.asarray(off > FAR * _scatter(off))
    return far if len(off) - int(far.sum()) >= free + 2 else np.zeros_like(far)


def _scatter(off: Array) -> float:
    """The standard deviation of log residuals, from the median of their sizes."""
    return max(NORMAL * float(np.median(off)), SCATTER)


def _moved(law: Law, theta: Array, other: Array, se: Mapping[str, float]) -> str:
    """The coefficients that differ from θ at another one, in words."""
    before, after = to_coefficients(law, theta), to_coefficients(law, other)
    large = []
    for name in law.coefficients:
        was, now = float(before[name]), float(after[name])
        error = se[name] if se[name] > 0 else SHIFTED * abs(was)
        if abs(now - was) > MOVED * error:
            large.append(f"{name} {now:.3g} instead of {was:.3g}")
    return ", ".join(large) or "the coefficients hardly change"
