"""What a law is fitted to: rows that allow it, and settings, in the form that the solver takes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.fitting.effective_clusters import Support, clusters_of, support
from analysis.fitting.identifiability import obstacles
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.replicates import cells
from analysis.runs.table import standardise
from analysis.solver.newton import Mask
from analysis.solver.objective import Objective, objective
from analysis.solver.power_sum import model
from analysis.solver.priors import Fixed, Regularised, fixed_of
from analysis.solver.problem import Data, Model, coefficients_at, to_theta
from analysis.solver.search import BestDescent, optimise
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit
    from analysis.fitting.result import Settings

SPARE_ROWS = 2  # rows beyond the coefficients; fewer leave no residual to judge by


class Minimum(NamedTuple):
    """The best fit, and the problem that it solves."""

    problem: Model
    best: BestDescent


@dataclass(frozen=True)
class Inputs:
    """What a law is fitted to and how. `rows` are as `prepare` leaves them."""

    law: Law
    rows: pd.DataFrame
    settings: Settings

    @cached_property
    def data(self) -> Data:
        """The columns of the rows that the law is fitted to."""
        features = {n: self.rows[s.column].to_numpy() for n, s in self.law.symbols.items()
                    if s.feature}  # fmt: skip
        return Data(features, self.rows[self.law.target].to_numpy())

    @cached_property
    def weights(self) -> Array:
        """What multiplies each row's penalty, 1 on average: the scale of weights is arbitrary."""
        column = self.settings.weights
        if column is None:
            return np.ones(len(self.rows))
        # standardise() refuses what is not positive and finite.
        weight = standardise(self.rows, require=[column])[column].to_numpy()
        return np.asarray(weight / weight.mean())

    @cached_property
    def goal(self) -> Objective:
        """What is minimised."""
        return objective(self.settings.objective, self.settings.delta)

    @cached_property
    def held(self) -> Fixed:
        """The coefficients that are held at a value."""
        return fixed_of(self.law, self.settings.fixed)

    @property
    def known(self) -> Mask:
        """The coefficients that need no runs: those held or under a prior."""
        return self.held.mask | np.isin(self.law.coefficients, [*self.settings.prior])

    @cached_property
    def clusters(self) -> Index:
        """The number of the cluster of each row."""
        return clusters_of(self.rows)

    @property
    def cluster_count(self) -> int:
        """How many clusters the rows are of; as many as rows where each is its own."""
        return int(self.clusters.max()) + 1

    @property
    def points(self) -> int:
        """How many points of the law's features the rows are at."""
        return len(np.unique(cells(self.rows, list(self.law.features))))

    def minimise(self) -> Minimum:
        """The law at its best on the rows, under the priors if there are any."""
        search = partial(
            optimise, self.law, self.data, self.weights, self.goal, self.held.mask, self.held.theta
        )
        problem = self.problem()
        best = search(problem)
        if self.settings.prior:
            problem = self.with_priors(problem, best.point)
            best = search(problem)
        return Minimum(problem, best)

    def coefficients(self, minimum: Minimum) -> dict[str, float]:
        """The coefficients of the minimum; those held at their values to the last digit."""
        found = coefficients_at(self.law, minimum.problem, minimum.best.point)
        return {name: float(self.settings.fixed.get(name, value)) for name, value in found.items()}

    def problem(self) -> Model:
        """The law on the rows as something to minimise, without the priors."""
        return model(self.law, self.data, self.goal, centred=not self.held.mask.any())

    def with_priors(self, problem: Model, point: Array) -> Model:
        """`problem` with the priors, which weigh against the scatter of the rows about `point`."""
        # The variance of a residual in the objective's own terms, the mean of r·ρ′(r): of a sum of
        # squares the variance, of absolute values δ times the mean deviation.
        residual = problem.residuals(point[None])
        squares = self.weights * residual * self.goal.of(residual).slope
        scatter = float(np.sum(squares) / np.sum(self.weights))
        return Regularised(self.law, problem, self.settings.prior, scatter)

    def support(self, theta: Array, settled: Mask) -> Support:
        """How the clusters of the rows carry the coefficients of a fit at θ that are not `settled`,
        as those held or at a bound are."""
        # A penalty of differences counts large losses more.
        precision = self.weights if self.goal.log else self.weights * self.data.observed**2
        return support(
            self.law, self.data, theta, self.clusters, precision, settled, self.settings.prior
        )


