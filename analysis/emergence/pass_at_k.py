"""pass@k: the effect of several samples per question, and their cost next to a larger model.

A question is solved if one of k sampled answers is right; pass@k is the share of questions solved.
Over k its negative logarithm falls as a power law, and a model that samples often is compared with
a larger one that samples once, at the same FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.allocation.power_law import power_law, slope
from analysis.array import Array
from analysis.emergence.scores.metrics import samples_of
from analysis.text import factor
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.emergence.inference.analyse import Curve
    from analysis.emergence.response.estimate import Estimate

FLOPS_PER_TOKEN = 2.0  # a forward pass multiplies and adds each of N parameters once
CAUTION = (
    "pass@k is a mean over questions, and a question counts as solved if any of k answers is "
    "right. Other k follow from the power law alone; which questions more samples solve is not "
    "known, and without a way to check answers nor is which of k is the right one."
)


@dataclass(frozen=True)
class PassLaw:
    """pass@k = exp(-a·k^-b) of one model on one task. Brown et al. 2024, arXiv:2407.21787.

    `a` is -log pass@1; `b` is the exponent in k; `most` is the largest k that was observed.
    """

    a: float
    b: float
    most: int
    error: float  # root mean square of the fitted less the observed pass@k

    def at(self, k: ArrayLike) -> Array:
        """pass@k for any k >= 1; beyond `most` an extrapolation."""
        return np.exp(-self.a * np.asarray(k, float) ** -self.b)


def fit_pass_law(k: Sequence[int], solved: ArrayLike) -> PassLaw:
    """The power law of -log pass@k in k, by least squares of its logarithm.

    Values of 0 and 1 have no such logarithm and are left out. Raises Refusal if fewer than two
    values of k are left.
    """
    samples, y = np.asarray(k, float), np.asarray(solved, float)
    inside = (y > 0) & (y < 1)
    if len(np.unique(samples[inside])) < 2:
        raise Refusal(
            f"pass@k lies strictly between 0 and 1 at {int(inside.sum())} of {len(y)} values of k; "
            "a power law needs two. Sample more answers, or take an easier task."
        )
    found = power_law(samples[inside], -np.log(y[inside]), 0.9)
    error = float(np.sqrt(np.mean((np.exp(-found.at(samples)) - y) ** 2)))
    return PassLaw(float(found.at(1)), -found.exponent, int(samples.max()), error)


# --- thresholds against k ----------------------------------------------------------------------


@dataclass(frozen=True)
class ThresholdShift:
    """The threshold as a power law of k: log10 threshold = start + slope·log10 k."""

    k: tuple[int, ...]
    threshold: tuple[float, ...]
    slope: float  # decades of scale per decade of samples; negative: samples replace scale

    @property
    def sentence(self) -> str:
        """The effect of ten times the samples on the threshold."""
        way = "lower" if self.slope < 0 else "raise"
        return (
            f"Ten times the samples {way} the threshold {factor(10 ** abs(self.slope))}-fold (k = "
            f"{self.k[0]} to {self.k[-1]})."
        )


def threshold_shift(thresholds: Mapping[int, float | None]) -> ThresholdShift | None:
    """The slope over the values of k whose threshold was found; None with fewer than two."""
    known = sorted((k, value) for k, value in thresholds.items() if value is not None)
    if len(known) < 2:
        return None
    k, value = zip(*known, strict=True)
    return ThresholdShift(k, value, slope(k, value))


# --- one task ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PassAtK:
    """The results of one task at several k, by scale."""

    task: str
    scale: str
    solved: pd.DataFrame  # columns k, x, value: mean pass@k at each scale
    thresholds: Mapping[int, Estimate]  # by k
    moved: ThresholdShift | None
    laws: Mapping[float, PassLaw]  # by scale, where pass@k is neither 0 nor 1 at two k

    def to_json(self) -> dict[str, Any]:
        """Thresholds with their intervals, their slope, and the laws."""
        return {
            "task": self.task,
            "thresholds": None if self.moved is None else asdict(self.moved),
            "threshold_by_k": {str(k): each.to_json() for k, each in self.thresholds.items()},
            "laws": [{"scale": x, **asdict(law)} for x, law in self.laws.items()],
        }


def pass_at_k_by_task(curves: Sequence[Curve]) -> list[PassAtK]:
    """The tasks scored at two k or more, from the results of `analyse` for each k."""
    by_task: dict[str, dict[int, Curve]] = {}
    for curve in curves:
        k = samples_of(curve.series.metric.name)
        if k is not None:
            by_task.setdefault(curve.series.task, {})[k] = curve
    return [_of_task(task, by_k) for task, by_k in by_task.items() if len(by_k) > 1]


def _of_task(task: str, by_k: Mapping[int, Curve]) -> PassAtK:
    points = pd.concat(
        pd.DataFrame({"k": k, "x": curve.series.x, "value": curve.series.unit})
        for k, curve in sorted(by_k.items())
    )
    solved = points.groupby(["x", "k"])["value"].mean().reset_index()
    laws = {}
    for x, rows in solved.groupby("x"):
        try:
            laws[float(str(x))] = fit_pass_law([int(k) for k in rows["k"]], rows["value"])
        except Refusal:  # all solved or none: nothing to fit at this scale
            continue
    thresholds = {k: curve.threshold for k, curve in sorted(by_k.items())}
    moved = threshold_shift({k: each.value for k, each in thresholds.items()})
    scale = next(iter(by_k.values())).series.scale
    return PassAtK(task, scale, solved, thresholds, moved, laws)


# --- size against samples ----------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """A model of `params` that samples k answers within a budget of FLOPs per question."""

    params: float
    k: int
    flops: float  # spent: 2·N·tokens·k
    solved: float  # share of questions
    beyond: bool  # more samples than were ever observed of this model


def equal_compute(
    models: Mapping[float, PassLaw], budget: float, tokens: float
) -> tuple[Option, ...]:
    """The share that each model solves with `budget` FLOPs per question, the best model first.

    A token costs 2·N FLOPs. `models` by N (the parameters that are active for a token), `tokens`
    read and written per sample; the prompt is counted for each sample, which is too much for long
    prompts that are read once. Models too large for one sample are left out. Raises Refusal if all
    are.
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
            f"{budget:g} FLOPs per question pay for no sample of any model; the smallest needs "
            f"{least:.3g}. Raise the budget."
        )
    return tuple(sorted(found, key=lambda option: -option.solved))
