"""Which way a score is forecast, by scale at once or over the loss: smaller cuts decide.

The scores up to the cutoff are cut again at smaller scales. Each way is fitted to what lies below
such a cut and judged on what lies between the two. The way over the loss is taken where its CRPS is
clearly lower.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.array import Array
from analysis.emergence.forecast.bounded import WITHOUT_NOISE, fit_bounded
from analysis.emergence.forecast.scoring import crps
from analysis.emergence.response.deviance import Indices
from analysis.emergence.scores.series import Series
from scaling.store.records import Refusal

Way = Literal["direct", "two_step"]
SHARES = 0.5, 0.65, 0.8  # of the scales up to the cutoff that lie below a smaller cut
# Of CRPS, by which the way over the loss must be the better one: on ten tables of Pythia any lower
# CRPS below the cut chose it in five, and it was the worse one above in four of them. With this
# margin it is chosen on none of 26 (benchmarks/scores_ahead.py).
MARGIN = 0.2
FEWEST = 4  # scores below a smaller cut, as below the cutoff itself


@dataclass(frozen=True)
class Backtest:
    """The way that is taken, with each way's mean CRPS, in unit score, on `n` scores."""

    way: Way
    n: int  # scores above smaller cuts; 0 where there were none to judge by
    crps: dict[str, float]  # by way; empty where they were not compared
    reason: str  # one sentence


def choose_way(
    series: Series, below: Indices, loss: Array | None, flops: Array | None
) -> Backtest | None:
    """The way to forecast from the scores `below` the cutoff; None where no losses are known.

    `loss` and `flops` have one value per score of `series`. Where the ways cannot be compared, it
    is the direct one.
    """
    if loss is None or series.falling or not np.isfinite(loss[below]).any():
        return None
    cuts = smaller_cuts(series, below)
    if not cuts:
        return Backtest(
            "direct", 0, {}, "forecast directly: too few scores to compare the way over the loss"
        )
    ways: tuple[Way, ...] = ("direct", "two_step")
    found: dict[str, list[float]] = {way: [] for way in ways}
    try:
        for inner in cuts:
            for way in ways:
                found[way].append(_crps(series, inner, below & ~inner, way, loss, flops))
        fit_bounded(series, below, "two_step", loss, flops, np.random.default_rng(0))
    except Refusal:
        said = "forecast directly: the losses are not all known, or do not fall with scale"
        return Backtest("direct", 0, {}, said)
    mean = {way: float(np.mean(each)) for way, each in found.items()}
    way = better(mean)
    n = sum(int((below & ~inner).sum()) for inner in cuts)
    said = "forecast over the loss" if way == "two_step" else "forecast directly"
    return Backtest(
        way, n, mean,
        f"{said}: CRPS on {n} scores above {len(cuts)} smaller cuts is {mean['direct']:.3g} "
        f"directly and {mean['two_step']:.3g} over the loss, which is taken if {MARGIN:.0%} lower",
    )  # fmt: skip


def better(crps: Mapping[str, float]) -> Way:
    """The way over the loss where its CRPS is lower by MARGIN; else the direct one."""
    return "two_step" if crps["two_step"] <= (1 - MARGIN) * crps["direct"] else "direct"


def smaller_cuts(series: Series, below: Indices) -> list[Indices]:
    """Flags of the scores below each smaller cut; fewer, or none, where scores are few."""
    scales = np.unique(series.t[below])
    lasts = {scales[int(share * len(scales)) - 1] for share in SHARES if share * len(scales) >= 3}
    cuts = [below & (series.t <= last) for last in sorted(lasts)]
    return [inner for inner in cuts if inner.sum() >= FEWEST and (below & ~inner).any()]


def _crps(
    series: Series, inner: Indices, ahead: Indices, way: Way, loss: Array, flops: Array | None
) -> float:
    """Mean CRPS on the scores `ahead` of what is fitted to those flagged `inner`."""
    rng = np.random.default_rng(0)
    fit = fit_bounded(series, inner, way, loss, flops, rng)
    n = np.where(np.isfinite(series.questions), series.questions, WITHOUT_NOISE)
    samples = fit.draw(series.x[ahead], n[ahead], rng)
    return float(crps(samples, fit.observed[ahead]).mean())
