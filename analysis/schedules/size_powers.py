"""The multi-power law of several sizes at once as a least-squares problem.

    L0 = E + K·(N/N0)^-kappa;  A, alpha and B go as powers of N;  C, beta and gamma are common

N0 is the geometric mean of the sizes. In Luo et al. 2025 (arXiv:2503.12811), fitted to each of
three sizes alone, C, beta and gamma differ by 5% at most and A, alpha and B follow powers of N.
Where the batch varies, A and B go as powers of it too.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from analysis.array import Array
from analysis.schedules.annealing import Terms, annealed, terms_of
from analysis.schedules.curves import after_warmup, by_curve, read, schedule_of
from analysis.schedules.multipower import NAMES, End, Problem, descend
from scaling.store.records import Refusal

COEFFICIENTS = (
    "E", "K", "kappa", "A", "A_params", "alpha", "alpha_params", "B", "B_params",
    "C", "beta", "gamma", "A_batch", "B_batch",
)  # fmt: skip
_E, _K, _KAPPA, _A, _A_N, _ALPHA, _ALPHA_N, _B, _B_N, _C, _BETA, _GAMMA, _A_B, _B_B = range(14)
_LOGS = np.array([name in ("K", "A", "alpha", "B", "C") for name in COEFFICIENTS])
# What a few sizes leave open, each (value, sd). Powers of N near none; kappa as published for the
# exponent of size (.25 to .49 in Hoffmann et al. 2022, Besiroglu et al. 2024, Porian et al. 2024);
# beta and gamma as for one size. All of them together weigh as one curve.
PRIORS = {
    "kappa": (0.35, 0.1), "A_params": (0.0, 0.2), "alpha_params": (0.0, 0.2),
    "B_params": (0.0, 0.2), "beta": (0.5, 0.2), "gamma": (0.5, 0.2),
    "A_batch": (0.0, 0.5), "B_batch": (0.0, 0.5),
}  # fmt: skip
_LOWER = np.array([0.0, -30, 0.01, -30, -3, -7, -3, -30, -3, -30, 1e-3, 0.0, -3, -3])
_UPPER = np.array([np.inf, 30, 3.0, 30, 3, 1.6, 3, 30, 3, 30, 20.0, 3.0, 3, 3])
_STARTS, _TOLERANCE = 4, 1e-9


@dataclass(frozen=True)
class SizesProblem:
    """Residuals of all sizes and of the priors over `COEFFICIENTS`, K, A, alpha, B and C as logs.

    B and C are in the unit of rates of the models, as in `multipower.Problem`.
    """

    models: Sequence[Problem]  # the curves of each (N, batch)
    size: Array  # log(N/N0) of each model
    batch: Array  # log(batch/batch0)
    free: NDArray[np.bool_]  # which coefficients vary
    pull: float = 0.0

    @cached_property
    def rows(self) -> int:
        return sum(len(model.observed) for model in self.models)

    @property
    def curves(self) -> int:
        return sum(len(model.parts) for model in self.models)

    def point(self, theta: Array, size: float, batch: float) -> Array:
        """The coordinates of `multipower.Problem` for one model."""
        return np.array([
            theta[_E] + np.exp(theta[_K] - theta[_KAPPA] * size),
            theta[_A] + theta[_A_N] * size + theta[_A_B] * batch,
            np.exp(theta[_ALPHA] + theta[_ALPHA_N] * size),
            theta[_B] + theta[_B_N] * size + theta[_B_B] * batch,
            theta[_C], theta[_BETA], theta[_GAMMA],
        ])  # fmt: skip

    def _by_theta(self, theta: Array, size: float, batch: float) -> Array:
        """Derivatives of `point`, (7, 14)."""
        found = np.zeros((len(NAMES), len(COEFFICIENTS)))
        power = np.exp(theta[_K] - theta[_KAPPA] * size)
        alpha = np.exp(theta[_ALPHA] + theta[_ALPHA_N] * size)
        found[0, [_E, _K, _KAPPA]] = 1.0, power, -size * power
        found[1, [_A, _A_N, _A_B]] = 1.0, size, batch
        found[2, [_ALPHA, _ALPHA_N]] = alpha, size * alpha
        found[3, [_B, _B_N, _B_B]] = 1.0, size, batch
        found[4, _C] = found[5, _BETA] = found[6, _GAMMA] = 1.0
        return found

    def _each(self) -> zip[tuple[Problem, float, float]]:
        return zip(self.models, self.size.tolist(), self.batch.tolist(), strict=True)

    def residuals(self, theta: Array) -> Array:
        parts = [model.residuals(self.point(theta, *at)) for model, *at in self._each()]
        away = [
            (theta[COEFFICIENTS.index(name)] - value) / sd for name, (value, sd) in PRIORS.items()
        ]
        return np.concatenate([*parts, np.sqrt(self.pull) * np.array(away)])

    def jacobian(self, theta: Array) -> Array:
        parts = [
            model.jacobian(self.point(theta, *at)) @ self._by_theta(theta, *at)
            for model, *at in self._each()
        ]
        pulls = np.zeros((len(PRIORS), len(COEFFICIENTS)))
        for row, (name, (_, sd)) in enumerate(PRIORS.items()):
            pulls[row, COEFFICIENTS.index(name)] = np.sqrt(self.pull) / sd
        return np.concatenate([*parts, pulls])

    def starts(self) -> list[Array]:
        """The best of a grid over alpha and C, with L0, A and B of each model in closed form."""
        slowest = max(np.log(model.terms.total.max()) for model in self.models)
        speeds = -np.linspace(np.log(self.models[0].unit), slowest, 5)
        found = []
        for alpha, speed in itertools.product((0.3, 0.5, 0.8), speeds):
            fits = [_closed_form(model, alpha, speed) for model in self.models]
            floors, a, b = np.array([fit[0] for fit in fits]).T
            falls = np.stack([np.ones_like(floors), np.exp(-0.35 * self.size)], axis=1)
            (floor, k), _ = nnls(falls, floors)
            theta = np.zeros(len(COEFFICIENTS))
            theta[[_E, _K, _KAPPA, _ALPHA]] = floor, np.log(k + 1e-2), 0.35, np.log(alpha)
            theta[[_A, _B]] = np.mean(np.log(a + 1e-3)), np.log(b.max() + 1e-3)
            theta[[_C, _BETA, _GAMMA]] = speed, 0.5, 0.5
            found.append((sum(fit[1] for fit in fits), theta))
        found.sort(key=lambda pair: pair[0])
        return [theta for _, theta in found[:_STARTS]]

    def start_of(self, named: Mapping[str, float], middle: Model, around: Model) -> Array:
        """Coefficients of a fit around `middle` as a start for this one, which is `around`."""
        here = {**named, **coefficients_at(named, middle, *around)}
        here["K"] = max(here["L0"] - named["E"], 1e-6)
        theta = np.array([here[name] for name in COEFFICIENTS])
        theta[_LOGS] = np.log(theta[_LOGS])
        unit = self.models[0].unit
        theta[_B] += np.log(unit)
        theta[_C] -= theta[_GAMMA] * np.log(unit)
        return np.clip(theta, _LOWER + 1e-6, _UPPER - 1e-6)

    def descend(self, start: Array) -> End:
        """The minimum below `start`: where, its value, and whether it came to rest."""
        return descend(
            self, start, (_LOWER, _UPPER), rows=self.rows, delta=self.models[0].delta,
            tolerance=_TOLERANCE,
        )  # fmt: skip

    def minimum(self) -> tuple[Array, float, bool]:
        """Without priors first: what is left then is the scale on which priors pull."""
        alone = replace(self, pull=0.0)
        ends = [alone.descend(start) for start in self.starts()]
        least = min(ends, key=lambda end: end[1])
        pulled = replace(self, pull=2 * least[1] / self.curves)
        return min((pulled.descend(end[0]) for end in ends), key=lambda end: end[1])

    def minimum_near(self, start: Array) -> Array:
        """As `minimum`, from one start."""
        least = replace(self, pull=0.0).descend(start)
        return replace(self, pull=2 * least[1] / self.curves).descend(least[0])[0]


def _closed_form(model: Problem, alpha: float, speed: float) -> tuple[Array, float]:
    """L0, A and B at beta = gamma = 1/2, and the misfit."""
    drops = annealed(model.terms, speed, 0.5, 0.5).value
    columns = [np.ones_like(drops), model.terms.total**-alpha, -drops]
    weights = model.roots / model.observed
    found, misfit = nnls(np.stack(columns, axis=1) * weights[:, None], model.roots)
    return found, float(misfit)


class Model(NamedTuple):
    """What the law knows of a model beside its schedule."""

    params: float
    batch_tokens: float


def columns_of_models(curves: pd.DataFrame) -> pd.DataFrame:
    """Columns curve, step, lr, loss, params and batch_tokens (1 where the table has none).

    Raises Refusal for what is missing, and for sizes that are no positive numbers.
    """
    rows = read(curves)
    if "params" not in curves:
        raise Refusal(
            "the table has no column 'params', the size of the model of each row. Add it, or fit "
            "curves of one model with fit_schedules."
        )
    for name in ("params", "batch_tokens"):
        given = curves[name] if name in curves else pd.Series(1.0, curves.index)
        rows[name] = pd.to_numeric(given, errors="coerce").to_numpy(dtype=float)
        if not (rows[name] > 0).all():
            raise Refusal(f"{name} is not a positive number in every row. Give it for every curve.")
    return rows


def problem_of(
    rows: pd.DataFrame, warmup_steps: int | None, delta: float, lean: float
) -> tuple[SizesProblem, Model]:
    """The problem of rows of `columns_of_models`, and N0 and batch0. Raises Refusal for too few."""
    kept = after_warmup(rows, warmup_steps)
    unit = float(rows["lr"].max())
    found: dict[Model, tuple[list[Terms], list[Array]]] = {}
    for places, each in by_curve(rows):
        own = each[kept[places]]
        if not len(own):
            continue
        parts, known = found.setdefault(Model(*own[["params", "batch_tokens"]].iloc[0]), ([], []))
        parts.append(terms_of(schedule_of(each, warmup_steps), own["step"].to_numpy(dtype=np.intp)))
        known.append(own["loss"].to_numpy())
    sizes = np.log([model.params for model in found])
    batches = np.log([model.batch_tokens for model in found])
    if len(set(sizes)) < 2:
        raise Refusal(
            f"params has {len(set(sizes))} value: powers of N need curves of at least two sizes. "
            "Add a size, or fit curves of one model with fit_schedules."
        )
    if not any((part.drop > 0).any() for parts, _ in found.values() for part in parts):
        raise Refusal(
            "lr falls before no loss of any curve, so the effect of a decay is not determined. Add "
            "a curve whose rate decays."
        )
    free = np.ones(len(COEFFICIENTS), dtype=bool)
    free[[_A_B, _B_B]] = np.ptp(batches) > 0
    models = [Problem(parts, known, delta, unit, {}, lean) for parts, known in found.values()]
    middle = Model(float(np.exp(np.unique(sizes).mean())), float(np.exp(batches.mean())))
    size, batch = sizes - np.log(middle.params), batches - np.log(middle.batch_tokens)
    return SizesProblem(models, size, batch, free), middle


def coefficients_at(
    named: Mapping[str, float], middle: Model, params: float, batch_tokens: float
) -> dict[str, float]:
    """The multi-power law's seven coefficients for one model."""
    size = params / middle.params
    batch = batch_tokens / middle.batch_tokens
    return {
        "L0": named["E"] + named["K"] * size ** -named["kappa"],
        "A": named["A"] * size ** named["A_params"] * batch ** named["A_batch"],
        "alpha": named["alpha"] * size ** named["alpha_params"],
        "B": named["B"] * size ** named["B_params"] * batch ** named["B_batch"],
        **{name: named[name] for name in ("C", "beta", "gamma")},
    }


def named_of(theta: Array, problem: SizesProblem) -> dict[str, float]:
    """The coefficients by name, in the units of the table."""
    unit = problem.models[0].unit
    c = theta.copy()
    c[_B] -= np.log(unit)
    c[_C] += c[_GAMMA] * np.log(unit)
    c[_LOGS] = np.exp(c[_LOGS])
    return dict(zip(COEFFICIENTS, map(float, c), strict=True))
