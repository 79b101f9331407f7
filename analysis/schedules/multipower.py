"""The multi-power law on given curves as a least-squares problem: residuals, starts, descent."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, nnls

from analysis.array import Array
from analysis.schedules.annealing import Annealed, Terms, annealed, joined
from analysis.solver.priors import Prior

NAMES = ("L0", "A", "alpha", "B", "C", "beta", "gamma")
AMPLITUDES = np.array([name in "ABC" for name in NAMES])  # vary by factors
OPEN = 1e-13  # of JᵀJ at unit diagonal, smallest eigenvalue against largest, as in a fit
STARTS = 8  # of the grid, refined
# The grid of starts: exponents around the published ones (.43–.51, .58–.60, .63–.66), and C from an
# effect within one step to one over the whole run.
_ALPHAS, _BETAS, _GAMMAS, _SPEEDS = (0.2, 0.5, 1.0), (0.3, 0.6, 1.2), (0.3, 0.6, 1.0), 5
ROUGH, FINE, _MOST = 1e-8, 1e-14, 500  # relative tolerances, and evaluations, of a descent
_EDGE = 30.0  # e-folds of an amplitude in its natural unit: beyond, its term is 0 or all there is
# L0, log A, alpha, log B, log C, beta, gamma; with a large exponent a power is 0 at once.
_LOWER = np.array([0.0, -_EDGE, 1e-3, -_EDGE, -_EDGE, 1e-3, 0.0])
_UPPER = np.array([np.inf, _EDGE, 5.0, _EDGE, _EDGE, 20.0, 3.0])
_LEAST = 1e-6  # of a coefficient, where the logarithm of one that may be zero is taken


class End(NamedTuple):
    """Where a descent ended."""

    point: Array
    value: float
    converged: bool


@dataclass(frozen=True)
class Problem:
    """Sum of Huber of log residuals over (L0, log A, alpha, log B·p, log C·p^−gamma, beta, gamma).

    With the peak rate p as the unit of rates, B is in nats and C does not depend on gamma. Squared
    residuals weigh as S1^−lean, 1 in the mean. Priors are of logarithms and add ½·pull·((θ−m)/sd)².
    """

    parts: Sequence[Terms]  # of each curve
    known: Sequence[Array]  # losses of each curve
    delta: float
    unit: float  # of rates; 1 where C is held, which is then a coordinate itself
    held: Mapping[str, float]
    lean: float = 0.0
    prior: Mapping[str, Prior] = field(default_factory=dict)
    pull: float = 0.0

    @cached_property
    def free(self) -> NDArray[np.bool_]:
        return np.array([name not in self.held for name in NAMES])

    @cached_property
    def terms(self) -> Terms:
        every = joined(self.parts)
        return every._replace(
            drop=every.drop / self.unit, log_rate=every.log_rate - np.log(self.unit)
        )

    @cached_property
    def observed(self) -> Array:
        return np.concatenate(self.known)

    def leave(self, point: Array) -> Array:
        """The law's coefficients, in the order of NAMES."""
        c = point.copy()
        c[3] -= np.log(self.unit)
        c[4] += point[6] * np.log(self.unit)
        c[AMPLITUDES] = np.exp(c[AMPLITUDES])
        return c

    def predict(self, point: Array) -> Array:
        """The loss of each row, (n,)."""
        floor, a, alpha, b, c, beta, gamma = point
        drops = annealed(self.terms, c, beta, gamma).value
        return np.asarray(floor + np.exp(a) * self.terms.total**-alpha - np.exp(b) * drops)

    @cached_property
    def roots(self) -> Array:
        """Of each row's weight."""
        weights = self.terms.total**-self.lean
        return np.asarray(np.sqrt(weights / weights.mean()))

    def residuals(self, point: Array) -> Array:
        """Of each row and each prior."""
        # A trial point may predict a negative loss; its residual is then large, not NaN.
        rows = self.roots * np.log(np.maximum(self.predict(point), 1e-9) / self.observed)
        logs = np.log(np.maximum(point, _LEAST))
        logs[AMPLITUDES] = point[AMPLITUDES]
        logs[3] -= np.log(self.unit)
        logs[4] += point[6] * np.log(self.unit)
        away = [
            (logs[NAMES.index(name)] - np.log(known.value)) / known.sd
            for name, known in self.prior.items()
        ]
        return np.concatenate([rows, np.sqrt(self.pull) * np.array(away)])

    def jacobian(self, point: Array) -> Array:
        """Of the residuals, (n + priors, 7)."""
        by_log = np.diag(np.where(AMPLITUDES, 1.0, 1 / np.maximum(point, _LEAST)))
        by_log[4, 6] = np.log(self.unit)
        pulls = [
            np.sqrt(self.pull) / known.sd * by_log[NAMES.index(name)]
            for name, known in self.prior.items()
        ]
        rows = self.roots[:, None] * self._slopes(point)
        return np.concatenate([rows, np.reshape(pulls, (-1, len(NAMES)))])

    def _slopes(self, point: Array) -> Array:
        """Of the log predictions, (n, 7)."""
        floor, a, alpha, b, c, beta, gamma = point
        power = np.exp(a) * self.terms.total**-alpha
        drops = Annealed(*(np.exp(b) * each for each in annealed(self.terms, c, beta, gamma)))
        predicted = floor + power - drops.value
        columns = [
            np.ones(len(power)), power, -power * np.log(self.terms.total),
            -drops.value, -drops.by_log_c, -drops.by_beta, -drops.by_gamma,
        ]  # fmt: skip
        return np.stack(columns, axis=1) / np.maximum(predicted, 1e-9)[:, None]

    def starts(self) -> list[Array]:
        """The best points of a grid over alpha, beta, gamma and C, with L0, A and B in closed
        form."""
        total, observed = self.terms.total, self.observed
        powers = {alpha: total**-alpha / observed for alpha in _ALPHAS}
        found = []
        slowest, fastest = np.log(total.max()), self.terms.log_rate.max() + np.log(self.unit)
        speeds = -np.linspace(fastest, slowest, _SPEEDS)
        for c, beta, gamma in itertools.product(speeds, _BETAS, _GAMMAS):
            drops = annealed(self.terms, c, beta, gamma).value / observed
            for alpha in _ALPHAS:
                matrix = np.stack([1 / observed, powers[alpha], -drops], axis=1)
                (floor, a, b), misfit = nnls(self.roots[:, None] * matrix, self.roots)
                point = np.array([floor, np.log(a + 1e-3), alpha, np.log(b + 1e-3), c, beta, gamma])
                found.append((misfit, self.hold(point)))
        found.sort(key=lambda pair: pair[0])
        return [point for _, point in found[:STARTS]]

    def hold(self, point: Array) -> Array:
        """The point with the held coefficients at their values."""
        for name, value in self.held.items():
            point[NAMES.index(name)] = np.log(value) if name in "ABC" else value
        if "B" in self.held:
            point[3] += np.log(self.unit)
        return point

    def descend(self, start: Array, tolerance: float) -> End:
        """The minimum below `start`, by trust-region least squares within bounds."""
        return descend(
            self, start, (_LOWER, _UPPER), rows=len(self.roots), delta=self.delta,
            tolerance=tolerance, gradient=1e-15,
        )  # fmt: skip

    def at_bound(self, point: Array) -> tuple[str, ...]:
        """The coefficients at a bound."""
        near = ((point < _LOWER + 1e-6) | (point > _UPPER - 1e-6)) & self.free
        return tuple(np.array(NAMES)[near].tolist())

    def open(self, point: Array) -> tuple[str, ...]:
        """Coefficients that can change together and change no prediction at these rows."""
        jacobian = self.jacobian(point)[: len(self.roots), self.free]
        size = np.linalg.norm(jacobian, axis=0)
        moves = size > 1e-13 * np.sqrt(len(jacobian))
        scaled = jacobian / np.where(moves, size, np.inf)
        values, vectors = np.linalg.eigh(scaled.T @ scaled)
        flat = np.abs(vectors[:, values < OPEN * values.max(initial=0.0)]).max(axis=1, initial=0.0)
        return tuple(np.array(NAMES)[self.free][flat > 0.05].tolist())

    def of(self, curves: Iterable[int]) -> Problem:
        """The same problem with these curves alone."""
        kept = [(self.parts[i], self.known[i]) for i in curves]
        return replace(self, parts=[part for part, _ in kept], known=[loss for _, loss in kept])


