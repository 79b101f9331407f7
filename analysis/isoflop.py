"""Approach 2: the best size at each compute budget, read off runs of equal compute.

A cross-check on the law, not a substitute: a parabola through runs is biased when the law's
exponents differ or the sizes are off-centre (Czech et al. 2026, arXiv:2603.22339), and an
optimum at the edge of the sampled sizes is none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.cubic import akima
from analysis.expression import Array
from analysis.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.quality import standardise, usable
from analysis.trend import PowerLaw, power_law
from scaling.records import Refusal

Method = Literal["akima", "parabola"]

LABEL = "budget_flops"  # a study of kind isoflop names each run's budget here
SAME_SIZE = 1e-3  # relative; sizes read off a figure repeat to about 1e-6
# In ln C. By Hoffmann's law the best loss falls 0.13 nats an e-fold at 1e20, so this is ±0.006:
# what a size off the optimum by a factor of 1.4 costs.
WIDEST = 0.1
TOO_FEW = "too few sizes"
FEWEST = {"parabola": 3, "akima": 5}  # sizes; Akima's slopes look at two chords on either side


class Optimum(NamedTuple):
    """The least loss of a budget; NaN with a reason where there is none."""

    params: float
    tokens: float
    loss: float
    reason: str


@dataclass(frozen=True)
class Budget:
    """Runs of equal compute: a point a size, sizes rising, seeds of one size averaged."""

    flops: float
    params: Array
    tokens: Array
    loss: Array
    spread: float  # ln of the largest over the least compute in it

    def optimum(self, method: Method) -> Optimum:
        """The size of least loss by a parabola or by Akima's curve over log N."""
        x, y = np.log(self.params), self.loss
        if len(x) < FEWEST[method]:
            return _none(f"{TOO_FEW} (fewer than {FEWEST[method]})")
        if self.spread > WIDEST:
            return _none(f"compute that differs by more than {WIDEST:.0%}")
        if np.ptp(y) <= 1e-9 * y.mean():
            return _none("no interior minimum: the same loss at every size")
        if method == "parabola":
            bend, slope, level = self.parabola()
            if bend <= 0:
                return _none("a parabola that opens downwards")
            at = x.mean() - slope / (2 * bend)
            value = level - slope**2 / (4 * bend)
            end = -1 if at <= x[0] else 1 if at >= x[-1] else 0
        else:
            at, value, end = akima(x, y).least()
        if end:
            side = "smallest" if end < 0 else "largest"
            return _none(f"no interior minimum: least at the edge, its {side} size")
        tokens = np.exp(np.interp(at, x, np.log(self.tokens)))
        return Optimum(float(np.exp(at)), float(tokens), float(value), "")

    def parabola(self) -> tuple[float, float, float]:
        """Least-squares coefficients of (ln N − its mean)², ·, 1."""
        x = np.log(self.params)
        bend, slope, level = np.polyfit(x - x.mean(), self.loss, 2)
        return float(bend), float(slope), float(level)


@dataclass(frozen=True)
class Allocation:
    """How N* and D* grow with compute."""

    params: PowerLaw
    tokens: PowerLaw


def budgets(table: pd.DataFrame, tolerance: float = 0.01) -> list[Budget]:
    """The budgets of a run table, rising; every row of it that is usable belongs to one.

    A column `budget_flops` names them (a row without belongs to none); else rows whose compute
    differs by less than `tolerance` (relative) from the next row's are one: `flops` if the table
    has it, else 6·N·D. Raises Refusal for a table without params, loss and compute or tokens.
    """
    rows = usable(table).rows
    compute = "flops" if "flops" in rows else None
    if LABEL in rows and rows[LABEL].notna().any():
        rows, compute = rows[rows[LABEL].notna()], LABEL
    known = [compute] if compute else ["tokens"]
    rows = standardise(rows, require=[*known, "params", "loss"])
    if compute is None:
        rows[compute := "flops"] = FLOPS_PER_PARAM_TOKEN * rows["params"] * rows["tokens"]
    if "tokens" not in rows:
        rows["tokens"] = rows[compute] / (FLOPS_PER_PARAM_TOKEN * rows["params"])
    columns = [rows[name].to_numpy() for name in (compute, "params", "tokens", "loss")]
    group = chained(columns[0], tolerance)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    return [_budget(*(column[rows_of] for column in columns)) for rows_of in members]


