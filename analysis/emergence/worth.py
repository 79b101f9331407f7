"""What a forecast is worth: the rules it is judged by, and the baselines it must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from analysis.emergence.ability import Seen

Floats = NDArray[np.float64]
DRAWS = 2000


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


def constant(seen: Seen) -> Floats:
    """Nothing changes: the scores seen, each as likely, at every scale."""
    return seen.share[:, None]


def plain_logistic(seen: Seen, t: Floats, rng: np.random.Generator) -> Floats:
    """A logistic from chance to 1 by least squares with normal errors: the field's usual curve."""
    centre = float(seen.t.mean())

    def curve(at: Floats, where: Floats) -> Floats:
        rise = expit(at[0] + at[1] * (where - centre))
        return np.asarray(seen.chance + (1 - seen.chance) * rise, float)

    def misfit(at: Floats) -> float:
        return float(np.sum((curve(at, seen.t) - seen.share) ** 2))

    starts = ((-2.0, 1.0), (0.0, 1.0), (-4.0, 3.0))
    found = min(
        (minimize(misfit, np.array(start), method="Nelder-Mead") for start in starts),
        key=lambda each: float(each.fun),
    )
    spread = np.sqrt(found.fun / max(len(seen.t) - 2, 1))
    errors = spread * rng.standard_normal((DRAWS, len(t)))
    return np.clip(curve(found.x, t) + errors, 0.0, 1.0)


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
