"""Forecasts of the scores of larger models: fitted up to a cutoff, and judged above it.

A forecast is of the score of a single new model, so its interval holds the spread between models
and the uncertainty of the fit. It is judged by the same rules as two baselines: the scores of the
largest scale seen (persistence) and a logistic fitted by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from analysis.array import Array
from analysis.emergence.forecast.backtest import Backtest, choose_way
from analysis.emergence.forecast.bounded import WITHOUT_NOISE, BoundedFit, Method, fit_bounded
from analysis.emergence.forecast.log_probability import LogProbabilityFit, fit_log_probability
from analysis.emergence.forecast.scoring import Judged, judge
from analysis.emergence.response.deviance import Indices
from analysis.emergence.response.estimate import Estimate
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

STEPS = 40  # of a figure's line on either side of the cutoff
LOG_PROBABILITY = -math.inf, 0.0
FEWEST = 4  # scores below the cutoff: a line with a spread has three coefficients


class Band(NamedTuple):
    """The forecast at scales `x`, in the metric's units."""

    x: Array
    median: Array
    low: Array
    high: Array


class Score(NamedTuple):
    """One observed score."""

    x: float
    value: float


@dataclass(frozen=True, eq=False)
class Forecast:
    """Scores forecast at scales `x`, in the metric's units, each of a single new model."""

    series: Series
    cutoff: float
    method: Method
    n: int  # scores fitted
    level: float
    x: Array
    observed: Array  # NaN where there is no score
    median: Array
    mean: Array
    low: Array
    high: Array
    threshold: Estimate  # scale at which a new model is midway from chance to best
    weights: dict[str, float]  # of the forms
    way: Backtest | None  # of `auto` where losses are known: directly or over the loss, and why
    track: Band  # for a figure: the fit and the forecast, on an even grid that has the cutoff
    judged: tuple[Judged, ...]  # this, persistence and logistic; empty without scores to judge by
    missed: str | None  # a warning where it misses the last score that it was fitted to
    warnings: tuple[str, ...]

    @property
    def half_way(self) -> float:
        """The score midway from chance to the best possible, in the metric's units."""
        metric = self.series.metric
        chance = metric.worst if self.series.chance is None else self.series.chance
        return (chance + metric.best) / 2

    @property
    def threshold_ahead(self) -> float | None:
        """The scale at which `half_way` is forecast, infinite for never; None up to the cutoff.

        Below the cutoff the curve's own threshold is known, and is the one to read.
        """
        if not self.series.metric.bounded:
            return None
        value = self.threshold.value
        at = self.series.to_x(math.inf) if value is None else value
        to_t = self.series.to_t
        return at if to_t(at) > to_t(self.cutoff) else None

    @property
    def reached(self) -> Score | None:
        """The first score at `half_way` or better, whether it was fitted or not."""
        series = self.series
        there = np.flatnonzero(series.unit >= series.to_unit(self.half_way))
        if not series.metric.bounded or not len(there):
            return None
        first = there[np.argmin(series.t[there])]
        return Score(float(series.x[first]), float(series.value[first]))

    def to_json(self) -> dict[str, Any]:
        """The forecast, its predictions and their errors."""
        columns = (self.x, self.observed, self.median, self.mean, self.low, self.high)
        return {
            "task": self.series.task, "metric": self.series.metric.name, "cut": self.cutoff,
            "method": self.method, "n": self.n, "level": self.level, "forms": self.weights,
            "way": None if self.way is None else asdict(self.way),
            "emergence": self.threshold.to_json(),
            "predictions": [
                {"scale": x, "observed": None if math.isnan(seen) else seen, "median": median,
                 "mean": mean, "interval": [low, high]}
                for x, seen, median, mean, low, high in zip(
                    *(each.tolist() for each in columns), strict=True
                )
            ],
            "judged": [asdict(each) for each in self.judged],
            "warnings": list(self.warnings),
        }  # fmt: skip


