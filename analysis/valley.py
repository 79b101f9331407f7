"""The valley of the loss: where the runs themselves put N* at every budget, with no law between.

Near its least, ln loss is a parabola over ln N, and its bottom lies on a power law N* ∝ C^a:

    ln L = g(ln C) + k·(ln N - ln N*(C))²,   g a parabola too,

which is a general quadratic of ln N and ln C. It is fitted to the runs near its own bottom, at any
design. A law is fitted to all runs, and where its form is wrong those far from the optimum move
its optimum (benchmarks/decisions.py measures by how much).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.derived import percentiles
from analysis.expression import Array
from analysis.fit import LEAST_DRAWS, Fit
from analysis.outliers import bulk
from analysis.runs.settings import settings
from analysis.runs.table import labels, variants
from analysis.uncertainty import Index, clusters_of, resamples
from analysis.units import Span, scientific
from scaling.store.records import Refusal

# A law's optimum is taken where the law leaves less than this share of the valley's residuals:
# there it describes the runs near the optimum, and what they say of it is said best by the law.
LAW_IS_BETTER = 0.7
# With less than this share of the weight on one side of the valley, the prior curvature says how
# far off its bottom lies. At 74 held-out budgets of seven published tables cut to one side, the
# valley cost .44% of the loss and the law 2.0%: the valley is kept, with a warning. But at the 13
# where the law left less than .9 of its residuals, the law cost .06% and the valley .51%.
# The 90% intervals held every best size there.
ONE_SIDE, ONE_SIDE_LAW_IS_BETTER = 0.1, 0.9
REACH = 1.6  # ln N: runs within a factor 5 of N* speak, those close to it loudest (tricube)
LEAST_SHARE = 0.3  # of the runs speak, however far they lie
# Of log loss. Between seeds of tiny models .8% (simulation.REFERENCE), of large ones .1%; the
# form of the valley is no better than this.
NOISE = 0.005
BOUNDED = 1.345 * NOISE  # residuals beyond weigh as 1/size: 95% efficient (Huber 1964)
# Exponents of N* read at isoFLOP minima: Hoffmann et al. 2022 .49 and .50, Porian et al. 2024 .50,
# Bi et al. 2024 (arXiv:2401.02954) .52, Grattafiori et al. 2024 (arXiv:2407.21783) .46. The sd is
# four times theirs: what counts as N, and a warmup too long, move it by .2.
SLOPE, SLOPE_SD = 0.5, 0.1
# Curvatures of the Chinchilla laws of Hoffmann and Besiroglu at their optima are .02; valleys of
# Porian's runs .05 to .09.
CURVATURE, CURVATURE_SD = 0.04, 0.03
LEAST_CURVATURE = 0.004  # twice N* would cost .2%: no valley
START = 20.0  # tokens per parameter (Hoffmann et al. 2022); where the search ends does not depend
UNKNOWN = math.log(2.0)  # sd of ln N* at the largest budget above which the runs do not tell it
# Of ln N*: how exactly a best size can be read where sizes lie √2 apart, and what a straight valley
# misses a decade beyond the runs. With both, 90% intervals held 90% of the best sizes at 145
# budgets of nine published tables, up to 2.4 decades beyond (by table 44 to 100%); without, 61%.
READING, DRIFT = 0.15, 0.2
TERMS = 6  # of the quadratic
FEWEST_RUNS = TERMS + 2  # near the valley
DRAWS = 200
MOST_WORK = 2e7  # runs × draws
EPOCH = 1.01  # tokens beyond so many times the unique ones are repeats
STEPS = 60  # of the search; ten are usual
STILL = 1e-3  # ln N; the steps after it sum to half of it
DAMPING = 0.7


@dataclass(frozen=True)
class Valley:
    """ln N* = level + slope·(ln C - middle), and how steep its sides are."""

    middle: float
    level: float
    slope: float  # a in N* ∝ C^a
    curvature: float  # k: the loss at N is exp(k·ln²(N/N*)) times the least
    runs: int  # near it
    misfit: float  # mean |residual| of log loss near it
    law_misfit: float  # and of the fit's law
    top: float  # ln C of the largest run
    draws: Array  # level and slope, a row a resample of the clusters of runs
    lost: int = 0  # resamples that show no valley
    below: float = 0.5  # share of the weight of the runs near it that lies at smaller sizes
    above: float = 0.5  # and at larger
    reach: float = REACH  # ln N: how far off the runs near it lie
    warnings: tuple[str, ...] = ()

    @property
    def one_sided(self) -> bool:
        """Whether hardly a run lies on one of its sides."""
        return min(self.below, self.above) < ONE_SIDE

    @property
    def law_is_better(self) -> bool:
        """Whether the fit's law describes the runs near the optimum clearly better."""
        share = ONE_SIDE_LAW_IS_BETTER if self.one_sided else LAW_IS_BETTER
        return self.law_misfit < share * self.misfit

    def params(self, flops: float) -> float:
        """N* at a budget C = 6ND."""
        return math.exp(self.level + self.slope * (math.log(flops) - self.middle))

    def excess(self, params: float, flops: float) -> float:
        """What a size loses at a budget, as a share of the least loss."""
        return math.expm1(self.curvature * math.log(params / self.params(flops)) ** 2)

    def interval(self, flops: float, level: float) -> Span:
        """Where the best size at a budget should be found: over the draws, no farther than runs
        lie from the valley, and as far off as the best sizes of published tables were."""
        middle = math.log(self.params(flops))
        at = self.draws @ np.array([1.0, math.log(flops) - self.middle])
        # A draw whose bottom no run is near says only that it lies beyond them.
        at = np.clip(at, middle - self.reach, middle + self.reach)
        beyond = max(0.0, math.log(flops) - self.top) / math.log(10)
        low, high = _widened(middle, at, math.hypot(READING, DRIFT * beyond), level)
        return math.exp(low), math.exp(high)

    def exponent_interval(self, level: float) -> Span:
        """Of the slope: over the draws, and as far off as DRIFT, which is what N* misses for it."""
        return _widened(self.slope, self.draws[:, 1], DRIFT / math.log(10), level)


