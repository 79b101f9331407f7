"""The valley of the loss: where the runs themselves put N* at every budget, with no law between.

Near its least, ln loss is a parabola over ln N, and its bottom lies on a power law N* ∝ C^a:

    ln L = g(ln C) + k·(ln N - ln N*(C))²,   g a parabola too,

which is a general quadratic of ln N and ln C. It is fitted to the runs near its own bottom, at any
design. A law is fitted to all runs, and where its form is wrong those far from the optimum move
its optimum (benchmarks/decisions.py measures by how much).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis.allocation.parabola import (
    CURVATURE,
    CURVATURE_SD,
    LEAST_CURVATURE,
    NOISE,
    REACH,
    SLOPE,
    SLOPE_SD,
    TERMS,
    Found,
    Priors,
    Runs,
    search,
)
from analysis.array import Array, Index
from analysis.fitting.crossvalidation import groups_of, law_residuals, without_each
from analysis.fitting.effective_clusters import FEWEST, clusters_of
from analysis.fitting.intervals import LEAST_DRAWS, resamples
from analysis.fitting.outliers import bulk
from analysis.interval import Interval, central
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.replicates import labels, settings, variants
from analysis.text import scientific
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit

# Where the law leaves runs that it was not fitted to no less than .9 of the valley's residuals, the
# runs answer alone, from half of them down the law alone; in between ln N* moves from one to the
# other with the logarithm of that share. The share is taken a standard error too high, as Breiman
# et al. 1984 take the simpler of two (section 3.4.3): a law that fits as well as the valley has an
# N* farther off. Published sources do not determine where the ramp should begin and end: in four of
# five all that were tried cost the same (benchmarks/decision_constants.py). These are a judgement:
# the law has to be better at all (.9), and clearly so to answer alone (.5), which it does only
# where noise is very small; at .7% of the loss a mean or the runs answer, also where the law holds.
RUNS_ALONE, LAW_ALONE = 0.9, 0.5
# With less than this share of the weight on one side of the valley, the prior curvature determines
# how far off its bottom lies, and a warning says so.
ONE_SIDE = 0.1
UNKNOWN = math.log(2.0)  # sd of ln N* at the largest budget, from which on it is not determined
# Of ln N*: how exactly a best size can be read where sizes lie √2 apart, and what a straight valley
# misses a decade beyond the runs. By likelihood on four of five published sources they come to .10
# to .13 and .13 to .23; with those, 90% intervals hold .67 to 1.00 of the best sizes of the fifth
# (mean .91), with these .87 to 1.00, up to 2.4 decades beyond (benchmarks/decision_constants.py).
READING, DRIFT = 0.15, 0.2
FEWEST_RUNS = TERMS + 2  # near the valley
DRAWS = 200
MOST_WORK = 2e7  # runs × draws
EPOCH = 1.01  # tokens beyond so many times the unique ones are repeats


class PriorShare(NamedTuple):
    """How much of what is known of the valley is from one of its priors, not from the runs."""

    of: str  # exponent or curvature
    mean: float  # of the prior
    sd: float
    share: float  # of all that is known of it (inverse variances) that the prior knows
    without: float  # its value without the prior, as are the two below
    level: float
    slope: float


@dataclass(frozen=True)
class Valley:
    """ln N* = level + slope·(ln C - middle), and how steep its sides are."""

    middle: float
    level: float
    slope: float  # a in N* ∝ C^a
    curvature: float  # k: the loss at N is exp(k·ln²(N/N*)) times the least
    runs: int  # near it
    # NaN, all three, where too few clusters of runs are there to leave one out.
    misfit: float  # mean |residual| of log loss near it, of runs left out of its own search
    law_misfit: float  # and of the fit's law, of runs left out of its own fit
    top: float  # ln C of the largest run
    draws: Array  # level and slope, one row for each resample of the clusters of runs
    misfit_se: float = 0.0  # of law_misfit - misfit, between the clusters of runs
    lost: int = 0  # resamples that show no valley
    below: float = 0.5  # share of the weight of the runs near it that lies at smaller sizes
    above: float = 0.5  # and at larger
    reach: float = REACH  # ln N: how far off the runs near it lie
    noise: float = NOISE  # sd of log loss about it, from its residuals
    priors: tuple[PriorShare, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def one_sided(self) -> bool:
        """Whether there are almost no runs on one of its sides."""
        return min(self.below, self.above) < ONE_SIDE

    @property
    def compared(self) -> bool:
        """Whether there were runs enough to leave some out of law and valley."""
        return not math.isnan(self.law_misfit)

    @property
    def law_weight(self) -> float:
        """Of the law's ln N* against the runs' own, from 0 to 1: 0 where nothing compares them."""
        least = self.law_misfit + self.misfit_se  # what the law has over the runs is sure
        if not least < RUNS_ALONE * self.misfit:
            return 0.0
        better = RUNS_ALONE * self.misfit / max(least, 1e-300)
        return min(1.0, math.log(better) / math.log(RUNS_ALONE / LAW_ALONE))

    def params(self, flops: float) -> float:
        """N* at a budget C = 6ND."""
        return math.exp(self.level + self.slope * (math.log(flops) - self.middle))

    def params_without(self, prior: PriorShare, flops: float) -> float:
        """N* at a budget C = 6ND without one of the priors."""
        return math.exp(prior.level + prior.slope * (math.log(flops) - self.middle))

    def excess(self, params: float, flops: float) -> float:
        """What a size loses at a budget, as a share of the least loss."""
        return math.expm1(self.curvature * math.log(params / self.params(flops)) ** 2)

    def decades_beyond(self, flops: float) -> float:
        """How far a budget lies beyond the largest run, in decades; 0 inside."""
        return max(0.0, (math.log(flops) - self.top) / math.log(10))

    def interval(self, flops: float, level: float) -> Interval:
        """Where the best size at a budget should be found: over the draws, no farther than runs
        lie from the valley, and as far off as the best sizes of published tables were."""
        middle = math.log(self.params(flops))
        at = self.draws @ np.array([1.0, math.log(flops) - self.middle])
        # A draw whose bottom no run is near says only that it lies beyond them.
        at = np.clip(at, middle - self.reach, middle + self.reach)
        sd = math.hypot(READING, DRIFT * self.decades_beyond(flops))
        low, high = widened(middle, at, sd, level)
        return Interval(math.exp(low), math.exp(high))

    def through(self, params: float, flops: float) -> Valley:
        """The same valley with its bottom moved to a size at a budget."""
        return replace(self, level=self.level + math.log(params / self.params(flops)))

    def exponent_interval(self, level: float) -> Interval:
        """Of the slope: over the draws, and as far off as DRIFT, which is what N* misses for it."""
        return widened(self.slope, self.draws[:, 1], DRIFT / math.log(10), level)


def widened(middle: float, drawn: Array, sd: float, level: float) -> Interval:
    """From the middle to the draws' percentiles, with an error of `sd` besides."""
    low, high = central(drawn, level)
    off = NormalDist().inv_cdf((1 + level) / 2) * sd
    below, above = max(middle - low, 0.0), max(high - middle, 0.0)
    return Interval(middle - math.hypot(below, off), middle + math.hypot(above, off))


