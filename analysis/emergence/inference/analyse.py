"""The analysis of one task and metric: verdict, thresholds and width, with their warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from analysis.arguments import refuse_seed, refuse_times
from analysis.array import Array
from analysis.emergence.inference.fitted import FittedCurve, constant, refitted
from analysis.emergence.inference.intervals import (
    Profile,
    reaches_level,
    threshold_of,
    width_of,
)
from analysis.emergence.inference.replicates import (
    SeedThresholds,
    seed_thresholds,
    spread_of_runs,
    widened,
)
from analysis.emergence.inference.sharpness_test import sharpness_test
from analysis.emergence.inference.trend_test import SIGNIFICANT, Trend, trend_test
from analysis.emergence.inference.verdict import (
    FEW_SIGNIFICANT,
    FEWEST_FOR_SHARP,
    FEWEST_TO_COVER,
    LEVEL,
    Verdict,
    against_loss,
    no_threshold,
    of_one_run,
    verdict_of,
    without_rise,
)
from analysis.emergence.response.deviance import Data, data_of, with_levels
from analysis.emergence.response.dispersion import Fit, conditional_bootstrap, fit_curves
from analysis.emergence.response.estimate import Estimate
from analysis.emergence.response.links import LOW
from analysis.emergence.response.selection import FormFit, form_names, select_form
from analysis.emergence.scores.checks import above_the_start, contradictions, off_the_curve
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

FALLS = 0.02  # p-value at or below which a fall before the rise is named
FEWEST_SIMULATED = 6  # distinct scales in benchmarks/emergence.py
FEWEST_SAMPLES = 33  # of the sharpness test: with fewer no p-value can be as low as FEW_SIGNIFICANT
# Coverage of the threshold's intervals at ρ = .1 and at 0: benchmarks/results/emergence.json.
HELD = 0.91, 0.99
INTERVAL_SAMPLES = 200  # bootstrap samples of intervals
MOST_LEVEL = 1 - 2 / INTERVAL_SAMPLES  # an end of the interval is then one of the two furthest
VISIBLE_DISPERSION = 0.02  # ρ above which it is named


@dataclass(frozen=True, eq=False)
class Curve:
    """One task and metric: verdict, thresholds, width, and the curve behind them."""

    series: Series
    verdict: Verdict
    reason: str  # one sentence: why this verdict
    p_sharp: float | None  # sharpness test, of a smooth rise; None where it was not tested
    p_trend: float | None  # trend test, of no rise; None where it could not be tested
    thresholds: Mapping[str, Estimate]  # leaves_chance, half_way, reaches_<score>; in units of x
    width_decades: Estimate
    fitted: FittedCurve
    forms: tuple[FormFit, ...]
    dispersion: float  # ρ between models; of unbounded metrics the residual variance, unit scale
    seeds: SeedThresholds | None
    level: float
    cautions: tuple[str, ...]  # those of `warnings` about the scores, which forecasts repeat
    warnings: tuple[str, ...]

    @property
    def threshold(self) -> Estimate:
        """The scale midway between the curve's floor and ceiling, in units of x."""
        return self.thresholds["half_way"]

    def predict(self, x: Array) -> Array:
        """The expected score at scales `x`, in the metric's units."""
        return self.fitted.predict(x)

    def band(self, x: Array) -> tuple[Array, Array]:
        """Pointwise interval of the expected score at `x`, at the curve's level."""
        return self.fitted.band(x, self.level)

    def to_json(self) -> dict[str, Any]:
        """Plain values at full precision; what is not identified is null, with the reason."""
        return {
            "task": self.series.task,
            "metric": self.series.metric.name,
            "scale": self.series.scale,
            "verdict": self.verdict,
            "reason": self.reason,
            "threshold": self.threshold.to_json(),
            "thresholds": {name: each.to_json() for name, each in self.thresholds.items()},
            "p_value": self.p_sharp,
            "p_rise": self.p_trend,
            "width_decades": self.width_decades.to_json(),
            "form": self.fitted.form,
            "forms": [form.to_json() for form in self.forms],
            "dispersion": self.dispersion if math.isfinite(self.dispersion) else None,
            "seeds": None if self.seeds is None else asdict(self.seeds),
            "points": len(self.series.x),
            "scales": self.series.scales,
            "level": self.level,
            "chance": self.series.chance,
            "range": list(self.series.metric.range),
            "cautions": list(self.cautions),
            "warnings": list(self.warnings),
        }


