"""Batched, bounded, damped Newton minimisation: many small problems at once.

Each row of a batch is its own problem (another start, another resample). The step solves
(H + λM) s = −g with the exact Hessian H and the IRLS matrix M, which is positive and bounds
the objective from above, so that a large λ gives a safe step and λ → 0 gives Newton's. A step along
a curved valley leaves its floor: it is bent back to the floor before it is given up.
Rows that are done leave the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from analysis.array import Array

Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]


class Local(NamedTuple):
    """The objective around each of b points: value (b), gradient (b, p), matrices (b, p, p)."""

    value: Array
    gradient: Array
    hessian: Array
    majoriser: Array

    def rows(self, chosen: Mask | Rows) -> Local:
        """The same of some of the points."""
        return Local(*(part[chosen] for part in self))


class Problem(Protocol):
    """What can be minimised here: an objective on a box."""

    lower: Array
    upper: Array
    block: int  # elements (problems × points) to work on at a time

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        """The objective at (b, p) points; without `majorise` the majoriser may be anything."""
        ...


@dataclass(frozen=True)
class Tolerances:
    """When a row is done, and what a step must do to be taken."""

    gain: float = 1e-18  # done when one more step promises less than this share of the value
    negligible: float = 0.0  # or less than this
    steps: int = 300  # at most
    kept: float = 1e-4  # share of its promise that a step must keep
    # At rounding level a step may not show as a decrease: one that promises less than the share
    # `faint` of the value is taken if the value rises by no more than `rounding`, and a row whose
    # refused step promises less than `spent` has no more to gain.
    rounding: float = 1e-14  # of a sum in which one exponent is 50, the noise measured is 2e-14
    faint: float = 1e-9
    spent: float = 1e-12


class Ended(IntEnum):
    """How the descent of a row ended."""

    STATIONARY = 0  # one more step promises no gain
    ROUNDING = 1  # what a step still promises is lost in rounding
    STUCK = 2  # no step is downhill, however much it is damped
    STEPS = 3  # it was still descending when its steps were used up
    NOWHERE = 4  # the objective is not finite at the start


@dataclass(frozen=True)
class Descents:
    """Where each problem of the batch ended, and how (an `Ended` a row)."""

    theta: Array
    value: Array
    ended: NDArray[np.int8]

    @property
    def converged(self) -> Mask:
        """Which rows are at a minimum."""
        return np.asarray(self.ended <= Ended.ROUNDING)


def minimise(
    problem: Problem,
    start: Array,
    weights: Array,
    fixed: Mask,
    *,
    tolerances: Tolerances,
    metric: Array | None = None,
    faint: Array | None = None,
) -> Descents:
    """Minimise each problem from its start, within the bounds.

    start: (b, p). weights: (b, n), or (1, n) shared, of which the problem's `block` are handed over
    at a time. `fixed` coordinates stay where they are. `metric` (p, p) stands in for M where all
    starts are near one point: M is a third of the work. A coordinate below `faint` that still
    falls is tried at its lower bound: the logarithm of a term that is best left out would get
    there by one e-fold a step.
    """
    batch = _Batch(problem, start, weights, fixed, tolerances, metric, faint)
    for _ in range(tolerances.steps):
        if not batch.rows.size:
            break
        batch.advance()
    return Descents(batch.theta, batch.value, batch.ended)


# λ, by which the majoriser is weighted in a step.
_LEAST, _MOST = 1e-3, 1e12  # the first that is tried, and the one that is given up
_RAISED, _LOWERED = 8.0, 0.1  # by what, after a refused and after a good step
_NONE = 1e-6  # counts as no damping
_LITTLE = 1e-2  # a step that had to be damped no more than this shows where a minimum is
# Against the curvature of M: directions much flatter are the valley's own. Of .01, .03, .1 and .3
# the one with the fewest evaluations for m4, bnsl_2 and chinchilla (a third less than without).
_ACROSS = 0.1


class _Proposal(NamedTuple):
    """Where each row would go, and the system it solved for that (at unit diagonal of M)."""

    target: Array  # (b, p)
    promise: Array  # (b,) decrease of the objective, by its gradient alone
    asked: Array  # (b,) λ before it was raised
    damping: Array  # (b,) λ
    matrix: Array  # (b, p, p)
    scale: Array  # (b, p): of the free coordinates, zero for the others

    def rows(self, chosen: Mask | Rows) -> _Proposal:
        return _Proposal(*(part[chosen] for part in self))


@dataclass
class _Batch:
    """Where every row has come, and the rows that still descend."""

    problem: Problem
    theta: Array
    weights: Array
    fixed: Mask
    tolerances: Tolerances
    metric: Array | None
    faint: Array | None

    def __post_init__(self) -> None:
        self.theta = np.clip(self.theta, self.problem.lower, self.problem.upper)
        self._vanished = np.zeros(self.theta.shape, dtype=bool)  # tried at the lower bound
        self.ended = np.full(len(self.theta), Ended.STEPS, dtype=np.int8)
        self.rows = np.arange(len(self.theta))
        self._damping = np.zeros(len(self.theta))
        self._here = self._look(self.theta)
        self.value = self._here.value.copy()
        self._leave(~np.isfinite(self.value), Ended.NOWHERE)

    def advance(self) -> None:
        """One step of every row that still descends."""
        step = self._propose()
        # A damped step promises too little along a valley: only one damped no more than it must
        # be, to be downhill, is trusted to stop.
        done = self._promises_nothing(step) & (step.damping <= _LITTLE) & (step.asked <= _NONE)
        stuck = step.damping > _MOST
        if (out := done | stuck).any():
            self._leave(out, np.where(done, Ended.STATIONARY, Ended.STUCK))
            step = step.rows(~out)
        if not self.rows.size:
            return
        there = self._look(step.target)
        self._bend_back(step, there)
        self._settle(step, there)

    def _leave(self, out: Mask, how: NDArray[np.int_] | Ended) -> None:
        """Take rows out of the batch."""
        self.ended[self.rows[out]] = np.broadcast_to(how, out.shape)[out]
        self.rows, self._here = self.rows[~out], self._here.rows(~out)
        self._damping = self._damping[~out]

    def _look(self, points: Array, rows: Rows | None = None) -> Local:
        """The objective around a point of each of the rows, by default of all."""
        rows = self.rows if rows is None else rows
        weights, at_once = self.weights, max(1, self.problem.block // self.weights.shape[1])
        pieces = [
            self.problem.local(
                points[at : at + at_once],
                weights if len(weights) == 1 else weights[rows[at : at + at_once]],
                self.metric is None,
            )
            for at in range(0, len(rows), at_once)
        ]
        local = Local(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))
        if self.metric is not None:
            local = local._replace(majoriser=np.repeat(self.metric[None], len(points), axis=0))
        # A value whose derivatives overflow is no place to step from.
        usable = np.isfinite(local.hessian).all(axis=(1, 2))
        usable &= np.isfinite(local.gradient).all(axis=1)
        return local._replace(value=np.where(usable, local.value, np.inf))

    def _propose(self) -> _Proposal:
        """The damped Newton step of each row, within the bounds."""
        here, point = self._here, self.theta[self.rows]
        lower, upper = self.problem.lower, self.problem.upper
        free = ~(
            self.fixed
            | ((point <= lower) & (here.gradient >= 0))
            | ((point >= upper) & (here.gradient <= 0))
        )
        way = _step(here, free, self._damping)
        target = np.clip(point + way.step, lower, upper)
        if self.faint is not None:
            vanishing = free & (point < self.faint) & (here.gradient > 0)
            vanishing &= ~self._vanished[self.rows]
            self._vanished[self.rows] |= vanishing
            target = np.where(vanishing, lower, target)
        promise = -0.5 * np.sum(here.gradient * (target - point), axis=1)
        return _Proposal(target, promise, self._damping, way.damping, way.matrix, way.scale)

    def _promises_nothing(self, step: _Proposal) -> Mask:
        least = self.tolerances.gain * np.abs(self._here.value) + self.tolerances.negligible
        return np.asarray(step.promise <= least)

    def _keeps_promise(self, step: _Proposal, value: Array) -> Mask:
        return np.asarray(value <= self._here.value - self.tolerances.kept * step.promise)

    def _bend_back(self, step: _Proposal, there: Local) -> None:
        """Replace targets that are no better, and what was found `there`, by ones that are bent
        back to the valley's floor, where those are."""
        missed = ~self._keeps_promise(step, there.value) & np.isfinite(there.value)
        some = np.flatnonzero(missed)
        if not some.size:
            return
        moved = (step.target - self.theta[self.rows])[some]
        away = _departure(self._here.rows(some), there.gradient[some], moved, step.rows(some))
        bent = np.clip(step.target[some] - away, self.problem.lower, self.problem.upper)
        second = self._look(bent, self.rows[some])
        better = second.value <= (self._here.value - self.tolerances.kept * step.promise)[some]
        step.target[some[better]] = bent[better]
        for part, new in zip(there, second, strict=True):
            part[some[better]] = new[better]

    def _settle(self, step: _Proposal, there: Local) -> None:
        """Take the steps that are good, damp the others, and end rows that rounding stops."""
        here, bound = self._here, self.tolerances
        size = np.abs(here.value)
        level = np.isfinite(there.value) & (there.value <= here.value * (1 + bound.rounding))
        level &= step.promise < bound.faint * size
        taken = level | self._keeps_promise(step, there.value)
        lowered = (step.damping > _NONE) & ~self._promises_nothing(step)
        self._damping = np.where(
            taken,
            np.where(lowered, step.damping * _LOWERED, 0.0),
            np.maximum(step.damping * _RAISED, _LEAST),
        )
        spent = ~taken & (step.promise <= bound.spent * size) & (step.damping <= _LITTLE)
        self._here = Local(*(
            np.where(taken.reshape((-1,) + (1,) * (new.ndim - 1)), new, old)
            for new, old in zip(there, here, strict=True)
        ))  # fmt: skip
        self.theta[self.rows[taken]] = step.target[taken]
        self.value[self.rows] = self._here.value
        if spent.any():
            self._leave(spent, Ended.ROUNDING)


