"""Is there emergence here: where, how wide, and is the break real?

`sharp`: the smooth null is rejected for a break (at 5%, of few scales at 3%), and the rise takes
less than half a decade of scale from 10% to 90%, certainly less than one. `smooth`: a rise is
significant and certainly takes more than half a decade. `none`: no rise is significant. Otherwise
the data do not say, and neither do we. Certainly is with all of the width's 90% interval, whatever
level is asked for the intervals shown.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from analysis.emergence.breaks import Scatter, break_test, scatter_of
from analysis.emergence.checks import above_the_start, doubts, off_the_curve
from analysis.emergence.curve import (
    Curve,
    FittedCurve,
    Verdict,
    constant_curve,
    fitted_curve,
)
from analysis.emergence.forms import CONSTANT, FormFit, form_names, supported, tried
from analysis.emergence.likelihood import (
    Data,
    Noise,
    Which,
    basis,
    data_of,
    levels,
    simulate,
)
from analysis.emergence.mesh import SMOOTH_WIDTH, Mesh, search
from analysis.emergence.rise import SIGNIFICANT, Rise, rise_test
from analysis.emergence.seeds import run_error, seed_thresholds
from analysis.emergence.series import Series
from analysis.emergence.shapes import LOW
from analysis.emergence.thresholds import (
    CANNOT_BE_TOLD,
    NOT_IN_RANGE,
    Estimate,
    Profiler,
    crossing,
    profiler,
    reaches_level,
    whatever_the_ceiling,
    width,
)
from analysis.expression import Array
from scaling.store.records import Refusal

FALLS = 0.02
LEVEL = 0.9  # of the intervals that decide a verdict, whatever level is shown
FEWEST_FOR_SHARP = 8  # distinct scales
FEWEST_TO_COVER = 16  # scores: of fewer, intervals do not always hold what they say
FEWEST_SIMULATED = 6  # distinct scales in benchmarks/emergence.py
# Of fewer than FEWEST_TO_COVER scales p-values of a break are a little too small where models
# differ: of 800 smooth curves at 8 scales 5.6% were at .05 or below (7.5% of those that differ
# most), and 3.1% (3.5%) at .03.
FEW_SIGNIFICANT = 0.03
FEWEST_TABLES = 33  # simulated: with fewer no p-value can be as low as FEW_SIGNIFICANT
# The half-rise by their intervals at ρ = .1 and at 0: benchmarks/results/emergence.json.
HELD = 0.91, 0.99
SURELY = 1.0  # decades: a sharp rise's width is below it with all of its interval
INTERVAL_TABLES = 200  # simulated for intervals
MOST_LEVEL = 1 - 2 / INTERVAL_TABLES  # the end of an interval is then one of the two furthest


def analyse(
    series: Series,
    *,
    level: float = LEVEL,
    reach: Sequence[float] = (),
    bootstrap: int = 400,
    seed: int = 0,
) -> Curve:
    """Verdict, thresholds and width of one task and metric.

    `reach` are levels in the metric's units whose scale is wanted; `bootstrap` is the number of
    tables simulated under the smooth null. Raises Refusal for a level of no interval, and
    for too few tables.
    """
    _check(series, level, reach)
    if bootstrap < FEWEST_TABLES:
        raise Refusal(
            f"--bootstrap {bootstrap}: of fewer than {FEWEST_TABLES} simulated tables no p-value "
            f"can be {FEW_SIGNIFICANT:g}, and no rise could be called sharp. Give {FEWEST_TABLES} "
            "or more; 400 are usual."
        )
    rng = np.random.default_rng(seed)
    data, mesh, scatter = _searched(data_of(series), rng)
    rise = rise_test(data, series.run, rng)
    fits, chosen = tried(data, mesh, scatter.least, _coefficients(series, data, mesh))
    if rise.p_value is not None and rise.p_value > SIGNIFICANT:
        return _no_rise(series, data, scatter, rise, fits, level, reach, rng)
    able = np.flatnonzero(np.isin(form_names(mesh.rows), supported(fits, chosen)))
    row = int(np.searchsorted(able, chosen.row))
    judged = profiler(data, mesh.of(able), scatter, row, LEVEL, INTERVAL_TABLES, rng)
    profile = replace(judged, level=level)  # of the same tables: what is shown
    thresholds = _thresholds(series, profile, row, reach)
    p_break: float | None = None
    if rise.p_value is None:
        verdict, reason = _one_run(rise)
    elif series.falling:
        verdict, reason = _against_loss(series, rise)
    else:
        p_break = break_test(data, mesh, scatter, bootstrap, rng).p_value
        verdict, reason = verdict_of(rise, p_break, _width(judged, row), series.scales)
    fitted = _refitted(series, profile, chosen.name, row)
    levels_of = float(fitted.floor[0]), float(fitted.ceiling[0])
    cautions = _cautions(series, rise, fitted)
    one = mesh.rows[np.array([chosen.row])]
    seeds = seed_thresholds(series, data, one, levels_of, rng)
    by_run = run_error(series, data, one, levels_of)
    if by_run is not None:
        thresholds = {name: by_run.widened(each, level) for name, each in thresholds.items()}
    return Curve(
        series=series,
        verdict=verdict,
        reason=reason,
        p_value=p_break,
        p_rise=rise.p_value,
        threshold=thresholds["half_way"],
        thresholds=thresholds,
        width_decades=_width(profile, row),
        fitted=fitted,
        forms=fits,
        dispersion=scatter.spread,
        seeds=seeds,
        level=level,
        cautions=cautions,
        warnings=(*cautions, *_warnings(series, data, chosen, mesh, scatter)),
    )


def break_level(scales: int) -> float:
    """The p-value at or below which a break is said of so many distinct scales."""
    return SIGNIFICANT if scales >= FEWEST_TO_COVER else FEW_SIGNIFICANT


def verdict_of(rise: Rise, p_break: float, decades: Estimate, scales: int) -> tuple[Verdict, str]:
    """The verdict on a rise that is significant, and why."""
    low, high = decades.interval or (None, None)
    estimate = decades.value
    rejected = p_break <= break_level(scales)
    text = _decades(decades)
    narrow = estimate is not None and estimate < SMOOTH_WIDTH and high is not None and high < SURELY
    if rejected and narrow:
        if scales >= FEWEST_FOR_SHARP:
            return "sharp", (
                f"a smooth curve is rejected (p = {p_break:.2g}) and the rise takes {text}"
            )
        return "undetermined", (
            f"a smooth curve is rejected (p = {p_break:.2g}) and the rise takes {text}, but "
            f"{scales} scales are too few to call it sharp (at least {FEWEST_FOR_SHARP})"
        )
    if low is not None and low > SMOOTH_WIDTH:
        return "smooth", f"the score rises ({rise.words}) and takes {text} for it"
    why = "a smooth curve is rejected" if rejected else "a smooth curve fits as well"
    return "undetermined", (
        f"the score rises ({rise.words}); {why} (p = {p_break:.2g}) and the rise takes {text}"
    )


def _one_run(rise: Rise) -> tuple[Verdict, str]:
    one, more = "one run's checkpoints are", "train more seeds"
    if rise.grouped:
        one, more = "the runs of one group are", "add runs of other groups"
    why = f"{one} not independent, so that whether scores rise cannot be tested: {more}"
    return "undetermined", why


def _against_loss(series: Series, rise: Rise) -> tuple[Verdict, str]:
    """Half a decade of compute is a fortieth of a decade of loss: the rule is for the former."""
    return "undetermined", (
        f"the score rises ({rise.words}); how sharply is not judged against "
        f"{series.scale}, whose whole range is a fraction of a decade: use params or compute"
    )


def fit_curve(
    series: Series, form: str = "logistic", *, refits: int = INTERVAL_TABLES, seed: int = 0
) -> FittedCurve:
    """One named form, fitted without a verdict; a baseline of forecasts.

    Forms are those of `Curve.forms`. Raises Refusal for a form that is not tried on this metric.
    """
    rng = np.random.default_rng(seed)
    data, mesh, scatter = _searched(data_of(series), rng)
    if form == CONSTANT:
        return _constant(series, data, rng, refits)
    names = form_names(mesh.rows)
    rows = np.flatnonzero(names == form)
    if not len(rows):
        raise Refusal(
            f"form {form!r} is not tried on {series.label}: use one of "
            f"{', '.join([CONSTANT, *np.unique(names)])}"
        )
    row = int(rows[np.argmin(mesh.deviance[rows])])
    profile = profiler(data, mesh, scatter, row, LEVEL, refits, rng)
    return _refitted(series, profile, form, row, rows)


def _searched(data: Data, rng: np.random.Generator) -> tuple[Data, Mesh, Scatter]:
    """Twice where models differ by more than their questions: the second time weighed for it."""
    mesh = search(data, data.tables(data.unit[None]))
    scatter = scatter_of(data, mesh, rng)
    if data.bounded and np.isfinite(data.questions).all() and scatter.spread > 0:
        data = data.weighed(scatter.spread)
        mesh = search(data, data.tables(data.unit[None]))
        scatter = scatter_of(data, mesh, rng)
    return data, mesh, scatter


def _width(profile: Profiler, row: int) -> Estimate:
    """The width of the rise, with an interval at the profile's level."""
    rows = profile.mesh.rows
    found = whatever_the_ceiling(width(profile, float(rows.width[row])), profile)
    if not rows.shapes[int(rows.shape[row])].floored:
        return Estimate(None, found.interval, f"{CANNOT_BE_TOLD}: the curve has no floor")
    return found