def analyse(
    series: Series,
    *,
    level: float = LEVEL,
    reach: Sequence[float] = (),
    bootstrap: int = 400,
    seed: int = 0,
) -> Curve:
    """Verdict, thresholds and width of one task and metric.

    `reach` are scores in the metric's units of which the scale is wanted; `bootstrap` is the number
    of samples of the sharpness test. Raises Refusal for a level that is not that of an interval,
    and for too few samples.
    """
    _check(series, level, reach, bootstrap)
    refuse_seed(seed)
    rng = np.random.default_rng(seed)
    fit = fit_curves(data_of(series), rng)
    data, mesh, dispersion = fit
    trend = trend_test(data, series.run, rng)
    selection = select_form(series, data, mesh, dispersion.least)
    chosen = selection.chosen
    made = partial(
        Curve, series=series, p_trend=trend.p_value, forms=selection.fits,
        dispersion=dispersion.value, level=level,
    )  # fmt: skip
    if trend.p_value is not None and trend.p_value > SIGNIFICANT:
        return _without_rise(made, series, data, trend, reach, rng)
    supported = np.flatnonzero(np.isin(form_names(mesh.curves), selection.supported))
    truth = int(np.searchsorted(supported, chosen.row))
    near = fit._replace(mesh=mesh.of(supported))
    left = float(near.mesh.deviance.min())
    samples = conditional_bootstrap(near, near.mean(truth), left, INTERVAL_SAMPLES, rng)
    decisive = Profile(near, samples, truth, LEVEL)
    shown = replace(decisive, level=level)  # of the same samples
    p_sharp: float | None = None
    if trend.p_value is None:
        verdict, reason = of_one_run(trend)
    elif series.falling:
        verdict, reason = against_loss(series, trend)
    else:
        p_sharp = sharpness_test(fit, bootstrap, rng)
        verdict, reason = verdict_of(trend, p_sharp, width_of(decisive), series.scales)
    fitted = refitted(series, shown, chosen.name)
    thresholds = _thresholds(series, shown, reach)
    spread = spread_of_runs(series, data, fitted.curves[:1], level)
    if spread is not None:
        thresholds = {name: widened(each, spread) for name, each in thresholds.items()}
    cautions = _cautions(series, trend, fitted)
    return made(
        verdict=verdict,
        reason=reason,
        p_sharp=p_sharp,
        thresholds=thresholds,
        width_decades=width_of(shown),
        fitted=fitted,
        seeds=seed_thresholds(series, data, fitted.curves[:1], rng),
        cautions=cautions,
        warnings=(*cautions, *_warnings(series, fit, chosen)),
    )


def _without_rise(
    made: partial[Curve],
    series: Series,
    data: Data,
    trend: Trend,
    reach: Sequence[float],
    rng: np.random.Generator,
) -> Curve:
    """The result where no rise is significant: the curve is the mean."""
    verdict, reason = without_rise(series, trend)
    absent = no_threshold(trend)
    fitted = constant(series, data, INTERVAL_SAMPLES, rng)
    cautions = _cautions(series, trend, fitted)
    return made(
        verdict=verdict,
        reason=reason,
        p_sharp=None,
        thresholds=dict.fromkeys(["leaves_chance", "half_way", *map(_reaches, reach)], absent),
        width_decades=absent,
        fitted=fitted,
        seeds=None,
        cautions=cautions,
        warnings=cautions,
    )


