"""N* ∝ C^a: a power law through a few optima, and the local exponent of a law's own optimum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.interval import Interval, student
from analysis.laws.law import Law
from analysis.laws.optimum import Coefficients, compute_optimal

OVER = 10.0  # factor of compute over which exponents are compared


@dataclass(frozen=True)
class PowerLaw:
    """y = exp(log_y)·(x / exp(log_x))^exponent."""

    exponent: float
    interval: Interval | None  # None where there is nothing to judge by, as with two points
    log_x: float
    log_y: float

    def at(self, x: ArrayLike) -> Array:
        """y at `x`."""
        return np.exp(self.log_y + self.exponent * (np.log(x) - self.log_x))


@dataclass(frozen=True)
class Allocation:
    """How N* and D* grow with compute."""

    of_params: PowerLaw
    of_tokens: PowerLaw

    def params(self, flops: ArrayLike) -> Array:
        """N* at budgets C = 6·N·D."""
        return self.of_params.at(flops)

    def tokens(self, flops: ArrayLike) -> Array:
        """D* at budgets C = 6·N·D."""
        return self.of_tokens.at(flops)


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
        interval = Interval(exponent - reach, exponent + reach)
    return PowerLaw(exponent, interval, float(log_x.mean()), float(log_y.mean()))


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
    return replace(found, interval=Interval(found.exponent - reach, found.exponent + reach))


def local_exponent(law: Law, coefficients: Coefficients, flops: float, over: float) -> Array:
    """The exponent a of N* ∝ C^a by a law's optimum around a budget: d ln N* / d ln C.

    `over` is the factor of compute, centred on `flops`, over which it is taken. An entry a draw of
    the coefficients, 0-d for one set of them.
    """
    low, high = (compute_optimal(law, coefficients, flops * over**by).params for by in (-0.5, 0.5))
    return np.asarray(np.log(high / low) / math.log(over))