def forecast_scores(
    series: Series,
    cutoff: float,
    *,
    at: Sequence[float] = (),
    method: Method = "auto",
    loss: Array | None = None,
    flops: Array | None = None,
    level: float = 0.9,
    seed: int = 0,
    cautions: Sequence[str] = (),
) -> Forecast:
    """The scores of models larger than `cutoff`, from those up to it.

    Scores are forecast at the scales of `series` above the cutoff, where they are judged, and at
    the scales `at`. `loss` has one value per score, in the order of `series`: `two_step` goes over
    it, and `auto` goes over it where that forecast better above smaller cuts (`Forecast.way`).
    `flops`, in the same order, give the compute in a decade of the scale, which is the unit of the
    priors and of the logistic's bound. Without them a decade of parameters counts as two of FLOPs,
    and any other as one. `cautions` are warnings about the scores themselves (`Curve.cautions`).

    Raises Refusal with fewer than four scores or one scale below the cutoff, and for metrics
    without bounds that are no log-probabilities.
    """
    below = _below(series, cutoff)
    rng = np.random.default_rng(seed)
    fit: BoundedFit | LogProbabilityFit
    way = None
    if series.metric.bounded:
        if method == "auto":
            way = choose_way(series, below, loss, flops)
        fitted = method if way is None else way.way
        fit = fit_bounded(series, below, fitted, loss, flops, rng)
    else:
        fit = fit_log_probability(series, below, method)
    threshold = fit.threshold(level, rng)
    x = np.concatenate([series.x[~below], np.asarray(at, float)])
    n = _questions(series, below, len(x))
    samples = fit.draw(x, n[:-1], rng)
    band = _band(fit, x, samples, level)
    grid = _grid(series, cutoff, x)
    # Each column is drawn from the same random numbers, so that the line of a figure is smooth.
    steps = [fit.draw(each[None], n[-1:], np.random.default_rng(seed)) for each in grid]
    track = _band(fit, grid, np.hstack(steps), level)
    held_out = fit.observed[~below]
    methods = {method: samples, **fit.baselines(x, rng)} if len(held_out) else {}
    judged = [
        judge(name, draws[:, : len(held_out)], held_out, level) for name, draws in methods.items()
    ]
    missed = _misses_last_score(series, below, track)
    return Forecast(
        series=series,
        cutoff=cutoff,
        method=method,
        n=int(below.sum()),
        level=level,
        x=x,
        observed=np.concatenate([series.value[~below], np.full(len(at), np.nan)]),
        median=band.median,
        mean=fit.in_units(samples.mean(axis=0)),
        low=band.low,
        high=band.high,
        threshold=threshold,
        weights=fit.weights,
        way=way,
        track=track,
        judged=tuple(judged),
        missed=missed,
        warnings=(
            *(*cautions, *_far_beyond(series, below, x), *fit.warnings()),
            *([] if missed is None else [missed]),
        ),
    )


def _below(series: Series, cutoff: float) -> Indices:
    """Flags of the scores up to the cutoff. Raises Refusal where they cannot be forecast from."""
    if not series.metric.bounded and series.metric.range != LOG_PROBABILITY:
        raise Refusal(
            f"{series.label}: only metrics with a worst and a best value and log-probabilities are "
            f"forecast; {series.metric.name} has no bound. `scaling fit` extrapolates losses."
        )
    below = series.x >= cutoff if series.falling else series.x <= cutoff
    scales = len(np.unique(series.x[below]))
    if below.sum() < FEWEST or scales < 2:
        raise Refusal(
            f"{series.label}: {int(below.sum())} scores at {scales} scales up to --cut "
            f"{cutoff:g}; a forecast needs {FEWEST} at two. Raise the cut."
        )
    return np.asarray(below)


def _band(fit: BoundedFit | LogProbabilityFit, x: Array, samples: Array, level: float) -> Band:
    """Median and interval of draws × scales."""
    tail = 100 * (1 - level) / 2
    low, median, high = fit.in_units(np.percentile(samples, [tail, 50, 100 - tail], axis=0))
    if not fit.series.metric.higher_is_better:
        low, high = high, low
    return Band(x, median, low, high)


def _questions(series: Series, below: Indices, count: int) -> Array:
    """Questions behind each of `count` scores and one more: their own, or the usual number."""
    n = series.questions
    asked = np.full(count + 1, np.median(n))
    asked[: int((~below).sum())] = n[~below]
    return np.where(np.isfinite(asked), asked, WITHOUT_NOISE)


def _grid(series: Series, cutoff: float, x: Array) -> Array:
    """Scales from the smallest score to the cutoff, and from there to the furthest forecast."""
    first, last = float(series.t.min()), float(series.to_t(np.append(x, cutoff)).max())
    middle = float(series.to_t(np.array(cutoff)))
    fitted, ahead = np.linspace(first, middle, STEPS), np.linspace(middle, last, STEPS)
    return np.array([series.to_x(t) for t in (*fitted, *ahead[1:])])


def _far_beyond(series: Series, below: Indices, x: Array) -> list[str]:
    """A warning where scores are forecast further ahead than the data reach."""
    if not len(x):
        return []
    beyond = float(series.to_t(x).max() - series.t[below].max())
    span = float(np.ptp(series.t[below]))
    if beyond <= span:
        return []
    source = "the prior" if series.metric.bounded else "extrapolation"
    return [
        f"predicts {beyond:.1f} decades beyond {span:.1f} decades of data: there the forecast is "
        f"dominated by {source}"
    ]


def _misses_last_score(series: Series, below: Indices, track: Band) -> str | None:
    """A warning where the mean score of the largest scale fitted lies outside the interval of one
    new model there; None where it lies inside."""
    last = float(series.t[below].max())
    at = int(np.abs(series.to_t(track.x) - last).argmin())
    observed = float(series.value[below & (series.t == last)].mean())
    low, high = sorted((float(track.low[at]), float(track.high[at])))
    if low <= observed <= high:
        return None
    side = "below" if track.median[at] < observed else "above"
    return (
        f"at the largest scale fitted, {series.scale} = {series.write(series.to_x(last))}, the "
        f"forecast's median {track.median[at]:.3g} [{low:.3g} … {high:.3g}] lies {side} the score "
        f"of {observed:.3g} there by more than its interval: doubt it beyond"
    )
