"""Several attempts at a question: what k tries at it do, and what they cost beside a larger model.

A question is solved if one of k sampled answers is right. From n samples of which c are right,
pass@k has an unbiased estimate; over k its negative logarithm falls as a power law, and a model
that tries often stands beside a larger one that tries once, at the same FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from analysis.emergence.curve import Curve
from analysis.emergence.metrics import attempts_of
from analysis.emergence.thresholds import Estimate
from scaling.store.records import Refusal

Floats = NDArray[np.float64]

FLOPS_PER_TOKEN = 2.0  # a forward pass multiplies and adds each of N parameters once


def pass_at_k(samples: ArrayLike, right: ArrayLike, k: int) -> Floats:
    """Unbiased estimate, for each question, that one of k answers is right: 1 - C(n-c,k)/C(n,k).

    `samples` n and `right` c are counts for each question, in one shape. Chen et al. 2021,
    arXiv:2107.03374. (1 - (1 - c/n)^k is biased low.) Raises Refusal for k above n and c
    outside 0 to n.
    """
    n, c = np.broadcast_arrays(np.asarray(samples, float), np.asarray(right, float))
    if np.any((c < 0) | (c > n)):
        raise Refusal("a question has more right answers than samples, or fewer than none.")
    if k < 1 or np.any(n < k):
        raise Refusal(
            f"pass@{k} of {int(n.min())} samples: nobody saw {k} attempts. Sample more, or ask "
            f"for k from 1 to {int(n.min())}."
        )
    left = np.maximum(n - c, 0.0)
    none = gammaln(left + 1) - gammaln(np.maximum(left - k, 0) + 1)
    none = none - (gammaln(n + 1) - gammaln(n - k + 1))
    return np.where(left < k, 1.0, -np.expm1(none))


@dataclass(frozen=True)
class Attempts:
    """pass@k = exp(-a·k^-b) of one model on one task. Brown et al. 2024, arXiv:2407.21787.

    `a` is -log pass@1; `b` how fast more attempts help. `most` is the largest k that was seen.
    """

    a: float
    b: float
    most: int
    error: float  # root mean square of the fitted less the observed pass@k

    def at(self, k: ArrayLike) -> Floats:
        """pass@k for any k >= 1; beyond `most` an extrapolation."""
        return np.exp(-self.a * np.asarray(k, float) ** -self.b)

    def needed(self, level: float) -> float:
        """Attempts until `level` of the questions are solved; infinite if they never are."""
        if not 0 < level < 1:
            raise Refusal(f"level {level:g} of pass@k is not between 0 and 1.")
        return float((self.a / -np.log(level)) ** (1 / self.b)) if self.b > 0 else float("inf")


def fit_attempts(k: Sequence[int], solved: ArrayLike) -> Attempts:
    """The power law of -log pass@k in k, by least squares of its logarithm.

    Values of 0 and 1 have no such logarithm and are left out. Raises Refusal if fewer than two
    values of k are left.
    """
    tries, y = np.asarray(k, float), np.asarray(solved, float)
    inside = (y > 0) & (y < 1)
    if len(np.unique(tries[inside])) < 2:
        raise Refusal(
            f"pass@k lies strictly between 0 and 1 at {int(inside.sum())} of {len(y)} values of k; "
            "a power law needs two. Sample more answers, or take an easier task."
        )
    slope, start = np.polyfit(np.log(tries[inside]), np.log(-np.log(y[inside])), 1)
    found = Attempts(float(np.exp(start)), float(-slope), int(tries.max()), 0.0)
    error = float(np.sqrt(np.mean((found.at(tries) - y) ** 2)))
    return Attempts(found.a, found.b, found.most, error)


# --- thresholds against k ----------------------------------------------------------------------


@dataclass(frozen=True)
class Shift:
    """How the threshold moves with attempts: log10 threshold = start + slope·log10 k."""

    k: tuple[int, ...]
    threshold: tuple[float, ...]
    slope: float  # decades of scale a decade of attempts; negative: attempts replace scale

    @property
    def sentence(self) -> str:
        """What ten times the attempts do to the threshold."""
        factor = 10 ** abs(self.slope)
        way = "lower" if self.slope < 0 else "raise"
        return (
            f"Ten times the attempts {way} the threshold {factor:.2g}-fold (k = {self.k[0]} to "
            f"{self.k[-1]})."
        )

    def to_json(self) -> dict[str, Any]:
        """Thresholds by k, and the slope."""
        return {"k": list(self.k), "threshold": list(self.threshold), "slope": self.slope}


def shift(thresholds: Mapping[int, float | None]) -> Shift | None:
    """The slope over the values of k whose threshold was found; None with fewer than two."""
    known = sorted((k, value) for k, value in thresholds.items() if value is not None)
    if len(known) < 2:
        return None
    k, value = (np.array(each, float) for each in zip(*known, strict=True))
    slope = float(np.polyfit(np.log10(k), np.log10(value), 1)[0])
    return Shift(tuple(int(each) for each in k), tuple(map(float, value)), slope)


# --- one task ----------------------------------------------------------------------------------

WORTH = (
    "pass@k is a mean over questions, solved if any of k answers is: that of other k follows from "
    "the power law alone, which questions more attempts solve cannot be told, and without a way "
    "to check answers nobody knows which of k is the right one."
)


@dataclass(frozen=True, eq=False)
class Tries:
    """What a task's scores at several k say, by scale."""

    task: str
    scale: str
    solved: pd.DataFrame  # columns k, x, value: mean pass@k at each scale
    thresholds: Mapping[int, Estimate]  # by k
    moved: Shift | None
    laws: Mapping[float, Attempts]  # by scale, where pass@k is neither 0 nor 1 at two k

    def to_json(self) -> dict[str, Any]:
        """Thresholds with their intervals, their slope, and the laws."""
        return {
            "task": self.task,
            "thresholds": None if self.moved is None else self.moved.to_json(),
            "threshold_by_k": {str(k): each.to_json() for k, each in self.thresholds.items()},
            "laws": [{"scale": x, **law.__dict__} for x, law in self.laws.items()],
        }


