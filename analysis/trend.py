"""A power law through a few optima, with what their scatter says of its exponent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from analysis.expression import Array
from analysis.uncertainty import Bounds


@dataclass(frozen=True)
class PowerLaw:
    """y = exp(log_y)·(x / exp(log_x))^exponent."""

    exponent: float
    interval: Bounds | None  # None where there is nothing to judge by, as with two points
    log_x: float
    log_y: float
    points: int

    def at(self, x: ArrayLike) -> Array:
        """y at `x`."""
        return np.exp(self.log_y + self.exponent * (np.log(x) - self.log_x))


def power_law(x: ArrayLike, y: ArrayLike, level: float) -> PowerLaw:
    """Least squares in logarithms through two or more points, at two or more x.

    The interval is Student's t on n − 2 degrees of freedom times the slope's standard error from
    the residuals: it needs no model of the noise and carries whatever scatters the points, and it
    is blind to what moves all of them alike (the bias of a method).
    """
    log_x, log_y = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    centred, freedom = log_x - log_x.mean(), len(log_x) - 2
    exponent = slope(x, y)
    interval = None
    if freedom > 0:
        residuals = log_y - log_y.mean() - exponent * centred
        error = math.sqrt(residuals @ residuals / freedom / (centred @ centred))
        reach = student(freedom, level) * error
        interval = Bounds(exponent - reach, exponent + reach)
    return PowerLaw(exponent, interval, float(log_x.mean()), float(log_y.mean()), len(log_x))


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """The exponent of `power_law` alone."""
    log_x, log_y = np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float))
    centred = log_x - log_x.mean()
    return float(centred @ log_y / (centred @ centred))


def jackknifed(found: PowerLaw, left_out: Sequence[float], level: float) -> PowerLaw:
    """`found` with the interval of a jackknife: `left_out` are the exponents without each cluster.

    Student's t on one degree of freedom fewer than clusters. It carries what the points of a
    cluster share.
    """
    k = len(left_out)
    reach = student(k - 1, level) * math.sqrt((k - 1) * np.var(left_out))
    return replace(found, interval=Bounds(found.exponent - reach, found.exponent + reach))


def student(freedom: float, level: float) -> float:
    """Half the width, in standard deviations, of Student's central interval of that level."""
    from scipy.special import stdtrit  # takes 0.15 s to import

    return float(stdtrit(freedom, (1 + level) / 2))
