"""Coefficients that are held at a value, and priors: a value with a standard deviation.

A prior pulls like one more observation. Its weight against the rows is set by their own
scatter, so that the same prior means the same whatever the objective.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.arguments import LEAST, MOST, as_mapping, as_number, usable, wrong_kind
from analysis.array import Array
from analysis.laws.law import Law
from analysis.solver.newton import Local, Mask
from analysis.solver.problem import Model
from scaling.store.records import Refusal

CONTRADICTS = 3.0  # sd of a prior, beyond which chance puts one estimate in 370
NO_FLOOR = -700.0  # the logarithm of a floor that is held at 0


@dataclass(frozen=True)
class Prior:
    """`value` with its standard deviation: relative for a positive coefficient, else absolute."""

    value: float
    sd: float


def priors_of(given: Mapping[str, Prior | tuple[float, float]] | None) -> dict[str, Prior]:
    """The priors by name, each of which may be given as the pair (value, sd).

    Raises Refusal for what is neither a prior nor such a pair.
    """
    named = as_mapping("prior", given, "{'E': (1.8, 0.1)}")
    return {
        name: _refuse_size(f"prior of {name}", _prior(f"prior of {name}", each))
        for name, each in named.items()
    }


def _prior(name: str, given: Prior | tuple[float, float]) -> Prior:
    if isinstance(given, Prior):
        return given
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise wrong_kind(name, given, "a pair of numbers", "Give (value, sd), such as (1.8, 0.1).")
    value, sd = given
    return Prior(as_number(f"value of the {name}", value), as_number(f"sd of the {name}", sd))


def _refuse_size(name: str, prior: Prior) -> Prior:
    """The prior. Raises Refusal for one whose numbers no arithmetic keeps."""
    for what, number, positive in (("value", prior.value, False), ("sd", prior.sd, True)):
        if math.isfinite(number) and number and not usable(number, positive and number > 0):
            raise Refusal(
                f"{what} = {number:g} of the {name} is beyond {LEAST:g} to {MOST:g}. Give one that "
                "is meant."
            )
    return prior


@dataclass(frozen=True)
class Fixed:
    """Which coefficients are held, and where on the fitting scale."""

    mask: Mask
    theta: Array


def fixed_of(law: Law, fixed: Mapping[str, float]) -> Fixed:
    """Raises Refusal for an unknown name, or a value the law does not allow."""
    theta = np.zeros(len(law.coefficients))
    for name, value in fixed.items():
        place = _place(law, name, "fixed")
        no_floor = value == 0 and name in law.floors
        theta[place] = NO_FLOOR if no_floor else _theta(law, name, value, "fixed")
    return Fixed(np.array([name in fixed for name in law.coefficients]), theta)


def away(
    law: Law, coefficients: Mapping[str, float], prior: Mapping[str, Prior]
) -> dict[str, float]:
    """How many of its sd a coefficient lies from its prior's value, by name, with its sign."""
    found = {}
    for name, known in prior.items():
        value = coefficients[name]
        if law.symbols[name].positive:
            ratio = value / known.value
            off = float(np.log(ratio)) if ratio > 0 else -np.inf
        else:
            off = value - known.value
        found[name] = float(off / known.sd)
    return found


def contradictions(
    law: Law, coefficients: Mapping[str, float], prior: Mapping[str, Prior]
) -> list[str]:
    """Priors that the rows contradict, and what to do."""
    return [
        f"{name} = {coefficients[name]:.4g} lies {abs(off):.1f} sd from its prior "
        f"({prior[name].value:g}, sd {prior[name].sd:g}): the rows contradict the prior. Find out "
        "which is wrong, and fit again without the prior, with a larger sd, or without those rows"
        for name, off in away(law, coefficients, prior).items()
        if abs(off) > CONTRADICTS
    ]


def above(law: Law, fixed: Mapping[str, float], rows: pd.DataFrame) -> list[str]:
    """Floors that are held above losses, which no coefficient can then reach."""
    losses = rows[law.target].to_numpy(dtype=float)
    return [
        f"{name} = {value:g} is held above the {law.target} of {under} of {len(losses)} runs "
        f"(the least is {losses.min():.4g}), and the law is nowhere below it: hold a smaller "
        f"value, or leave {name} to the rows"
        for name, value in fixed.items()
        if name in law.floors and (under := int((losses < value).sum()))
    ]


def _theta(law: Law, name: str, value: float, what: str) -> float:
    value = as_number(f"{what} {name}", value)
    symbol = law.symbols[name]
    allowed = usable(value, positive=False) and symbol.lower <= value <= symbol.upper
    if not allowed or (symbol.positive and not value > 0):
        not_zero = symbol.positive and not (what == "fixed" and name in law.floors)
        raise Refusal(
            f"{what} {name} = {value} is outside what {law.name} allows "
            f"({symbol.lower:g} to {symbol.upper:g}{', not 0' * not_zero}). Give a value within."
        )
    return float(np.log(value) if symbol.positive else value)


def _place(law: Law, name: str, what: str) -> int:
    if name not in law.coefficients:
        raise Refusal(
            f"{what} {name!r} is no coefficient of {law.name}: {', '.join(law.coefficients)}."
        )
    return law.coefficients.index(name)


class Regularised:
    """A model with ½ ((θ − value)/sd)² · scatter added for each prior."""

    def __init__(self, law: Law, inner: Model, prior: Mapping[str, Prior], scatter: float) -> None:
        self._inner = inner
        self.lower, self.upper, self.block = inner.lower, inner.upper, inner.block
        self.floors = inner.floors
        self.enter, self.leave, self.residuals = inner.enter, inner.leave, inner.residuals
        self.faint = np.full(len(inner.lower), -np.inf)  # a prior may hold a term up
        self._middle = np.zeros(len(law.coefficients))
        self._sd = np.zeros(len(law.coefficients))
        precision = np.zeros(len(law.coefficients))
        for name, known in prior.items():
            if not known.sd > 0:
                raise Refusal(f"prior {name} has sd = {known.sd}; it must be positive.")
            i = _place(law, name, "prior")
            self._middle[i] = _theta(law, name, known.value, "prior")
            self._sd[i], precision[i] = known.sd, scatter / known.sd**2
        # θ = point @ matrix, so the prior's curvature in the model's coordinates is:
        self._matrix = inner.leave(np.eye(len(precision)))
        self._precision = precision
        self._curvature = self._matrix @ np.diag(precision) @ self._matrix.T
        self._rows = inner.residuals(inner.enter(self._middle[None])).shape[1]

    def drawn(self, rng: np.random.Generator, weights: Array) -> Array:
        """`weights` of resamples, a row each, with the value of each prior drawn anew for `local`.

        A prior is an observation: resamples that left it in place would take it for exact, and
        what only the prior knows would have no error.
        """
        moved = rng.standard_normal((len(weights), len(self._sd)))
        return np.concatenate([weights, moved], axis=1)

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        """As of the model; `weights` may be those of `drawn`, with what moves each prior."""
        rows, moved = weights[:, : self._rows], weights[:, self._rows :]
        value, gradient, hessian, majoriser = self._inner.local(point, rows, majorise)
        away = point @ self._matrix - self._middle
        if moved.size:
            away = away - moved * self._sd
        hessian = hessian + self._curvature
        return Local(
            value + 0.5 * (away**2) @ self._precision,
            gradient + (away * self._precision) @ self._matrix.T,
            hessian,
            majoriser + self._curvature if majorise else hessian,
        )
