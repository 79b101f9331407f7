"""Which way a score is forecast, by scale at once or over the loss: smaller cuts decide.

The scores up to the cutoff are cut again at smaller scales. Each way is fitted to what lies below
such a cut and judged on what lies between the two, and the one with the lower CRPS is taken.
"""

from __future__ import annotations

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
    way: Way = "two_step" if mean["two_step"] < mean["direct"] else "direct"
    n = sum(int((below & ~inner).sum()) for inner in cuts)
    words = {"direct": "directly", "two_step": "over the loss"}
    other: Way = "direct" if way == "two_step" else "two_step"
    return Backtest(
        way, n, mean,
        f"forecast {words[way]}, which did better above {len(cuts)} smaller cuts "
        f"(CRPS {mean[way]:.3f} on {n} scores, and {mean[other]:.3f} {words[other]})",
    )  # fmt: skip


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
