"""Fits that forecast together: what each says of a larger run, and how far they differ.

One law that passes through all runs alike errs beyond them: runs far below the target pull it, and
its form is not quite theirs. One exponent more lets the form bend, and fits in which runs of more
compute weigh more see where it bends to; their mean errs less, and how far they differ at a run
shows how little the fitted runs say of it (benchmarks/forecasts.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.fitting.fit import Fit
from analysis.fitting.identifiability import jacobian
from analysis.fitting.inputs import Inputs, prepare
from analysis.fitting.outliers import capped
from analysis.fitting.result import Settings
from analysis.forecast.scatter import Scatter
from analysis.laws.catalogue import LAWS
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.solver.priors import Prior
from analysis.solver.problem import Data, Model, coefficients_at, predictions, to_theta
from analysis.solver.search import descend
from scaling.store.records import Refusal

LAW = LAWS["chinchilla_power"]
SIMPLE = LAWS["chinchilla"]
POWERS = (0.0, 0.5, 1.0)  # of compute, by which runs weigh: one fit each
# Published exponents of N are .29 to .35 and of D .28 to .71 (analysis.laws.published; McLeish et
# al. 2025, arXiv:2502.06857). So wide, these move a fit only where the runs leave it open.
PRIOR = MappingProxyType(
    {"alpha": Prior(0.35, 0.8), "beta": Prior(0.37, 0.8), "gamma": Prior(1.0, 0.5)}
)
GAMMAS = (0.5, 0.7, 1.0, 1.5, 2.5)  # from which descents begin
LEAST = 1e-6  # of a floor from which a descent begins: one at 0 has no logarithm
FEWEST = 1.0  # independent residuals that a scatter rests on, at least
COLUMNS = ("params", "tokens", "loss")


@dataclass(frozen=True)
class Member:
    """The law fitted to runs that weigh by a power of their compute."""

    power: float
    coefficients: Mapping[str, float]
    scatter: Scatter  # of log loss about it, of the runs as they weigh
    covariance: Array  # of the coefficients on the fitting scale, (coefficients, coefficients)

    def log_loss(self, features: Mapping[str, Array]) -> Array:
        """ln loss of runs."""
        with np.errstate(all="ignore"):
            return np.asarray(np.log(LAW.predict(self.coefficients, features)))

    def error(self, features: Mapping[str, Array]) -> Array:
        """The standard error of `log_loss` that its coefficients leave."""
        runs = {LAW.symbols[name].column: name for name in LAW.symbols if LAW.symbols[name].feature}
        data = Data(
            {letter: np.asarray(features[column]) for column, letter in runs.items()},
            np.ones(np.size(features["params"])),
        )
        slopes = jacobian(LAW, data, to_theta(LAW, self.coefficients))
        square = np.einsum("ij,jk,ik->i", slopes, self.covariance, slopes)
        return np.asarray(np.sqrt(np.maximum(square, 0.0)))


@dataclass(frozen=True)
class Ensemble:
    """Members fitted to the same runs, of rising power."""

    members: tuple[Member, ...]

    @property
    def nearest(self) -> Member:
        """The one to which the largest runs matter most."""
        return self.members[-1]

    def log_losses(self, features: Mapping[str, Array]) -> Array:
        """ln loss by each member (members, runs) at columns `params` and `tokens`."""
        return np.stack([each.log_loss(features) for each in self.members])

    def loss(self, features: Mapping[str, Array]) -> Array:
        """The forecast, nats/token: the geometric mean of what the members say."""
        return np.asarray(np.exp(self.log_losses(features).mean(axis=0)))

    def spread(self, features: Mapping[str, Array]) -> Array:
        """The standard deviation of the members' log losses."""
        return np.asarray(self.log_losses(features).std(axis=0, ddof=1))


def why_alone(fit: Fit) -> str | None:
    """Why the law that was fitted forecasts alone, as a clause; None where the ensemble does."""
    made = fit.settings
    if fit.law.target != "loss":
        return f"it is a law of {fit.law.target}"
    if not {*fit.law.features} <= {"params", "tokens", "flops"} or fit.law.given:
        return f"it follows {', '.join(fit.law.features)}"
    if {*COLUMNS} - {*fit.table}:
        return "its runs do not say their N and D"
    if told := [*made.fixed, *made.prior]:
        return f"it was told {', '.join(told)}"
    if made.weights is not None:
        return f"its runs are weighted by {made.weights}"
    if not (fit.table["loss"] > 0).all():
        return "not all its losses have a logarithm"
    return None


def ensemble_of(fit: Fit) -> Ensemble | None:
    """The members fitted to the runs of a fit; None where its law forecasts alone (`why_alone`),
    and where the runs do not allow the members."""
    if why_alone(fit) is not None:
        return None
    columns = (fit.table[name].to_numpy(dtype=float) for name in COLUMNS)
    return _known(*(column.tobytes() for column in columns))