def huber_of_rows(n: int) -> Any:
    """The loss, of scipy's `least_squares`, that is Huber's for the first n residuals.

    What comes after them are priors, whose pull grows with the distance however far it is.
    """

    def loss(z: Array) -> Array:
        rho = np.stack([z, np.ones_like(z), np.zeros_like(z)])
        root = np.sqrt(np.maximum(z[:n], 1.0))
        far = z[:n] > 1
        rho[0, :n] = np.where(far, 2 * root - 1, z[:n])
        rho[1, :n] = 1 / root
        rho[2, :n] = np.where(far, -0.5 / root**3, 0.0)
        return rho

    return loss


class Residuals(Protocol):
    """What can be minimised here: residuals and their slopes, in the coefficients that are free."""

    @property
    def free(self) -> NDArray[np.bool_]: ...

    def residuals(self, point: Array) -> Array: ...

    def jacobian(self, point: Array) -> Array: ...


def descend(
    problem: Residuals, start: Array, bounds: tuple[Array, Array], *, rows: int, delta: float,
    tolerance: float, gradient: float = 1e-8,
) -> End:  # fmt: skip
    """The minimum of Huber's loss of `rows` residuals, and of the squares of those of priors, below
    `start`: by trust-region least squares within bounds."""
    free = problem.free

    def whole(part: Array) -> Array:
        point = start.copy()
        point[free] = part
        return point

    def residuals(part: Array) -> Array:
        return problem.residuals(whole(part))

    def jacobian(part: Array) -> Array:
        return problem.jacobian(whole(part))[:, free]

    end = least_squares(
        residuals, start[free], jacobian,
        bounds=(bounds[0][free], bounds[1][free]), x_scale="jac", loss=huber_of_rows(rows),
        f_scale=delta, ftol=tolerance, xtol=tolerance, gtol=gradient, max_nfev=_MOST,
    )  # fmt: skip
    return End(whole(end.x), float(end.cost), bool(end.status > 0))
