"""Is there a break? The search for it is paid for, and so is the spread between models.

The null is the smooth curves: a logistic, or a power law in log-probability, with chance and
ceiling known or fitted and a 10–90% width of at least half a decade. Against it stands the best
of every curve tried: any width, hinges, broken power laws. The statistic is the share of the
deviance that the best break removes; since the break was searched for, its distribution is that
of tables simulated from the fitted null, with the same questions and clusters, searched in the
same way.

How much models spread is not known either. Where a rise spans two or three scales some curve
passes through every score, whatever the spread, and an estimate of it is next to nothing: with it
smooth curves were rejected in up to 45% of tables at a nominal 5%. The p-value is therefore
conditional on what the best curve leaves and averaged over a prior of the spread (Bayarri and
Berger 2000, JASA 95:1127, the conditional predictive p-value).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.emergence.likelihood import (
    MOST_SPREAD,
    Data,
    Noise,
    Rows,
    Tables,
    Which,
    means,
    simulate,
    stack,
)
from analysis.emergence.mesh import Mesh, is_smooth, judged, search
from analysis.emergence.polish import polished
from analysis.expression import Array

LEAST_UNKNOWN = 1e-9  # deviance a point: rounding
TRIALS = 30  # simulated tables a value of the spread
STEPS = 9  # values of the spread
# log ρ: mean and standard deviation. The abilities of models of published tasks spread by .4 to
# 1.6 logits (`ability.FORMS`), which is a ρ of .04 to .35 half-way up; wider, since models of one
# recipe differ less. At a median of .05 rises of .3 decade are found oftener (.70 for .28 of tables
# with 20 scales), but `sharp` is said of .55 decade in 7% and intervals hold the threshold in .68
# to .80 of tables, at ρ = .1 (40 tables a setting, benchmarks/emergence.py's curves).
PRIOR = np.log(0.1), 1.5
EXCLUDED = 1e-2  # of the posterior's greatest: spreads below it are not simulated
NEAR = 0.6  # standard deviations of the log deviance: tables so near leave as much as ours
LEAST_NEAR = 0.15


class Scatter(NamedTuple):
    """The noise that a fitted curve leaves, and the least that questions alone would."""

    spread: float  # for which half of simulated tables leave as much: as `Noise.spread`
    shared: float
    least: float  # the deviance that questions alone would leave, at least 1; ~0 where unknown
    plausible: tuple[float, float]  # spreads that what is left does not exclude

    @property
    def noise(self) -> Noise:
        return Noise(self.spread, self.shared)


class Alike(NamedTuple):
    """Tables simulated about a curve that leave about as much as ours: a row a table."""

    units: Array
    deviance: Array  # from each curve of the mesh
    best: Array  # the least, between the curves of the mesh too


class BreakTest(NamedTuple):
    p_value: float
    statistic: float  # share of the deviance that the best break removes
    null: Rows  # the best smooth curve, one row


def scatter_of(data: Data, mesh: Mesh, rng: np.random.Generator) -> Scatter:
    """The spreads between models for which simulated tables, refitted, leave as much.

    Dividing the deviance by its degrees of freedom would not do: scores near 0 and 1 leave next
    to none, and most scores of a sharp curve lie there. Half leave as much at `spread`, not the
    mean: of few scores the deviance is often small by luck, and the spread taken for none.
    """
    table = data.tables(data.unit[None])
    row = mesh.rows[np.array([mesh.best])]
    mean = means(data, row, table, data.t)[0]
    left = float(mesh.deviance.min())
    first = left / max(len(data.t) - 3, 1)
    shared = shared_noise(data, mean)
    if not data.bounded:
        return Scatter(first, shared, LEAST_UNKNOWN * len(data.t), (first, first))
    known = bool(np.isfinite(data.questions).all())
    # Below a tenth of the questions' variance a spread is none.
    lowest = 0.1 / float(np.median(data.questions)) if known else first / 30
    spreads = np.geomspace(np.clip(lowest, 1e-8, 1e-3), MOST_SPREAD, STEPS)
    if known:
        spreads = np.concatenate([[0.0], spreads])
    noise = Noise(np.repeat(spreads, TRIALS), shared)
    tables = data.tables(simulate(data, mean, noise, len(spreads) * TRIALS, rng))
    near = mesh.rows[np.argmin(judged(data, mesh, tables), axis=1)]
    leaves = polished(data, near, tables, rng, smooth=False).reshape(-1, TRIALS)
    middle = np.maximum.accumulate(np.median(leaves, axis=1))
    least = max(float(middle[0]), 1.0) if known else LEAST_UNKNOWN * len(data.t)
    logs, seen = _log(leaves, least), float(_log(np.array(left), least))
    plausible = _plausible(spreads[-STEPS:], logs[-STEPS:], seen)
    if known and left <= middle[0]:
        return Scatter(0.0, shared, least, plausible)
    at = np.log(np.maximum(spreads, spreads[-STEPS] / 10))
    spread = float(np.exp(np.interp(seen, _log(middle, least), at)))
    return Scatter(spread, shared, least, plausible)


def _log(left: Array, least: float) -> Array:
    """Logarithm of what curves leave; a deviance far below the questions' own tells no more."""
    return np.asarray(np.log(left + 0.3 * least))


def _prior(spread: Array) -> Array:
    """Log density of log ρ, but for a constant."""
    return np.asarray(-0.5 * ((np.log(spread) - PRIOR[0]) / PRIOR[1]) ** 2)


