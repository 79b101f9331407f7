"""A straight line in log scale with normal errors, and what it says of new models.

Errors and coefficients are uncertain together (flat prior: Gelman et al. 2013, Bayesian Data
Analysis, section 14.2), so that from few points new models are Student's t and not normal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.emergence.breaks import intraclass

Floats = NDArray[np.float64]
LEAST_FREEDOM = 2.0  # with less, Student's t has no mean, and a forecast no score


@dataclass(frozen=True, eq=False)
class Line:
    """y = start + slope·(t - centre), give or take `scatter` a model."""

    start: float
    slope: float
    centre: float
    scatter: float
    root: Floats  # Cholesky root of the coefficients' covariance, over scatter²
    freedom: float  # points beyond the two coefficients

    def draws(self, t: Floats, count: int, rng: np.random.Generator) -> Floats:
        """y of new models at `t`: a row a draw of the line, its scatter and the models."""
        lines, scatter = self._drawn(count, rng)
        middle = lines @ np.stack([np.ones_like(t), t - self.centre])
        return np.asarray(middle + scatter * rng.standard_normal((count, len(t))), np.float64)

    def reaches(self, y: Floats, rng: np.random.Generator) -> Floats:
        """t at which a new model gets to each `y`; infinite where a drawn line runs away from it.

        One draw of the line, its scatter and the model for each.
        """
        lines, scatter = self._drawn(len(y), rng)
        start, slope = lines.T
        start = start + scatter[:, 0] * rng.standard_normal(len(y))
        found = self.centre + (y - start) / slope
        return np.where(slope * self.slope > 0, found, np.inf)

    def _drawn(self, count: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
        """Start and slope, a row a draw, and the scatter in a column of its own."""
        scatter = self.scatter * np.sqrt(self.freedom / rng.chisquare(self.freedom, (count, 1)))
        found = np.array([self.start, self.slope])
        return found + scatter * (rng.standard_normal((count, 2)) @ self.root.T), scatter


def fit_line(t: Floats, y: Floats, weight: Floats) -> Line:
    """Weighted least squares; weights sum to the number of independent points."""
    centre = float(np.average(t, weights=weight))
    design = np.stack([np.ones_like(t), t - centre], axis=1)
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
    found = inverse @ (design.T @ (weight * y))
    freedom = max(float(weight.sum()) - 2, LEAST_FREEDOM)
    scatter = float(np.sqrt(weight @ (y - design @ found) ** 2 / freedom))
    root = np.asarray(np.linalg.cholesky(inverse), np.float64)
    return Line(float(found[0]), float(found[1]), centre, scatter, root, freedom)


def grouped_line(t: Floats, y: Floats, group: NDArray[Any] | None) -> Line:
    """`fit_line`, the points of one group for less the more alike they lie about a first line."""
    line = fit_line(t, y, np.ones(len(t)))
    if group is None:
        return line
    off = y - line.start - line.slope * (t - line.centre)
    return fit_line(t, y, independent(off, group))


def independent(deviation: Floats, group: NDArray[Any]) -> Floats:
    """How many independent points each counts for: 1/(1 + (m - 1)·r) where m correlate by r.

    Kish's design effect (Kish 1965, Survey Sampling, section 5.4).
    """
    codes = np.unique(group, return_inverse=True)[1]
    alike = intraclass(deviation, codes)
    return np.asarray(1 / (1 + (np.bincount(codes)[codes] - 1) * alike), np.float64)
