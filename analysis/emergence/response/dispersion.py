"""Overdispersion: how much models of one scale differ beyond what their questions explain.

It is estimated by simulation, and it is never certain: where a rise spans two or three scales,
some curve passes through every score whatever the overdispersion is. Bootstrap tables are
therefore drawn over all plausible values of it. Simulated scores scatter about a curve as a
beta-binomial of models that differ, or with a normal error.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.special import betaincinv, ndtr

from analysis.array import Array
from analysis.emergence.response.deviance import (
    Curves,
    Data,
    deviances,
    intraclass,
    standardised,
    with_levels,
)
from analysis.emergence.response.search import Mesh, refit, search

LEAST_DISPERSION = 1e-6  # of ρ: below it, models of one scale are taken as equal
MOST_DISPERSION = 0.9  # of ρ: above it, every model is all right or all wrong
LEAST_UNKNOWN = 1e-9  # deviance per point: rounding
TRIALS = 30  # simulated tables per value of ρ
STEPS = 9  # values of ρ
# Of log ρ: mean and standard deviation. The abilities of models of published tasks differ by .4 to
# 1.6 logits (`latent_ability.FORMS`), which is a ρ of .04 to .35 at the threshold; the prior is
# wider, since models of one recipe differ less. With a median of .05, rises of .3 decade are found
# more often (.70 instead of .28 of tables with 20 scales), but `sharp` is returned for .55 decade
# in 7%, and intervals hold the threshold in .68 to .80 of tables at ρ = .1 (40 tables per setting,
# the curves of benchmarks/emergence.py).
PRIOR = np.log(0.1), 1.5
EXCLUDED = 1e-2  # of the posterior's greatest: values of ρ below it are not simulated
NEAR = 0.6  # standard deviations of the log deviance: tables so near leave as much as the observed
LEAST_NEAR = 0.15


class Noise(NamedTuple):
    """How scores scatter about a curve."""

    # Overdispersion ρ between models, or the variance on the unit scale of an unbounded metric: one
    # number for all tables, or one per table.
    dispersion: float | Array
    shared: float = 0.0  # correlation of the deviations of one group's models


class Dispersion(NamedTuple):
    """The noise about a fitted curve, and the least that questions alone would leave."""

    value: float  # at which half of the simulated tables leave as much: as `Noise.dispersion`
    shared: float
    least: float  # the deviance that questions alone would leave, at least 1; ~0 where unknown
    plausible: tuple[float, float]  # values that what is left does not exclude


class Fit(NamedTuple):
    """The curves that fit a table, and the noise about them."""

    data: Data
    mesh: Mesh
    dispersion: Dispersion

    def mean(self, row: int) -> Array:
        """The expected scores of one curve at the points, on the unit scale."""
        return _mean(self.data, self.mesh.curves[[row]])


class Bootstrap(NamedTuple):
    """Simulated tables, each with what the best curve leaves: one row per table."""

    units: Array  # tables × points
    deviance: Array  # from each curve of the mesh
    best: Array  # the least, between the curves of the mesh too


def fit_curves(data: Data, rng: np.random.Generator) -> Fit:
    """The curves that fit the scores; if there is overdispersion, scores are reweighted for it."""
    mesh = search(data, data.observed)
    dispersion = estimate_dispersion(data, mesh, rng)
    if data.counted and dispersion.value > 0:
        data = data.reweighted(dispersion.value)
        mesh = search(data, data.observed)
        dispersion = estimate_dispersion(data, mesh, rng)
    return Fit(data, mesh, dispersion)


def estimate_dispersion(data: Data, mesh: Mesh, rng: np.random.Generator) -> Dispersion:
    """The overdispersion at which simulated tables, refitted, leave as much as the observed one.

    Dividing the deviance by its degrees of freedom would not do: scores near 0 and 1 leave next
    to none, and most scores of a sharp curve lie there. At `value` the median, not the mean, of
    simulated deviances is that of the table: with few scores the deviance is often small by
    chance, and the overdispersion would be taken as 0.
    """
    mean = _mean(data, mesh.curves[[mesh.best]])
    left = float(mesh.deviance.min())
    deviation, shared = data.unit - mean, 0.0
    if data.group is not None:
        standard = standardised(deviation, mean) if data.bounded else deviation
        shared = intraclass(standard, data.group)
    variance = left / max(len(data.t) - 3, 1)
    unknown = LEAST_UNKNOWN * len(data.t)
    if not data.bounded:
        return Dispersion(variance, shared, unknown, (variance, variance))
    # A ρ that adds less than a tenth of the questions' variance counts as 0.
    lowest = 0.1 / float(np.median(data.questions)) if data.counted else variance / 30
    rhos = np.geomspace(np.clip(lowest, 1e-8, 1e-3), MOST_DISPERSION, STEPS)
    tried = np.concatenate([[0.0], rhos]) if data.counted else rhos
    remaining = _simulated_deviances(data, mesh, mean, tried, shared, rng)
    middle = np.maximum.accumulate(np.median(remaining, axis=1))
    least = max(float(middle[0]), 1.0) if data.counted else unknown
    logs, observed = _log(remaining, least), float(_log(np.array(left), least))
    plausible = _plausible(rhos, logs[-STEPS:], observed)
    if data.counted and left <= middle[0]:
        return Dispersion(0.0, shared, least, plausible)
    at = np.log(np.maximum(tried, rhos[0] / 10))
    value = float(np.exp(np.interp(observed, _log(middle, least), at)))
    return Dispersion(value, shared, least, plausible)


def _simulated_deviances(
    data: Data, mesh: Mesh, mean: Array, rhos: Array, shared: float, rng: np.random.Generator
) -> Array:
    """What the best curve leaves of tables simulated about `mean`, values of ρ × TRIALS."""
    noise = Noise(np.repeat(rhos, TRIALS), shared)
    tables = data.tables(simulate(data, mean, noise, len(rhos) * TRIALS, rng))
    from_mesh = deviances(data, mesh.basis, tables)
    return refit(data, mesh.curves, from_mesh, tables, rng).reshape(-1, TRIALS)


def _log(left: Array, least: float) -> Array:
    """Log of what curves leave; a deviance far below that of the questions says no more."""
    return np.asarray(np.log(left + 0.3 * least))


def _log_prior(dispersion: Array) -> Array:
    """Log density of log ρ, up to a constant."""
    return np.asarray(-0.5 * ((np.log(dispersion) - PRIOR[0]) / PRIOR[1]) ** 2)


def _plausible(rhos: Array, logs: Array, observed: float) -> tuple[float, float]:
    """The least and greatest ρ that the prior and the deviance left do not exclude."""
    fine = np.geomspace(rhos[0], rhos[-1], 200)
    at = np.log(fine), np.log(rhos)
    middle = np.interp(*at, logs.mean(1))
    error = np.interp(*at, np.maximum(logs.std(1), LEAST_NEAR))
    density = _log_prior(fine) - 0.5 * ((observed - middle) / error) ** 2 - np.log(error)
    kept = fine[density >= density.max() + np.log(EXCLUDED)]
    return float(kept[0]), float(kept[-1])


def conditional_bootstrap(
    fit: Fit, mean: Array, left: float, count: int, rng: np.random.Generator
) -> Bootstrap:
    """`count` tables about `mean` of which the best curve leaves about `left`, as observed.

    Values of ρ are tried evenly over the plausible ones. A table is kept as often as the prior of
    its ρ and the closeness of what it leaves say, so some are kept more than once.
    """
    data, mesh, dispersion = fit
    rhos = np.geomspace(*dispersion.plausible, count)
    units = simulate(data, mean, Noise(rhos, dispersion.shared), count, rng)
    tables = data.tables(units)
    deviance = deviances(data, mesh.basis, tables)
    best = np.minimum(refit(data, mesh.curves, deviance, tables, rng), deviance.min(1))
    if not data.bounded:  # the variance only scales what every curve leaves
        return Bootstrap(units, deviance, best)
    logs, observed = _log(best, dispersion.least), float(_log(np.array(left), dispersion.least))
    parts = np.array_split(logs, min(STEPS, -(-count // TRIALS)))  # of neighbouring ρ
    error = np.concatenate([np.full(len(part), max(part.std(), LEAST_NEAR)) for part in parts])
    density = _log_prior(rhos) - 0.5 * ((logs - observed) / (NEAR * error)) ** 2 - np.log(error)
    share = np.exp(density - density.max()).cumsum()
    even = (np.arange(count) + rng.random()) / count
    kept = np.minimum(np.searchsorted(share / share[-1], even), count - 1)
    return Bootstrap(units[kept], deviance[kept], best[kept])


def _mean(data: Data, curve: Curves) -> Array:
    """The expected score of the one curve at each point, on the unit scale."""
    return with_levels(data, curve, data.observed).scores(data.t)[0]


def simulate(data: Data, mean: Array, noise: Noise, count: int, rng: np.random.Generator) -> Array:
    """Scores about `mean` (one value per point) on the unit scale, `count` tables × points."""
    shape = (count, len(mean))
    dispersion = np.broadcast_to(noise.dispersion, count)[:, None]
    if not data.bounded:
        return np.asarray(mean + np.sqrt(dispersion) * _normal(data, noise.shared, shape, rng))
    mean = np.clip(mean, 0.0, 1.0)
    models: Array = np.broadcast_to(mean, shape)
    if (dispersion > LEAST_DISPERSION).any():
        mass = 1 / np.clip(dispersion, LEAST_DISPERSION, MOST_DISPERSION) - 1
        safe = np.clip(mean, 1e-6, 1 - 1e-6)
        if noise.shared > 0:
            rank = ndtr(_normal(data, noise.shared, shape, rng))
            rank = np.clip(rank, 1e-9, 1 - 1e-9)
            drawn = np.asarray(betaincinv(safe * mass, (1 - safe) * mass, rank), dtype=float)
        else:
            drawn = rng.beta(safe * mass, (1 - safe) * mass, shape)
        models = np.where(dispersion > LEAST_DISPERSION, drawn, mean)
    if data.counted:
        whole = np.maximum(np.rint(data.questions), 1).astype(np.int64)
        return rng.binomial(whole, np.clip(models, 0, 1)) / whole
    return np.array(models)


def _normal(data: Data, shared: float, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    """Standard normal errors; those of one group correlate by `shared`."""
    own = rng.normal(size=shape)
    if shared <= 0 or data.group is None:
        return own
    common = rng.normal(size=(shape[0], int(data.group.max()) + 1))[:, data.group]
    both: Array = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return both
