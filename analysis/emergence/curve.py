"""What was found of one task and metric, and what it is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from analysis.emergence.forms import FormFit
from analysis.emergence.likelihood import Data, Noise, Rows, basis, levels, simulate
from analysis.emergence.seeds import SeedThresholds
from analysis.emergence.series import Series
from analysis.emergence.thresholds import Estimate
from analysis.expression import Array

Verdict = Literal["sharp", "smooth", "none", "undetermined"]


@dataclass(frozen=True, eq=False)
class FittedCurve:
    """A curve, and those fitted in its place to tables simulated from it."""

    series: Series
    form: str
    rows: Rows  # the curve first, the refitted after it; empty for a constant
    floor: Array  # of each, on the unit scale
    ceiling: Array
    data: Data
    noise: Noise

    def predict(self, x: Array) -> Array:
        """The expected score at scales `x`, in the metric's units."""
        return self.series.from_unit(self._units(x, slice(0, 1))[0])

    def band(self, x: Array, level: float = 0.9) -> tuple[Array, Array]:
        """Pointwise interval of the expected score at `x`, from the refitted curves."""
        units = self._units(x, slice(1, None))
        tails = np.quantile(units, [0.5 - level / 2, 0.5 + level / 2], axis=0)
        ends = self.series.from_unit(tails)
        return np.minimum(*ends), np.maximum(*ends)

    def draws(self, x: Array, rng: np.random.Generator, n: float | None = None) -> Array:
        """Scores that models at `x` might get: a refitted curve, then their spread about it.

        Rows are draws, one a refitted curve; `n` is the questions of the test (None: unknown).
        """
        units = self._units(x, slice(1, None))
        points = len(np.atleast_1d(x))
        questions = np.full(points, np.inf if n is None else n)
        at = Data(
            t=np.zeros(points),
            unit=np.zeros(points),
            questions=questions,
            weight=np.ones(points),
            bounded=self.data.bounded,
            chance=None,
            ceiling=None,
            group=None,
            at=np.zeros(1),
            scale_of=np.zeros(points, dtype=int),
        )
        noise = Noise(self.noise.spread)
        scores = np.concatenate([simulate(at, unit, noise, 1, rng) for unit in units])
        return self.series.from_unit(scores)

    def _units(self, x: Array, which: slice) -> Array:
        t = self.series.to_t(np.atleast_1d(np.asarray(x, dtype=float)))
        floor, ceiling = self.floor[which, None], self.ceiling[which, None]
        if not len(self.rows):
            return np.broadcast_to(floor, (len(floor), len(t)))
        rise = self.rows[np.arange(len(self.rows))[which]].rise(t)
        return floor + (ceiling - floor) * rise


@dataclass(frozen=True, eq=False)
class Curve:
    """One task and metric: verdict, thresholds, width, and the curve behind them."""

    series: Series
    verdict: Verdict
    reason: str  # one sentence: why this verdict
    p_value: float | None  # of no break; None where there is no rise to break
    p_rise: float | None  # of no rise; None where it could not be tested
    threshold: Estimate  # half-way from the curve's floor to its ceiling, in units of x
    thresholds: Mapping[str, Estimate]  # leaves_chance, half_way, reaches_<level>
    width_decades: Estimate
    fitted: FittedCurve
    forms: tuple[FormFit, ...]
    dispersion: float  # ρ between models; of unbounded metrics the residual variance, unit scale
    seeds: SeedThresholds | None
    level: float
    cautions: tuple[str, ...]  # those of `warnings` about the scores, which forecasts repeat
    warnings: tuple[str, ...]

    @property
    def form(self) -> str:
        return self.fitted.form

    @property
    def scales(self) -> int:
        return self.series.scales

    def predict(self, x: Array) -> Array:
        """The expected score at scales `x`, in the metric's units."""
        return self.fitted.predict(x)

    def band(self, x: Array) -> tuple[Array, Array]:
        """Pointwise interval of the expected score at `x`, at the curve's level."""
        return self.fitted.band(x, self.level)

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision; what could not be said is null, with the reason."""
        return {
            "task": self.series.task,
            "metric": self.series.metric.name,
            "scale": self.series.scale,
            "verdict": self.verdict,
            "reason": self.reason,
            "threshold": self.threshold.to_json(),
            "thresholds": {name: each.to_json() for name, each in self.thresholds.items()},
            "p_value": self.p_value,
            "p_rise": self.p_rise,
            "width_decades": self.width_decades.to_json(),
            "form": self.form,
            "forms": [form.to_json() for form in self.forms],
            "dispersion": self.dispersion if math.isfinite(self.dispersion) else None,
            "seeds": None if self.seeds is None else self.seeds.to_json(),
            "points": len(self.series.x),
            "scales": self.scales,
            "level": self.level,
            "chance": self.series.chance,
            "range": list(self.series.metric.range),
            "cautions": list(self.cautions),
            "warnings": list(self.warnings),
        }


def fitted_curve(
    series: Series, data: Data, form: str, rows: Rows, units: Array, noise: Noise
) -> FittedCurve:
    """`rows[i]` was fitted to the table `units[i]`; the first is the data's own."""
    if data.bounded:
        return FittedCurve(series, form, rows, rows.floor, rows.ceiling, data, noise)
    a, b = levels(data, basis(data, rows), data.tables(units))
    own = np.arange(len(rows))
    return FittedCurve(series, form, rows, a[own, own], a[own, own] + b[own, own], data, noise)


def constant_curve(series: Series, data: Data, noise: Noise, units: Array) -> FittedCurve:
    """The mean of each table of `units`, whatever the scale."""
    level = (units * data.weight).sum(1) / data.weight.sum()
    none = np.zeros(0)
    return FittedCurve(
        series, "constant", Rows(none, none, none, none, none, none), level, level, data, noise
    )
