"""A Bayesian straight line in log scale with normal errors: its forecast of new models.

Errors and coefficients are uncertain together (flat prior: Gelman et al. 2013, Bayesian Data
Analysis, section 14.2), so with few points the forecast of a new model is a Student t distribution
and not a normal one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.array import Array
from analysis.emergence.response.deviance import Indices, intraclass

LEAST_FREEDOM = 2.0  # with less, Student's t has no mean, and a forecast no score


class _Lines(NamedTuple):
    """Draws from the posterior, one row each."""

    coefficients: Array  # (draws, 2): start and slope
    scatter: Array  # (draws, 1)


@dataclass(frozen=True, eq=False)
class Line:
    """y = start + slope·(t − centre) + an error of standard deviation `scatter` per model."""

    start: float
    slope: float
    centre: float
    scatter: float
    root: Array  # Cholesky root of the coefficients' covariance, over scatter²
    freedom: float  # points beyond the two coefficients

    def draws(self, t: Array, count: int, rng: np.random.Generator) -> Array:
        """y of new models at `t`, draws × t; each draw has its own line, scatter and models."""
        lines = self._drawn(count, rng)
        middle = lines.coefficients @ np.stack([np.ones_like(t), t - self.centre])
        errors = lines.scatter * rng.standard_normal((count, len(t)))
        return np.asarray(middle + errors, np.float64)

    def reaches(self, y: Array, rng: np.random.Generator) -> Array:
        """t at which a new model reaches each `y`, from one draw each.

        Infinite where the drawn line moves away from it.
        """
        lines = self._drawn(len(y), rng)
        start, slope = lines.coefficients.T
        start = start + lines.scatter[:, 0] * rng.standard_normal(len(y))
        found = self.centre + (y - start) / slope
        return np.where(slope * self.slope > 0, found, np.inf)

    def _drawn(self, count: int, rng: np.random.Generator) -> _Lines:
        scatter = self.scatter * np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1)))
        found = np.array([self.start, self.slope])
        return _Lines(found + scatter * (rng.standard_normal((count, 2)) @ self.root.T), scatter)


def fit_line(t: Array, y: Array, weight: Array) -> Line:
    """Weighted least squares; weights sum to the number of independent points."""
    centre = float(np.average(t, weights=weight))
    design = np.stack([np.ones_like(t), t - centre], axis=1)
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
    found = inverse @ (design.T @ (weight * y))
    freedom = max(float(weight.sum()) - 2, LEAST_FREEDOM)
    scatter = float(np.sqrt(weight @ (y - design @ found) ** 2 / freedom))
    root = np.asarray(np.linalg.cholesky(inverse), np.float64)
    return Line(float(found[0]), float(found[1]), centre, scatter, root, freedom)


def grouped_line(t: Array, y: Array, group: Indices | None) -> Line:
    """`fit_line` in which the points of a group weigh less, the more they deviate together."""
    line = fit_line(t, y, np.ones(len(t)))
    if group is None:
        return line
    deviation = y - line.start - line.slope * (t - line.centre)
    return fit_line(t, y, effective_weights(deviation, group))


def effective_weights(deviation: Array, group: Indices) -> Array:
    """The number of independent points that each point counts for.

    It is 1/(1 + (m − 1)·r) in a group of m points that correlate by r: Kish's design effect (Kish
    1965, Survey Sampling, section 5.4).
    """
    codes = np.unique(group, return_inverse=True)[1]
    correlation = intraclass(deviation, codes)
    return np.asarray(1 / (1 + (np.bincount(codes)[codes] - 1) * correlation), np.float64)
