"""How far the coefficients could have come out otherwise.

The unit that is weighed is the run that made the noise: points cooled down from one trunk share it
(rows resampled as if independent covered .38 of a nominal .90 with 4 trunks). Each draw is a refit
with a random weight for every cluster and a value for every prior drawn anew (the fractional
random-weight bootstrap: Xu, Gotwalt, Hong, King and Meeker 2020, The American Statistician 74;
Rubin 1981): no draw loses a cluster, so that none leaves a coefficient open. Few clusters make
draws too narrow, by how much follows from the design, for each coefficient (`analysis.support`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.constraints import Regularised
from analysis.expression import Array, derivative, symbols
from analysis.laws import Law
from analysis.model import Model, coefficients_at
from analysis.newton import Mask
from analysis.runs.rows import listed
from analysis.runs.trajectories import COLUMN
from analysis.search import descend
from analysis.support import FEWEST, MANY, NOTHING, Basis, Support, stretched
from analysis.units import against, counted

FEW_ROWS = 100  # below, intervals are wide (benchmarks/coverage.py)
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
# Mean coverage in benchmarks/results/coverage.json of what rests on fewer than HALF effective
# clusters, on fewer than MANY, and of all in fewer than FEW_ROWS rows.
HALF = 6
HELD_FEW, HELD, WIDE = ".93", ".94", ".98"
FAR = 4.0  # deviations, on either side: a normal has 6 draws of 100,000 beyond
LARGEST = 700.0  # of a logarithm: beyond, no number
JUDGED = 0.9  # the level at which a fit is judged, whatever level is asked for

Index = NDArray[np.intp]


class Bounds(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Interval:
    """`method` is bootstrap or none; a missing bound is NaN."""

    level: float
    method: str
    coefficients: Mapping[str, Bounds]


@dataclass(frozen=True)
class Uncertainty:
    """Joint draws of the coefficients (a row a draw) with their summaries."""

    interval: Interval
    se: Mapping[str, float]
    draws: pd.DataFrame  # refits
    spread: pd.DataFrame  # the same, each coefficient as far off as its interval has it
    clusters: Mapping[str, float]  # effective number behind each coefficient
    warnings: tuple[str, ...]
    short: str = ""  # of `warnings`, which coefficients have no interval and why

    def bounds(self, name: str, level: float) -> Bounds:
        """Of a coefficient that has an interval, at another level."""
        low, high = np.percentile(self.spread[name], [50 * (1 - level), 50 * (1 + level)])
        return Bounds(float(low), float(high))


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
    support: Support,
    *,
    fixed: Mask,
    draws: int,
    level: float,
    seed: int,
) -> Uncertainty:
    """Intervals around the optimum `point` (in the model's coordinates).

    A coefficient that rests on fewer than `support.FEWEST` effective clusters has none (NaN).
    """
    count = int(clusters.max()) + 1
    bases = support.coefficients(law)
    if draws == 0:
        return _none(law, level, bases, "")
    if count < FEWEST and not fixed.all():
        return _none(law, level, bases, _too_few(law, clusters, support.free))
    refits = _refits(problem, point, weights, clusters, fixed, draws, np.random.default_rng(seed))
    table = _table(law, problem, refits.end[refits.usable])
    table = table[np.isfinite(table.to_numpy()).all(axis=1)].reset_index(drop=True)
    if table.empty:
        names = listed([n for n, free in zip(law.coefficients, support.free, strict=True) if free])
        lost = f"{names} have no interval: no refit of resampled runs gave a number. Check the runs"
        return _none(law, level, bases, lost)
    estimate = _table(law, problem, point[None])
    spread = pd.DataFrame(
        {name: _spread(law, name, table[name].to_numpy(), float(estimate[name].iloc[0]), basis)
         for name, basis in bases.items()}
    )  # fmt: skip
    short = _short(law, clusters, bases)
    found = Uncertainty(
        Interval(level, "bootstrap", {}),
        {},
        table,
        spread,
        _counted(bases),
        (*[short] * bool(short), *_unsettled(refits, draws), *_small(law, clusters, bases)),
        short,
    )
    missing = Bounds(float("nan"), float("nan"))
    bounds = {k: found.bounds(k, level) if bases[k].enough else missing for k in law.coefficients}
    se = {name: _se(table[name].to_numpy(), basis) for name, basis in bases.items()}
    return replace(found, interval=replace(found.interval, coefficients=bounds), se=se)


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
        rows = min(most, max(3 * at, _LEAST), draws - at)
        at += rows
        weights = rng.standard_exponential((rows, count))
        weights *= count / weights.sum(axis=1, keepdims=True)
        yield weights[:, clusters]


def _logarithmic(law: Law, name: str) -> bool:
    """A floor may be 0, where its logarithm has no meaning: it varies as it is."""
    return law.symbols[name].positive and name not in law.floors


def _spread(law: Law, name: str, values: Array, estimate: float, basis: Basis) -> Array:
    """A coefficient over the draws as its interval has it, within what the law allows."""
    symbol = law.symbols[name]
    with np.errstate(over="ignore", divide="ignore"):
        if _logarithmic(law, name):
            logs = stretched(np.log(values), float(np.log(estimate)), basis)
            return np.exp(np.clip(logs, -LARGEST, LARGEST))
        return np.clip(stretched(values, estimate, basis), symbol.lower, symbol.upper)


def _se(values: Array, basis: Basis) -> float:
    """The standard deviation of the draws, as Besiroglu et al. 2024 print it; those beyond FAR
    deviations, by the middle 68%, count as so far off: a few that run away would make all of it."""
    if not basis.enough:
        return float("nan")
    low, middle, high = np.percentile(values, [16, 50, 84])
    near = np.clip(values, middle - FAR * (middle - low), middle + FAR * (high - middle))
    return float(basis.scale * np.std(near, ddof=1))


def _counted(bases: Mapping[str, Basis]) -> dict[str, float]:
    return {name: basis.own for name, basis in bases.items() if np.isfinite(basis.own)}


def _unsettled(refits: _Refits, draws: int) -> Iterator[str]:
    done = len(refits.end)
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


def _short(law: Law, clusters: Index, bases: Mapping[str, Basis]) -> str:
    """Which coefficients have no interval, and why; empty where all have one."""
    names = [name for name, basis in bases.items() if not basis.enough]
    if not names:
        return ""
    have, they = ("have", "they") if len(names) > 1 else ("has", "it")
    few = min(bases[name].clusters for name in names) < FEWEST
    lack = f"{FEWEST} are needed" if few else "the law passes through these, so that none is off it"
    return (
        f"{listed(names)} {have} no interval: {they} {_rest(names, clusters, bases)}, and {lack}. "
        f"Train {_more(law, names, clusters)}"
    )


def _too_few(law: Law, clusters: Index, free: Mask) -> str:
    """Why no coefficient has an interval where there are fewer than FEWEST clusters in all."""
    names = [name for name, each in zip(law.coefficients, free, strict=True) if each]
    count = int(clusters.max()) + 1
    have = "have" if len(names) > 1 else "has"
    unit = "run" if count == len(clusters) else "cluster"
    return (
        f"{listed(names)} {have} no interval: the rows are of {counted(count, unit)}, and {FEWEST} "
        f"are needed. Train {_more(law, names, clusters)}"
    )


def _unit(clusters: Index) -> str:
    return "runs" if int(clusters.max()) + 1 == len(clusters) else "clusters of runs"


def _small(law: Law, clusters: Index, bases: Mapping[str, Basis]) -> Iterator[str]:
    """What rests on few clusters, or all on few rows."""
    names = [name for name, basis in bases.items() if basis.enough and basis.clusters < MANY]
    if names:
        least = min(bases[name].clusters for name in names)
        held = HELD_FEW if least < HALF else HELD
        their = "their intervals are" if len(names) > 1 else "its interval is"
        yield (
            f"{listed(names)} {_rest(names, clusters, bases)}; {MANY} are wanted: {their} wide, by "
            f"Student's t, and such ones held {held} of the time at a nominal .90 "
            f"(benchmarks/coverage.py). For narrower ones train {_more(law, names, clusters)}"
        )
    elif all(basis.enough for basis in bases.values()) and len(clusters) < FEW_ROWS:
        yield (
            f"{len(clusters)} rows: intervals of fewer than {FEW_ROWS} are wide, and held {WIDE} "
            "of the time at a nominal .90 (benchmarks/coverage.py). Train more runs for narrower "
            "ones"
        )


def _rest(names: Sequence[str], clusters: Index, bases: Mapping[str, Basis]) -> str:
    """By how many runs, alike in what they tell, the names would be as well known."""
    count = int(clusters.max()) + 1
    each = listed([against(bases[name].own, FEWEST, MANY) for name in names])
    leans = any(bases[name].own < (1 - NOTHING) * bases[name].clusters for name in names)
    beside = ", and on a prior" if leans else ""
    return (
        f"rest{'s' * (len(names) == 1)} on {_unit(clusters)} that count as {each} of the "
        f"{count}{beside}"
    )


def _more(law: Law, names: Sequence[str], clusters: Index) -> str:
    """Which runs would tell more of the coefficients."""
    letters = {s.symbol.name: s for s in symbols(law.loss) if s.symbol}
    moved = [symbols(derivative(law.loss, letters[name])) for name in names]
    seen = {law.symbols[s.symbol.name].column for each in moved for s in each
            if s.symbol and s.symbol.feature}  # fmt: skip
    columns = [column for column in law.features if not seen or column in seen]
    own = int(clusters.max()) + 1 == len(clusters)
    return f"more {'runs' if own else 'trunks, or seeds,'} at several {' and '.join(columns)}"


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
        if isinstance(problem, Regularised):
            resampled = problem.drawn(rng, resampled)
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


def _table(law: Law, problem: Model, points: Array) -> pd.DataFrame:
    return pd.DataFrame(coefficients_at(law, problem, points))


def _none(law: Law, level: float, bases: Mapping[str, Basis], short: str) -> Uncertainty:
    missing = float("nan")
    empty = pd.DataFrame({name: np.empty(0) for name in law.coefficients})
    return Uncertainty(
        Interval(level, "none", {name: Bounds(missing, missing) for name in law.coefficients}),
        dict.fromkeys(law.coefficients, missing),
        empty,
        empty,
        _counted(bases),
        (short,) * bool(short),
        short,
    )
