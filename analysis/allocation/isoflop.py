"""Approach 2: the best size at each compute budget, read off runs of equal compute.

A cross-check on the law, not a substitute: a parabola through runs is biased when the law's
exponents differ or the sizes are off-centre (Czech et al. 2026, arXiv:2603.22339), and an
optimum at the edge of the sampled sizes is none. Nor can it be compared where budgets are equal
in another count of compute than the law's 6·N·D: it then has its minima along other lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.allocation.power_law import Allocation, jackknifed, power_law, slope
from analysis.array import Array, mean_by
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.replicates import SAME_SIZE, chained, refuse_pooled
from analysis.runs.table import standardise, usable
from analysis.text import counted, scientific
from scaling.store.records import Refusal

Method = Literal["akima", "parabola"]

LABEL = "budget_flops"  # a study of kind isoflop names each run's budget here
SAME_COMPUTE = 0.01  # relative: runs that differ by less from the next one are of one budget
# In ln C. By Hoffmann's law the best loss falls 0.13 nats an e-fold at 1e20, so this is ±0.006:
# what a size off the optimum by a factor of 1.4 costs.
WIDEST = 0.1
TOO_FEW = "too few sizes"
FEWEST = {"parabola": 3, "akima": 5}  # sizes; Akima's slopes look at two chords on either side


class Minimum(NamedTuple):
    """The least loss of a budget; NaN with a reason where there is none."""

    points: int  # sizes of the budget
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

    def minimum(self, method: Method) -> Minimum:
        """The size of least loss by a parabola or by Akima's curve over log N."""
        x, y, nan = np.log(self.params), self.loss, float("nan")
        if len(x) < FEWEST[method]:
            reason = f"{TOO_FEW} (fewer than {FEWEST[method]})"
        elif self.spread > WIDEST:
            reason = f"compute that differs by more than {WIDEST:.0%}"
        elif np.ptp(y) <= 1e-9 * y.mean():
            reason = "no interior minimum: the same loss at every size"
        elif method == "parabola" and self.parabola()[0] <= 0:
            reason = "a parabola that opens downwards"
        else:
            at, value = self._by_parabola() if method == "parabola" else _by_akima(x, y)
            side = "smallest" if at <= x[0] else "largest" if at >= x[-1] else ""
            reason = f"no interior minimum: least at the edge, its {side} size" if side else ""
        if reason:
            return Minimum(len(x), nan, nan, nan, reason)
        tokens = np.exp(np.interp(at, x, np.log(self.tokens)))
        return Minimum(len(x), float(np.exp(at)), float(tokens), float(value), "")

    def _by_parabola(self) -> tuple[float, float]:
        """ln N where the parabola is least, and the loss there."""
        bend, slope, level = self.parabola()
        return np.log(self.params).mean() - slope / (2 * bend), level - slope**2 / (4 * bend)

    def parabola(self) -> tuple[float, float, float]:
        """Least-squares coefficients of (ln N − its mean)², ·, 1."""
        x = np.log(self.params)
        bend, slope, level = np.polyfit(x - x.mean(), self.loss, 2)
        return float(bend), float(slope), float(level)