def _thresholds(series: Series, profile: Profile, reach: Sequence[float]) -> dict[str, Estimate]:
    """The scales at 10% and 50% of the rise, and those at which the scores `reach` are reached."""
    data, curves = profile.fit.data, profile.fit.mesh.curves
    reached = {"leaves_chance": curves.reaches(LOW), "half_way": curves.reaches(0.5)}
    curves = with_levels(data, curves, data.observed)
    for score in reach:
        reached[_reaches(score)] = reaches_level(curves, float(series.to_unit(score)))
    return {name: threshold_of(profile, at, series) for name, at in reached.items()}


def _reaches(score: float) -> str:
    """The key of the scale at which a score is reached."""
    return f"reaches_{score:g}"


def _check(series: Series, level: float, reach: Sequence[float], bootstrap: int) -> None:
    if not 0 < level < 1:
        raise Refusal(f"level {level:g}: must lie between 0 and 1, e.g. 0.9")
    if level > MOST_LEVEL:
        raise Refusal(
            f"level {level:g}: intervals rest on {INTERVAL_SAMPLES} bootstrap samples, which give "
            f"no level above {MOST_LEVEL:g}. Give {MOST_LEVEL:g} or less."
        )
    low, high = series.metric.range
    for score in reach:
        if not (math.isfinite(score) and low <= score <= high):
            raise Refusal(
                f"{series.label}: the score to reach, {score:g}, lies outside {low:g} to "
                f"{high:g}, the range of {series.metric.name}"
            )
    refuse_times("--bootstrap", bootstrap, 400)
    if bootstrap < FEWEST_SAMPLES:
        raise Refusal(
            f"--bootstrap {bootstrap}: with fewer than {FEWEST_SAMPLES} bootstrap samples no "
            f"p-value can be {FEW_SIGNIFICANT:g}, and no rise could be called sharp. Give "
            f"{FEWEST_SAMPLES} or more; 400 are usual."
        )


def _cautions(series: Series, trend: Trend, fitted: FittedCurve) -> tuple[str, ...]:
    """Warnings about the scores themselves, which hold for every result from them."""
    expected = fitted.predict(series.x)
    found = [
        *off_the_curve(series, expected),
        *above_the_start(series, expected),
        *contradictions(series),
    ]
    if trend.p_dip <= FALLS:
        found.append(
            f"the score falls with scale (p = {trend.p_dip:.2g}) before any rise: curves and "
            "forecasts that only rise do not describe it"
        )
    return tuple(found)


def _warnings(series: Series, fit: Fit, chosen: FormFit) -> tuple[str, ...]:
    """Warnings about this curve."""
    (data, mesh, dispersion), found = fit, []
    if series.scales < FEWEST_FOR_SHARP:
        found.append(
            f"{series.scales} distinct scales: below {FEWEST_FOR_SHARP} no rise is called sharp"
        )
    curves = mesh.curves
    if curves.midpoint[chosen.row] + 0.5 * curves.width[chosen.row] > data.t.max():
        found.append(
            "the rise is not complete at the largest scale: threshold and width depend on the "
            "ceiling assumed or extrapolated"
        )
    if data.bounded and dispersion.value > VISIBLE_DISPERSION:
        found.append(
            "models of one scale differ more than the random choice of questions explains: the "
            f"variance between models is {dispersion.value:.2g} of the largest that is possible"
        )
    if series.scales < FEWEST_SIMULATED:
        found.append(
            f"{series.scales} distinct scales: the coverage of intervals from fewer than "
            f"{FEWEST_SIMULATED} scales was not simulated. Add scales"
        )
    elif len(series.x) < FEWEST_TO_COVER:
        found.append(
            f"{len(series.x)} scores say little about how much models differ, and the intervals "
            f"allow for much: in simulated tables of so few, those at {LEVEL:.0%} held the "
            f"threshold in {HELD[0]:.0%} where models differed most and in over {HELD[1]:.0%} "
            "where they did not. Add scales, or several models per scale"
        )
    if not math.isfinite(chosen.aicc):
        found.append("too few points for the information criterion of this curve")
    return tuple(found)