def isoflop_optima(
    table: pd.DataFrame, method: Method = "akima", *, tolerance: float = 0.01
) -> pd.DataFrame:
    """One row a budget: flops, params, tokens, loss of the optimum, points, reason.

    method: `akima` minimises Akima's interpolation of the loss over log N (Porian et al. 2024,
    arXiv:2406.19146); `parabola` fits a quadratic in log N (Hoffmann et al. 2022, approach 2).
    Budgets as in `budgets`. One without an optimum has NaN and the reason. Raises Refusal if
    none has one.
    """
    optima = optima_of(budgets(table, tolerance), method)
    if optima["params"].isna().all():
        raise Refusal(
            f"no budget has an optimum inside its sizes ({optima['reason'].iloc[0]}). "
            "Add smaller and larger sizes at each budget."
        )
    return optima


def optima_of(found: list[Budget], method: Method) -> pd.DataFrame:
    """As `isoflop_optima`, also where no budget has an optimum."""
    rows = [
        {"flops": each.flops, "points": len(each.params), **each.optimum(method)._asdict()}
        for each in found
    ]
    return pd.DataFrame(rows)


def allocation(optima: pd.DataFrame, level: float = 0.9) -> Allocation:
    """N* ∝ C^a and D* ∝ C^b by least squares in logarithms over the budgets with an optimum.

    The intervals are Student's t on the scatter of the optima about the power law (three budgets
    or more): seeds are seldom repeated at every size, so resampling them or injecting noise, as
    Porian et al. do, would need a noise level that the table does not hold. They do not know of
    a bias that all budgets share. Raises Refusal below two budgets with an optimum.
    """
    seen = optima[optima["params"].notna()]
    if len(seen) < 2:
        used, left_out = tally(optima)
        raise Refusal(
            f"an optimum in {used} ({left_out}). An exponent takes two: train several sizes at "
            "each of several budgets, smaller and larger ones."
        )
    return Allocation(
        power_law(seen["flops"], seen["params"], level),
        power_law(seen["flops"], seen["tokens"], level),
    )


class Tally(NamedTuple):
    """How many budgets have an optimum, of those with enough sizes, and why the others have not."""

    used: str
    left_out: str


def tally(optima: pd.DataFrame) -> Tally:
    """What a power law through `optima` would rest on, in words."""
    enough = optima[~optima["reason"].str.startswith(TOO_FEW)]
    if enough.empty:
        return Tally("no budget", f"sizes at one compute: {optima['points'].max()} at most")
    reasons = enough.loc[enough["params"].isna(), "reason"].value_counts()
    kept = int(enough["params"].notna().sum())
    return Tally(
        f"{kept} of {len(enough)} budget{'s' * (len(enough) != 1)}",
        "; ".join(f"{count} with {reason}" for reason, count in reasons.items()),
    )


def chained(values: ArrayLike, tolerance: float) -> NDArray[np.intp]:
    """The number of each value's group: in order, a relative gap over `tolerance` starts one."""
    logs = np.log(np.asarray(values, dtype=float))
    order = np.argsort(logs, kind="stable")
    group = np.empty(len(logs), dtype=np.intp)
    group[order] = np.cumsum(np.diff(logs[order], prepend=logs[order[:1]]) > tolerance)
    return group


def mean_by(group: NDArray[np.intp], values: ArrayLike) -> Array:
    """The mean of `values` in each group."""
    return np.asarray(np.bincount(group, np.asarray(values, dtype=float)) / np.bincount(group))


def _budget(flops: Array, params: Array, tokens: Array, loss: Array) -> Budget:
    size = chained(params, SAME_SIZE)
    return Budget(
        float(flops.mean()),
        mean_by(size, params),
        mean_by(size, tokens),
        mean_by(size, loss),
        float(np.log(flops.max() / flops.min())),
    )


def _none(reason: str) -> Optimum:
    nan = float("nan")
    return Optimum(nan, nan, nan, reason)
