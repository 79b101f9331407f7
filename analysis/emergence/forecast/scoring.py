"""How good a forecast is: its scoring rules, and the baselines that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from analysis.array import Array
from analysis.emergence.forecast.latent_ability import Observations
from analysis.emergence.response.deviance import Indices

DRAWS = 2000
# Of the plain logistic: log-odds a decade below the largest scale seen, and their rise per decade
# of FLOPs. Nine in ten of 54 published tasks rise by less than 2.3 (latent_ability.py). Of the
# bounds 2.5, 3, 4 and 20 the first forecasts best on the tables of benchmarks/scores_ahead.py (mean
# CRPS .044 on Pythia instead of .059, .078 on emergent tasks instead of .163): without a bound the
# curve follows the noise of scores near chance to 1 within half a decade.
LEVELS = np.linspace(-10.0, 10.0, 161)
SLOPES = np.linspace(0.0, 2.5, 26)
# Of the greatest likelihood: finer grids span what is above. The first grid may have few curves, or
# none, as close to precise scores as these are to the best, so the first two are cut as if there
# were at most FEW scores.
UNLIKELY, FEW = 1e-6, 8
LEAST_ERROR = 1e-4  # of a score: scores that lie on a curve do not make it certain


@dataclass(frozen=True)
class Judged:
    """A method's errors on the scores above the cutoff, in unit score (0 worst, 1 best).

    Those of log-probabilities are in e-folds of nats: .1 is a tenth more or less of them.
    """

    method: str
    n: int
    error: float  # mean absolute error of the median
    brier: float  # mean squared error of the mean
    crps: float  # of the whole distribution
    coverage: float  # the share of scores inside the interval


def persistence(t: Array, scores: Array) -> Array:
    """Baseline without change: the scores of the largest scale seen, equally likely at any scale.

    One row per score, one column.
    """
    return scores[t == t.max()][:, None]


def plain_logistic(seen: Observations, t: Array, rng: np.random.Generator) -> Array:
    """The usual baseline: a logistic from chance to 1 with normal errors. Draws × t.

    Levels and slopes lie on a grid that is refined three times where they are not unlikely. Each
    counts by the likelihood of its sum of squares S over n scores with an unknown standard
    deviation, S^(−n/2) (Box and Tiao 1973, Bayesian Inference in Statistical Analysis, section
    1.3). Where the scores do not determine the curve, its forecast is therefore wide and stays near
    them.
    """

    def curve(level: Array, slope: Array, at: Array) -> Array:
        rise = expit(level[..., None] + slope[..., None] * seen.line(at))
        return np.asarray(seen.chance + (1 - seen.chance) * rise, float)

    def squares_of(levels: Array, slopes: Array) -> Array:
        """Sums of squares, slopes × levels."""
        missed = curve(levels, slopes[:, None], seen.t) - seen.share
        return np.maximum((missed**2).sum(axis=-1), len(seen.t) * LEAST_ERROR**2)

    count, levels, slopes = len(seen.t), LEVELS, SLOPES
    for scores in (min(count, FEW), min(count, FEW), count):
        likely = _likelihood(squares_of(levels, slopes), scores) > UNLIKELY
        levels = _finer(levels, np.any(likely, axis=0))
        slopes = _finer(slopes, np.any(likely, axis=1))
    squares = squares_of(levels, slopes).ravel()
    likelihood = _likelihood(squares, count)
    chosen = rng.choice(len(likelihood), DRAWS, p=likelihood / likelihood.sum())
    slope, level = (each.ravel() for each in np.meshgrid(slopes, levels, indexing="ij"))
    error = np.sqrt(squares[chosen] / rng.chisquare(max(count - 2, 2), DRAWS))
    errors = error[:, None] * rng.standard_normal((DRAWS, len(t)))
    return np.clip(curve(level[chosen], slope[chosen], t) + errors, 0.0, 1.0)


def _likelihood(squares: Array, scores: int) -> Array:
    """Likelihood of each sum of squares over so many scores, relative to the greatest."""
    return np.asarray(np.exp(-0.5 * scores * np.log(squares / squares.min())), np.float64)


def _finer(grid: Array, inside: Indices) -> Array:
    """As many values over the cells that are `inside`, and one more on either side."""
    at = np.flatnonzero(inside)
    first, last = max(int(at[0]) - 1, 0), min(int(at[-1]) + 1, len(grid) - 1)
    return np.linspace(grid[first], grid[last], len(grid))


def crps(samples: Array, observed: Array) -> Array:
    """Continuous ranked probability score of each column's draws: E|X − y| − E|X − X'|/2.

    Gneiting and Raftery 2007, JASA 102:359. For a forecast without spread, the absolute error.
    """
    ordered = np.sort(samples, axis=0)
    count = len(ordered)
    rank = 2 * np.arange(1, count + 1)[:, None] - count - 1
    return np.abs(ordered - observed).mean(axis=0) - (rank * ordered).sum(axis=0) / count**2


def judge(method: str, samples: Array, observed: Array, level: float) -> Judged:
    """The errors of a sample of forecasts, draws × scores (or × 1, the same for all scores)."""
    samples = np.broadcast_to(samples, (len(samples), len(observed)))
    tail = 100 * (1 - level) / 2
    low, median, high = np.percentile(samples, [tail, 50, 100 - tail], axis=0)
    inside = (observed >= low - 1e-9) & (observed <= high + 1e-9)
    return Judged(
        method,
        len(observed),
        float(np.abs(median - observed).mean()),
        float(((samples.mean(axis=0) - observed) ** 2).mean()),
        float(crps(samples, observed).mean()),
        float(inside.mean()),
    )
