"""Fit a law to a run table: the global optimum, its intervals, and why to doubt it.

    fit("chinchilla", read_runs("results/mine"))

The result is frozen. It carries a status with a reason, so that a fit which went wrong says
so instead of handing over a wrong minimum. `analysis.fitting.files` saves and loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.arguments import as_mapping, as_table, refuse_times
from analysis.array import Array
from analysis.fitting.diagnostics import diagnose
from analysis.fitting.identifiability import design_at
from analysis.fitting.inputs import Inputs, Minimum, prepare
from analysis.fitting.intervals import Intervals, coefficient_intervals, most_draws, uncertainty
from analysis.fitting.outliers import outliers
from analysis.fitting.result import Minimised, Settings, Status, data_of, refuse_level
from analysis.fitting.status import judge
from analysis.fitting.summary import flat_with, html_summary, summary
from analysis.fitting.warnings import floors_near_zero, other_features_vary
from analysis.laws.catalogue import as_law
from analysis.laws.law import Law
from analysis.runs.checks.before_fit import examine
from analysis.runs.clusters import AUTO, COLUMN
from analysis.runs.table import usable
from analysis.solver.priors import Prior, above, contradictions, priors_of
from analysis.solver.problem import NEARLY
from scaling.store.records import Refusal, did_you_mean

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from analysis.fitting.result import Diagnostics, FitData

# What to do about an argument that is no law.
LAW_FIRST = "Give a Law or the name of one, before the table: fit('chinchilla', runs)."

__all__ = ["Fit", "Prior", "Settings", "Status", "fit"]


@dataclass(frozen=True, repr=False)
class Fit:
    """A law with coefficients, and everything needed to judge them."""

    law: Law
    coefficients: Mapping[str, float]
    se: Mapping[str, float]
    interval: Intervals
    objective: Minimised
    status: Status
    reason: str  # one sentence a user can act on
    warnings: tuple[str, ...]
    draws: pd.DataFrame  # refits, a column a coefficient; see `analysis.fitting.functionals`
    data: FitData
    rmse_log: float  # of log(predicted / observed)
    starts: int
    starts_at_optimum: int
    condition_number: float
    at_bound: tuple[str, ...]
    open: tuple[str, ...]  # may change together and change no prediction at these rows
    settings: Settings
    diagnostics: Diagnostics | None  # None without draws
    excluded: pd.DataFrame  # rows left out, and why, in a column `reason`
    table: pd.DataFrame  # rows fitted
    effective_clusters: Mapping[str, float]  # behind each coefficient that is not known beforehand
    cautions: tuple[str, ...] = ()  # of `warnings`, what every answer from these runs repeats

    @property
    def fixed(self) -> tuple[str, ...]:
        """The coefficients held, in the law's order."""
        return tuple(name for name in self.law.coefficients if name in self.settings.fixed)

    def predict(self, features: Mapping[str, Any]) -> Array:
        """Loss at the features, by column name (`params`, `tokens`; `flops` is 6·N·D)."""
        return self.law.predict(self.coefficients, features)

    def again(self, rows: pd.DataFrame, *, law: Law | str | None = None, **changes: Any) -> Fit:
        """A fit of other rows (or by another `law`) made as this one was, but for `changes`.

        `changes` are fields of `Settings`. Rows of this fit keep the clusters it found. A law of
        other coefficients takes neither what is fixed nor priors. Raises Refusal as `fit` does, and
        for what is no table or no field.
        """
        known = [each.name for each in fields(Settings)]
        if unknown := [name for name in changes if name not in known]:
            raise Refusal(
                f"{unknown[0]!r} is no setting of a fit. Give one of {', '.join(known)}."
                f"{did_you_mean(unknown[0], known)}"
            )
        rows = as_table("rows", rows)
        made, other = self.settings, self.law if law is None else as_law(law, LAW_FIRST)
        if "prior" in changes:
            changes["prior"] = priors_of(changes["prior"])
        if made.cluster not in rows and COLUMN in self.table and COLUMN in rows:
            # What `auto`, or a column that is not at hand, was found to be.
            made = replace(made, cluster=COLUMN)
        if other.coefficients != self.law.coefficients:
            made = replace(made, fixed={}, prior={})
        return _fit(other, rows, replace(made, **changes))

    def doubted(self, cautions: Sequence[str]) -> Fit:
        """The same with more `cautions`, found when it was put to the test."""
        return replace(
            self, warnings=(*self.warnings, *cautions), cautions=(*self.cautions, *cautions)
        )

    def frame(self, level: float | None = None) -> pd.DataFrame:
        """A row a coefficient: estimate, se, low, high, flat_with.

        low and high are the ends of its interval at `level`, by default the fit's own (NaN where it
        has none); flat_with names a coefficient that it can be traded against, else it is empty.
        Raises Refusal for a level that is not between 0 and 1.
        """
        level = self.interval.level if level is None else level
        refuse_level(level)
        bounds = coefficient_intervals(self, level)
        names = list(self.law.coefficients)
        partners = [flat_with(self, name) for name in names]
        return pd.DataFrame(
            {
                "estimate": [self.coefficients[name] for name in names],
                "se": [self.se[name] for name in names],
                "low": [bounds[name].low for name in names],
                "high": [bounds[name].high for name in names],
                "flat_with": ["" if each is None else each.name for each in partners],
            },
            index=pd.Index(names, name="coefficient"),
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The losses and the fitted law, drawn on `ax` or on new axes, which are returned."""
        # Figures come after fits in the order of the rooms, and matplotlib takes a second to load:
        # the module is imported by its name when a picture is asked for.
        drawn: Axes = import_module("analysis.figures.fitted").loss(self, ax=ax)
        return drawn

    def summary(self) -> str:
        """The fit on one screen."""
        return summary(self)

    __str__ = __repr__ = summary

    def _repr_html_(self) -> str:
        return html_summary(self)

    def _repr_latex_(self) -> str:
        return self.law._repr_latex_()


def fit(
    law: Law | str,
    runs: pd.DataFrame,
    *,
    objective: str = Settings.objective,
    delta: float = Settings.delta,
    bootstrap: int = Settings.bootstrap,
    level: float = Settings.level,
    seed: int = Settings.seed,
    cluster: str = AUTO,
    weights: str | None = None,
    fixed: Mapping[str, float] | None = None,
    prior: Mapping[str, Prior | tuple[float, float]] | None = None,
    checks: bool = True,
    on_estimate: Callable[[Mapping[str, float]], None] | None = None,
) -> Fit:
    """The law's coefficients at the global optimum, with intervals by the cluster rule.

    law: a `Law`, or the name of one that `scaling laws` lists.
    objective: see `analysis.solver.objective`; delta is the Huber threshold on log residuals.
    bootstrap: draws (0: the estimate alone, without intervals or diagnostics).
    cluster: column that names the runs whose rows share noise; `auto` finds it, see
    `analysis.runs.clusters`; `none`: every row is independent.
    weights: column that multiplies each row's penalty. fixed: coefficients held at a value.
    prior: what is known of others, each as the pair (value, sd), where the sd of a positive
    coefficient is relative. checks: whether to compute the diagnostics.
    on_estimate: is called with the coefficients before the resampling, which takes longer.
    Raises Refusal for input that cannot be fitted; a fit that fails has status FAILED.
    """
    held = as_mapping("fixed", fixed, "{'E': 1.8}")
    refuse_times("bootstrap", bootstrap, Settings.bootstrap)
    settings = Settings(
        objective, delta, bootstrap, level, seed, cluster, weights, held, priors_of(prior), checks
    )
    law = as_law(law, LAW_FIRST)
    try:
        return _fit(law, as_table("runs", runs), settings, on_estimate)
    except np.linalg.LinAlgError as error:
        raise Refusal(
            f"{law.name} cannot be fitted to these rows, whose numbers lie too far apart for any "
            f"arithmetic ({error}). Leave out those that are no measurements, as with --where, and "
            "priors or held values that are none."
        ) from error


def _fit(
    law: Law,
    runs: pd.DataFrame,
    settings: Settings,
    on_estimate: Callable[[Mapping[str, float]], None] | None = None,
) -> Fit:
    """The rows are chosen and examined, the law is minimised, resampled and judged on them."""
    selection = usable(runs)
    inputs = prepare(law, selection.rows, settings)
    seen = examine(inputs.rows, law.features, law.target, settings.cluster)
    inputs = replace(inputs, rows=seen.rows)
    minimum = inputs.minimise()
    best = minimum.best
    coefficients = inputs.coefficients(minimum)
    if on_estimate is not None and best.converged:
        on_estimate(coefficients)

    bound = _at_bound(inputs, minimum)
    design = design_at(law, inputs.data, best.theta, inputs.held.mask, inputs.known)
    loose = () if bound else design.open
    # Resamples of rows that leave a direction open all stay where the search happened to stop.
    draws = most_draws(inputs) if best.converged and not loose else 0
    spread = uncertainty(inputs, minimum, bound, draws)
    status, reason = judge(inputs, best, bound, design, spread)

    odd = outliers(inputs, minimum, spread.se)
    against = contradictions(law, coefficients, settings.prior) if best.converged else []
    cautions = (*seen.cautions, *odd.cautions, *above(law, settings.fixed, inputs.rows), *against)
    warnings = [*cautions, *selection.warnings, *spread.warnings, *seen.warnings]
    if best.converged and best.reached == 1 < best.starts:
        warnings.append(f"only 1 of {best.starts} starts reached the optimum")
    warnings += floors_near_zero(inputs, spread.interval.coefficients, bound)
    warnings += other_features_vary(law, inputs.rows)
    checked = settings.checks and settings.bootstrap > 0 and status is not Status.FAILED
    return Fit(
        law=law,
        coefficients=coefficients,
        se=spread.se,
        interval=spread.interval,
        objective=Minimised(settings.objective, settings.delta, best.value),
        status=status,
        reason=reason,
        warnings=tuple(warning for warning in warnings if warning != reason),
        draws=spread.draws,
        data=data_of(law, inputs.rows, inputs.cluster_count),
        rmse_log=odd.rms,
        starts=best.starts,
        starts_at_optimum=best.reached,
        condition_number=design.condition,
        at_bound=bound,
        open=loose,
        settings=settings,
        diagnostics=diagnose(inputs, minimum) if checked else None,
        excluded=selection.excluded,
        table=inputs.rows,
        effective_clusters=spread.effective_clusters,
        cautions=cautions,
    )


def _at_bound(inputs: Inputs, minimum: Minimum) -> tuple[str, ...]:
    """The free coefficients that ended at a bound of what the law allows."""
    law, problem, point = inputs.law, minimum.problem, minimum.best.point
    floors = np.isin(law.coefficients, law.floors)
    # Valleys that end at a bound are so flat there that a descent may rest a percent short.
    logs = np.array([law.symbols[name].positive for name in law.coefficients])
    gap = np.where(logs & ~floors, 0.02, 1e-9)
    near = (point <= problem.lower + np.where(floors, NEARLY, gap)) | (point >= problem.upper - gap)
    return tuple(np.array(law.coefficients)[near & ~inputs.held.mask].tolist())
