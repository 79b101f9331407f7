"""Bootstrap test of a sharp rise; its p-value accounts for the search among curves.

The null is the smooth curves: a logistic, or a power law in log-probability, with chance and
ceiling known or fitted and a 10–90% width of at least half a decade. Against it stands the best
of every curve tried: any width, hinges, broken power laws. The statistic is the share of the
deviance that the best curve removes. Because that curve was searched for, the distribution of the
statistic is taken from tables that are simulated from the fitted null, with the same questions and
groups, and searched in the same way.

With an estimate of the overdispersion alone, smooth curves were rejected in up to 45% of tables at
a nominal 5%: where a rise spans two or three scales the estimate is close to 0. The p-value is
therefore conditional on what the best curve leaves and averaged over a prior of the overdispersion
(Bayarri and Berger 2000, JASA 95:1127, the conditional predictive p-value).
"""

from __future__ import annotations

import numpy as np

from analysis.array import Array
from analysis.emergence.response.deviance import Curves, Data, Tables, stack
from analysis.emergence.response.dispersion import Dispersion, Fit, conditional_bootstrap
from analysis.emergence.response.search import SMOOTH_WIDTH, is_smooth, refit, search, smooth_kinds


def sharpness_test(fit: Fit, count: int, rng: np.random.Generator) -> float:
    """The p-value of the smooth null against the best curve, from `count` simulated tables."""
    data, mesh, dispersion = fit
    nulls = search(data, data.observed, kinds=smooth_kinds(data), narrowest=SMOOTH_WIDTH)
    mean = fit._replace(mesh=nulls).mean(nulls.best)
    around = search(data, data.tables(mean[None]), left=float(mesh.deviance.min()))
    # The observed table may lie far from the null's curves; simulated ones do not.
    curves = stack([mesh.curves, nulls.curves])
    deviance = np.concatenate([mesh.deviance, nulls.deviance])[None]
    best = refit(data, curves, deviance, data.observed, rng)
    smooth = _smooth(data, curves, deviance, data.observed, rng)
    best = np.minimum(best, smooth)
    observed = float(_statistic(smooth, best, dispersion)[0])
    if observed <= 0:  # no table could do worse
        return 1.0
    samples = conditional_bootstrap(fit._replace(mesh=around), mean, float(best[0]), count, rng)
    tables = data.tables(samples.units)
    smooth = _smooth(data, around.curves, samples.deviance, tables, rng)
    simulated = _statistic(smooth, np.minimum(samples.best, smooth), dispersion)
    return (1 + int((simulated >= observed * (1 - 1e-9)).sum())) / (count + 1)


def _smooth(
    data: Data, curves: Curves, deviance: Array, tables: Tables, rng: np.random.Generator
) -> Array:
    """What the best smooth curve of each table leaves."""
    null = np.flatnonzero(is_smooth(curves))
    return refit(data, curves[null], deviance[:, null], tables, rng, narrowest=SMOOTH_WIDTH)


def _statistic(smooth: Array, best: Array, dispersion: Dispersion) -> Array:
    """What the best curve removes of the best smooth curve's deviance, over what it leaves."""
    return np.asarray((smooth - best) / np.maximum(best, dispersion.least))