def _plausible(spreads: Array, logs: Array, seen: float) -> tuple[float, float]:
    """The least and greatest spread that prior and deviance left do not exclude."""
    fine = np.geomspace(spreads[0], spreads[-1], 200)
    at = np.log(fine), np.log(spreads)
    middle = np.interp(*at, logs.mean(1))
    error = np.interp(*at, np.maximum(logs.std(1), LEAST_NEAR))
    density = _prior(fine) - 0.5 * ((seen - middle) / error) ** 2 - np.log(error)
    kept = fine[density >= density.max() + np.log(EXCLUDED)]
    return float(kept[0]), float(kept[-1])


def alike(
    data: Data,
    mesh: Mesh,
    mean: Array,
    left: float,
    scatter: Scatter,
    count: int,
    rng: np.random.Generator,
) -> Alike:
    """`count` tables about `mean` whose best curves of `mesh` leave about `left`, as ours does.

    Spreads are tried evenly over the plausible ones. A table is kept as often as the prior of its
    spread and the nearness of what it leaves say, so some are kept more than once.
    """
    low, high = scatter.plausible
    spreads = np.geomspace(low, high, count)
    units = simulate(data, mean, Noise(spreads, scatter.shared), count, rng)
    tables = data.tables(units)
    deviance = judged(data, mesh, tables)
    near = mesh.rows[np.argmin(deviance, axis=1)]
    best = np.minimum(polished(data, near, tables, rng, smooth=False), deviance.min(1))
    if not data.bounded:  # whose variance only scales what every curve leaves
        return Alike(units, deviance, best)
    logs, seen = _log(best, scatter.least), float(_log(np.array(left), scatter.least))
    parts = np.array_split(logs, min(STEPS, -(-count // TRIALS)))  # of neighbouring spreads
    error = np.concatenate([np.full(len(part), max(part.std(), LEAST_NEAR)) for part in parts])
    density = _prior(spreads) - 0.5 * ((logs - seen) / (NEAR * error)) ** 2 - np.log(error)
    share = np.exp(density - density.max()).cumsum()
    even = (np.arange(count) + rng.random()) / count
    kept = np.minimum(np.searchsorted(share / share[-1], even), count - 1)
    return Alike(units[kept], deviance[kept], best[kept])


def shared_noise(data: Data, mean: Array) -> float:
    """The correlation within groups of standardised deviations: 0 without groups."""
    if data.group is None:
        return 0.0
    deviation = data.unit - mean
    return intraclass(standardised(deviation, mean) if data.bounded else deviation, data.group)


def standardised(deviation: Array, mean: Array) -> Array:
    """Deviations of shares from their mean, in units of the largest possible."""
    share = np.clip(mean, 0.02, 0.98)
    return np.clip(deviation / np.sqrt(share * (1 - share)), -3, 3)


def intraclass(deviation: Array, group: Which) -> float:
    """The correlation of deviations within groups (codes from 0); 0 where it cannot be told.

    The analysis-of-variance estimate of an intraclass correlation, groups of unequal size.
    """
    sizes = np.bincount(group).astype(float)
    groups, points = len(sizes), len(deviation)
    if groups < 2 or groups == points:
        return 0.0
    centre = np.bincount(group, deviation) / sizes
    within = float(((deviation - centre[group]) ** 2).sum() / (points - groups))
    between = float((sizes * (centre - deviation.mean()) ** 2).sum() / (groups - 1))
    typical = (points - (sizes**2).sum() / points) / (groups - 1)
    total = between + (typical - 1) * within
    return float(np.clip((between - within) / total, 0.0, 0.95)) if total > 0 else 0.0


def break_test(
    data: Data, mesh: Mesh, scatter: Scatter, count: int, rng: np.random.Generator
) -> BreakTest:
    """The p-value of the best break under the smooth null, over `count` simulated tables."""
    table = data.tables(data.unit[None])
    nulls = search(data, table, smooth=True)
    null = nulls.rows[np.array([nulls.best])]
    mean = means(data, null, table, data.t)[0]
    around = search(data, data.tables(mean[None]), dispersion=float(mesh.deviance.min()))
    # The observed table may lie far from the null's curves; simulated ones do not.
    rows, found = stack([mesh.rows, nulls.rows]), np.concatenate([mesh.deviance, nulls.deviance])
    best = polished(data, rows[np.array([found.argmin()])], table, rng, smooth=False)
    smooth = _smooth(data, rows, found[None], table, rng)
    best = np.minimum(best, smooth)
    seen = float(_statistic(smooth, best, scatter)[0])
    if seen <= 0:  # no table could do worse
        return BreakTest(1.0, 0.0, null)
    ours = alike(data, around, mean, float(best[0]), scatter, count, rng)
    smooth = _smooth(data, around.rows, ours.deviance, data.tables(ours.units), rng)
    simulated = _statistic(smooth, np.minimum(ours.best, smooth), scatter)
    p_value = (1 + int((simulated >= seen * (1 - 1e-9)).sum())) / (count + 1)
    return BreakTest(p_value, seen, null)


def _smooth(
    data: Data, rows: Rows, deviance: Array, tables: Tables, rng: np.random.Generator
) -> Array:
    """What the best smooth curve of each table leaves."""
    able = np.flatnonzero(is_smooth(rows))
    nearest = able[np.argmin(deviance[:, able], axis=1)]
    return polished(data, rows[nearest], tables, rng, smooth=True)


def _statistic(smooth: Array, best: Array, scatter: Scatter) -> Array:
    """What the best curve removes of the deviance of the best smooth curve, over what it leaves."""
    return np.asarray((smooth - best) / np.maximum(best, scatter.least))
