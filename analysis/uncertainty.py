"""How far the coefficients could have come out otherwise.

The unit that is resampled is the run that made the noise: points cooled down from one trunk
share it (rows resampled as if independent covered .38 of a nominal .90 with 4 trunks). From
12 clusters on, a percentile bootstrap; below, a leave-one-cluster-out jackknife with Student's
t(K − 3), and a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.expression import Array
from analysis.laws import Law
from analysis.model import Model, coefficients_at, is_floor
from analysis.newton import Mask
from analysis.runs.trajectories import COLUMN
from analysis.search import descend

BOOTSTRAP_FROM = 12  # clusters
MANY = 30  # clusters from which percentile intervals cover as they say
FEW_ROWS = 100  # below, independent rows cover .93 to .98 (60: .93 to .97)
JACKKNIFE_FROM = 3
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
_LEAST = 100  # draws: 5% points of fewer are not stable

Index = NDArray[np.intp]


class Bounds(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Interval:
    """`method` is bootstrap, jackknife or none; a missing bound is NaN."""

    level: float
    method: str
    coefficients: Mapping[str, Bounds]


@dataclass(frozen=True)
class Uncertainty:
    """Joint draws of the coefficients (a row a draw) with their summaries."""

    interval: Interval
    se: Mapping[str, float]
    draws: pd.DataFrame
    warnings: tuple[str, ...]
    left_out: pd.DataFrame  # of the jackknife's refits, a row a cluster; else empty


def clusters_of(table: pd.DataFrame) -> Index:
    """The number of the cluster of each row, by `trunk_id`; a row without one is its own."""
    if COLUMN not in table or table[COLUMN].isna().all():
        return np.arange(len(table))
    own = table[COLUMN].isna().to_numpy()
    codes = pd.factorize(table[COLUMN])[0]
    codes[own] = codes.max() + 1 + np.arange(int(own.sum()))
    return codes.astype(np.intp)


def uncertainty(
    law: Law,
    problem: Model,
    point: Array,
    weights: Array,
    clusters: Index,
    *,
    fixed: Mask,
    draws: int,
    level: float,
    seed: int,
) -> Uncertainty:
    """Intervals by the cluster rule around the optimum `point` (in the model's coordinates)."""
    count = int(clusters.max()) + 1
    if draws == 0 or count < JACKKNIFE_FROM:
        return _none(law, level, count, draws)
    rng = np.random.default_rng(seed)
    if count >= BOOTSTRAP_FROM:
        return _bootstrap(law, problem, point, weights, clusters, fixed, draws, level, rng)
    return _jackknife(law, problem, point, weights, clusters, fixed, draws, level, rng)


def resamples(rng: np.random.Generator, clusters: Index, draws: int) -> Iterator[Array]:
    """Row weights of cluster resamples, in blocks that bound the memory.

    The first is short, and each as long as three times all before it: hard ones are met early.
    """
    count = int(clusters.max()) + 1
    most = max(1, _CHUNK // len(clusters))
    at = 0
    while at < draws:
        rows = min(most, max(3 * at, _LEAST), draws - at)
        at += rows
        picked = rng.integers(0, count, size=(rows, count))
        flat = (picked + count * np.arange(rows)[:, None]).ravel()
        times = np.bincount(flat, minlength=rows * count).reshape(rows, count)
        yield times[:, clusters].astype(float)


def _bootstrap(
    law: Law, problem: Model, point: Array, weights: Array, clusters: Index,
    fixed: Mask, draws: int, level: float, rng: np.random.Generator,
) -> Uncertainty:  # fmt: skip
    count = int(clusters.max()) + 1
    refits = _refits(problem, point, weights, clusters, fixed, draws, rng)
    done = len(refits.end)
    warnings = list(_small(count, len(clusters)))
    if done < draws:
        warnings.append(
            "a nearly flat valley: refits take hundreds of steps, and intervals come from the "
            f"first {done} of {draws} draws"
        )
    late = int((~refits.settled).sum())
    if late > 0.01 * done:
        # Left in: they are the ones in the flattest valleys, and without them intervals shrink.
        warnings.append(
            f"{late} of {done} bootstrap refits stopped short of their optimum: "
            "the valley is nearly flat, the intervals may be too narrow"
        )
    kept = refits.end[refits.usable]
    if not len(kept):
        return _none(law, level, count, 0)
    table = _table(law, problem, kept)
    table = table[np.isfinite(table.to_numpy()).all(axis=1)].reset_index(drop=True)
    tails = [50 * (1 - level), 50 * (1 + level)]
    edges = {name: np.percentile(table[name], tails) for name in law.coefficients}
    with np.errstate(over="ignore"):  # where draws run away, so does their deviation
        se = {name: float(np.std(table[name].to_numpy(), ddof=1)) for name in law.coefficients}
    return Uncertainty(
        Interval(
            level, "bootstrap", {k: Bounds(float(a), float(b)) for k, (a, b) in edges.items()}
        ),
        se,
        table,
        tuple(warnings),
        _empty(law),
    )


def _small(clusters: int, rows: int) -> Iterator[str]:
    """What is wrong with percentile intervals of so few clusters, or rows."""
    if clusters < MANY:
        yield (
            f"{clusters} clusters: percentile intervals of fewer than {MANY} are rough, .86 to .97 "
            "at a nominal .90 and 16 clusters (benchmarks/coverage.py)"
        )
    elif rows < FEW_ROWS:
        yield (
            f"{rows} rows: percentile intervals of fewer than {FEW_ROWS} are wide, "
            ".92 to .99 at a nominal .90 and 40 rows (benchmarks/coverage.py)"
        )


class _Refits(NamedTuple):
    end: Array  # (draws, p)
    usable: Mask
    settled: Mask  # at an optimum


def _refits(
    problem: Model, point: Array, weights: Array, clusters: Index,
    fixed: Mask, draws: int, rng: np.random.Generator,
) -> _Refits:  # fmt: skip
    """The minimum of each resample, all late ones followed to the end.

    Where that would take too long, fewer draws: the late ones are those that end far away, so
    that neither stopping nor leaving them out keeps the interval.
    """
    metric = problem.local(point[None], weights[None], True).majoriser[0]
    # One in a hundred adds a third to the time, whatever the table.
    room = max(_FOLLOWED * problem.block // len(clusters), draws // 100)
    least = _LEAST
    parts: list[_Refits] = []
    heavy: list[Array] = []
    for block in resamples(rng, clusters, draws):
        resampled = block * weights
        start = np.repeat(point[None], len(block), 0)
        minima = descend(
            problem, start, resampled, fixed, _TOLERANCE, metric, max_iterations=_STEPS
        )
        usable = np.isfinite(minima.value)
        late = np.flatnonzero(~minima.converged & usable)
        full = len(late) > room
        stop = max(int(late[room]), min(least, len(block))) if full else len(block)
        late = late[late < stop]
        parts.append(_Refits(minima.theta[:stop], usable[:stop], minima.converged[:stop]))
        heavy.append(resampled[late])
        if full and stop >= least:
            break
        room, least = max(0, room - len(late)), max(0, least - stop)
    refits = _Refits(*(np.concatenate(part) for part in zip(*parts, strict=True)))
    late = np.flatnonzero(~refits.settled & refits.usable)
    if len(late):
        # Far from the estimate its matrix M no longer serves.
        rest = descend(
            problem, refits.end[late], np.concatenate(heavy), fixed, _TOLERANCE,
            max_iterations=_LONG,
        )  # fmt: skip
        refits.end[late], refits.settled[late] = rest.theta, rest.converged
    return refits


def _jackknife(
    law: Law, problem: Model, point: Array, weights: Array, clusters: Index,
    fixed: Mask, draws: int, level: float, rng: np.random.Generator,
) -> Uncertainty:  # fmt: skip
    count = int(clusters.max()) + 1
    left_out = (clusters[None, :] != np.arange(count)[:, None]) * weights
    minima = descend(problem, np.repeat(point[None], count, 0), left_out, fixed)
    warnings = [
        f"{count} clusters: leave-one-out jackknife with t({max(count - 3, 1)}), which holds "
        ".97 to 1.0 at a nominal .90 and 4 clusters, .88 to .98 at 8 (benchmarks/coverage.py); "
        f"{BOOTSTRAP_FROM} are needed for a bootstrap"
    ]
    if not minima.converged.all():
        warnings.append(
            f"{int((~minima.converged).sum())} of {count} leave-one-out refits did not converge: "
            "the intervals are too narrow"
        )
    floors = np.array([is_floor(law, name) for name in law.coefficients])
    # A floor may be nothing, where its logarithm has no meaning: it varies as it is.
    estimate = _scale(point[None], floors)[0]
    deviation = _scale(minima.theta, floors)
    deviation = deviation - deviation.mean(axis=0)
    covariance = (count - 1) / count * deviation.T @ deviation
    freedom = max(count - 3, 1)
    normal = rng.standard_normal((draws, count)) @ deviation * np.sqrt((count - 1) / count)
    stretch = np.sqrt(freedom / rng.chisquare(freedom, size=(draws, 1)))
    drawn = estimate + normal * stretch
    drawn = np.clip(drawn, *_limits(law, problem, estimate, floors))
    table = _table(law, problem, _unscale(drawn, floors))
    # Amplitudes are linear in the model's coordinates on the logarithmic scale.
    reach = _student(freedom, level)
    theta = problem.leave(point[None])[0]
    spread = np.sqrt(np.diag(_carry(problem, floors, estimate, covariance)))
    bounds, se = {}, {}
    for i, name in enumerate(law.coefficients):
        symbol = law.symbols[name]
        if symbol.positive and not floors[i]:
            value = float(np.exp(theta[i]))
            with np.errstate(over="ignore"):
                factor = float(np.exp(reach * spread[i]))
            bounds[name], se[name] = Bounds(value / factor, value * factor), value * spread[i]
        else:
            value = estimate[i]
            low, high = value - reach * spread[i], value + reach * spread[i]
            upper = np.exp(problem.upper[i]) if floors[i] else symbol.upper
            bounds[name] = Bounds(float(max(low, symbol.lower)), float(min(high, upper)))
            se[name] = spread[i]
    return Uncertainty(
        Interval(level, "jackknife", bounds),
        {k: float(v) for k, v in se.items()},
        table,
        tuple(warnings),
        _table(law, problem, minima.theta),
    )


def _carry(problem: Model, floors: Mask, estimate: Array, covariance: Array) -> Array:
    """Covariance in the law's θ (floors as they are), from that in the model's coordinates."""
    size = len(estimate)
    # `leave` is linear and leaves floors alone, so its matrix acts on the others unchanged.
    matrix = problem.leave(np.eye(size)).T
    return np.asarray(matrix @ covariance @ matrix.T)


def _scale(points: Array, floors: Mask) -> Array:
    return np.where(floors, np.exp(np.where(floors, points, 0.0)), points)


def _unscale(values: Array, floors: Mask) -> Array:
    return np.where(floors, np.log(np.where(floors, np.maximum(values, 1e-300), 1.0)), values)


class _Limits(NamedTuple):
    low: Array
    high: Array


def _limits(law: Law, problem: Model, estimate: Array, floors: Mask) -> _Limits:
    low = np.where(floors, np.exp(np.where(floors, problem.lower, 0.0)), problem.lower)
    high = np.where(floors, np.exp(np.where(floors, problem.upper, 0.0)), problem.upper)
    for i, name in enumerate(law.coefficients):
        if law.symbols[name].lower == 0.0 and not law.symbols[name].positive:
            # An exponent of exactly zero sends every optimum to infinity.
            low[i] = min(0.01, 0.02 * estimate[i]) if estimate[i] > 0 else 0.0
    return _Limits(low, high)


def _table(law: Law, problem: Model, points: Array) -> pd.DataFrame:
    return pd.DataFrame(coefficients_at(law, problem, points))


def _student(freedom: int, level: float) -> float:
    from scipy.special import stdtrit  # scipy.stats takes most of a second to import

    return float(stdtrit(freedom, 0.5 + level / 2))


def _none(law: Law, level: float, count: int, draws: int) -> Uncertainty:
    warnings: tuple[str, ...] = ()
    if draws:
        warnings = (
            f"{count} cluster{'s' if count != 1 else ''}: no interval can be computed; "
            f"train {JACKKNIFE_FROM} or more trunks",
        )
    missing = float("nan")
    return Uncertainty(
        Interval(level, "none", {name: Bounds(missing, missing) for name in law.coefficients}),
        dict.fromkeys(law.coefficients, missing),
        _empty(law),
        warnings,
        _empty(law),
    )


def _empty(law: Law) -> pd.DataFrame:
    return pd.DataFrame({name: np.empty(0) for name in law.coefficients})
