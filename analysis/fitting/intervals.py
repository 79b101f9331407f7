"""How far the coefficients could have come out otherwise.

The unit that is weighed is the run that made the noise: points cooled down from one trunk share it
(rows resampled as if independent covered .38 of a nominal .90 with 4 trunks). Each draw is a refit
with a random weight for every cluster and a value for every prior drawn anew (the fractional
random-weight bootstrap: Xu, Gotwalt, Hong, King and Meeker 2020, The American Statistician 74;
Rubin 1981): no draw loses a cluster, so that none leaves a coefficient open. Few clusters make
draws too narrow, for each coefficient by a factor that follows from the design
(`effective_clusters`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.fitting.effective_clusters import FEWEST, Basis, stretched
from analysis.fitting.inputs import Inputs, Minimum, support_of
from analysis.fitting.warnings import no_interval, too_few_clusters, wide_intervals
from analysis.interval import Interval, percentiles
from analysis.laws.law import Law
from analysis.runs.messages import listed
from analysis.solver.newton import Mask
from analysis.solver.priors import Regularised
from analysis.solver.problem import coefficients_at
from analysis.solver.search import descend

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit

LEAST_DRAWS = 100  # 5% points of fewer are not stable
MOST_WORK = 100_000_000  # rows × draws: half a minute; a larger table gets fewer draws
_CHUNK = 2**21  # elements of resampled weights held at once
# A millionth of the objective is a fiftieth of a standard error; the estimate itself is held to
# rounding.
_TOLERANCE = 1e-6
_STEPS = 40  # of a refit in a valley with a bottom; five are usual
# In a flat valley half the refits may need hundreds, and until then intervals are too narrow:
# half as wide (E of 17 small runs), a hundredth (b of m4 on data that do not bend).
_LONG = 1000
# A refit followed to the end costs some 150 evaluations. A model's block (of refits × points) of
# them takes a second or two; what is beyond means fewer draws, not shorter refits.
_FOLLOWED = 1  # blocks
FAR = 4.0  # deviations, on either side: a normal has 6 draws of 100,000 beyond
LARGEST = 700.0  # of a logarithm: beyond, no number


@dataclass(frozen=True)
class Intervals:
    """Intervals of the coefficients; an end that is not known is NaN."""

    level: float
    method: str  # bootstrap, or none
    coefficients: Mapping[str, Interval]
    warnings: tuple[str, ...] = ()  # which are missing or wide, and why


@dataclass(frozen=True)
class Uncertainty:
    """Joint draws of the coefficients (a row a draw) with their summaries."""

    interval: Intervals
    se: Mapping[str, float]
    draws: pd.DataFrame  # refits
    spread: pd.DataFrame  # the same, each coefficient as far off as its interval has it
    effective_clusters: Mapping[str, float]  # behind each coefficient that is not known beforehand
    warnings: tuple[str, ...]  # those of the interval, and how the draws came about
    missing: str  # of these, which coefficients have no interval; empty where all have one

    def bounds(self, name: str, level: float) -> Interval:
        """Of a coefficient that has an interval, at another level."""
        return _central(self.spread[name], level)


def most_draws(inputs: Inputs) -> int:
    """How many draws are made: as many as were asked for, fewer of a large table."""
    return min(inputs.settings.bootstrap, max(LEAST_DRAWS, MOST_WORK // len(inputs.rows)))


def uncertainty(
    inputs: Inputs, minimum: Minimum, at_bound: Sequence[str], draws: int
) -> Uncertainty:
    """Intervals around a minimum at which some coefficients are `at_bound`, from so many draws.

    A coefficient that rests on fewer than `effective_clusters.FEWEST` clusters has none (NaN), and
    none has one without draws.
    """
    law, settings, held = inputs.law, inputs.settings, inputs.held.mask
    carried = inputs.support(minimum.best.theta, held | np.isin(law.coefficients, [*at_bound]))
    bases = carried.coefficients(law)
    free = [name for name, each in zip(law.coefficients, carried.free, strict=True) if each]
    found, missing, notes = _draw(inputs, minimum, free, draws)
    wide: list[str] = []
    if not found.empty and not held.all():
        missing, wide = no_interval(inputs, bases), [*wide_intervals(inputs, bases)]
    limits = (*[missing] * bool(missing), *wide)
    spread = spread_of(law, found, inputs.coefficients(minimum), bases)
    bounds = intervals_of(law, spread, bases, at_bound, settings.fixed, settings.level)
    method = "none" if found.empty else "bootstrap"
    se = {name: _se(found[name].to_numpy(), basis) for name, basis in bases.items()}
    return Uncertainty(
        interval=Intervals(settings.level, method, bounds, limits),
        se={**se, **dict.fromkeys(settings.fixed, 0.0)},
        draws=found.assign(**settings.fixed),  # to the last digit
        spread=spread.assign(**settings.fixed),
        effective_clusters={k: each.own for k, each in bases.items() if np.isfinite(each.own)},
        warnings=(*limits, *notes),
        missing=missing,
    )


class _Draws(NamedTuple):
    table: pd.DataFrame  # a column a coefficient
    missing: str = ""  # why there are none
    notes: tuple[str, ...] = ()  # on how they came about


def _draw(inputs: Inputs, minimum: Minimum, free: Sequence[str], draws: int) -> _Draws:
    """The refits that gave numbers; none of runs in fewer than FEWEST clusters."""
    none = pd.DataFrame({name: np.empty(0) for name in inputs.law.coefficients})
    if draws == 0:
        return _Draws(none)
    if inputs.cluster_count < FEWEST and not inputs.held.mask.all():
        return _Draws(none, too_few_clusters(inputs, free))
    refits = _refits(inputs, minimum, draws)
    ends = refits.end[refits.usable]
    table = pd.DataFrame(coefficients_at(inputs.law, minimum.problem, ends))
    table = table[np.isfinite(table.to_numpy()).all(axis=1)].reset_index(drop=True)
    if table.empty:
        lost = f"{listed(free)} have no interval: no refit of resampled runs gave a number"
        return _Draws(none, f"{lost}. Check the runs")
    return _Draws(table, "", tuple(_unsettled(inputs, refits, len(table), draws)))


def spread_of(
    law: Law, draws: pd.DataFrame, coefficients: Mapping[str, float], bases: Mapping[str, Basis]
) -> pd.DataFrame:
    """`draws` around `coefficients`, each as far off as its own clusters have it, and within what
    the law allows."""
    found = {}
    with np.errstate(over="ignore", divide="ignore"):
        for name, basis in bases.items():
            symbol, values, estimate = law.symbols[name], draws[name].to_numpy(), coefficients[name]
            # A floor may be 0, where its logarithm has no meaning: it varies as it is.
            if symbol.positive and name not in law.floors:
                logs = stretched(np.log(values), float(np.log(estimate)), basis)
                found[name] = np.exp(np.clip(logs, -LARGEST, LARGEST))
            else:
                values = stretched(values, estimate, basis)
                found[name] = np.clip(values, symbol.lower, symbol.upper)
    return pd.DataFrame(found)


def intervals_of(
    law: Law, spread: pd.DataFrame, bases: Mapping[str, Basis], at_bound: Sequence[str],
    fixed: Mapping[str, float], level: float,
) -> dict[str, Interval]:  # fmt: skip
    """The interval of each coefficient from its `spread`; NaN where it has none."""
    found = dict.fromkeys(law.coefficients, Interval(float("nan"), float("nan")))
    for name, basis in bases.items():
        # How near to 0 the draws of a floor at its bound are is up to the descent, not to the runs.
        at_zero = name in at_bound and name in law.floors
        if basis.enough and not at_zero and not spread.empty:
            found[name] = _central(spread[name], level)
    return found | {name: Interval(value, value) for name, value in fixed.items()}


def coefficient_intervals(fit: Fit, level: float) -> Mapping[str, Interval]:
    """The interval of each coefficient at any level from the fit's draws, as at the fit's own; NaN
    where it has none."""
    if level == fit.interval.level:
        return fit.interval.coefficients
    law = fit.law.fitted
    bases = support_of(fit).coefficients(law)
    spread = spread_of(law, fit.draws, fit.coefficients, bases)
    return intervals_of(law, spread, bases, fit.at_bound, fit.settings.fixed, level)


def resamples(rng: np.random.Generator, clusters: Index, draws: int) -> Iterator[Array]:
    """Row weights of cluster resamples, in blocks that bound the memory.

    Exponential, of mean 1 over the clusters: of the variance of drawing clusters with replacement,
    and none is lost. The first block is short, and each as long as three times all before it: hard
    ones are met early.
    """
    count = int(clusters.max()) + 1
    most = max(1, _CHUNK // len(clusters))
    at = 0
    while at < draws:
        rows = min(most, max(3 * at, LEAST_DRAWS), draws - at)
        at += rows
        weights = rng.standard_exponential((rows, count))
        weights *= count / weights.sum(axis=1, keepdims=True)
        yield weights[:, clusters]


def _se(values: Array, basis: Basis) -> float:
    """The standard deviation of the draws, as Besiroglu et al. 2024 print it; those beyond FAR
    deviations, by the middle 68%, count as so far off: a few that run away would make all of it."""
    if not basis.enough or not len(values):
        return float("nan")
    low, middle, high = np.percentile(values, [16, 50, 84])
    near = np.clip(values, middle - FAR * (middle - low), middle + FAR * (high - middle))
    return float(basis.scale * np.std(near, ddof=1))


def _central(values: pd.Series[float], level: float) -> Interval:
    """The central interval that holds a share `level` of the values."""
    return Interval(*map(float, percentiles(np.asarray(values, dtype=float), level)))


def _unsettled(inputs: Inputs, refits: _Refits, usable: int, draws: int) -> Iterator[str]:
    """Why there are fewer draws than were asked for, or refits that have not arrived."""
    done, asked = len(refits.end), inputs.settings.bootstrap
    if done < draws:
        yield (
            "a nearly flat valley: refits take hundreds of steps, and intervals come from the "
            f"first {done} of {draws} draws"
        )
    late = int((~refits.settled).sum())
    if late > 0.01 * done:
        # Left in: they are the ones in the flattest valleys, and without them intervals shrink.
        yield (
            f"{late} of {done} bootstrap refits stopped short of their optimum: "
            "the valley is nearly flat, the intervals may be too narrow"
        )
    if draws < asked:
        yield f"{len(inputs.rows)} rows: intervals come from {usable} of {asked} draws"


class _Refits(NamedTuple):
    end: Array  # (draws, p)
    usable: Mask
    settled: Mask  # at an optimum


def _refits(inputs: Inputs, minimum: Minimum, draws: int) -> _Refits:
    """The minimum of each resample, all late ones followed to the end.

    Where that would take too long, fewer draws: the late ones are those that end far away, so
    that neither stopping nor leaving them out keeps the interval.
    """
    problem, point = minimum.problem, minimum.best.point
    fixed, clusters = inputs.held.mask, inputs.clusters
    rng = np.random.default_rng(inputs.settings.seed)
    metric = problem.local(point[None], inputs.weights[None], True).majoriser[0]
    # How many late ones can be followed; one in a hundred adds a third to the time.
    room = max(_FOLLOWED * problem.block // len(clusters), draws // 100)
    done = 0
    parts: list[_Refits] = []
    weights_of_late: list[Array] = []
    for block in resamples(rng, clusters, draws):
        weights = block * inputs.weights
        if isinstance(problem, Regularised):
            weights = problem.drawn(rng, weights)
        start = np.repeat(point[None], len(block), 0)
        minima = descend(problem, start, weights, fixed, _TOLERANCE, metric, max_iterations=_STEPS)
        usable = np.isfinite(minima.value)
        late = np.flatnonzero(~minima.converged & usable)
        kept, full = len(block), len(late) > room
        if full:  # those before the first that cannot be followed, but LEAST_DRAWS in all
            kept = max(int(late[room]), min(LEAST_DRAWS - done, len(block)))
            late = late[late < kept]
        parts.append(_Refits(minima.theta[:kept], usable[:kept], minima.converged[:kept]))
        weights_of_late.append(weights[late])
        done += kept
        room = max(0, room - len(late))
        if full and done >= LEAST_DRAWS:
            break
    refits = _Refits(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    late = np.flatnonzero(~refits.settled & refits.usable)
    if len(late):
        # Far from the estimate its matrix M no longer serves.
        rest = descend(
            problem, refits.end[late], np.concatenate(weights_of_late), fixed, _TOLERANCE,
            max_iterations=_LONG,
        )  # fmt: skip
        refits.end[late], refits.settled[late] = rest.theta, rest.converged
    return refits
