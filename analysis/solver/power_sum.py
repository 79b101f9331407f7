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

from analysis.array import Array
from analysis.laws.formula import Expr
from analysis.laws.law import Law
from analysis.laws.structure import addends, affine, monomial
from analysis.solver.newton import Local
from analysis.solver.objective import Objective, Penalty
from analysis.solver.problem import DEEP, FAINT, Data, General, Model, blocks, bounds

Form = dict[tuple[str, str], float]  # (coefficient or "", feature or "") → factor, of a log-term


def _log_form(term: Expr) -> Form | None:
    """The logarithm of a term as an affine form; None where it is no product of powers."""
    product = monomial(term)
    if product is None:
        return None
    parts = {"": product.log_factor, **product.powers}
    read = {letter: affine(part) for letter, part in parts.items()}
    if any(part is None for part in read.values()):
        return None
    return {(n, letter): x for letter, part in read.items() if part for n, x in part.items()}


def model(law: Law, data: Data, objective: Objective, *, centred: bool = True) -> Model:
    """The law on the data as something to minimise: as a sum of powers where it is one, else by
    the derivatives of its formula. `centred` moves the origin of the powers to the middle of the
    data, which a constraint on an amplitude does not survive."""
    forms = [_log_form(term) for term in addends(law.loss)]
    terms = [form for form in forms if form is not None]
    if len(terms) < len(forms):
        return General(law, data, objective)
    return PowerSum(law, data, objective, terms, centred)


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
        # point = shift @ θ: the amplitude of a term, moved along its exponents to the centre.
        self._shift = np.eye(size)
        self._terms: list[_Term] = []
        self.lower, self.upper = bounds(law, data.scale)
        owned = np.zeros(size, dtype=bool)
        for form in terms:
            owner = _own_amplitude(law, form, terms) if centred else None
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
            if owner is not None:
                i, middle = position[owner], float(np.mean(offset))
                self.lower[i] = np.log(data.scale.min()) - DEEP - middle
                self.upper[i] = np.log(data.scale.max()) + DEEP - middle
                owned[i] = True
        self._unshift = np.linalg.inv(self._shift)
        self.floors = np.isin(names, law.floors)
        self.faint = np.where(owned | self.floors, self.lower + DEEP - FAINT, -np.inf)
        self._kept = np.empty((0, 0))
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
        work = self._arrays_for((len(point), points.stop - points.start))
        # g_k of a term: its derivative by its own logarithm.
        slopes = [
            t.fill(point, points, out) for t, out in zip(self._terms, work.terms, strict=True)
        ]
        residual = _sum(slopes, work.residual)
        if self._objective.log:
            inverse = np.reciprocal(residual, out=work.weight)
            slopes = [
                np.multiply(term, inverse, out=share)  # softmax shares
                for term, share in zip(slopes, work.shares, strict=True)
            ]
            np.log(residual, out=residual)
        residual -= self._goal[points]
        penalty = self._objective.of(residual, Penalty(work.value, work.slope, work.curvature))
        irls = weights * self._objective.irls(residual, penalty) if majorise else None
        value, slope, curvature = penalty
        total.value[...] += np.einsum("bi,bi->b", np.broadcast_to(weights, value.shape), value)
        slope *= weights
        curvature *= weights
        if self._objective.log:
            curvature -= slope  # (log f)″ = f″/f − g gᵀ
        for pair in self._pairs:
            first, second = slopes[pair.first], slopes[pair.second]
            weight = np.multiply(curvature, first, out=work.weight)
            weight *= second
            if pair.first == pair.second:
                own = np.multiply(slope, first, out=work.own)
                term = self._terms[pair.first]
                total.gradient[:, term.places] += own @ term.columns[points]
                weight += own
            pair.add(total.hessian, weight, points)
            if irls is not None:
                weight = irls * first * second
                if pair.first == pair.second:
                    weight += np.abs(slope) * first  # bounds the term's own curvature
                pair.add(total.majoriser, weight, points)

    def _arrays_for(self, shape: tuple[int, int]) -> _Arrays:
        """Arrays that stay: fresh ones cost more than the arithmetic."""
        count, elements = len(self._terms), shape[0] * shape[1]
        if self._kept.shape[1] < elements:
            self._kept = np.empty((len(_Arrays._fields) - 2 + 2 * count, elements))
        kept = self._kept[:, :elements].reshape(-1, *shape)
        return _Arrays(kept[:count], kept[count : 2 * count], *kept[2 * count :])


class _Arrays(NamedTuple):
    """Room for what is computed at some points, (b, points) each."""

    terms: Array  # one a term of the law
    shares: Array  # the same, as shares of the prediction
    residual: Array
    value: Array  # of the penalty
    slope: Array  # its derivative, weighted
    curvature: Array  # its second derivative, weighted
    weight: Array  # of a pair of terms in the Hessian
    own: Array  # of a term in the gradient


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