def _thresholds(
    series: Series, profile: Profiler, row: int, reach: Sequence[float]
) -> dict[str, Estimate]:
    data, rows = profile.data, profile.mesh.rows

    def estimate(at: Array) -> Estimate:
        return crossing(profile, at, float(at[row]), series.to_x, series.falling)

    found = {
        "leaves_chance": estimate(rows.reaches(LOW)),
        "half_way": estimate(rows.reaches(0.5)),
    }
    if reach:
        floor, ceiling = rows.floor, rows.ceiling
        if not data.bounded:
            a, b = levels(data, profile.mesh.basis, data.tables(data.unit[None]))
            floor, ceiling = a[0], a[0] + b[0]
        for value in reach:
            unit = float(series.to_unit(np.array(value)))
            found[f"reaches_{value:g}"] = estimate(reaches_level(rows, floor, ceiling, unit))
    return found


def _refitted(
    series: Series, profile: Profiler, form: str, row: int, among: Which | None = None
) -> FittedCurve:
    """The curve of `row`, and for each table simulated from it the best curve `among` rows."""
    deviance = profile.deviance if among is None else profile.deviance[:, among]
    best = np.argmin(deviance, axis=1)
    best = best if among is None else among[best]
    rows = profile.mesh.rows[np.concatenate([[row], best])]
    units = np.vstack([profile.data.unit, profile.units])
    return fitted_curve(series, profile.data, form, rows, units, profile.scatter.noise)


