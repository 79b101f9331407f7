"""Two metrics of the same answers: how much of a sudden rise does the metric itself make?

An answer of L tokens is an exact match when all are right, so that a per-token accuracy p that
rises smoothly gives p^L, which stays near zero and then rises fast (Schaeffer et al. 2023,
arXiv:2304.15004). What p^L predicts is compared with what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar

from analysis.emergence.metrics import METRICS, usual
from scaling.store.records import Refusal

Floats = NDArray[np.float64]

STRICT = "exact_match"
# Metrics from which exact match may be predicted, the first that a table has.
PROBABILITIES = tuple(name for name, each in METRICS.items() if each.probability_of)
TOGETHER = 0.005  # decades: nothing at the digits printed
LONGEST = 1000.0  # tokens: an answer beyond it is no answer


def all_right(token_probability: ArrayLike, length: ArrayLike) -> Floats:
    """Probability that all `length` tokens are right if each is, alone, with `token_probability`.

    For single questions this is exact for sampled answers whose tokens' probabilities are equal;
    average over questions afterwards. Of a mean over questions it is a lower bound (Jensen:
    p^L is convex in p), because the easy questions are right more often than the mean says.
    """
    p = np.asarray(token_probability, float)
    if np.any((p < 0) | (p > 1)):
        raise Refusal(f"a token's probability of {p[(p < 0) | (p > 1)][0]:g} is not in 0 to 1.")
    return np.asarray(p ** np.asarray(length, float), float)


CAUTION = (
    "Predicted from means over questions, so only approximate: where questions differ in "
    "difficulty more are right than the mean says (Jensen)."
)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Exact match and what a per-token metric predicts of it, a point a score."""

    task: str
    source: str  # the metric it was predicted from
    length: float | None  # tokens an answer; None where the metric is of whole answers
    length_from: Literal["given", "fitted", "whole answers"]
    x: Floats
    observed: Floats
    predicted: Floats

    @property
    def explained(self) -> float | None:
        """Share of the variance of exact match over scales that is predicted; None if it has none.

        Negative where the mean of the scores would have been nearer.
        """
        total = float(np.sum((self.observed - self.observed.mean()) ** 2))
        if total == 0:
            return None
        return 1 - float(np.sum((self.observed - self.predicted) ** 2)) / total

    @property
    def error(self) -> float:
        """Root mean square of predicted less observed, in score."""
        return float(np.sqrt(np.mean((self.predicted - self.observed) ** 2)))

    @property
    def sentence(self) -> str:
        """What the comparison says; CAUTION says what it is worth."""
        how = {
            "given": f"mean {self.source}^{self.length:g}" if self.length else "",
            "fitted": f"mean {self.source}^{self.length:.1f} (length fitted to these scores)"
            if self.length
            else "",
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
    step, seed), by which the two metrics are matched. `length` is tokens an answer; without it
    the exponent that fits best is used, and said to be fitted.
    """
    rows = table[table["task"].eq(task)]
    keys = [c for c in ("run_id", "model", "Model", "step", "seed", "shots", "x") if c in rows]
    found = {usual(str(name)): each for name, each in rows.groupby("metric")}
    source = next((name for name in PROBABILITIES if name in found), None)
    if STRICT not in found or source is None:
        return None
    # Repeats without a name of their own are averaged: joined as they are, each would meet all.
    strict, token = (
        found[name].groupby(keys, dropna=False, as_index=False)["value"].mean()
        for name in (STRICT, source)
    )
    both = strict.merge(token, on=keys, suffixes=("", "_token"))
    if len(both) < 2:
        return None
    both = both.sort_values("x")
    mean = both["value_token"].to_numpy(float)
    p = mean if METRICS[source].bounded else np.exp(np.minimum(mean, 0.0))
    observed = both["value"].to_numpy(float)
    x = both["x"].to_numpy(float)
    if METRICS[source].probability_of == "answer":
        return Predicted(task, source, None, "whole answers", x, observed, p)
    if length is not None:
        return Predicted(task, source, length, "given", x, observed, all_right(p, length))
    fitted = fitted_length(p, observed)
    return Predicted(task, source, fitted, "fitted", x, observed, all_right(p, fitted))


def fitted_length(token_probability: ArrayLike, observed: ArrayLike) -> float:
    """The exponent L >= 1 whose p^L lies nearest to the observed scores, by least squares."""
    p, y = np.asarray(token_probability, float), np.asarray(observed, float)

    def misfit(log_length: float) -> float:
        return float(np.sum((p ** np.exp(log_length) - y) ** 2))

    # Several local minima are possible where p is near 1: the grid finds the right valley.
    grid = np.linspace(0, np.log(LONGEST), 60)
    best = int(np.argmin([misfit(each) for each in grid]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    found = minimize_scalar(misfit, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))


# --- BIG-bench's two numbers -------------------------------------------------------------------


def breakthroughness(x: ArrayLike, score: ArrayLike) -> float | None:
    """B = I / root median square of the score's steps from scale to scale; large for one jump.

    I = sign(argmax - argmin)·(max - min). Scores at one scale are averaged first; `score` rises
    with progress. None with fewer than three scales or if most steps are zero, where B is not
    defined. Srivastava et al. 2022, arXiv:2206.04615, appendix B; the same as the emergence score
    of Schaeffer et al. 2023, arXiv:2304.15004.
    """
    return _improvement_over(x, score, np.median)


def linearity(x: ArrayLike, score: ArrayLike) -> float | None:
    """L = I / root mean square of the score's steps: n - 1 for a straight line over n scales.

    As `breakthroughness`, with the mean for the median (ibid.). None for a score that never
    changes. It grows with n: compare tasks that were scored at the same scales.
    """
    return _improvement_over(x, score, np.mean)


def _improvement_over(x: ArrayLike, score: ArrayLike, typical: Any) -> float | None:
    mean = (
        pd.Series(np.asarray(score, float)).groupby(np.asarray(x, float)).mean().to_numpy(float)
    )  # groupby sorts by scale
    if len(mean) < 3:
        return None
    step = float(np.sqrt(typical(np.diff(mean) ** 2)))
    if step == 0:
        return None
    rise = np.sign(int(np.argmax(mean)) - int(np.argmin(mean))) * (mean.max() - mean.min())
    return float(rise / step)


def resolution(n: ArrayLike | None) -> float | None:
    """The smallest difference that the test set can show, 1/n of the coarsest one, in score."""
    return None if n is None else float(1 / np.min(np.asarray(n, float)))


# --- widths and thresholds side by side --------------------------------------------------------


def apart(curves: Sequence[Any]) -> list[str]:
    """Sentences that set the thresholds and widths of two metrics of one task side by side.

    `curves` are results of `analyse`. A width or threshold that was not found is said to be so.
    """
    said = []
    for task in dict.fromkeys(each.series.task for each in curves):
        same = [each for each in curves if each.series.task == task]
        for one, other in ((same[0], each) for each in same[1:]):
            names = one.series.metric.name, other.series.metric.name
            here, there = one.threshold.value, other.threshold.value
            where = "the threshold of one of them is not known"
            if here and there:
                decades = abs(np.log10(here / there))
                first = names[0] if here < there else names[1]
                if one.series.falling:
                    first = names[1] if first == names[0] else names[0]
                where = f"{first} reaches its threshold {decades:.2f} decades earlier"
                if decades < TOGETHER:
                    where = "both reach their threshold together"
            widths = [_width(each.width_decades) for each in (one, other)]
            said.append(
                f"{task}: {where}; 10-90% widths {widths[0]} ({names[0]}) "
                f"and {widths[1]} ({names[1]}) decades"
            )
    return said


def _width(found: Any) -> str:
    return "unknown" if found.value is None else f"{found.value:.2g}"