def _widened(middle: float, drawn: Array, sd: float, level: float) -> Span:
    """From the middle to the draws' percentiles, with an error of `sd` besides."""
    low, high = (float(end[0]) for end in percentiles(drawn[:, None], level))
    off = NormalDist().inv_cdf((1 + level) / 2) * sd
    below, above = max(middle - low, 0.0), max(high - middle, 0.0)
    return middle - math.hypot(below, off), middle + math.hypot(above, off)


def valley(fit: Fit, draws: int = DRAWS) -> Valley:
    """The valley of the fit's own runs of fresh data; draws resample clusters and priors alike.

    Raises Refusal for a fit without its runs or shaped by more than them, for losses that have no
    logarithm, for too few runs near the valley, where they do not tell N* to a factor, and where
    no resample of them shows a valley.
    """
    table, warnings = _fresh(fit)
    runs = _runs(table, fit.law.target)
    found = _search(runs, np.ones((1, len(runs.log_n))), _Prior.mean(1))
    near = found.near[0] > 0
    if near.sum() < FEWEST_RUNS:
        raise Refusal(
            f"{near.sum()} runs lie near the least loss of their budgets, and {FEWEST_RUNS} are "
            "needed. Train more around it, or give --by law."
        )
    if not found.curvature[0] > LEAST_CURVATURE:
        raise Refusal(
            "the runs show no valley: at equal compute, half and twice the best size would lose "
            f"less than {math.expm1(LEAST_CURVATURE * math.log(2) ** 2):.1%}. Train smaller and "
            "larger sizes at equal compute, or give --by law."
        )
    top = float(runs.log_c.max())
    sd = found.sd(top)
    if not sd < UNKNOWN:
        exact = "not at all" if sd > math.log(1000) else f"to a factor {math.exp(sd):.2g} only"
        raise Refusal(
            f"the runs' own minima tell N* at {scientific(math.exp(top))} FLOPs {exact}. Train "
            "several sizes at equal compute, or give --by law."
        )
    law = np.log(fit.predict(_features(fit, table)))
    share = found.near[0] / found.near[0].sum()
    below, above = (float(share[side].sum()) for side in (found.off[0] < 0, found.off[0] > 0))
    drawn, count = _draws(runs, clusters_of(table), draws)
    lost = count - len(drawn)
    return Valley(
        middle=runs.middle,
        level=float(found.level[0]),
        slope=float(found.slope[0]),
        curvature=float(found.curvature[0]),
        runs=int(near.sum()),
        top=top,
        misfit=float(share @ np.abs(found.residual[0])),
        law_misfit=float(share @ np.abs(runs.log_loss - law)),
        draws=drawn,
        lost=lost,
        below=below,
        above=above,
        reach=float(found.reach[0]),
        warnings=(*warnings, *_of_sides(below, above), *_of_draws(lost, count)),
    )


