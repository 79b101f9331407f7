"""What a fit minimises: a sum over points of a penalty of residuals.

A residual is log(prediction) − log(observation), or prediction − observation. The penalty
comes with its first and second derivative and with the weight that makes a weighted least
squares problem touch it from above (IRLS), which is what damps Newton's method.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.expression import Array
from scaling.records import Refusal


class Penalty(NamedTuple):
    """ρ of every residual: value, ρ′, ρ″ and the IRLS weight ρ′(r)/r."""

    value: Array
    slope: Array
    curvature: Array
    weight: Array


@dataclass(frozen=True)
class Objective:
    """The **sum** of penalties over points.

    Sum, not mean: with the mean, a quasi-Newton method meets its tolerance a decade early and
    reports success at Hoffmann's constants (Besiroglu et al. 2024, arXiv:2404.10102).
    """

    name: str
    delta: float
    log: bool  # residuals of logarithms
    penalty: Callable[[Array, float], Penalty]

    def of(self, residuals: Array) -> Penalty:
        return self.penalty(residuals, self.delta)


def objective(name: str, delta: float = 1e-3) -> Objective:
    """The objective of that name; `delta` is the Huber threshold in the residual's units.

    Raises Refusal listing the names, or for a delta that is not positive.
    """
    if name not in _OBJECTIVES:
        raise Refusal(f"no objective {name!r}. Known: {', '.join(_OBJECTIVES)}.")
    if not delta > 0 or not np.isfinite(delta):
        raise Refusal(f"delta = {delta} is not a positive number. The usual value is 1e-3.")
    log, penalty = _OBJECTIVES[name]
    return Objective(name, delta, log, penalty)


def _huber(r: Array, delta: float) -> Penalty:
    slope = np.clip(r, -delta, delta)
    size = np.abs(r)
    return Penalty(
        slope * (r - 0.5 * slope),
        slope,
        (size <= delta).astype(float),
        delta / np.maximum(size, delta),
    )


def _square(r: Array, delta: float) -> Penalty:
    one = np.ones_like(r)
    return Penalty(0.5 * r * r, r, one, one)


def _asymmetric(r: Array, delta: float) -> Penalty:
    """Huber, counting predictions below the observation (r < 0) a third as much.

    Runs err upwards: bad luck and bad tuning raise a loss, nothing lowers it below the law.
    """
    below = np.where(r < 0, 1 / 3, 1.0)
    value, slope, curvature, weight = _huber(r, delta)
    return Penalty(below * value, below * slope, below * curvature, below * weight)


_OBJECTIVES: dict[str, tuple[bool, Callable[[Array, float], Penalty]]] = {
    "huber_log": (True, _huber),
    "log_l2": (True, _square),
    "l2": (False, _square),
    "huber": (False, _huber),
    "asymmetric": (True, _asymmetric),
}
