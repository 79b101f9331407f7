"""A law on given data as something to minimise: value, gradient, Hessian and IRLS matrix.

Two evaluators share one contract. A sum of products of powers is a log-sum-exp of functions
affine in the coefficients, so every matrix entry is a softmax share times a monomial of
log-features, and a batch costs a few matrix products. Any other law goes through the exact
derivatives of its formula.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.expression import Array, Expr, derivative, evaluate, symbols
from analysis.laws import Law
from analysis.newton import Local
from analysis.objective import Objective, Penalty

_FAINT = 7.0  # e-folds below it at which a term hardly shows
_DEEP = 35.0  # e-folds below the smallest loss at which a term is nothing: a share of 1e-15


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


def model(law: Law, data: Data, objective: Objective, *, centred: bool = True) -> Model:
    """The evaluator that fits the law's structure. `centred` moves the origin of the powers
    to the middle of the data, which a constraint on an amplitude does not survive."""
    terms = power_terms(law)
    if terms is None:
        return General(law, data, objective)
    return PowerSum(law, data, objective, terms, centred)


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


# --- a sum of products of powers ---------------------------------------------------------------

Form = dict[tuple[str, str], float]  # (coefficient or "", feature or "") → factor, of a log-term


def power_terms(law: Law) -> list[Form] | None:
    """The logarithm of each term as an affine form, or None if the law is no sum of powers."""
    forms = [_log_form(term) for term in _addends(law.loss)]
    return None if any(form is None for form in forms) else [f for f in forms if f is not None]


def _addends(e: Expr) -> list[Expr]:
    return [t for arg in e.args for t in _addends(arg)] if e.op == "add" else [e]


def _log_form(e: Expr) -> Form | None:
    if e.op == "number":
        return {("", ""): float(np.log(e.value))} if e.value > 0 else None
    if e.symbol is not None:
        if e.symbol.feature:
            return {("", e.symbol.name): 1.0}
        return {(e.symbol.name, ""): 1.0} if e.symbol.positive else None
    if e.op == "mul":
        left, right = _log_form(e.args[0]), _log_form(e.args[1])
        if left is None or right is None:
            return None
        return {k: left.get(k, 0.0) + right.get(k, 0.0) for k in [*left, *right]}
    if e.op == "pow":
        base, power = _log_form(e.args[0]), _linear(e.args[1])
        if base is None or power is None:
            return None
        form: Form = {}
        for (p, x), v in base.items():
            for q, c in power.items():
                if p and q:  # a coefficient to the power of another is not affine
                    return None
                form[p or q, x] = form.get((p or q, x), 0.0) + v * c
        return form
    return None


def _linear(e: Expr) -> dict[str, float] | None:
    """An exponent as Σ factor·coefficient, where each coefficient is fitted as it is."""
    if e.op == "number":
        return {"": e.value}
    if e.symbol is not None:
        return None if e.symbol.feature or e.symbol.positive else {e.symbol.name: 1.0}
    if e.op not in ("add", "mul"):
        return None
    left, right = _linear(e.args[0]), _linear(e.args[1])
    if left is None or right is None:
        return None
    if e.op == "add":
        return {k: left.get(k, 0.0) + right.get(k, 0.0) for k in [*left, *right]}
    if set(left) == {""}:
        return {k: left[""] * v for k, v in right.items()}
    return None


class _Term(NamedTuple):
    """log term = offset + Σ θ[places]·columns, one column a coefficient."""

    places: NDArray[np.intp]  # positions of its coefficients
    columns: Array  # (n, len(places))
    offset: Array  # (n,)
    constant: bool  # the same in every row

    def fill(self, point: Array, out: Array) -> Array:
        """The term itself: (b, n) written to `out`, or (b, 1) where all rows are equal."""
        theta = point[:, self.places]
        if self.constant:
            return np.asarray(np.exp(theta @ self.columns[:1].T + self.offset[0]))
        np.matmul(theta, self.columns.T, out=out)
        if self.offset.any():
            out += self.offset
        return np.exp(out, out=out)


class _Pair(NamedTuple):
    """Two terms, the products of their columns, and where the sums go in a matrix."""

    first: int
    second: int
    products: Array
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def add(self, matrix: Array, weight: Array) -> None:
        shape = (len(weight), self.rows.shape[0], self.columns.shape[1])
        block = (weight @ self.products).reshape(shape)
        matrix[:, self.rows, self.columns] += block
        if self.first != self.second:
            matrix[:, self.columns.T, self.rows.T] += np.swapaxes(block, 1, 2)


class PowerSum:
    """Fast path: minimised with each amplitude taken at the centre of the data."""

    def __init__(
        self, law: Law, data: Data, objective: Objective, terms: Sequence[Form], centred: bool
    ) -> None:
        self._objective = objective
        self._goal = np.log(data.observed) if objective.log else data.observed
        names = law.coefficients
        size = len(names)
        position = {name: i for i, name in enumerate(names)}
        logs = {letter: np.log(x) for letter, x in data.features.items()}
        owners = [_own_amplitude(law, form, terms) if centred else None for form in terms]
        # point = shift @ θ: the amplitude of a term, moved along its exponents to the centre.
        self._shift = np.eye(size)
        self._terms: list[_Term] = []
        for form, owner in zip(terms, owners, strict=True):
            columns: dict[int, Array] = {}
            offset = np.zeros(data.n)
            for (name, letter), factor in form.items():
                x = factor * logs[letter] if letter else np.full(data.n, factor)
                if not name:
                    offset = offset + x
                    continue
                if letter and owner is not None:
                    middle = float(np.mean(x))
                    self._shift[position[owner], position[name]] += middle
                    x = x - middle
                columns[position[name]] = columns.get(position[name], 0.0) + x
            index = np.array(list(columns), dtype=np.intp)
            stacked = np.stack(list(columns.values()), axis=1) if columns else np.empty((data.n, 0))
            constant = not (np.ptp(offset) or np.ptp(stacked, axis=0).any())
            self._terms.append(_Term(index, stacked, offset, constant))
        self._unshift = np.linalg.inv(self._shift)
        self.lower, self.upper = _bounds(law, data.observed)
        for term, owner in zip(self._terms, owners, strict=True):
            if owner is not None:
                i = position[owner]
                middle = float(np.mean(term.offset))
                self.lower[i] = np.log(data.observed.min()) - _DEEP - middle
                self.upper[i] = np.log(data.observed.max()) + _DEEP - middle
        self._size = size
        owned = np.isin(np.arange(size), [position[o] for o in owners if o is not None])
        floors = np.array([is_floor(law, name) for name in names])
        self.faint = np.where(owned | floors, self.lower + _DEEP - _FAINT, -np.inf)
        self._work = np.empty((0, 0, 0))
        self.width = 2 * len(terms) + 6
        self._pairs = []
        for k, first in enumerate(self._terms):
            for m, second in enumerate(self._terms[: k + 1]):
                products = first.columns[:, :, None] * second.columns[:, None, :]
                rows, across = np.ix_(first.places, second.places)
                self._pairs.append(_Pair(k, m, products.reshape(data.n, -1), rows, across))

    def enter(self, theta: Array) -> Array:
        return np.asarray(theta @ self._shift.T)

    def leave(self, point: Array) -> Array:
        return np.asarray(point @ self._unshift.T)

    def near(self, point: Array) -> Model:
        return self

    def residuals(self, point: Array) -> Array:
        work = np.empty((len(self._terms), len(point), len(self._goal)))
        total = _sum([t.fill(point, w) for t, w in zip(self._terms, work, strict=True)], work[0])
        return (np.log(total) if self._objective.log else total) - self._goal

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        # Everything is written into arrays that stay: fresh ones cost more than the arithmetic.
        count = len(self._terms)
        if self._work.shape[1] < len(point):
            self._work = np.empty((2 * count + 6, len(point), len(self._goal)))
        work = self._work[:, : len(point)]
        shares, (residual, value, slope, outer, temporary, other) = work[6:], work[:6]
        with np.errstate(all="ignore"):
            parts = [t.fill(point, w) for t, w in zip(self._terms, shares[:count], strict=True)]
            total = _sum(parts, residual)
            if self._objective.log:
                np.reciprocal(total, out=other)
                parts = [
                    np.multiply(part, other, out=share)  # softmax shares
                    for part, share in zip(parts, shares[count:], strict=True)
                ]
                np.log(total, out=residual)
            residual -= self._goal
            penalty = self._objective.of(residual, Penalty(value, slope, outer))
            irls = weights * self._objective.irls(residual, penalty) if majorise else outer
            slope *= weights
            outer *= weights
            if self._objective.log:
                outer -= slope  # (log f)″ = f″/f − g gᵀ
            objective = np.einsum("bi,bi->b", np.broadcast_to(weights, value.shape), value)
            gradient = np.zeros((len(point), self._size))
            hessian = np.zeros((len(point), self._size, self._size))
            majoriser = np.zeros_like(hessian) if majorise else hessian
            for pair in self._pairs:
                first, second = parts[pair.first], parts[pair.second]
                np.multiply(outer, first, out=temporary)
                np.multiply(temporary, second, out=temporary)
                if pair.first == pair.second:
                    along = np.multiply(slope, first, out=other)
                    term = self._terms[pair.first]
                    gradient[:, term.places] += along @ term.columns
                    temporary += along
                pair.add(hessian, temporary)
                if majorise:
                    weight = irls * first * second
                    if pair.first == pair.second:
                        weight += np.abs(slope) * first  # bounds the term's own curvature
                    pair.add(majoriser, weight)
        return Local(objective, gradient, hessian, majoriser)


def _sum(parts: Sequence[Array], out: Array) -> Array:
    """Σ of the parts in `out`, which may be one of them."""
    first, *rest = sorted(parts, key=lambda part: part is not out)
    if first is not out:
        out[...] = first
    for part in rest:
        out += part
    return out


def _own_amplitude(law: Law, form: Form, terms: Sequence[Form]) -> str | None:
    """An amplitude that multiplies this term only, so that it can absorb a shift of origin."""
    if not any(name and letter for name, letter in form):
        return None
    for (name, letter), factor in form.items():
        alone = sum(any(n == name for n, _ in other) for other in terms) == 1
        if name and not letter and factor == 1.0 and alone and law.symbols[name].positive:
            return name
    return None


def _bounds(law: Law, observed: Array) -> tuple[Array, Array]:
    """Bounds on the fitting scale. A bare additive floor lies between nothing and the losses."""
    lower, upper = [], []
    for name in law.coefficients:
        symbol = law.symbols[name]
        low, high = symbol.lower, symbol.upper
        if symbol.positive:
            low = np.log(low) if low > 0 else -700.0
            high = np.log(high) if np.isfinite(high) else 700.0
            if is_floor(law, name):
                low, high = np.log(observed.min()) - _DEEP, np.log(observed.max())
        lower.append(max(low, -1e6))
        upper.append(min(high, 1e6))
    return np.array(lower), np.array(upper)


def is_floor(law: Law, name: str) -> bool:
    """Is the coefficient a bare addend: the loss that remains at infinite scale?"""
    return any(t.symbol is not None and t.symbol.name == name for t in _addends(law.loss))


# --- any other law -----------------------------------------------------------------------------


class General:
    """Exact derivatives of the formula, evaluated together with their common parts shared."""

    def __init__(self, law: Law, data: Data, objective: Objective) -> None:
        self._law, self._data, self._objective = law, data, objective
        self._second: Array | None = None
        self._goal = np.log(data.observed) if objective.log else data.observed
        self.lower, self.upper = _bounds(law, data.observed)
        floors = np.array([is_floor(law, name) for name in law.coefficients])
        self.faint = np.where(floors, self.lower + _DEEP - _FAINT, -np.inf)
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
