"""Forecasts of log-probabilities: −log p falls as a power law of scale (arXiv:2512.08894)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from analysis.array import Array
from analysis.emergence.forecast.log_linear import Line, grouped_line
from analysis.emergence.forecast.scoring import DRAWS, persistence
from analysis.emergence.response.deviance import Indices
from analysis.emergence.response.estimate import NOT_IDENTIFIED, Estimate
from analysis.emergence.scores.series import Series
from analysis.interval import Interval
from scaling.store.records import Refusal

LEAST_NATS = 1e-6  # of −log p: a probability nearer to 1 is taken as this


@dataclass(frozen=True, eq=False)
class LogProbabilityFit:
    """A line of log(−log p) in log scale, with models scattered about it.

    Draws are −log(−log p), on which errors are in e-folds of nats: a forecast that is a Student t
    distribution there has no mean in nats.
    """

    series: Series
    below: Indices  # flags of the scores up to the cutoff
    line: Line

    @property
    def weights(self) -> dict[str, float]:
        """The one form."""
        return {"power_log_prob": 1.0}

    @property
    def observed(self) -> Array:
        """All scores of the series, on the scale of the draws."""
        return -np.log(np.maximum(-self.series.value, LEAST_NATS))

    def in_units(self, draws: Array) -> Array:
        """Draws as log-probabilities."""
        return np.asarray(-np.exp(-draws), np.float64)

    def draw(self, x: Array, n: Array, rng: np.random.Generator) -> Array:
        """Scores of new models at scales `x`, draws × scales; the number of questions is unused."""
        return -self.line.draws(self.series.to_t(x), DRAWS, rng)

    def baselines(self, x: Array, rng: np.random.Generator) -> dict[str, Array]:
        """The baseline: the scores of the largest scale fitted, at any scale."""
        return {"persistence": persistence(self.series.t[self.below], self.observed[self.below])}

    def threshold(self, level: float, rng: np.random.Generator) -> Estimate:
        """None: no score lies midway to minus infinity."""
        return Estimate(None, Interval(-np.inf, np.inf), f"{NOT_IDENTIFIED}: no worst score")

    def warnings(self) -> list[str]:
        """None of its own."""
        return []


def fit_log_probability(series: Series, below: Indices, method: str) -> LogProbabilityFit:
    """The line through the scores `below` the cutoff. Raises Refusal for other methods."""
    if method not in ("auto", "direct", "power_log_prob"):
        raise Refusal(
            f"{series.label}: --method {method} is for scores between a worst and a best value; a "
            "log-probability is forecast by a power law. Use --method power_log_prob."
        )
    y = np.log(np.maximum(-series.value[below], LEAST_NATS))
    group = None if series.group is None else series.group[below]
    return LogProbabilityFit(series, below, grouped_line(series.t[below], y, group))
