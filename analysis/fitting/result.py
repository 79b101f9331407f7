"""The parts of a fit: how it ended, how it was made, what was minimised and what it saw."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.arguments import as_number, refuse_seed
from analysis.interval import Interval
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.clusters import AUTO
from analysis.runs.columns.units import TOKEN, loss_unit_of
from analysis.runs.table import ASKED
from analysis.solver.priors import Prior
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.fitting.lack_of_fit import LackOfFit


HANDFUL = 5  # rows that are left out together, as Besiroglu et al. 2024 did
HANDFULS = (f"without the {HANDFUL} largest losses", f"without the {HANDFUL} largest residuals")


class Status(Enum):
    """How a fit ended, see `analysis.fitting.status`."""

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
    """How a law is fitted to any rows.

    Raises Refusal for a level, a number of draws or a pair of them that makes no sense.
    """

    objective: str = "huber_log"  # see `analysis.solver.objective`
    delta: float = 1e-3  # of log residuals, where Huber's loss turns from square to linear
    bootstrap: int = 4000  # draws; 0: the estimate alone, without intervals or diagnostics
    level: float = 0.9  # of intervals
    seed: int = 0  # of the draws
    cluster: str = AUTO  # column that names the runs whose rows share noise; auto, none
    weights: str | None = None  # column that multiplies each row's penalty
    fixed: Mapping[str, float] = field(default_factory=dict)  # coefficients held at a value
    prior: Mapping[str, Prior] = field(default_factory=dict)  # what is known of others
    checks: bool = True  # whether the diagnostics are computed

    def __post_init__(self) -> None:
        refuse_level(self.level)
        if as_number("bootstrap", self.bootstrap) < 0:
            raise Refusal(f"bootstrap = {self.bootstrap} is negative. 0 leaves intervals out.")
        refuse_seed(self.seed)
        if both := sorted({*self.fixed} & {*self.prior}):
            raise Refusal(f"{both[0]} is held and has a prior. Give one of the two.")

    @property
    def shaping(self) -> tuple[str, ...]:
        """What shapes the fit besides the rows, in words."""
        weights = [] if self.weights is None else [f"weights {self.weights}"]
        return (*weights, *(f"a prior of {name}" for name in self.prior),
                *(f"{name} fixed" for name in self.fixed))  # fmt: skip


MOST_LEVEL = 0.999  # of some thousand resamples, the ends are then a few


def refuse_level(level: float) -> None:
    """Raises Refusal for a level of intervals that is not between 0 and 1, or that no resamples
    can show."""
    if not 0 < as_number("level", level) < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")
    if level > MOST_LEVEL:
        raise Refusal(
            f"level = {level} is above {MOST_LEVEL}, and thousands of resamples show no more. The "
            "usual value is 0.9."
        )


@dataclass(frozen=True)
class FitData:
    """What the fit saw. Ranges are None for a law over other columns."""

    n: int
    clusters: int
    params_column: str
    params: Interval | None
    tokens: Interval | None
    flops_max: float | None  # largest 6·N·D
    sha256: str  # of the fitted columns
    loss_unit: str = TOKEN
    asked: Mapping[str, Any] | None = None  # how its file was read, see `read_runs`; None: in none
    loss_set: str | None = None  # the validation set that losses are on; null: another text


@dataclass(frozen=True)
class Diagnostics:
    """profile: a row a held floor (floor, objective, other coefficients). sensitivity: a row a
    change (change, n, coefficients); the first row is the fit itself."""

    profile: pd.DataFrame
    sensitivity: pd.DataFrame
    lack_of_fit: LackOfFit | None


def data_of(law: Law, rows: pd.DataFrame, clusters: int) -> FitData:
    """What a fit of the law to prepared `rows` of so many clusters saw."""
    digest = hashlib.sha256()
    for column in [*law.features, law.target]:
        digest.update(column.encode() + b"\0")
        digest.update(np.ascontiguousarray(rows[column].to_numpy(), dtype="<f8").tobytes())
    params, tokens = _range(rows, "params"), _range(rows, "tokens")
    flops_max = None
    if params is not None and tokens is not None:
        flops_max = float((FLOPS_PER_PARAM_TOKEN * rows["params"] * rows["tokens"]).max())
    return FitData(
        n=len(rows),
        clusters=clusters,
        params_column=str(rows.attrs.get("params_column", "params")),
        params=params,
        tokens=tokens,
        flops_max=flops_max,
        sha256=digest.hexdigest(),
        loss_unit=loss_unit_of(rows),
        asked=rows.attrs.get(ASKED),
        loss_set=rows.attrs.get("loss_set"),
    )


def _range(rows: pd.DataFrame, column: str) -> Interval | None:
    """The least and the largest number of a column; None where it has none."""
    if column not in rows or not pd.api.types.is_numeric_dtype(rows[column]):
        return None
    return Interval(float(rows[column].min()), float(rows[column].max()))
