"""A law on given data as something to minimise: value, gradient, Hessian and IRLS matrix.

Two evaluators share one contract: sums of powers have a fast one of their own (powers.py), any
other law goes through the exact derivatives of its formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from analysis.expression import Array, Expr, derivative, symbols
from analysis.laws import Law
from analysis.newton import Local, Mask
from analysis.objective import Objective
from analysis.tape import Tape

FAINT = 7.0  # e-folds below it at which a term hardly shows
DEEP = 35.0  # e-folds below the smallest loss at which a term is nothing: a share of 1e-15
NEARLY = 15.0  # e-folds above that at which a floor is nothing still: 1e-9 of any loss


@dataclass(frozen=True)
class Data:
    """The columns a law needs, as the fit sees them."""

    features: Mapping[str, Array]  # by letter of the formula
    observed: Array

    @property
    def n(self) -> int:
        return len(self.observed)

    @cached_property
    def scale(self) -> Array:
        """The observed, and the least positive one for those that are not: what sizes go by."""
        positive = self.observed > 0
        least = self.observed[positive].min() if positive.any() else 1.0
        return np.where(positive, self.observed, least)

    def rows(self, index: Array | slice) -> Data:
        return Data({k: v[index] for k, v in self.features.items()}, self.observed[index])


class Model(Protocol):
    """Minimised in coordinates of its own; `enter` and `leave` translate to the law's.

    The law's θ are logarithms of positive coefficients and the others as they are.
    """

    lower: Array
    upper: Array
    block: int  # elements (problems × points) to work on at a time
    faint: Array  # below this a coordinate's term is a thousandth of any loss
    floors: Mask  # which coordinates are logarithms of floors

    def enter(self, theta: Array) -> Array: ...
    def leave(self, point: Array) -> Array: ...
    def local(self, point: Array, weights: Array, majorise: bool) -> Local: ...
    def residuals(self, point: Array) -> Array: ...


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


def coefficients_at(law: Law, problem: Model, points: Array) -> dict[str, Array]:
    """Coefficients by name at (…, p) points in the model's coordinates.

    A floor at its lower bound is 0: its logarithm can only come near that.
    """
    found = to_coefficients(law, problem.leave(points))
    for i in np.flatnonzero(problem.floors):
        name = law.coefficients[i]
        found[name] = np.where(points[..., i] <= problem.lower[i] + NEARLY, 0.0, found[name])
    return found


class General:
    """Exact derivatives of the formula, evaluated together with their common parts shared."""

    block = 2**14

    def __init__(self, law: Law, data: Data, objective: Objective) -> None:
        self._law, self._data, self._objective = law, data, objective
        self._goal = np.log(data.observed) if objective.log else data.observed
        self.lower, self.upper = bounds(law, data.scale)
        self.floors = np.isin(law.coefficients, law.floors)
        self.faint = np.where(self.floors, self.lower + DEEP - FAINT, -np.inf)
        self._value = Tape([law.loss], data.features)

    @cached_property
    def _derivatives(self) -> Tape:
        """f, then ∂f/∂θ_a, then ∂²f/∂θ_a∂θ_b for b ≤ a; θ is a logarithm where positive."""
        letters = {s.symbol.name: s for s in symbols(self._law.loss) if s.symbol}
        coefficients = [letters[name] for name in self._law.coefficients]

        def along(e: Expr, by: Expr) -> Expr:
            assert by.symbol is not None
            return by * derivative(e, by) if by.symbol.positive else derivative(e, by)

        first = [along(self._law.loss, c) for c in coefficients]
        second = [along(first[a], coefficients[b]) for a in range(len(first)) for b in range(a + 1)]
        return Tape([self._law.loss, *first, *second], self._data.features)

    def enter(self, theta: Array) -> Array:
        return theta

    def leave(self, point: Array) -> Array:
        return point

    def residuals(self, point: Array) -> Array:
        found = np.empty((len(point), self._data.n))
        values = self._values(point)
        with np.errstate(all="ignore"):
            for points in blocks(self._data.n, len(point), self.block):
                (value,) = (np.array(v) for v in self._value.run(values, points))
                found[:, points] = np.log(value) if self._objective.log else value
            return found - self._goal

    def _values(self, point: Array) -> dict[str, Array]:
        return {k: v[:, None] for k, v in to_coefficients(self._law, point).items()}

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        batch, size = point.shape
        total = Local(
            np.zeros(batch), np.zeros((batch, size)),
            np.zeros((batch, size, size)), np.zeros((batch, size, size)),
        )  # fmt: skip
        values = self._values(point)
        with np.errstate(all="ignore"):
            for points in blocks(self._data.n, batch, self.block):
                self._add(total, values, weights[:, points], points, majorise)
        value = np.where(np.isfinite(total.value), total.value, np.inf)
        return total._replace(value=value)

    def _add(
        self, total: Local, values: dict[str, Array], weights: Array, points: slice, majorise: bool
    ) -> None:
        """Add the share of some points to the sums."""
        batch, size = total.gradient.shape
        shape = (batch, points.stop - points.start)
        parts = self._derivatives.run(values, points)
        predicted = np.broadcast_to(next(parts), shape)
        inverse = 1 / predicted if self._objective.log else 1.0
        residual = np.log(predicted) if self._objective.log else predicted.copy()
        residual -= self._goal[points]
        penalty = self._objective.of(residual)
        slope = weights * penalty.slope
        outer = weights * penalty.curvature
        if self._objective.log:
            outer -= slope  # (log f)″ = f″/f − g gᵀ
        first = np.empty((batch, size, shape[1]))
        for a in range(size):
            np.multiply(next(parts), inverse, out=first[:, a])
        total.value[...] += np.einsum("bi,bi->b", np.broadcast_to(weights, shape), penalty.value)
        total.gradient[...] += np.matmul(first, slope[:, :, None])[:, :, 0]
        other = np.swapaxes(first, 1, 2)
        total.hessian[...] += np.matmul(first * outer[:, None], other)
        if majorise:
            irls = weights * self._objective.irls(residual, penalty)
            total.majoriser[...] += np.matmul(first * irls[:, None], other)
        slope *= inverse
        for a in range(size):
            for b in range(a + 1):
                part = next(parts)
                if isinstance(part, float) and part == 0.0:
                    continue
                entry = np.einsum("bi,bi->b", slope, np.broadcast_to(part, shape))
                total.hessian[:, a, b] += entry
                if a != b:
                    total.hessian[:, b, a] += entry
                elif majorise:
                    total.majoriser[:, a, a] += np.abs(entry)


def blocks(points: int, batch: int, elements: int) -> list[slice]:
    """The points in pieces, so that arrays of `elements` are used again while in the cache."""
    width = max(1, elements // batch)
    return [slice(at, min(at + width, points)) for at in range(0, points, width)]


def bounds(law: Law, observed: Array) -> tuple[Array, Array]:
    """Bounds on the fitting scale. A bare additive floor lies between nothing and the losses."""
    lower, upper = [], []
    for name in law.coefficients:
        symbol = law.symbols[name]
        low, high = symbol.lower, symbol.upper
        if symbol.positive:
            low = np.log(low) if low > 0 else -700.0
            high = np.log(high) if np.isfinite(high) else 700.0
            if name in law.floors:
                low, high = np.log(observed.min()) - DEEP, np.log(observed.max())
        lower.append(max(low, -1e6))
        upper.append(min(high, 1e6))
    return np.array(lower), np.array(upper)
