"""Approach 2: the best size at each compute budget, read off runs of equal compute.

A cross-check on the law, not a substitute: a parabola through runs is biased when the law's
exponents differ or the sizes are off-centre (Czech et al. 2026, arXiv:2603.22339), and an
optimum at the edge of the sampled sizes is none. Nor can it be compared where budgets are equal
in another count of compute than the law's 6·N·D: it then has its minima along other lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.cubic import akima
from analysis.expression import Array
from analysis.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.cells import SAME_SIZE, chained
from analysis.runs.settings import refuse_pooled
from analysis.runs.table import standardise, usable
from analysis.trend import PowerLaw, jackknifed, power_law, slope
from analysis.units import scientific
from scaling.store.records import Refusal

Method = Literal["akima", "parabola"]

LABEL = "budget_flops"  # a study of kind isoflop names each run's budget here
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
    spread: float  # ln of the largest over the least compute in it, by the count it was cut at
    stray: float  # the same of 6·N·D over that count: 0 where the two are proportional

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
    has it, else 6·N·D. Raises Refusal for a table without params, loss and compute or tokens, and
    for one of several variants of a study.
    """
    rows = usable(table).rows
    compute = "flops" if "flops" in rows else None
    if LABEL in rows and rows[LABEL].notna().any():
        rows, compute = rows[rows[LABEL].notna()], LABEL
    known = [compute] if compute else ["tokens"]
    rows = standardise(rows, require=[*known, "params", "loss"])
    refuse_pooled(rows)
    if compute is None:
        rows[compute := "flops"] = FLOPS_PER_PARAM_TOKEN * rows["params"] * rows["tokens"]
    if "tokens" not in rows:
        rows["tokens"] = rows[compute] / (FLOPS_PER_PARAM_TOKEN * rows["params"])
    columns = [rows[name].to_numpy() for name in (compute, "params", "tokens", "loss")]
    group = chained(columns[0], tolerance)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    return [_budget(*(column[rows_of] for column in columns)) for rows_of in members]


def optima(table: pd.DataFrame, method: Method, *, tolerance: float = 0.01) -> pd.DataFrame:
    """One row a budget: flops = 6·N*·D*, params N*, tokens D*, loss there, points, reason.

    method: `akima` minimises Akima's interpolation of the loss over log N (Porian et al. 2024,
    arXiv:2406.19146); `parabola` fits a quadratic in log N (Hoffmann et al. 2022, approach 2).
    Budgets as in `budgets`. One without an optimum has NaN and the reason. Raises Refusal where
    6·N·D varies within budgets that were cut at another count of compute.
    """
    return _table(_comparable(budgets(table, tolerance), method), method)


class Minima(NamedTuple):
    """Budgets that have an optimum: C = 6·N*·D*, N*, D*."""

    flops: Array
    params: Array
    tokens: Array


def without_each_size(
    table: pd.DataFrame, method: Method, *, tolerance: float = 0.01
) -> list[Minima]:
    """`optima` again with each size left out in turn; none where no size is at two budgets."""
    found = _comparable(budgets(table, tolerance), method)
    group = chained(np.concatenate([each.params for each in found]), SAME_SIZE)
    if np.bincount(group).max() < 2:
        return []
    of_budget = np.split(group, np.cumsum([len(each.params) for each in found])[:-1])
    whole = [each.optimum(method) for each in found]
    again = []
    for size in range(int(group.max()) + 1):
        fewer = [
            _kept(each, sizes != size).optimum(method) if size in sizes else optimum
            for each, sizes, optimum in zip(found, of_budget, whole, strict=True)
        ]
        pairs = [(each.params, each.tokens) for each in fewer if not each.reason]
        params, tokens = np.array(pairs).reshape(-1, 2).T
        again.append(Minima(FLOPS_PER_PARAM_TOKEN * params * tokens, params, tokens))
    return again