def support_of(fit: Fit) -> Support:
    """How the clusters of a fit's rows carry its coefficients."""
    law = fit.law.fitted
    settled = np.isin(law.coefficients, [*fit.fixed, *fit.at_bound])
    inputs = Inputs(law, fit.table, fit.settings)
    return inputs.support(to_theta(law, fit.coefficients), settled)


def prepare(law: Law, table: pd.DataFrame, settings: Settings) -> Inputs:
    """The rows with the law's columns as floats; `flops` is always 6·N·D of this table's N.

    Raises Refusal for rows that the law cannot be fitted to, with all that stands in the way, and
    for settings that the law does not allow.
    """
    log = objective(settings.objective, settings.delta).log
    counted = "params" in table or "params_total" in table
    derived = "flops" in law.features and counted and "tokens" in table
    derived = derived and law.target not in ("params", "tokens")  # there they are the answer
    needed = [c for c in law.features if not (c == "flops" and derived)]
    if derived:
        needed += ["params", "tokens"]
    rows = standardise(
        table,
        require=[*dict.fromkeys(needed), law.target],
        signed=() if log else (law.target,),
    )
    if derived:
        rows["flops"] = FLOPS_PER_PARAM_TOKEN * rows["params"] * rows["tokens"]
    inputs = Inputs(law, rows, settings)
    _refuse_sweep(law, rows)
    _refuse_constant(law, rows)
    if not inputs.held.mask.all():  # a law that is given whole is only compared with the rows
        _refuse_few(inputs)
    return inputs


def _refuse_few(inputs: Inputs) -> None:
    """Raises Refusal with all that stands in the way, first what more of the same would not
    change."""
    law, held, n = inputs.law, inputs.held, len(inputs.rows)
    found = obstacles(law, inputs.data, inputs.goal, held, inputs.known)
    free = int((~held.mask).sum())
    need = f"{law.name} has {free} free coefficients and needs at least "
    if n < free + SPARE_ROWS:
        found.append(
            f"{need}{free + SPARE_ROWS} usable runs; there are {n}. Train more"
            f"{' there' if found else ''}, or fit a law with fewer."
        )
    elif inputs.points < free:
        found.append(
            f"{need}as many distinct ({', '.join(law.features)}); the {n} runs lie at "
            f"{inputs.points}. Repeats show the noise, not the law: train elsewhere, or fit a law "
            "with fewer."
        )
    if found:
        raise Refusal(" ".join(found))


def _refuse_constant(law: Law, rows: pd.DataFrame) -> None:
    """Raises Refusal for runs that all came to one value: any law without a slope passes there."""
    values = rows[law.target]
    if len(rows) > 1 and float(np.ptp(values)) <= 1e-9 * float(values.abs().max()):
        raise Refusal(
            f"{law.target} is {values.iloc[0]:.6g} in all {len(rows)} rows: it has one value, and "
            "there is nothing to fit. Give the column that the runs measured, or runs that differ."
        )


def _refuse_sweep(law: Law, rows: pd.DataFrame) -> None:
    """Raises Refusal for a law of optima on rows that are not: it would give the mean of the grid.

    Such a law says which rate, batch or size is best at a point; a row that is not the best of its
    point, by its loss, does not show that. Seeds may each have a best of their own.
    """
    if law.target == "loss" or "loss" not in rows:
        return
    also = ("seed",) if law.target in ("params", "tokens") else ("params", "tokens", "seed")
    point = [column for column in dict.fromkeys([*law.features, *also]) if column in rows]
    tried = rows.groupby(point, dropna=False)[law.target].nunique()
    if (tried > 1).any():
        first = tried[tried > 1].index[0]
        at = zip(point, first if isinstance(first, tuple) else (first,), strict=True)
        where = ", ".join(f"{column} = {value:.6g}" for column, value in at if column != "seed")
        raise Refusal(
            f"{law.name} is a law of the best {law.target}, and these rows are all that was tried: "
            f"{tried.max()} values of it at {where} ({(tried > 1).sum()} such points). Keep the "
            f"row of least loss at each: scaling fit RUNS --best-of {law.target}."
        )