def _fresh(fit: Fit) -> tuple[pd.DataFrame, list[str]]:
    """The rows of the fit that speak, and what to say of those that do not."""
    if fit.table.empty or {"params", "tokens", fit.law.target} - set(fit.table):
        raise Refusal("the fit's runs are not at hand. Fit again, or give --by law.")
    if shaped := fit.settings.shaping:
        raise Refusal(
            f"the fit was made with {', '.join(shaped)}, which the runs alone do not know. Fit "
            "without, or give --by law."
        )
    _refuse_pooled(fit.table)
    rows = bulk(fit)
    if "unique_tokens" not in rows:
        return rows, []
    unique = pd.to_numeric(rows["unique_tokens"], errors="coerce")
    repeats = (rows["tokens"] > EPOCH * unique).to_numpy(dtype=bool)
    if repeats.all():
        raise Refusal(
            "every run repeats its data, and the runs' own minima are those of fresh data. Train "
            "with more unique_tokens, or give --by law."
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
            f"minima would be where the better of these were tried. Fit those of one {column}: "
            f"scaling fit RUNS {remedy}, or give --by law."
        )


def _features(fit: Fit, table: pd.DataFrame) -> dict[str, Array]:
    """Of the law, at runs whose tokens are all different."""
    columns = {name: "tokens" if name == "unique_tokens" else name for name in fit.law.features}
    return {name: table[column].to_numpy(dtype=float) for name, column in columns.items()}


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
            f"none of {count} resamples of the runs shows a valley. Train smaller and larger sizes "
            "at equal compute, or give --by law."
        )
    return [
        f"only {kept} of {count} resamples of the runs show a valley: the interval of N* by the "
        "runs is that of these, and may be too narrow."
    ]


class _Runs(NamedTuple):
    log_n: Array
    log_c: Array  # of 6ND
    log_loss: Array

    @property
    def middle(self) -> float:
        return float(self.log_c.mean())


def _runs(table: pd.DataFrame, target: str) -> _Runs:
    n, d, loss = (table[name].to_numpy(dtype=float) for name in ("params", "tokens", target))
    if not (loss > 0).all():
        raise Refusal(
            f"loss = {loss.min():g} has no logarithm, and the runs' own minima are those of log "
            "loss. Give --by law."
        )
    return _Runs(np.log(n), np.log(6 * n * d), np.log(loss))


def _draws(runs: _Runs, clusters: Index, count: int) -> tuple[Array, int]:
    """Level and slope of resamples that show a valley, and of how many resamples in all. Priors
    are drawn anew in each: what neither runs nor priors settle is open in the draws too."""
    count = min(count, max(LEAST_DRAWS, int(MOST_WORK / len(runs.log_n))))
    rng = np.random.default_rng(0)
    found = [np.empty((0, 2))]
    for weight in resamples(rng, clusters, count):
        each = _search(runs, weight, _Prior.drawn(rng, len(weight)))
        seen = each.curvature > LEAST_CURVATURE  # resamples that lost a side show no valley
        found.append(np.stack([each.level, each.slope], axis=1)[seen])
    return np.concatenate(found), count


# --- the search -------------------------------------------------------------------------------