def _constant(
    series: Series, data: Data, rng: np.random.Generator, count: int = INTERVAL_TABLES
) -> FittedCurve:
    """The mean; its spread is what the scores have about it."""
    level = float(np.average(data.unit, weights=data.weight))
    variance = float(np.average((data.unit - level) ** 2, weights=data.weight))
    variance *= len(data.t) / max(len(data.t) - 1, 1)
    if data.bounded:
        whole = max(level * (1 - level), 1e-9)
        questions = float(np.mean(1 / data.questions))
        variance = float(np.clip(variance / whole - questions, 0.0, 0.9))
    noise = Noise(variance)
    units = simulate(data, np.full(len(data.t), level), noise, count, rng)
    return constant_curve(series, data, noise, np.vstack([data.unit, units]))


def _no_rise(
    series: Series,
    data: Data,
    scatter: Scatter,
    rise: Rise,
    fits: tuple[FormFit, ...],
    level: float,
    reach: Sequence[float],
    rng: np.random.Generator,
) -> Curve:
    able = rise.least_p <= SIGNIFICANT
    verdict: Verdict = "none" if able else "undetermined"
    if able:
        reason = f"no rise is significant ({rise.words})"
        absent = Estimate(None, None, f"{NOT_IN_RANGE}: no significant rise")
    elif rise.runs:
        reason = (
            f"no rise is significant ({rise.words}), but the checkpoints of a run are "
            f"not independent and {rise.counted} are too few to say that there is none: train "
            "more seeds"
        )
        absent = Estimate(None, None, f"{CANNOT_BE_TOLD}: too few runs to show a rise")
    else:
        reason = (
            f"with {series.scales} scales no order of the scores could be significant "
            f"(p at least {rise.least_p:.2g})"
        )
        absent = Estimate(None, None, f"{CANNOT_BE_TOLD}: too few scales to show a rise")
    names = ["leaves_chance", "half_way", *(f"reaches_{value:g}" for value in reach)]
    fitted = _constant(series, data, rng)
    cautions = _cautions(series, rise, fitted)
    return Curve(
        series=series,
        verdict=verdict,
        reason=reason,
        p_value=None,
        p_rise=rise.p_value,
        threshold=absent,
        thresholds=dict.fromkeys(names, absent),
        width_decades=absent,
        fitted=fitted,
        forms=fits,
        dispersion=scatter.spread,
        seeds=None,
        level=level,
        cautions=cautions,
        warnings=cautions,
    )