class _Step(NamedTuple):
    """A damped step of each row, and the system that it solves; see `_Proposal`."""

    step: Array  # (b, p)
    damping: Array
    matrix: Array
    scale: Array


def _departure(here: Local, gradient: Array, step: Array, way: _Proposal) -> Array:
    """How far a step has left the valley, by the gradient it met and the one expected."""
    surprise = gradient - here.gradient - np.einsum("bpq,bq->bp", here.hessian, step)
    matrix = way.matrix + _ACROSS * np.eye(step.shape[1])
    return np.asarray(_solve_positive(matrix, surprise * way.scale).solution * way.scale)


def _step(here: Local, free: Mask, damping: Array) -> _Step:
    """The damped Newton step on the free coordinates; raises λ until the matrix is positive."""
    diagonal = np.einsum("bpp->bp", here.majoriser)
    # Unit diagonal: the coordinates differ by orders of magnitude in curvature.
    largest = diagonal.max(axis=1, keepdims=True)
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-14 * np.maximum(largest, 1e-290)))
    both = scale[:, :, None] * scale[:, None, :] * (free[:, :, None] & free[:, None, :])
    hessian = here.hessian * both
    majoriser = here.majoriser * both
    rest = np.einsum("bpp->bp", majoriser)
    rest += 1e-10 * free
    held = np.einsum("bpp->bp", hessian)
    held += ~free
    right = -here.gradient * scale * free
    damping = damping.copy()
    solution = np.zeros_like(right)
    todo = np.arange(len(damping))
    for _ in range(20):
        matrix = hessian[todo] + damping[todo, None, None] * majoriser[todo]
        answer, positive = _solve_positive(matrix, right[todo])
        solution[todo] = answer
        todo = todo[~positive]
        if not todo.size:
            break
        damping[todo] = np.maximum(damping[todo] * _RAISED, _LEAST)
    damping[todo] = np.inf
    with np.errstate(invalid="ignore"):
        matrix = hessian + damping[:, None, None] * majoriser
    return _Step(solution * scale, damping, matrix, scale * free)


class _Solved(NamedTuple):
    solution: Array
    positive: Mask


def _solve_positive(matrix: Array, right: Array) -> _Solved:
    """Batched LDLᵀ; a row whose matrix is not safely positive is marked and left at zero.

    Written over the batch because LAPACK on thousands of 5×5 systems is mostly call overhead,
    and because it shows which rows of a batch are not positive.
    """
    size = right.shape[1]
    a = np.ascontiguousarray(np.moveaxis(matrix, 0, -1))
    x = np.ascontiguousarray(right.T)
    positive = np.ones(right.shape[0], dtype=bool)
    with np.errstate(all="ignore"):
        for j in range(size):
            positive &= a[j, j] > 1e-13
            factor = a[j + 1 :, j] / a[j, j]
            a[j + 1 :, j + 1 :] -= factor[:, None] * a[None, j, j + 1 :]
            x[j + 1 :] -= factor * x[j]
        for j in range(size - 1, -1, -1):
            x[j] = (x[j] - np.sum(a[j, j + 1 :] * x[j + 1 :], axis=0)) / a[j, j]
    return _Solved(np.where(positive & np.isfinite(x), x, 0.0).T, positive)
