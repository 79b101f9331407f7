"""The shapes of a rise: every fitted curve is one of them, moved and stretched.

A shape rises from 0 to 1. Its own coordinate is scaled so that it passes one half at z = 0 and
takes one unit of z from 10% to 90% of the rise. With z = (t − midpoint) / width, the midpoint is
the threshold and the width is the 10–90% width in decades, whatever the shape is. A score is
floor + (ceiling − floor)·shape(z).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit

from analysis.array import Array

LOW, HIGH = 0.1, 0.9  # shares of the rise: its width lies between them
FAR = 30.0  # of v: beyond it p is 0 or 1 to 1e-13


@dataclass(frozen=True, eq=False)
class Shape:
    """A rise from 0 to 1 in a coordinate v of its own, with the inverse."""

    form: str  # the name of its family in results
    rise: Callable[[Array], Array]
    inverse: Callable[[float], float]
    searched: int = 0  # parameters beyond midpoint and width, of which a few values are tried
    smooth: bool = False  # belongs to the null of the sharpness test
    floored: bool = True  # levels off towards small scales; without that it has no threshold

    @cached_property
    def middle(self) -> float:
        """v at half of the rise."""
        return self.inverse(0.5)

    @cached_property
    def length(self) -> float:
        """The 10–90% width in v."""
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


def log_log(v: Array) -> Array:
    """p = exp(−exp(−v)): −log p is a power law of scale where v is linear in log scale."""
    return np.exp(-np.exp(-np.clip(v, -FAR, FAR)))


def log_log_inverse(p: float) -> float:
    """v of `log_log` at p."""
    return -math.log(-math.log(p))


def complementary_log_log(v: Array) -> Array:
    """p = 1 − exp(−exp(v)): p itself is a power law of scale as long as it is small."""
    return -np.expm1(-np.exp(np.clip(v, -FAR, FAR)))


def complementary_log_log_inverse(p: float) -> float:
    """v of `complementary_log_log` at p."""
    return math.log(-math.log1p(-p))


def _saturating(lowest: float) -> Callable[[Array], Array]:
    """1 − exp(−v) for v from `lowest`: the distance to the ceiling is a power law of scale."""
    return lambda v: -np.expm1(-np.clip(v, lowest, 700.0))


def _broken(share: float, ratio: float) -> Shape:
    """−log p = a x^−b whose exponent is `ratio`·b until p reaches `share`."""
    bend = log_log_inverse(share)

    def rise(v: Array) -> Array:
        return log_log(bend + np.where(v > 0, v, ratio * v))

    def inverse(p: float) -> float:
        beyond = log_log_inverse(p) - bend
        return beyond if beyond > 0 else beyond / ratio

    return Shape("broken_power", rise, inverse, searched=2)


# The broken power law (Caballero et al. 2023, arXiv:2210.14891, one break of no extent) has another
# exponent below the break; the place of the break and the ratio of exponents are searched.
SHAPES: tuple[Shape, ...] = (
    Shape("logistic", expit, lambda p: math.log(p / (1 - p)), smooth=True),
    Shape("power_log_prob", log_log, log_log_inverse, smooth=True),
    Shape("hinge", lambda v: np.clip(v, 0.0, 1.0), lambda p: p),
    Shape("hinge_power", _saturating(0.0), lambda p: -math.log1p(-p)),
    *(_broken(share, ratio) for share in (0.05, 0.5) for ratio in (0.1, 0.3, 3.0)),
)
# Only for metrics without a floor, such as a log-probability: value = ceiling − A x^−b.
POWER = Shape(
    "power_law", _saturating(-60.0), lambda p: -math.log1p(-p), smooth=True, floored=False
)
