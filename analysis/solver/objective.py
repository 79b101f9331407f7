"""What a fit minimises: a sum over points of a penalty of residuals.

A residual is log(prediction) − log(observation), or prediction − observation. The penalty
comes with its first and second derivative, and with the weight of the least-squares problem
that touches it from above (IRLS), which is what damps Newton's method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.array import Array
from scaling.store.records import Refusal


class Penalty(NamedTuple):
    """ρ of every residual, with its first and second derivative."""

    value: Array
    slope: Array
    curvature: Array


@dataclass(frozen=True)
class Objective:
    """The **sum** of penalties over points.

    Sum, not mean: with the mean, a quasi-Newton method meets its tolerance a decade early and
    reports success at Hoffmann's constants (Besiroglu et al. 2024, arXiv:2404.10102).
    """

    name: str
    delta: float
    log: bool  # residuals of logarithms
    fill: Callable[[Array, float, Penalty], None]

    def of(self, residuals: Array, into: Penalty | None = None) -> Penalty:
        """The penalty of each residual, written `into` arrays of its shape where given."""
        if into is None:
            into = Penalty(*(np.empty_like(residuals) for _ in range(3)))
        self.fill(residuals, self.delta, into)
        return into

    def irls(self, residuals: Array, penalty: Penalty) -> Array:
        """The weight ρ′(r)/r of the least-squares problem that touches ρ from above."""
        with np.errstate(all="ignore"):
            return np.where(residuals == 0, penalty.curvature, penalty.slope / residuals)


def objective(name: str, delta: float = 1e-3) -> Objective:
    """The objective of that name; `delta` is the Huber threshold in the residual's units.

    Raises Refusal listing the names, or for a delta that is not positive.
    """
    if name not in _OBJECTIVES:
        raise Refusal(f"no objective {name!r}. Known: {', '.join(_OBJECTIVES)}.")
    if not delta > 0 or not np.isfinite(delta):
        raise Refusal(f"delta = {delta} is not a positive number. The usual value is 1e-3.")
    log, fill = _OBJECTIVES[name]
    return Objective(name, delta, log, fill)


def _huber(r: Array, delta: float, into: Penalty) -> None:
    value, slope, curvature = into
    np.clip(r, -delta, delta, out=slope)
    np.multiply(slope, -0.5, out=value)
    value += r
    value *= slope
    np.equal(slope, r, out=curvature)


def _square(r: Array, delta: float, into: Penalty) -> None:
    np.multiply(r, r, out=into.value)
    into.value[...] *= 0.5
    into.slope[...] = r
    into.curvature[...] = 1.0


def _asymmetric(r: Array, delta: float, into: Penalty) -> None:
    """Huber, counting predictions above the observation (r > 0) three times as much.

    Bad luck and bad tuning raise a loss, nothing lowers it: the law follows the lower edge.
    """
    _huber(r, delta, into)
    for part in into:
        part[...] *= np.where(r > 0, 3.0, 1.0)


THRESHOLDED = ("huber_log", "huber", "asymmetric")  # those that have a delta
_OBJECTIVES: dict[str, tuple[bool, Callable[[Array, float, Penalty], None]]] = {
    "huber_log": (True, _huber),
    "log_l2": (True, _square),
    "l2": (False, _square),
    "huber": (False, _huber),
    "asymmetric": (True, _asymmetric),
}