def valley(fit: Fit, draws: int = DRAWS) -> Valley:
    """The valley of the fit's own runs of fresh data; draws resample clusters and priors alike.

    Raises Refusal for a fit without its runs or shaped by more than them, for losses that have no
    logarithm, for too few runs near the valley, where they do not determine N* to a factor of two,
    and where no resample of them shows a valley.
    """
    table, warnings = _fresh(fit)
    runs = _runs(table, fit.law.target)
    found = search(runs, np.ones((1, len(runs.log_n))), Priors.mean(1))
    near, off, top = found.near[0], found.off[0], float(runs.log_c.max())
    _refuse_unclear(found, top)
    share = near / near.sum()
    below, above = float(share[off < 0].sum()), float(share[off > 0].sum())
    drawn, count = _draws(runs, found, clusters_of(table), draws, fit.settings.seed)
    lost = count - len(drawn)
    return Valley(
        middle=runs.middle,
        level=float(found.level[0]),
        slope=float(found.slope[0]),
        curvature=float(found.curvature[0]),
        runs=int((near > 0).sum()),
        top=top,
        **_misfits(fit, table, runs, found, share),
        draws=drawn,
        lost=lost,
        below=below,
        above=above,
        reach=float(found.reach[0]),
        noise=float(found.noise[0]),
        priors=_prior_shares(runs, found),
        warnings=(*warnings, *_of_sides(below, above), *_of_draws(lost, count)),
    )