def tries(curves: Sequence[Curve]) -> list[Tries]:
    """The tasks that were scored at two k or more, with what `analyse` found of each k."""
    by_task: dict[str, dict[int, Curve]] = {}
    for curve in curves:
        k = attempts_of(curve.series.metric.name)
        if k is not None:
            by_task.setdefault(curve.series.task, {})[k] = curve
    return [_tries(task, by_k) for task, by_k in by_task.items() if len(by_k) > 1]


def _tries(task: str, by_k: Mapping[int, Curve]) -> Tries:
    points = pd.concat(
        pd.DataFrame({"k": k, "x": curve.series.x, "value": curve.series.unit})
        for k, curve in sorted(by_k.items())
    )
    solved = points.groupby(["x", "k"])["value"].mean().reset_index()
    laws = {}
    for x, rows in solved.groupby("x"):
        try:
            laws[float(str(x))] = fit_attempts([int(k) for k in rows["k"]], rows["value"])
        except Refusal:  # all solved or none: nothing to fit at this scale
            continue
    thresholds = {k: curve.threshold for k, curve in sorted(by_k.items())}
    moved = shift({k: each.value for k, each in thresholds.items()})
    scale = next(iter(by_k.values())).series.scale
    return Tries(task, scale, solved, thresholds, moved, laws)


# --- size against attempts ---------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """A model of `params` that tries k times within a budget of FLOPs a question."""

    params: float
    k: int
    flops: float  # spent: 2·N·tokens·k
    solved: float  # share of questions
    beyond: bool  # more attempts than were ever seen of this model


def equal_compute(
    models: Mapping[float, Attempts], budget: float, tokens: float
) -> tuple[Option, ...]:
    """What each model solves with `budget` FLOPs a question, at 2·N a token, best first.

    `models` by N (the parameters that work on a token), `tokens` read and written an attempt;
    the prompt is counted each time, so this is dear for long prompts that are read once. Models
    too large for one attempt are left out. Raises Refusal if all are.
    """
    found = []
    for params, law in models.items():
        cost = FLOPS_PER_TOKEN * params * tokens
        k = int(budget // cost)
        if k >= 1:
            solved = float(law.at(k))
            found.append(Option(params, k, cost * k, solved, k > law.most))
    if not found:
        least = FLOPS_PER_TOKEN * min(models, default=0.0) * tokens
        raise Refusal(
            f"{budget:g} FLOPs a question pay for no attempt of any model; the smallest needs "
            f"{least:.3g}. Raise the budget."
        )
    return tuple(sorted(found, key=lambda option: -option.solved))