@lru_cache(maxsize=64)
def _known(*columns: bytes) -> Ensemble | None:
    """`ensemble` of columns as bytes, once: of one fit many answers are asked."""
    numbers = (np.frombuffer(column, dtype=np.float64) for column in columns)
    return ensemble(pd.DataFrame(dict(zip(COLUMNS, numbers, strict=True))))


def ensemble(rows: pd.DataFrame) -> Ensemble | None:
    """The members fitted to runs (columns params, tokens and loss); None where these do not allow
    all of them."""
    if len(rows) < 2 * len(LAW.coefficients):  # fewer pass too close to all to say what lies beyond
        return None
    members = [_member(power, rows) for power in POWERS]
    found = tuple(each for each in members if each is not None)
    return Ensemble(found) if len(found) == len(POWERS) else None


def compute_of(rows: pd.DataFrame) -> Array:
    """6·N·D of each row."""
    return (FLOPS_PER_PARAM_TOKEN * rows["params"] * rows["tokens"]).to_numpy(dtype=float)


def _member(power: float, rows: pd.DataFrame) -> Member | None:
    compute = compute_of(rows)
    # Of the largest compute, so that no weight leaves the range of numbers; beyond thirty decades
    # a run has none.
    weight = np.maximum((compute / compute.max()) ** power, 1e-30)
    settings = Settings(
        bootstrap=0, cluster="none", weights="weight", prior=dict(PRIOR), checks=False
    )
    try:
        inputs = prepare(LAW, rows.assign(weight=weight), settings)
    except Refusal:
        return None
    simple = Inputs(SIMPLE, inputs.rows, Settings(bootstrap=0, weights="weight", checks=False))
    # The law of one exponent less at its global optimum is where the descents begin: a search over
    # all exponents takes ten times as long, and ended at the same minimum on published tables.
    starts = _starts(simple.coefficients(simple.minimise()))
    problem = inputs.problem()
    point = _lowest(inputs, problem, starts)
    if point is not None:
        problem = inputs.with_priors(problem, point)
        point = _lowest(inputs, problem, starts)
    if point is None:
        return None
    values = coefficients_at(LAW, problem, point)
    return _judged(power, inputs, {name: float(value) for name, value in values.items()})


def _starts(simple: Mapping[str, float]) -> Array:
    """On the fitting scale, where the law with an exponent γ over the sum lies near a simple one:
    (a·x)^γ is near a term where a = A^(1/γ)."""
    floor = max(simple["E"], LEAST)
    return np.stack(
        [
            to_theta(
                LAW,
                {
                    "E": floor,
                    "A": simple["A"] ** (1 / gamma),
                    "alpha": simple["alpha"] / gamma,
                    "B": simple["B"] ** (1 / gamma),
                    "beta": simple["beta"] / gamma,
                    "gamma": gamma,
                },
            )
            for gamma in GAMMAS
        ]
    )


def _lowest(inputs: Inputs, problem: Model, starts: Array) -> Array | None:
    """The lowest minimum from the starts, in the problem's coordinates; None where none is one."""
    minima = descend(problem, problem.enter(starts), inputs.weights[None], inputs.held.mask)
    value = np.where(minima.converged, minima.value, np.inf)
    best = int(np.argmin(value))
    return minima.theta[best] if np.isfinite(value[best]) else None


def _judged(power: float, inputs: Inputs, coefficients: Mapping[str, float]) -> Member:
    """With the scatter of the runs about it and the error of its coefficients, by least squares.

    Runs weigh by what they say of larger ones and not by how exact they are, so with H = JᵀWJ and
    the priors Σwr² is expected to be σ²·(Σw - tr H⁻¹JᵀW²J), and the covariance is the sandwich
    σ²·H⁻¹(JᵀW²J)H⁻¹. The runs count as (Σw)²/Σw², and the residuals as the same share of that.
    """
    weight, data = inputs.weights, inputs.data
    theta = to_theta(LAW, coefficients)
    residual = capped(np.log(data.observed / predictions(LAW, data, theta)), len(LAW.coefficients))
    slopes = jacobian(LAW, data, theta)
    squares, total = float(np.sum(weight * residual**2)), float(weight.sum())
    known = np.diag([_precision(name) for name in LAW.coefficients]) * squares / total
    inverse = np.linalg.pinv(
        slopes.T @ (weight[:, None] * slopes) + known, rcond=1e-13, hermitian=True
    )
    outer = slopes.T @ (weight[:, None] ** 2 * slopes)
    count = total**2 / float(np.sum(weight**2))
    freedom = max(count * (1 - float(np.trace(inverse @ outer)) / total), FEWEST)
    variance = squares / total * count / freedom
    return Member(
        power=power,
        coefficients=coefficients,
        scatter=Scatter(float(np.sqrt(variance)), freedom),
        covariance=variance * inverse @ (outer + known) @ inverse,
    )


def _precision(name: str) -> float:
    return 1 / PRIOR[name].sd ** 2 if name in PRIOR else 0.0