def _refuse_unclear(found: Found, top: float) -> None:
    """Raises Refusal where the runs show no valley, or do not determine N* at the ln C `top`."""
    near = int((found.near[0] > 0).sum())
    if near < FEWEST_RUNS:
        raise Refusal(
            f"{near} runs lie near the least loss of their budgets, and {FEWEST_RUNS} are needed.",
            "Train more around it, or give --by law.",
        )
    if not found.curvature[0] > LEAST_CURVATURE:
        raise Refusal(
            "the runs show no valley: at equal compute, half and twice the best size would lose "
            f"less than {math.expm1(LEAST_CURVATURE * math.log(2) ** 2):.1%}.",
            "Train smaller and larger sizes at equal compute, or give --by law.",
        )
    sd = found.sd(top)
    if not sd < UNKNOWN:
        exact = "not at all" if sd > math.log(1000) else f"to a factor {math.exp(sd):.2g} only"
        raise Refusal(
            f"the runs' own minima determine N* at {scientific(math.exp(top))} FLOPs {exact}.",
            "Train several sizes at equal compute, or give --by law.",
        )


def _fresh(fit: Fit) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the fit that are used, and a warning of those that are not."""
    if fit.table.empty or {"params", "tokens", fit.law.target} - set(fit.table):
        raise Refusal("the fit's runs are not at hand.", "Fit again, or give --by law.")
    if shaped := fit.settings.shaping:
        raise Refusal(
            f"the fit was made with {', '.join(shaped)}, which the runs alone do not know.",
            "Fit without, or give --by law.",
        )
    _refuse_pooled(fit.table)
    rows = bulk(fit)
    if "unique_tokens" not in rows:
        return rows, []
    unique = pd.to_numeric(rows["unique_tokens"], errors="coerce")
    repeats = (rows["tokens"] > EPOCH * unique).to_numpy(dtype=bool)
    if repeats.all():
        raise Refusal(
            "every run repeats its data, and the runs' own minima are those of fresh data.",
            "Train with more unique_tokens, or give --by law.",
        )
    said = f"{repeats.sum()} runs that repeat their data are left out of the runs' own minima."
    return rows[~repeats], [said] if repeats.any() else []


def _refuse_pooled(rows: pd.DataFrame) -> None:
    """Raises Refusal for runs that differ by more than N, D and noise: their minima would be where
    the better ones happen to lie."""
    several = [(each.column, each.count, each.remedy) for each in settings(rows)]
    if variants(rows) > 1:
        several = [("variant", variants(rows), f"--where 'variant=={labels(rows)[0]}'")]
    for column, count, remedy in several[:1]:
        raise Refusal(
            f"the runs have {count} values of {column} at equal params and tokens, and their "
            "minima would be where the better of these were tried.",
            f"Fit those of one {column}: scaling fit RUNS {remedy}, or give --by law.",
        )


def _of_sides(below: float, above: float) -> list[str]:
    if min(below, above) >= ONE_SIDE:
        return []
    side, other = ("smaller", "larger") if above < below else ("larger", "smaller")
    return [
        f"nearly all runs have {side} sizes than their budget's best ({max(below, above):.0%} by "
        "weight): how far off it lies follows from how steep valleys of other tables are. Train "
        f"{other} sizes at equal compute."
    ]


def _of_draws(lost: int, count: int) -> list[str]:
    """Refusal where no resample shows a valley."""
    kept = count - lost
    if 2 * kept >= count:
        return []
    if not kept:
        raise Refusal(
            f"none of {count} resamples of the runs shows a valley.",
            "Train smaller and larger sizes at equal compute, or give --by law.",
        )
    return [
        f"only {kept} of {count} resamples of the runs show a valley: the interval of N* by the "
        "runs is that of these, and may be too narrow."
    ]


def _runs(table: pd.DataFrame, target: str) -> Runs:
    n, d, loss = (table[name].to_numpy(dtype=float) for name in ("params", "tokens", target))
    if not (loss > 0).all():
        raise Refusal(
            f"loss = {loss.min():g} has no logarithm, and the runs' own minima are those of log "
            "loss.",
            "Give --by law.",
        )
    return Runs(np.log(n), np.log(FLOPS_PER_PARAM_TOKEN * n * d), np.log(loss))


def _misfits(
    fit: Fit, table: pd.DataFrame, runs: Runs, found: Found, share: Array
) -> dict[str, float]:
    """The fields of Valley that compare it with the law, at runs left out of either; NaN for fewer
    than FEWEST groups: what is fitted without one of two runs is no fit."""
    groups = groups_of(table, fit.settings.seed)
    if int(groups.max()) + 1 < FEWEST:
        return {"misfit": math.nan, "law_misfit": math.nan, "misfit_se": math.nan}
    columns = {name: "tokens" if name == "unique_tokens" else name for name in fit.law.features}
    fresh = {name: table[column].to_numpy(dtype=float) for name, column in columns.items()}
    law = np.abs(law_residuals(fit, table, fresh, groups))
    weight = without_each(groups)
    each = search(runs, weight, Priors.mean(len(weight)), np.repeat(found.noise, len(weight)))
    own = np.abs(each.residual[groups, np.arange(len(groups))])
    # Each group of runs is one independent draw of the difference.
    sums = np.bincount(groups, weights=share * (law - own))
    error = float(np.sqrt(len(sums)) * sums.std(ddof=1))
    return {"misfit": float(share @ own), "law_misfit": float(share @ law), "misfit_se": error}


def _prior_shares(runs: Runs, found: Found) -> tuple[PriorShare, ...]:
    """What the valley would be without each of its priors."""
    weight = np.ones((2, len(runs.log_n)))
    each = search(runs, weight, Priors.without_each(), np.repeat(found.noise, 2))
    known = (
        ("exponent", SLOPE, SLOPE_SD, found.slope_sd, each.slope[0]),
        ("curvature", CURVATURE, CURVATURE_SD, found.curvature_sd, each.curvature[1]),
    )
    levels, slopes = each.level.tolist(), each.slope.tolist()
    return tuple(
        PriorShare(of, mean, sd, min(1.0, (after / sd) ** 2), float(value), level, slope)
        for (of, mean, sd, after, value), level, slope in zip(known, levels, slopes, strict=True)
    )


def _draws(runs: Runs, found: Found, clusters: Index, count: int, seed: int) -> tuple[Array, int]:
    """Level and slope of resamples that show a valley, and of how many resamples in all."""
    count = min(count, max(LEAST_DRAWS, int(MOST_WORK / len(runs.log_n))))
    rng = np.random.default_rng(seed)
    drawn = [np.empty((0, 2))]
    for weight in resamples(rng, clusters, count):
        rows = len(weight)
        each = search(runs, weight, Priors.drawn(rng, rows), np.repeat(found.noise, rows))
        seen = each.curvature > LEAST_CURVATURE  # resamples that lost a side show no valley
        drawn.append(np.stack([each.level, each.slope], axis=1)[seen])
    return np.concatenate(drawn), count
