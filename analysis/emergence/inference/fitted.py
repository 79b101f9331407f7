"""A fitted curve and those refitted to simulated tables: predictions with a band."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.emergence.response.deviance import Curves, Data, basis, levels
from analysis.emergence.response.dispersion import MOST_DISPERSION, Noise, simulate
from analysis.emergence.scores.series import Series
from analysis.interval import percentiles

if TYPE_CHECKING:
    from analysis.emergence.inference.intervals import Profile


@dataclass(frozen=True, eq=False)
class FittedCurve:
    """A curve, and those fitted in its place to tables simulated from it."""

    series: Series
    form: str
    curves: Curves  # with both levels: the curve first, the refitted after it

    def predict(self, x: ArrayLike) -> Array:
        """The expected score at scales `x`, in the metric's units."""
        return self.series.from_unit(self.curves[:1].scores(self.series.to_t(x))[0])

    def band(self, x: ArrayLike, level: float) -> tuple[Array, Array]:
        """Pointwise interval of the expected score at `x`, from the refitted curves."""
        tails = percentiles(self.curves[1:].scores(self.series.to_t(x)), level)
        ends = self.series.from_unit(np.array(tails))
        return np.minimum(*ends), np.maximum(*ends)


def refitted(series: Series, profile: Profile, form: str) -> FittedCurve:
    """The curve that the samples were drawn from, and the best curve of each sample."""
    data, samples = profile.fit.data, profile.samples
    best = np.argmin(samples.deviance, axis=1)
    curves = profile.fit.mesh.curves[np.concatenate([[profile.truth], best])]
    if not data.bounded:
        tables = data.tables(np.vstack([data.unit, samples.units]))
        floor, rise = (each.diagonal() for each in levels(data, basis(data, curves), tables))
        curves = replace(curves, floor=floor, ceiling=floor + rise)
    return FittedCurve(series, form, curves)


def constant(series: Series, data: Data, count: int, rng: np.random.Generator) -> FittedCurve:
    """The mean score, and the means of `count` simulated tables that scatter as the scores do."""
    level = float(np.average(data.unit, weights=data.weight))
    variance = float(np.average((data.unit - level) ** 2, weights=data.weight))
    variance *= len(data.t) / max(len(data.t) - 1, 1)
    if data.bounded:
        whole = max(level * (1 - level), 1e-9)
        questions = float(np.mean(1 / data.questions))
        variance = float(np.clip(variance / whole - questions, 0.0, MOST_DISPERSION))
    units = simulate(data, np.full(len(data.t), level), Noise(variance), count, rng)
    means = np.average(np.vstack([data.unit, units]), axis=1, weights=data.weight)
    none = np.zeros(len(means))  # a rise of no height
    flat = Curves(none.astype(int), none, none + 1, means, means, none.astype(int))
    return FittedCurve(series, "constant", flat)
