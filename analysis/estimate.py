"""What a fit found, as data: whoever puts it into words or into a file reads it from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Self

import pandas as pd

from analysis.constraints import Prior
from analysis.diagnostics import Diagnostics
from analysis.expression import Array
from analysis.laws import Law
from analysis.runs.columns import TOKEN
from analysis.runs.trajectories import AUTO
from analysis.uncertainty import Bounds, Interval


class Status(Enum):
    CONVERGED = "converged"
    AT_BOUND = "at_bound"
    WEAKLY_IDENTIFIED = "weakly_identified"
    FAILED = "failed"


@dataclass(frozen=True)
class Minimised:
    """What was minimised and the value reached (a sum over rows)."""

    name: str
    delta: float
    value: float


@dataclass(frozen=True)
class Settings:
    """How a law is fitted, whatever the rows: with the same ones other rows give a like fit."""

    objective: str = "huber_log"  # see `analysis.objective`
    delta: float = 1e-3  # of log residuals, where Huber's loss turns from square to linear
    bootstrap: int = 4000  # draws; 0: the estimate alone, without intervals or diagnostics
    level: float = 0.9  # of intervals
    seed: int = 0  # of the draws
    cluster: str = AUTO  # column that names the runs whose rows share noise; auto, none
    weights: str | None = None  # column that multiplies each row's penalty
    fixed: Mapping[str, float] = field(default_factory=dict)  # coefficients held at a value
    prior: Mapping[str, Prior] = field(default_factory=dict)  # what is known of others
    checks: bool = True  # whether the diagnostics are computed

    @property
    def shaping(self) -> tuple[str, ...]:
        """What shapes the fit beside the rows, in words."""
        weights = [] if self.weights is None else [f"weights {self.weights}"]
        return (*weights, *(f"a prior of {name}" for name in self.prior),
                *(f"{name} fixed" for name in self.fixed))  # fmt: skip


@dataclass(frozen=True)
class FitData:
    """What the fit saw. Ranges are None for a law over other columns."""

    n: int
    clusters: int
    params_column: str
    params: Bounds | None
    tokens: Bounds | None
    flops_max: float | None  # largest 6·N·D
    sha256: str  # of the fitted columns
    loss_unit: str = TOKEN


@dataclass(frozen=True)
class Estimate:
    """A law with coefficients, and everything needed to judge them."""

    law: Law
    coefficients: Mapping[str, float]
    se: Mapping[str, float]
    interval: Interval
    objective: Minimised
    status: Status
    reason: str  # one sentence a user can act on
    warnings: tuple[str, ...]
    draws: pd.DataFrame  # refits, a column a coefficient; intervals by `analysis.derived`
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
    clusters: Mapping[str, float]  # effective number behind each coefficient that is not known
    cautions: tuple[str, ...] = ()  # of `warnings`, what every answer from these runs repeats

    @property
    def fixed(self) -> tuple[str, ...]:
        """The coefficients held, in the law's order."""
        return tuple(name for name in self.law.coefficients if name in self.settings.fixed)

    def doubted(self, cautions: Sequence[str]) -> Self:
        """The same with more `cautions`, found when it was put to the test."""
        return replace(
            self,
            warnings=(*self.warnings, *cautions),
            cautions=(*self.cautions, *cautions),
        )

    def predict(self, features: Mapping[str, Any]) -> Array:
        """Loss at the features, by column name (`params`, `tokens`; `flops` is 6·N·D)."""
        return self.law.predict(self.coefficients, features)
