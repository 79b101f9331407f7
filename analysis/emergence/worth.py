"""What a forecast is worth: the rules it is judged by, and the baselines it must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from analysis.emergence.ability import Seen

Floats = NDArray[np.float64]
DRAWS = 2000
# Of the plain logistic: log-odds a decade below the largest scale seen, and their rise a decade of
# FLOPs. Nine in ten of 54 published tasks rise by less than 2.3 (ability.py). Of the bounds 2.5, 3,
# 4 and 20 the first forecasts best on the tables of benchmarks/scores_ahead.py (in the mean .044 on
# Pythia for .059, .078 on emergent tasks for .163): a curve that may rise as it likes follows the
# noise of scores near chance to 1 within half a decade.
LEVELS = np.linspace(-10.0, 10.0, 161)
SLOPES = np.linspace(0.0, 2.5, 26)
# Of the greatest likelihood: finer grids span what is above. On the first grid few curves, or none,
# come as near to precise scores as these lie, so the first two are cut as for FEW scores at most.
UNLIKELY, FEW = 1e-6, 8
LEAST_ERROR = 1e-4  # of a score: scores that lie on a curve do not make it certain


@dataclass(frozen=True)
class Judged:
    """A method against the scores above the cut, in unit score (0 worst, 1 best).

    Of log-probabilities in e-folds of nats: .1 is a tenth more or less of them.
    """

    method: str
    n: int
    error: float  # mean absolute error of the median
    brier: float  # mean squared error of the mean: a question's Brier score, above the least
    crps: float  # of the whole distribution
    coverage: float  # of the interval: the share of scores inside

    def to_json(self) -> dict[str, Any]:
        """As DESIGN's tables: plain values."""
        return dict(self.__dict__)


def persistence(seen: Seen) -> Floats:
    """Nothing changes: the scores of the largest scale seen, each as likely, at every scale."""
    return seen.share[seen.t == seen.t.max()][:, None]


def plain_logistic(seen: Seen, t: Floats, rng: np.random.Generator) -> Floats:
    """A logistic from chance to 1 by least squares with normal errors: the field's usual curve.

    A row a draw. Levels and slopes lie on a grid, thrice made finer over those that are not
    unlikely, and each counts by the likelihood of its sum of
    squares S over n scores with a standard deviation that is not known, S^(-n/2) (Box and Tiao
    1973, Bayesian Inference in Statistical Analysis, section 1.3), so that where the scores do not
    fix the curve its forecast is wide and does not run away.
    """

    def curve(level: Floats, slope: Floats, at: Floats) -> Floats:
        rise = expit(level[:, None] + slope[:, None] * seen.line(at))
        return np.asarray(seen.chance + (1 - seen.chance) * rise, float)

    def left(levels: Floats, slopes: Floats) -> Floats:
        """Sums of squares, a row a slope and a column a level."""
        squares = np.array([
            ((curve(levels, np.full(len(levels), each), seen.t) - seen.share) ** 2).sum(axis=1)
            for each in slopes
        ])  # fmt: skip
        return np.maximum(squares, len(seen.t) * LEAST_ERROR**2)

    count, levels, slopes = len(seen.t), LEVELS, SLOPES
    for scores in (min(count, FEW), min(count, FEW), count):
        inside = _likelihood(left(levels, slopes), scores) > UNLIKELY
        levels, slopes = (
            _finer(levels, np.any(inside, axis=0)),
            _finer(slopes, np.any(inside, axis=1)),
        )
    squares = left(levels, slopes).ravel()
    likely = _likelihood(squares, count)
    chosen = rng.choice(len(likely), DRAWS, p=likely / likely.sum())
    slope, level = (each.ravel() for each in np.meshgrid(slopes, levels, indexing="ij"))
    error = np.sqrt(squares[chosen] / rng.chisquare(max(count - 2, 2), DRAWS))
    errors = error[:, None] * rng.standard_normal((DRAWS, len(t)))
    return np.clip(curve(level[chosen], slope[chosen], t) + errors, 0.0, 1.0)


def _likelihood(squares: Floats, scores: int) -> Floats:
    """Of each sum of squares over so many scores, over the greatest."""
    return np.asarray(np.exp(-0.5 * scores * np.log(squares / squares.min())), np.float64)


def _finer(grid: Floats, inside: NDArray[np.bool_]) -> Floats:
    """As many values over the cells that are `inside`, and one more on either side."""
    at = np.flatnonzero(inside)
    first, last = max(int(at[0]) - 1, 0), min(int(at[-1]) + 1, len(grid) - 1)
    return np.linspace(grid[first], grid[last], len(grid))


def crps(samples: Floats, seen: Floats) -> Floats:
    """Continuous ranked probability score of each column's draws: E|X - y| - E|X - X'|/2.

    Gneiting and Raftery 2007, JASA 102:359. The absolute error of a forecast without spread.
    """
    ordered = np.sort(samples, axis=0)
    count = len(ordered)
    rank = 2 * np.arange(1, count + 1)[:, None] - count - 1
    return np.abs(ordered - seen).mean(axis=0) - (rank * ordered).sum(axis=0) / count**2


def judge(method: str, samples: Floats, seen: Floats, level: float) -> Judged:
    """How a sample of forecasts (a row a draw, a column a score, or one for all) did."""
    samples = np.broadcast_to(samples, (len(samples), len(seen)))
    tail = 100 * (1 - level) / 2
    low, median, high = np.percentile(samples, [tail, 50, 100 - tail], axis=0)
    inside = (seen >= low - 1e-9) & (seen <= high + 1e-9)
    return Judged(
        method,
        len(seen),
        float(np.abs(median - seen).mean()),
        float(((samples.mean(axis=0) - seen) ** 2).mean()),
        float(crps(samples, seen).mean()),
        float(inside.mean()),
    )
