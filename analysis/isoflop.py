"""The best size at each compute budget, read off runs of equal compute.

A cross-check on the law, not a substitute: a parabola through runs is biased when the law's
exponents differ or the sizes are off-centre (Czech et al. 2026, arXiv:2603.22339), and an
optimum at the edge of the sampled sizes is none.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from analysis.expression import Array
from analysis.quality import standardise
from scaling.records import Refusal

Method = Literal["akima", "parabola"]


class _Least(NamedTuple):
    log_params: float
    loss: float
    reason: str


def isoflop_optima(
    table: pd.DataFrame, method: Method = "akima", *, tolerance: float = 0.01
) -> pd.DataFrame:
    """One row a budget: flops, params, tokens, loss of the optimum, points, reason.

    table: columns `flops`, `params`, `loss`; budgets within `tolerance` (relative) are one.
    method: `akima` minimises Akima's interpolation of the loss over log N (Porian et al. 2024,
    arXiv:2406.19146); `parabola` fits a quadratic in log N (Hoffmann et al. 2022, approach 2).
    A budget without an optimum has NaN and the reason. Raises Refusal if none has one.
    """
    runs = standardise(table, require=["flops", "params", "loss"]).sort_values("flops")
    steps = np.diff(np.log(runs["flops"].to_numpy()), prepend=-np.inf) > tolerance
    rows = []
    for _, budget in runs.groupby(np.cumsum(steps)):
        best = budget.groupby("params")["loss"].mean()  # seeds of one size
        x, y = np.log(best.index.to_numpy(dtype=float)), best.to_numpy()
        found = _least(x, y, method)
        flops, params = float(budget["flops"].mean()), np.exp(found.log_params)
        rows.append(
            {
                "flops": flops,
                "params": params,
                "tokens": flops / (6 * params),
                "loss": found.loss,
                "points": len(best),
                "reason": found.reason,
            }
        )
    optima = pd.DataFrame(rows)
    if optima["params"].isna().all():
        raise Refusal(
            f"no budget has an optimum inside its sizes ({optima['reason'].iloc[0]}). "
            "Add smaller and larger sizes at each budget."
        )
    return optima


def _least(x: Array, y: Array, method: Method) -> _Least:
    nothing = float("nan")
    if len(x) < (5 if method == "akima" else 3):
        return _Least(nothing, nothing, f"{len(x)} sizes are too few")
    if method == "parabola":
        middle = x.mean()
        a, b, c = np.polyfit(x - middle, y, 2)
        if a <= 0:
            return _Least(nothing, nothing, "the parabola opens downwards")
        at = -b / (2 * a)
        if not x[0] < at + middle < x[-1]:
            return _Least(nothing, nothing, "the optimum lies at the edge of the sampled sizes")
        return _Least(float(at + middle), float(c - b * b / (4 * a)), "")
    from scipy.interpolate import Akima1DInterpolator

    curve = Akima1DInterpolator(x, y)
    turns = curve.derivative().roots(extrapolate=False)
    candidates = np.concatenate([turns[np.isfinite(turns)], x[[0, -1]]])
    values = curve(candidates)
    first = int(np.argmin(values))
    if first >= len(candidates) - 2:
        return _Least(nothing, nothing, "the optimum lies at the edge of the sampled sizes")
    return _Least(float(candidates[first]), float(values[first]), "")
