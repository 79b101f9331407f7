"""A law that is a sum of products of powers, as something to minimise quickly.

The logarithm of each term is affine in the coefficients, so the law is a log-sum-exp: every
entry of its Hessian is a softmax share times a monomial of log-features, and a batch of
problems costs a few matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.expression import Array, Expr, addends
from analysis.laws import Law
from analysis.model import DEEP, FAINT, Data, blocks, bounds
from analysis.newton import Local
from analysis.objective import Objective, Penalty

Form = dict[tuple[str, str], float]  # (coefficient or "", feature or "") → factor, of a log-term


def power_terms(law: Law) -> list[Form] | None:
    """The logarithm of each term as an affine form, or None if the law is no sum of powers."""
    forms = [_log_form(term) for term in addends(law.loss)]
    return None if any(form is None for form in forms) else [f for f in forms if f is not None]


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
    offset: Array | None  # (n,), unless it is zero
    constant: bool  # the same in every row

    def fill(self, point: Array, points: slice, out: Array) -> Array:
        """The term itself: (b, points) written to `out`, or (b, 1) where all rows are equal."""
        theta = point[:, self.places]
        if self.constant:
            first = 0.0 if self.offset is None else self.offset[0]
            return np.asarray(np.exp(theta @ self.columns[:1].T + first))
        np.matmul(theta, self.columns[points].T, out=out)
        if self.offset is not None:
            out += self.offset[points]
        return np.exp(out, out=out)


class _Pair(NamedTuple):
    """Two terms, the products of their columns, and where the sums go in a matrix."""

    first: int
    second: int
    products: Array
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]

    def add(self, matrix: Array, weight: Array, points: slice) -> None:
        shape = (len(weight), self.rows.shape[0], self.columns.shape[1])
        block = (weight @ self.products[points]).reshape(shape)
        matrix[:, self.rows, self.columns] += block
        if self.first != self.second:
            matrix[:, self.columns.T, self.rows.T] += np.swapaxes(block, 1, 2)


class PowerSum:
    """Fast path: minimised with each amplitude taken at the centre of the data."""

    block = 3 * 2**14

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
            shift = offset if offset.any() else None
            self._terms.append(_Term(index, stacked, shift, constant))
        self._unshift = np.linalg.inv(self._shift)
        self.lower, self.upper = bounds(law, data.scale)
        for term, owner in zip(self._terms, owners, strict=True):
            if owner is not None:
                i = position[owner]
                middle = 0.0 if term.offset is None else float(np.mean(term.offset))
                self.lower[i] = np.log(data.scale.min()) - DEEP - middle
                self.upper[i] = np.log(data.scale.max()) + DEEP - middle
        owned = np.isin(np.arange(size), [position[o] for o in owners if o is not None])
        self.floors = np.isin(names, law.floors)
        self.faint = np.where(owned | self.floors, self.lower + DEEP - FAINT, -np.inf)
        self._work = np.empty((2 * len(terms) + 6, 0))
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

    def residuals(self, point: Array) -> Array:
        found = np.empty((len(point), len(self._goal)))
        for points in blocks(len(self._goal), len(point), self.block):
            work = np.empty((len(self._terms), len(point), points.stop - points.start))
            parts = [t.fill(point, points, w) for t, w in zip(self._terms, work, strict=True)]
            total = _sum(parts, work[0])
            found[:, points] = np.log(total) if self._objective.log else total
        return found - self._goal

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        size = len(self.lower)
        total = Local(*(np.zeros((len(point), *[size] * axes)) for axes in (0, 1, 2, 2)))
        with np.errstate(all="ignore"):
            for points in blocks(len(self._goal), len(point), self.block):
                self._add(total, point, weights[:, points], points, majorise)
        return total

    def _add(
        self, total: Local, point: Array, weights: Array, points: slice, majorise: bool
    ) -> None:
        """Add the share of some points to the sums."""
        # Everything is written into arrays that stay: fresh ones cost more than the arithmetic.
        count = len(self._terms)
        shape = (len(point), points.stop - points.start)
        elements = shape[0] * shape[1]
        if self._work.shape[1] < elements:
            self._work = np.empty((2 * count + 6, elements))
        work = self._work[:, :elements].reshape(-1, *shape)
        shares, (residual, value, slope, outer, temporary, other) = work[6:], work[:6]
        parts = [t.fill(point, points, w) for t, w in zip(self._terms, shares[:count], strict=True)]
        predicted = _sum(parts, residual)
        if self._objective.log:
            np.reciprocal(predicted, out=other)
            parts = [
                np.multiply(part, other, out=share)  # softmax shares
                for part, share in zip(parts, shares[count:], strict=True)
            ]
            np.log(predicted, out=residual)
        residual -= self._goal[points]
        penalty = self._objective.of(residual, Penalty(value, slope, outer))
        irls = weights * self._objective.irls(residual, penalty) if majorise else outer
        slope *= weights
        outer *= weights
        if self._objective.log:
            outer -= slope  # (log f)″ = f″/f − g gᵀ
        total.value[...] += np.einsum("bi,bi->b", np.broadcast_to(weights, shape), value)
        for pair in self._pairs:
            first, second = parts[pair.first], parts[pair.second]
            np.multiply(outer, first, out=temporary)
            np.multiply(temporary, second, out=temporary)
            if pair.first == pair.second:
                along = np.multiply(slope, first, out=other)
                term = self._terms[pair.first]
                total.gradient[:, term.places] += along @ term.columns[points]
                temporary += along
            pair.add(total.hessian, temporary, points)
            if majorise:
                weight = irls * first * second
                if pair.first == pair.second:
                    weight += np.abs(slope) * first  # bounds the term's own curvature
                pair.add(total.majoriser, weight, points)


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
