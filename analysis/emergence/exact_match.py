"""Exact match predicted from a per-token metric: does the metric alone make a rise sudden?

An answer of L tokens is an exact match when all are right. A per-token accuracy p that rises
smoothly therefore gives p^L, which stays near zero and then rises fast (Schaeffer et al. 2023,
arXiv:2304.15004). The prediction p^L is compared with the observed exact match.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from analysis.array import Array
from analysis.emergence.scores.metrics import METRICS, canonical
from scaling.store.records import Refusal

STRICT = "exact_match"
# Metrics from which exact match may be predicted; of several the first is used.
PROBABILITIES = tuple(name for name, each in METRICS.items() if each.probability_of)
LONGEST = 1000.0  # tokens of an answer, at most


def all_right(token_probability: ArrayLike, length: ArrayLike) -> Array:
    """Probability that all `length` tokens are right, each with `token_probability`.

    For a single question it is exact for sampled answers whose tokens have equal probabilities;
    average over questions afterwards. From a mean over questions it is a lower bound (Jensen's
    inequality, as p^L is convex in p). Raises Refusal for a probability outside 0 to 1.
    """
    p = np.asarray(token_probability, float)
    if np.any((p < 0) | (p > 1)):
        raise Refusal(f"a token's probability of {p[(p < 0) | (p > 1)][0]:g} is not in 0 to 1.")
    return np.asarray(p ** np.asarray(length, float), float)


CAUTION = (
    "Predicted from means over questions, which gives a lower bound where questions differ in "
    "difficulty (Jensen's inequality)."
)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Observed exact match, and its prediction from another metric: one point per score."""

    task: str
    source: str  # the metric it was predicted from
    length: float | None  # tokens per answer; None where the metric is of whole answers
    length_from: Literal["given", "fitted", "whole answers"]
    x: Array
    observed: Array
    predicted: Array

    @property
    def explained(self) -> float | None:
        """Share of the variance of exact match that is predicted; None where it does not vary.

        Negative where the mean score would be a better prediction.
        """
        variance = float(self.observed.var())
        return 1 - self.error**2 / variance if variance else None

    @property
    def error(self) -> float:
        """Root mean square of predicted less observed score."""
        return float(np.sqrt(np.mean((self.predicted - self.observed) ** 2)))

    @property
    def sentence(self) -> str:
        """The comparison in one sentence; CAUTION is its limitation."""
        length = 0.0 if self.length is None else self.length
        how = {
            "given": f"mean {self.source}^{length:g}",
            "fitted": f"mean {self.source}^{length:.1f} (length fitted to these scores)",
            "whole answers": f"the mean {self.source}",
        }[self.length_from]
        share = "" if self.explained is None else f", {self.explained:.0%} of its variance"
        return f"{self.task}: {how} predicts exact match to within {self.error:.3f}{share}"

    def to_json(self) -> dict[str, Any]:
        """The comparison, with its points."""
        return {
            "task": self.task, "from": self.source, "length": self.length,
            "length_from": self.length_from, "approximate": True, "error": self.error,
            "explained": self.explained, "x": self.x.tolist(),
            "observed": self.observed.tolist(), "predicted": self.predicted.tolist(),
        }  # fmt: skip


def predict_exact_match(
    table: pd.DataFrame, task: str, length: float | None = None
) -> Predicted | None:
    """Exact match of `task` predicted from the best other metric in `table`; None without one.

    `table` has columns task, metric, value, x and those that identify an evaluation (run_id, model,
    step, seed), by which the two metrics are matched. `length` is the number of tokens per answer;
    without it the exponent that fits best is used.
    """
    rows = table[table["task"].eq(task)]
    keys = [c for c in ("run_id", "model", "Model", "step", "seed", "shots", "x") if c in rows]
    found = {canonical(str(name)): each for name, each in rows.groupby("metric")}
    source = next((name for name in PROBABILITIES if name in found), None)
    if STRICT not in found or source is None:
        return None
    # Repeats without a name of their own are averaged: a join would pair each with every other.
    strict, token = (
        found[name].groupby(keys, dropna=False, as_index=False)["value"].mean()
        for name in (STRICT, source)
    )
    both = strict.merge(token, on=keys, suffixes=("", "_token"))
    if len(both) < 2:
        return None
    both = both.sort_values("x")
    x, observed, mean = both[["x", "value", "value_token"]].to_numpy(float).T
    p = mean if METRICS[source].bounded else np.exp(np.minimum(mean, 0.0))
    if METRICS[source].probability_of == "answer":
        return Predicted(task, source, None, "whole answers", x, observed, p)
    if length is not None:
        return Predicted(task, source, length, "given", x, observed, all_right(p, length))
    fitted = fitted_length(p, observed)
    return Predicted(task, source, fitted, "fitted", x, observed, all_right(p, fitted))


def fitted_length(token_probability: ArrayLike, observed: ArrayLike) -> float:
    """The exponent L >= 1 whose p^L is closest to the observed scores, by least squares."""
    p, y = np.asarray(token_probability, float), np.asarray(observed, float)

    def misfit(log_length: float) -> float:
        return float(np.sum((p ** np.exp(log_length) - y) ** 2))

    # Several local minima are possible where p is near 1: the grid finds the right one.
    grid = np.linspace(0, np.log(LONGEST), 60)
    best = int(np.argmin([misfit(each) for each in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(misfit, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))
