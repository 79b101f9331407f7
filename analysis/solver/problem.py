"""A law on given data as something to minimise: value, gradient, Hessian and IRLS matrix.

Two evaluators share one contract: sums of powers have a fast one of their own (`power_sum`), any
other law goes through the jets of its formula.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from analysis.array import Array
from analysis.laws.jets import Jet, evaluate, exponential, variable
from analysis.laws.law import Law
from analysis.solver.newton import Local, Mask, Problem
from analysis.solver.objective import Objective

FAINT = 7.0  # e-folds below the smallest loss at which a term is a thousandth of it
DEEP = 35.0  # e-folds below the smallest loss at which a term is lost in rounding
NEARLY = 15.0  # e-folds above that up to which a floor is still taken for 0: 1e-9 of any loss


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
        """The observed values, with the least positive one for those that are not positive."""
        positive = self.observed > 0
        least = self.observed[positive].min() if positive.any() else 1.0
        return np.where(positive, self.observed, least)

    def rows(self, index: Array | slice) -> Data:
        return Data({k: v[index] for k, v in self.features.items()}, self.observed[index])


class Model(Problem, Protocol):
    """Minimised in coordinates of its own; `enter` and `leave` translate to the law's.

    The law's θ are logarithms of positive coefficients and the others as they are.
    """

    faint: Array  # below this a coordinate's term is a thousandth of any loss
    floors: Mask  # which coordinates are logarithms of floors

    def enter(self, theta: Array) -> Array: ...
    def leave(self, point: Array) -> Array: ...
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


def variables(law: Law, theta: Array) -> tuple[dict[str, Jet], dict[str, Jet]]:
    """Coefficients at (…, p) as jets, derived on the fitting scale, with the logarithms of the
    positive ones; arrays (…) by name."""
    jets, logs = {}, {}
    for i, (name, value) in enumerate(to_coefficients(law, theta).items()):
        if law.symbols[name].positive:
            jets[name], logs[name] = exponential(value, i), variable(theta[..., i], i)
        else:
            jets[name] = variable(value, i)
    return jets, logs


def jacobian(law: Law, data: Data, theta: Array) -> Array:
    """Of log-predictions at θ, a column a coefficient; each is exact to rounding of its own."""
    columns = np.zeros((data.n, len(theta)))
    jets, logs = variables(law, theta)
    for rows in blocks(data.n, 1, General.block):
        features = {letter: x[rows] for letter, x in data.features.items()}
        found = evaluate(law.loss, features | jets, logs)
        with np.errstate(all="ignore"):
            for i, slope in found.gradient.items():
                columns[rows, i] = slope / found.value
    return np.nan_to_num(columns, posinf=0.0, neginf=0.0)


def predictions(law: Law, data: Data, theta: Array) -> Array:
    """The prediction of each row at θ, which may be infinite or NaN."""
    letters = {**data.features, **to_coefficients(law, theta)}
    return np.broadcast_to(evaluate(law.loss, letters), data.n)


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
    """Any formula, with the exact derivatives that come with its value."""

    block = 2**13

    def __init__(self, law: Law, data: Data, objective: Objective) -> None:
        self._law, self._data, self._objective = law, data, objective
        self._goal = np.log(data.observed) if objective.log else data.observed
        with np.errstate(all="ignore"):
            self._logs = {letter: np.log(x) for letter, x in data.features.items()}
        self.lower, self.upper = bounds(law, data.scale)
        self.floors = np.isin(law.coefficients, law.floors)
        self.faint = np.where(self.floors, self.lower + DEEP - FAINT, -np.inf)

    def enter(self, theta: Array) -> Array:
        return theta

    def leave(self, point: Array) -> Array:
        return point

    def _rows(self, points: slice) -> tuple[dict[str, Array], dict[str, Array]]:
        """Features of some points, (1, points) by letter, and their logarithms."""
        return (
            {letter: x[None, points] for letter, x in self._data.features.items()},
            {letter: x[None, points] for letter, x in self._logs.items()},
        )

    def residuals(self, point: Array) -> Array:
        found = np.empty((len(point), self._data.n))
        values = {k: v[:, None] for k, v in to_coefficients(self._law, point).items()}
        with np.errstate(all="ignore"):
            for points in blocks(self._data.n, len(point), self.block):
                letters, logs = self._rows(points)
                value = evaluate(self._law.loss, letters | values, logs)
                found[:, points] = np.log(value) if self._objective.log else value
            return found - self._goal

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        batch, size = point.shape
        total = Local(
            np.zeros(batch), np.zeros((batch, size)),
            np.zeros((batch, size, size)), np.zeros((batch, size, size)),
        )  # fmt: skip
        jets, logs = variables(self._law, point[:, None])
        with np.errstate(all="ignore"):
            for points in blocks(self._data.n, batch, self.block):
                letters, known = self._rows(points)
                found = evaluate(self._law.loss, letters | jets, known | logs)
                self._add(total, found, weights[:, points], self._goal[points], majorise)
        value = np.where(np.isfinite(total.value), total.value, np.inf)
        return total._replace(value=value)

    def _add(self, total: Local, found: Jet, weights: Array, goal: Array, majorise: bool) -> None:
        """Add the share of some points to the sums."""
        batch, size = total.gradient.shape
        shape = (batch, len(goal))
        predicted = np.broadcast_to(found.value, shape)
        inverse = 1 / predicted if self._objective.log else 1.0
        residual = (np.log(predicted) if self._objective.log else predicted) - goal
        penalty = self._objective.of(residual)
        slope = weights * penalty.slope
        outer = weights * penalty.curvature
        if self._objective.log:
            outer -= slope  # (log f)″ = f″/f − g gᵀ
        first = np.zeros((batch, size, shape[1]))
        for a, part in found.gradient.items():
            np.multiply(part, inverse, out=first[:, a])
        total.value[...] += np.einsum("bi,bi->b", np.broadcast_to(weights, shape), penalty.value)
        total.gradient[...] += np.matmul(first, slope[:, :, None])[:, :, 0]
        other = np.swapaxes(first, 1, 2)
        total.hessian[...] += np.matmul(first * outer[:, None], other)
        if majorise:
            irls = weights * self._objective.irls(residual, penalty)
            total.majoriser[...] += np.matmul(first * irls[:, None], other)
        slope *= inverse
        for (a, b), part in found.hessian.items():
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
    """Interval on the fitting scale. A floor lies between 0 and the losses."""
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