class _Prior(NamedTuple):
    """A row a draw."""

    slope: Array
    curvature: Array

    @classmethod
    def mean(cls, rows: int) -> _Prior:
        return cls(np.full(rows, SLOPE), np.full(rows, CURVATURE))

    @classmethod
    def drawn(cls, rng: np.random.Generator, rows: int) -> _Prior:
        slope, curvature = rng.standard_normal((2, rows))
        spread = math.sqrt(math.log1p((CURVATURE_SD / CURVATURE) ** 2))  # of ln k, never below 0
        return cls(SLOPE + SLOPE_SD * slope, CURVATURE * np.exp(spread * curvature))


@dataclass(frozen=True)
class _Found:
    """A row a draw. `level` is ln N* at the runs' middle."""

    level: Array
    slope: Array
    curvature: Array
    near: Array  # (rows, runs) weight of each run
    off: Array  # (rows, runs) ln N from the valley
    reach: Array  # how far off those near lie
    residual: Array  # (rows, runs)
    precision: Array  # (rows, TERMS, TERMS) of the quadratic's coefficients
    middle: float  # ln C
    start: float  # ln N

    def sd(self, log_c: float) -> float:
        """Of ln N* at a budget, in the first row, by the delta method."""
        x, k = log_c - self.middle, self.curvature[0]
        at = self.level[0] - self.start + self.slope[0] * x
        # ln N* = -(b1 + b3·x) / (2·b2), of N counted from the start of the search.
        gradient = np.array([-1.0, -2 * at, -x] + [0.0] * (TERMS - 3)) / (2 * k)
        variance = gradient @ np.linalg.solve(self.precision[0], gradient)
        return math.sqrt(max(float(variance), 0.0))


def _search(runs: _Runs, weight: Array, prior: _Prior) -> _Found:
    """The fixed point of: runs near the valley make a quadratic, whose bottom is the valley."""
    rows = len(weight)
    start = 0.5 * (runs.middle - math.log(6 * START))
    x, z = runs.log_c - runs.middle, runs.log_n - start
    terms = np.stack([z, z**2, z * x, np.ones_like(x), x, x**2], axis=1)
    pairs = (terms[:, :, None] * terms[:, None, :]).reshape(len(x), -1)
    level, slope, curvature = np.zeros(rows), np.full(rows, SLOPE), np.full(rows, CURVATURE)
    mild = np.ones_like(weight)
    fewest = math.ceil(LEAST_SHARE * len(x)) - 1
    for _ in range(STEPS):
        off = z - level[:, None] - slope[:, None] * x
        far = np.abs(off)
        reach = np.maximum(REACH, np.partition(far, fewest, axis=1)[:, fewest])
        near = weight * np.clip(1 - (far / reach[:, None]) ** 3, 0.0, None) ** 3
        pull = near * mild / NOISE**2
        # The slope's prior, (b3 + 2·slope·b2) / (2·k·sd) ~ N(0, 1), and the curvature's.
        known = np.zeros((rows, TERMS))
        known[:, 1], known[:, 2] = 2 * prior.slope, 1.0
        known /= 2 * curvature[:, None] * SLOPE_SD
        precision = (pull @ pairs).reshape(rows, TERMS, TERMS)
        precision += known[:, :, None] * known[:, None, :]
        precision[:, 1, 1] += CURVATURE_SD**-2
        right = pull @ (terms * runs.log_loss[:, None])
        right[:, 1] += prior.curvature / CURVATURE_SD**2
        # Keeps what runs on one line leave open solvable; its variance then is beyond any bound.
        precision += 1e-12 * np.trace(precision, axis1=1, axis2=2)[:, None, None] * np.eye(TERMS)
        b = np.linalg.solve(precision, right[:, :, None])[:, :, 0]
        residual = runs.log_loss - b @ terms.T
        mild = np.minimum(1.0, BOUNDED / np.maximum(np.abs(residual), 1e-12))
        curvature = np.maximum(b[:, 1], LEAST_CURVATURE)
        step = np.clip(-b[:, 0] / (2 * curvature) - level, -1.0, 1.0)
        turn = np.clip(-b[:, 2] / (2 * curvature), -0.5, 1.5) - slope
        level, slope = level + DAMPING * step, slope + DAMPING * turn
        if np.abs(step).max() < STILL and np.abs(turn).max() < STILL:
            break
    return _Found(
        start + level, slope, curvature, near, off, reach, residual, precision, runs.middle, start
    )