def allocation(
    minima: pd.DataFrame, level: float = 0.9, left_out: Sequence[Minima] = ()
) -> Allocation:
    """N* ∝ C^a and D* ∝ C^b by least squares in logarithms over the budgets with an optimum.

    Intervals need three budgets. Without `left_out` they are Student's t on the scatter of the
    optima about the power law, which takes the budgets as independent. Budgets that have sizes in
    common are not: runs off one trunk share its noise, runs of one shape its place off the curve,
    and what moves neighbouring optima alike leaves no scatter. Pass `left_out` from
    `without_each_size` there, for a jackknife over the K sizes with t(K − 1): simulated with noise
    shared by a size, at 4 and 7 budgets of 7 sizes, 90% intervals held the exponent 90 to 97% of
    the time, where the scatter alone gave 75 and 61% for the parabola. There is no interval where
    leaving out a size leaves fewer than two optima. Neither knows of a bias that all budgets
    share. Raises Refusal below two budgets with an optimum.
    """
    seen = minima[minima["params"].notna()]
    if len(seen) < 2:
        used, why = tally(minima)
        because = f" ({why})" if why else ""
        raise Refusal(
            f"an optimum in {used}{because}. An exponent takes two: train several "
            "sizes at each of several budgets, smaller and larger ones."
        )
    params, tokens = (power_law(seen["flops"], seen[n], level) for n in ("params", "tokens"))
    if not left_out or params.interval is None:
        return Allocation(params, tokens)
    if min(len(each.flops) for each in left_out) < 2:
        return Allocation(replace(params, interval=None), replace(tokens, interval=None))
    return Allocation(
        jackknifed(params, [slope(each.flops, each.params) for each in left_out], level),
        jackknifed(tokens, [slope(each.flops, each.tokens) for each in left_out], level),
    )


class Tally(NamedTuple):
    """How many budgets have an optimum, of those with enough sizes, and why the others have not."""

    used: str
    left_out: str


def tally(minima: pd.DataFrame) -> Tally:
    """What a power law through `minima` would rest on, in words."""
    enough = minima[~minima["reason"].str.startswith(TOO_FEW)]
    if enough.empty:
        return Tally("no budget", f"sizes at one compute: {minima['points'].max()} at most")
    reasons = enough.loc[enough["params"].isna(), "reason"].value_counts()
    kept = int(enough["params"].notna().sum())
    return Tally(
        f"{kept} of {len(enough)} budget{'s' * (len(enough) != 1)}",
        "; ".join(f"{count} with {reason}" for reason, count in reasons.items()),
    )


def mean_by(group: NDArray[np.intp], values: ArrayLike) -> Array:
    """The mean of `values` in each group."""
    return np.asarray(np.bincount(group, np.asarray(values, dtype=float)) / np.bincount(group))


def _budget(flops: Array, params: Array, tokens: Array, loss: Array) -> Budget:
    size = chained(params, SAME_SIZE)
    ratio = params * tokens / flops
    return Budget(
        float(flops.mean()),
        mean_by(size, params),
        mean_by(size, tokens),
        mean_by(size, loss),
        float(np.log(flops.max() / flops.min())),
        float(np.log(ratio.max() / ratio.min())),
    )


def _kept(budget: Budget, kept: NDArray[np.bool_]) -> Budget:
    params, tokens, loss = budget.params[kept], budget.tokens[kept], budget.loss[kept]
    return replace(budget, params=params, tokens=tokens, loss=loss)


def _comparable(found: list[Budget], method: Method) -> list[Budget]:
    """`found`, if their minima lie along lines of equal 6·N·D, as the law's do."""
    read = [each for each in found if len(each.params) >= FEWEST[method]]
    worst = max(read, key=lambda each: each.stray, default=None)
    if worst is not None and worst.stray > WIDEST:
        raise Refusal(
            f"budgets were cut at another count of compute (6·N·D of this N varies by "
            f"a factor of {np.exp(worst.stray):.3g} within the budget {scientific(worst.flops)}). "
            "Fit with the N that the budgets count, or drop a coarsely rounded budget by --where."
        )
    return found


def _table(found: list[Budget], method: Method) -> pd.DataFrame:
    columns = ["points", *Optimum._fields]
    rows = [(len(each.params), *each.optimum(method)) for each in found]
    read = pd.DataFrame(rows, columns=columns)
    read.insert(0, "flops", FLOPS_PER_PARAM_TOKEN * read["params"] * read["tokens"])
    return read


def _none(reason: str) -> Optimum:
    nan = float("nan")
    return Optimum(nan, nan, nan, reason)
