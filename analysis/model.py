"""A law on given data as something to minimise: value, gradient, Hessian and IRLS matrix.

Two evaluators share one contract: sums of powers have a fast one of their own (powers.py), any
other law goes through the exact derivatives of its formula.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from analysis.expression import Array, Expr, derivative, evaluate, symbols
from analysis.laws import Law
from analysis.newton import Local
from analysis.objective import Objective

FAINT = 7.0  # e-folds below it at which a term hardly shows
DEEP = 35.0  # e-folds below the smallest loss at which a term is nothing: a share of 1e-15


@dataclass(frozen=True)
class Data:
    """The columns a law needs, as the fit sees them."""

    features: Mapping[str, Array]  # by letter of the formula
    observed: Array

    @property
    def n(self) -> int:
        return len(self.observed)

    def rows(self, index: Array | slice) -> Data:
        return Data({k: v[index] for k, v in self.features.items()}, self.observed[index])


class Model(Protocol):
    """Minimised in coordinates of its own; `enter` and `leave` translate to the law's.

    The law's θ are logarithms of positive coefficients and the others as they are.
    """

    lower: Array
    upper: Array
    width: int  # arrays as large as the batch alive at once
    faint: Array  # below this a coordinate's term is a thousandth of any loss

    def enter(self, theta: Array) -> Array: ...
    def leave(self, point: Array) -> Array: ...
    def local(self, point: Array, weights: Array, majorise: bool) -> Local: ...
    def residuals(self, point: Array) -> Array: ...
    def near(self, point: Array) -> Model:
        """A model with the same values and gradients, cheaper and as good close to `point`."""
        ...


def to_theta(law: Law, coefficients: Mapping[str, float | Array]) -> Array:
    """Coefficients by name → (…, p) on the fitting scale."""
    columns = []
    with np.errstate(divide="ignore"):
        for name in law.coefficients:
            value = np.asarray(coefficients[name], dtype=float)
            columns.append(np.log(value) if law.symbols[name].positive else value)
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def to_coefficients(law: Law, theta: Array) -> dict[str, Array]:
    """(…, p) on the fitting scale → arrays by name."""
    with np.errstate(over="ignore", under="ignore"):
        return {
            name: np.exp(theta[..., i]) if law.symbols[name].positive else theta[..., i]
            for i, name in enumerate(law.coefficients)
        }


class General:
    """Exact derivatives of the formula, evaluated together with their common parts shared."""

    def __init__(self, law: Law, data: Data, objective: Objective) -> None:
        self._law, self._data, self._objective = law, data, objective
        self._second: Array | None = None
        self._goal = np.log(data.observed) if objective.log else data.observed
        self.lower, self.upper = bounds(law, data.observed)
        floors = np.array([is_floor(law, name) for name in law.coefficients])
        self.faint = np.where(floors, self.lower + DEEP - FAINT, -np.inf)
        self.width = 20 * len(law.coefficients) ** 2  # shared sub-formulas, roughly

    @cached_property
    def _derivatives(self) -> list[Expr]:
        """f, then ∂f/∂θ_a, then ∂²f/∂θ_a∂θ_b for b ≤ a; θ is a logarithm where positive."""
        letters = {s.symbol.name: s for s in symbols(self._law.loss) if s.symbol}
        coefficients = [letters[name] for name in self._law.coefficients]

        def along(e: Expr, by: Expr) -> Expr:
            assert by.symbol is not None
            return by * derivative(e, by) if by.symbol.positive else derivative(e, by)

        first = [along(self._law.loss, c) for c in coefficients]
        second = [along(first[a], coefficients[b]) for a in range(len(first)) for b in range(a + 1)]
        return [self._law.loss, *first, *second]

    def enter(self, theta: Array) -> Array:
        return theta

    def leave(self, point: Array) -> Array:
        return point

    def near(self, point: Array) -> Model:
        """∂²f/f is taken at `point` for good: its formulas are most of the work of a step."""
        size = len(point)
        with np.errstate(all="ignore"):
            parts = evaluate(self._derivatives, self._values(point[None]))
            scale = parts[0] if self._objective.log else 1.0
            shape = (1, self._data.n)
            second = [np.broadcast_to(p / scale, shape)[0] for p in parts[size + 1 :]]
        close = copy.copy(self)
        close._derivatives = self._derivatives[: size + 1]
        close._second = np.stack(second, axis=1)
        return close

    def residuals(self, point: Array) -> Array:
        with np.errstate(all="ignore"):
            value = np.broadcast_to(
                evaluate([self._law.loss], self._values(point))[0], (len(point), self._data.n)
            )
            return (np.log(value) if self._objective.log else value) - self._goal

    def _values(self, point: Array) -> dict[str, Array]:
        values: dict[str, Array] = {k: v[None, :] for k, v in self._data.features.items()}
        with np.errstate(over="ignore", under="ignore"):
            for name, value in to_coefficients(self._law, point).items():
                values[name] = value[:, None]
        return values

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        batch, size = point.shape
        shape = (batch, self._data.n)
        with np.errstate(all="ignore"):
            parts = evaluate(self._derivatives, self._values(point))
            total = np.broadcast_to(parts[0], shape)
            inverse = 1 / total if self._objective.log else 1.0
            residual = (np.log(total) if self._objective.log else total) - self._goal
            penalty = self._objective.of(residual)
            slope = weights * penalty.slope
            outer = weights * penalty.curvature - (slope if self._objective.log else 0.0)
            value = np.sum(weights * penalty.value, axis=1)
            gradient = np.empty((batch, size))
            hessian = np.empty((batch, size, size))
            majoriser = np.empty((batch, size, size)) if majorise else hessian
            irls = weights * self._objective.irls(residual, penalty) if majorise else slope
            first = [np.broadcast_to(part * inverse, shape) for part in parts[1 : size + 1]]
            if self._second is None:
                over = slope * inverse
                curved_sums = iter([_inner(over, part) for part in parts[size + 1 :]])
            else:
                curved_sums = iter((slope @ self._second).T)
            for a in range(size):
                gradient[:, a] = np.einsum("bi,bi->b", slope, first[a])
                curved = outer * first[a]
                bounded = irls * first[a] if majorise else curved
                for b in range(a + 1):
                    entry = np.einsum("bi,bi->b", curved, first[b])
                    curvature = next(curved_sums)
                    entry += curvature
                    hessian[:, a, b] = hessian[:, b, a] = entry
                    if majorise:
                        bound = np.einsum("bi,bi->b", bounded, first[b])
                        if a == b:
                            bound += np.abs(curvature)
                        majoriser[:, a, b] = majoriser[:, b, a] = bound
        value = np.where(np.isfinite(value), value, np.inf)
        return Local(value, gradient, hessian, majoriser)


def _inner(weights: Array, values: Array | float) -> Array | float:
    return 0.0 if isinstance(values, float) and values == 0.0 else np.sum(weights * values, axis=1)


def bounds(law: Law, observed: Array) -> tuple[Array, Array]:
    """Bounds on the fitting scale. A bare additive floor lies between nothing and the losses."""
    lower, upper = [], []
    for name in law.coefficients:
        symbol = law.symbols[name]
        low, high = symbol.lower, symbol.upper
        if symbol.positive:
            low = np.log(low) if low > 0 else -700.0
            high = np.log(high) if np.isfinite(high) else 700.0
            if is_floor(law, name):
                low, high = np.log(observed.min()) - DEEP, np.log(observed.max())
        lower.append(max(low, -1e6))
        upper.append(min(high, 1e6))
    return np.array(lower), np.array(upper)


def is_floor(law: Law, name: str) -> bool:
    """Is the coefficient a bare addend: the loss that remains at infinite scale?"""
    return any(t.symbol is not None and t.symbol.name == name for t in addends(law.loss))


def addends(e: Expr) -> list[Expr]:
    return [t for arg in e.args for t in addends(arg)] if e.op == "add" else [e]