def _coefficients(series: Series, data: Data, mesh: Mesh) -> Callable[[int], Mapping[str, float]]:
    """The coefficients of a row of the mesh by name; of no row (-1), the mean."""
    a = b = None
    if not data.bounded:
        a, b = levels(data, basis(data, mesh.rows), data.tables(data.unit[None]))

    def named(row: int) -> Mapping[str, float]:
        if row < 0:
            level = float(np.average(data.unit, weights=data.weight))
            return {"level": float(series.from_unit(np.array(level)))}
        rows = mesh.rows
        floor, ceiling = float(rows.floor[row]), float(rows.ceiling[row])
        if a is not None and b is not None:
            floor, ceiling = float(a[0, row]), float(a[0, row] + b[0, row])
        return {
            "midpoint": series.to_x(float(rows.midpoint[row])),
            "width_decades": float(rows.width[row]),
            "floor": float(series.from_unit(np.array(floor))),
            "ceiling": float(series.from_unit(np.array(ceiling))),
        }

    return named


def _check(series: Series, level: float, reach: Sequence[float]) -> None:
    if not 0 < level < 1:
        raise Refusal(f"level {level:g}: must lie between 0 and 1, e.g. 0.9")
    if level > MOST_LEVEL:
        raise Refusal(
            f"level {level:g}: intervals rest on {INTERVAL_TABLES} simulated tables, which tell no "
            f"level above {MOST_LEVEL:g}. Give {MOST_LEVEL:g} or less."
        )
    low, high = series.metric.range
    for value in reach:
        if not (math.isfinite(value) and low <= value <= high):
            raise Refusal(
                f"{series.label}: the level to reach, {value:g}, lies outside {low:g} to {high:g}, "
                f"the range of {series.metric.name}"
            )


def _cautions(series: Series, rise: Rise, fitted: FittedCurve) -> tuple[str, ...]:
    """What to doubt of the scores themselves, and so of every answer from them."""
    expected = fitted.predict(series.x)
    found = [*off_the_curve(series, expected), *above_the_start(series, expected), *doubts(series)]
    if rise.p_dip <= FALLS:
        found.append(
            f"the score falls with scale (p = {rise.p_dip:.2g}) before any rise: curves and "
            "forecasts that only rise do not describe it"
        )
    return tuple(found)


def _warnings(
    series: Series, data: Data, chosen: FormFit, mesh: Mesh, scatter: Scatter
) -> tuple[str, ...]:
    """What to doubt of this curve."""
    found = []
    if series.scales < FEWEST_FOR_SHARP:
        found.append(
            f"{series.scales} distinct scales: below {FEWEST_FOR_SHARP} no rise is called sharp"
        )
    midpoints = mesh.rows.midpoint
    if midpoints[chosen.row] + 0.5 * mesh.rows.width[chosen.row] > data.t.max():
        found.append(
            "the rise is not complete at the largest scale: threshold and width depend on the "
            "ceiling assumed or extrapolated"
        )
    if data.bounded and scatter.spread > 0.02:
        found.append(
            f"models of one scale differ beyond their questions: spread {scatter.spread:.2g} "
            "of the largest possible variance"
        )
    if series.scales < FEWEST_SIMULATED:
        found.append(
            f"{series.scales} distinct scales: how often intervals of fewer than "
            f"{FEWEST_SIMULATED} hold the threshold was not simulated. Add scales"
        )
    elif len(series.x) < FEWEST_TO_COVER:
        found.append(
            f"{len(series.x)} scores show little of how much models differ, and the intervals "
            f"allow for much: in simulated tables of so few, those at {LEVEL:.0%} held the "
            f"threshold in {HELD[0]:.0%} where models differed most and in over {HELD[1]:.0%} "
            "where they did not. Add scales, or several models a scale"
        )
    if not math.isfinite(chosen.aicc):
        found.append("too few points for the information criterion of this curve")
    return tuple(found)


def _decades(decades: Estimate) -> str:
    if decades.interval is None:
        return "a number of decades that cannot be told"
    low, high = decades.interval
    value = "a number of " if decades.value is None else f"{decades.value:.2g} "
    least, most = f"{low or 0:.2g}", "any" if high is None else f"{high:.2g}"
    return f"{value}decades ({LEVEL:.0%} interval {least} to {most})"
