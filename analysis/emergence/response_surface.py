"""Scores over model size and data: the line of N and D on which a task is midway up.

The log-odds of the share of the rise are linear in log N and log D. They are fitted to shares of
any size, and those of 0 and 1 need no correction (fractional logit: Papke and Wooldridge 1996,
Journal of Applied Econometrics 11:619).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit

from analysis.array import Array

FEWEST = 8  # scores, at three sizes and three lengths at least
RAY = 0.1  # e-folds of spread in D/N: with less, N and D vary together and are not separated
RIDGE = 1e-3  # keeps the steepness finite where no score lies on the rise


@dataclass(frozen=True, eq=False)
class ResponseSurface:
    """log-odds = level + by_params·ln N + by_tokens·ln D."""

    params: Array
    tokens: Array
    value: Array  # the scores, in the metric's units
    level: float
    by_params: float
    by_tokens: float

    def half_way(self, params: Array) -> Array:
        """D at which models of N parameters score midway from chance to the best.

        Infinite or 0 where the exponent overflows; NaN if D does not matter.
        """
        if self.by_tokens == 0:
            return np.full(np.shape(params), np.nan)
        with np.errstate(over="ignore"):
            exponent = -(self.level + self.by_params * np.log(params)) / self.by_tokens
            return np.asarray(np.exp(exponent), np.float64)


def fit_response_surface(rows: pd.DataFrame, chance: float, best: float) -> ResponseSurface | None:
    """The surface through scores with columns params (or params_total), tokens and value.

    None where the scores do not determine one: fewer than eight, or all on one ray D = kN.
    """
    column = next((each for each in ("params", "params_total") if each in rows), None)
    if column is None or "tokens" not in rows:
        return None
    known = rows[[column, "tokens", "value"]].apply(pd.to_numeric, errors="coerce").dropna()
    known = known[(known[column] > 0) & (known["tokens"] > 0)]
    n, d, value = (known[each].to_numpy(float) for each in (column, "tokens", "value"))
    if len(known) < FEWEST or len(np.unique(n)) < 3 or len(np.unique(d)) < 3:
        return None
    if np.log(d / n).std() < RAY:
        return None
    share = np.clip((value - chance) / (best - chance), 0.0, 1.0)
    middle = np.log(n).mean(), np.log(d).mean()
    design = np.stack([np.ones_like(n), np.log(n) - middle[0], np.log(d) - middle[1]], axis=1)
    level, by_params, by_tokens = _fractional_logit(design, share)
    level = level - by_params * middle[0] - by_tokens * middle[1]
    return ResponseSurface(n, d, value, float(level), float(by_params), float(by_tokens))


def _fractional_logit(design: Array, share: Array) -> Array:
    """The coefficients of greatest quasi-likelihood, with a small ridge."""

    def loss(at: Array) -> tuple[float, Array]:
        odds = design @ at
        value = np.sum(np.logaddexp(0, odds) - share * odds) + RIDGE / 2 * at @ at
        return float(value), design.T @ (expit(odds) - share) + RIDGE * at

    return np.asarray(minimize(loss, np.zeros(3), jac=True, options={"gtol": 1e-9}).x)