def budgets(table: pd.DataFrame) -> list[Budget]:
    """The budgets of a run table, rising; every row of it that is usable belongs to one.

    A column `budget_flops` names them (a row without belongs to none); else rows whose compute
    differs by less than SAME_COMPUTE from the next row's are one: `flops` if the table has it, else
    6·N·D. Raises Refusal for a table without params, loss and compute or tokens, and
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
    group = chained(columns[0], SAME_COMPUTE)
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(np.bincount(group))[:-1])
    return [_budget(*(column[rows_of] for column in columns)) for rows_of in members]


def optima(table: pd.DataFrame, method: Method) -> pd.DataFrame:
    """One row a budget: flops = 6·N*·D*, params N*, tokens D*, loss there, points, reason.

    method: `akima` minimises Akima's interpolation of the loss over log N (Porian et al. 2024,
    arXiv:2406.19146); `parabola` fits a quadratic in log N (Hoffmann et al. 2022, approach 2).
    Budgets as in `budgets`. One without an optimum has NaN and the reason. Raises Refusal where
    6·N·D varies within budgets that were cut at another count of compute.
    """
    return _table(each.minimum(method) for each in _comparable(budgets(table), method))


def without_each_size(table: pd.DataFrame, method: Method) -> list[pd.DataFrame]:
    """`optima` again with each size left out in turn; none where no size is at two budgets."""
    found = _comparable(budgets(table), method)
    group = chained(np.concatenate([each.params for each in found]), SAME_SIZE)
    if np.bincount(group).max() < 2:
        return []
    of_budget = np.split(group, np.cumsum([len(each.params) for each in found])[:-1])
    whole = [each.minimum(method) for each in found]
    return [
        _table(
            _kept(each, sizes != left_out).minimum(method) if left_out in sizes else minimum
            for each, sizes, minimum in zip(found, of_budget, whole, strict=True)
        )
        for left_out in range(int(group.max()) + 1)
    ]


def allocation(
    minima: pd.DataFrame, level: float = 0.9, left_out: Sequence[pd.DataFrame] = ()
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
            f"a minimum is seen in {used}{because}.",
            "An exponent takes two: train several sizes at each of several budgets, smaller and "
            "larger ones.",
        )
    params, tokens = (power_law(seen["flops"], seen[n], level) for n in ("params", "tokens"))
    if not left_out or params.interval is None:
        return Allocation(params, tokens)
    rest = [each.dropna(subset="params") for each in left_out]
    if min(map(len, rest)) < 2:
        return Allocation(replace(params, interval=None), replace(tokens, interval=None))
    return Allocation(
        jackknifed(params, [slope(each["flops"], each["params"]) for each in rest], level),
        jackknifed(tokens, [slope(each["flops"], each["tokens"]) for each in rest], level),
    )


class Tally(NamedTuple):
    """How many budgets have an optimum, of those with enough sizes, and why the others have not."""

    used: str
    left_out: str


def tally(minima: pd.DataFrame) -> Tally:
    """What a power law through `minima` would rest on, in words."""
    enough = minima[~minima["reason"].str.startswith(TOO_FEW)]
    if enough.empty:
        most = counted(int(minima["points"].max()), "size")
        return Tally("no budget", f"at most {most} at equal compute")
    reasons = enough.loc[enough["params"].isna(), "reason"].value_counts()
    kept = int(enough["params"].notna().sum())
    return Tally(
        f"{kept} of {len(enough)} budget{'s' * (len(enough) != 1)}",
        "; ".join(f"{count} with {reason}" for reason, count in reasons.items()),
    )


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
            f"a factor of {np.exp(worst.stray):.3g} within the budget {scientific(worst.flops)}).",
            "Fit with the N that the budgets count, or drop a coarsely rounded budget by --where.",
        )
    return found


def _table(minima: Iterable[Minimum]) -> pd.DataFrame:
    read = pd.DataFrame(minima, columns=list(Minimum._fields))
    read.insert(0, "flops", FLOPS_PER_PARAM_TOKEN * read["params"] * read["tokens"])
    return read


def _by_akima(x: Array, y: Array) -> tuple[float, float]:
    """Where Akima's curve (1970) is lowest, a turn between points or one of the points, and how
    low it is there."""
    from scipy.interpolate import Akima1DInterpolator  # takes 0.25 s to import

    curve = Akima1DInterpolator(x, y)
    turns = curve.derivative().roots(extrapolate=False)
    at = np.concatenate([x, turns[np.isfinite(turns)]])
    values = np.concatenate([y, curve(at[len(x) :])])
    best = int(np.argmin(values))
    return at[best], values[best]
