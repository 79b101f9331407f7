"""Every curve is a shape, moved and stretched.

A shape rises from 0 to 1. Its own coordinate is scaled so that it passes one half at z = 0 and
takes one unit of z from 10% to 90% of the rise; with z = (t − midpoint) / width the midpoint is
the threshold and the width is the 10–90% width, in decades, whatever the shape. A score is
floor + (ceiling − floor)·shape(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from analysis.expression import Array

LOW, HIGH = 0.1, 0.9  # of the rise: between them lies its width


@dataclass(frozen=True, eq=False)
class Shape:
    """A rise from 0 to 1 in a coordinate v of its own, with the inverse."""

    form: str  # the family it is reported as
    rise: Callable[[Array], Array]
    inverse: Callable[[float], float]
    searched: int = 0  # parameters beyond midpoint and width, tried at a few values
    smooth: bool = False  # belongs to the null of no break
    floored: bool = True  # levels off towards small scales; without that it has no threshold

    @cached_property
    def middle(self) -> float:
        return self.inverse(0.5)

    @cached_property
    def length(self) -> float:
        return self.inverse(HIGH) - self.inverse(LOW)

    def __call__(self, z: Array) -> Array:
        return self.rise(self.middle + self.length * z)

    def at(self, share: float) -> float:
        """z where `share` of the rise is reached; −inf at 0 and inf at 1 or more."""
        if not self.floored:
            return math.nan
        if share <= 0:
            return -math.inf
        if share >= 1:
            return math.inf
        return (self.inverse(share) - self.middle) / self.length


def _gompertz(v: Array) -> Array:
    return np.exp(-np.exp(np.minimum(-v, 50.0)))


def _log_log(p: float) -> float:
    return -math.log(-math.log(p))


def _broken(share: float, ratio: float) -> Shape:
    """−log p = a x^−b whose exponent is `ratio`·b until p reaches `share`."""
    bend = _log_log(share)

    def rise(v: Array) -> Array:
        return _gompertz(bend + np.where(v > 0, v, ratio * v))

    def inverse(p: float) -> float:
        beyond = _log_log(p) - bend
        return beyond if beyond > 0 else beyond / ratio

    return Shape("broken_power", rise, inverse, searched=2)


# The curves of the field. −log p = a x^−b is the double exponential in log x (Gompertz). The
# broken power law (Caballero et al. 2023, arXiv:2210.14891, one break of no extent) is the same
# with another exponent below the break; its place and the ratio of exponents are searched.
SHAPES: tuple[Shape, ...] = (
    Shape("logistic", expit, lambda p: math.log(p / (1 - p)), smooth=True),
    Shape("power_log_prob", _gompertz, _log_log, smooth=True),
    Shape("hinge", lambda v: np.clip(v, 0.0, 1.0), lambda p: p),
    Shape(
        "hinge_power",
        lambda v: -np.expm1(-np.clip(v, 0.0, 700.0)),
        lambda p: -math.log1p(-p),
    ),
    *(_broken(share, ratio) for share in (0.05, 0.5) for ratio in (0.1, 0.3, 3.0)),
)
# For metrics without a floor alone, such as a log-probability: value = ceiling − A x^−b.
POWER = Shape(
    "power_law",
    lambda v: -np.expm1(-np.clip(v, -60.0, 700.0)),
    lambda p: -math.log1p(-p),
    smooth=True,
    floored=False,
)
