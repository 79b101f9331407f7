"""How far scores lie from a curve, for many tables and many curves at once.

Models of one size differ by more than the questions of a test can explain, so the variance of a
score is that of its beta-binomial: μ(1−μ)(ρ + (1−ρ)/n), where ρ is the spread between models
(n infinite where it is not known: the beta's). Its quasi-likelihood (Williams 1982, Applied
Statistics 31:144; Papke and Wooldridge 1996 for shares) is the binomial's with weights
n/(1+(n−1)ρ), and is linear in the score: deviances of B tables from K curves are one matrix
product. Metrics without bounds have a normal error, and floor and ceiling solved by regression.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, ndtr, xlogy

from analysis.emergence.series import Series
from analysis.emergence.shapes import SHAPES, Shape
from analysis.expression import Array

Which = NDArray[Any]  # indices or flags
COLUMNS = ("shape", "midpoint", "width", "floor", "ceiling", "free")  # of Rows

# A score is never asked to tell a probability from 0 more finely than half an answer; where the
# number of answers is not known, than this.
UNKNOWN_RESOLUTION = 0.005
MOST_SCALES = 48  # told apart; a fiftieth of the range is far below any width that is judged
LEAST_SPREAD = 1e-6  # of ρ: below, models of one scale are taken for equal
MOST_SPREAD = 0.9  # of ρ: beyond, every model is all right or all wrong


@dataclass(frozen=True, eq=False)
class Rows:
    """Curves, one a row: which shape, where, how wide, between which levels (unit scale)."""

    shape: Which  # index into `shapes`
    midpoint: Array  # t of the threshold
    width: Array  # decades from 10% to 90% of the rise
    floor: Array  # NaN: solved for each table
    ceiling: Array
    free: Which  # levels fitted beyond those declared: 0, 1 the ceiling, 2 the floor as well
    shapes: tuple[Shape, ...] = SHAPES

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, which: Which) -> Rows:
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    def rise(self, t: Array) -> Array:
        """The share of the rise at `t`: a row a curve."""
        if len(self) and (self.shape == self.shape[0]).all():  # as in a search: no gathering
            one = self.shapes[int(self.shape[0])]
            return one((t - self.midpoint[:, None]) / self.width[:, None])
        out = np.empty((len(self), len(t)))
        for index, shape in enumerate(self.shapes):
            rows = np.flatnonzero(self.shape == index)
            if len(rows):
                z = (t - self.midpoint[rows, None]) / self.width[rows, None]
                out[rows] = shape(z)
        return out

    def reaches(self, share: float | Array) -> Array:
        """t at which each curve has made `share` of its rise."""
        shares = np.broadcast_to(share, len(self))
        z = np.array(
            [self.shapes[i].at(s) for i, s in zip(self.shape.astype(int), shares, strict=True)]
            if np.ndim(share)
            else np.array([shape.at(float(share)) for shape in self.shapes])[self.shape.astype(int)]
        )
        return self.midpoint + self.width * z

    def where(self, attribute: str) -> Which:
        """True of the rows whose shape says so."""
        flags = np.array([bool(getattr(shape, attribute)) for shape in self.shapes])
        return flags[self.shape.astype(int)]


def stack(parts: list[Rows]) -> Rows:
    """Rows one after another."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS
    }
    return replace(parts[0], **columns)


class Tables(NamedTuple):
    """Scores as the deviance needs them: one row a table, one column a distinct scale."""

    weight: Array  # sum of weights; one row where it is the same for every table
    score: Array  # sum of weighted scores
    constant: Array  # (tables,): deviance's part that no curve changes


@dataclass(frozen=True, eq=False)
class Data:
    """The points of a series, and how their scatter is judged."""

    t: Array  # of each point
    unit: Array
    questions: Array  # inf where unknown
    weight: Array
    bounded: bool
    chance: float | None  # on the unit scale
    ceiling: float | None
    group: Which | None  # codes
    at: Array  # the distinct scales
    scale_of: Which  # index into `at` of each point
    spread: float = 0.0  # ρ that the weights allow for

    @cached_property
    def resolution(self) -> Array:
        """Least probability told from 0, at each distinct scale."""
        questions = np.full(len(self.at), np.inf)
        np.minimum.at(questions, self.scale_of, self.questions)
        fine = np.where(np.isfinite(questions), 0.5 / questions, UNKNOWN_RESOLUTION)
        return np.maximum(fine, min(0.5 * self.spread, UNKNOWN_RESOLUTION))

    def weighed(self, spread: float) -> Data:
        """The same for models that spread by ρ = `spread`: a question more then tells less."""
        n = self.questions
        if not self.bounded or not np.isfinite(n).any():
            return self
        finite = np.where(np.isfinite(n), n, 1e12)
        weight = finite / (1 + (finite - 1) * max(spread, 1e-9))
        return replace(self, weight=weight, spread=spread)

    def tables(self, units: Array, counts: Array | None = None) -> Tables:
        """`units` (tables × points) gathered by scale; `counts` says how often each point is in."""
        weight = self.weight[None] if counts is None else counts * self.weight
        gather = np.zeros((len(self.t), len(self.at)))
        gather[np.arange(len(self.t)), self.scale_of] = 1
        if self.bounded:
            constant = (weight * (xlogy(units, units) + xlogy(1 - units, 1 - units))).sum(1)
        else:
            constant = (weight * units**2).sum(1)
        return Tables(weight @ gather, (weight * units) @ gather, constant)


def data_of(series: Series) -> Data:
    """The series as points on the unit scale, weighed by their questions."""
    t = series.t
    at, scale_of = _gathered(t)
    questions = series.questions
    weight = np.where(np.isfinite(questions), questions, 1.0)
    if not np.isfinite(questions).all() or not series.metric.bounded:
        questions, weight = np.full(len(t), np.inf), np.ones(len(t))
    # Scores of one seed, of whatever size, share what the seed gave them.
    labels = series.seed if series.group is None else series.group
    group = None if labels is None else np.unique(labels, return_inverse=True)[1]
    if group is not None and len(np.unique(group)) == len(group):
        group = None
    return Data(
        t=t,
        unit=series.unit,
        questions=questions,
        weight=weight,
        bounded=series.metric.bounded,
        chance=_level(series, series.chance),
        ceiling=_level(series, series.ceiling),
        group=group,
        at=at,
        scale_of=scale_of,
    )


def _level(series: Series, value: float | None) -> float | None:
    return None if value is None else float(series.to_unit(np.array(value)))


def _gathered(t: Array) -> tuple[Array, Which]:
    """The distinct scales and which is whose; of very many, neighbours are read at their mean."""
    at, scale_of = np.unique(t, return_inverse=True)
    if len(at) > MOST_SCALES:
        cells = np.floor((at - at[0]) / (at[-1] - at[0]) * MOST_SCALES * (1 - 1e-12))
        cell_of = np.unique(cells, return_inverse=True)[1][scale_of]
        at = np.bincount(cell_of, t) / np.bincount(cell_of)
        scale_of = cell_of
    return at, scale_of


class Basis(NamedTuple):
    """Curves evaluated at the distinct scales, as the deviance needs them."""

    slope: Array  # logit μ, or the share of the rise
    level: Array  # log(1 − μ), or its square
    rows: Rows


def basis(data: Data, rows: Rows) -> Basis:
    """`rows` at the scales of `data`."""
    rise = rows.rise(data.at)
    if not data.bounded:
        return Basis(rise, rise**2, rows)
    mean = rows.floor[:, None] + (rows.ceiling - rows.floor)[:, None] * rise
    mean = np.clip(mean, data.resolution, 1 - data.resolution)
    level = np.log1p(-mean)
    return Basis(np.log(mean) - level, level, rows)


def deviances(data: Data, curves: Basis, tables: Tables) -> Array:
    """Tables × curves: twice the log quasi-likelihood lost against a curve through every point."""
    if data.bounded:
        # In place: these are the largest arrays there are, and memory is what they cost.
        left = tables.score @ curves.slope.T
        left += tables.weight @ curves.level.T
        left *= -2
        left += 2 * tables.constant[:, None]
        return np.maximum(left, 0.0, out=left)
    a, b = levels(data, curves, tables)
    sums = tables.weight @ curves.slope.T, tables.weight @ curves.level.T
    total, score = tables.weight.sum(1)[:, None], tables.score.sum(1)[:, None]
    cross = tables.score @ curves.slope.T
    left = tables.constant[:, None] - 2 * a * score - 2 * b * cross
    left += a**2 * total + 2 * a * b * sums[0] + b**2 * sums[1]
    return np.maximum(left, 1e-12)


def levels(data: Data, curves: Basis, tables: Tables) -> tuple[Array, Array]:
    """Floor and rise by weighted least squares; a rise is never negative. Unbounded metrics."""
    s0, s1 = tables.weight.sum(1)[:, None], tables.weight @ curves.slope.T
    s2, y0 = tables.weight @ curves.level.T, tables.score.sum(1)[:, None]
    y1 = tables.score @ curves.slope.T
    if data.chance is not None:
        most = np.inf if data.ceiling is None else data.ceiling - data.chance
        rise = np.clip((y1 - data.chance * s1) / np.maximum(s2, 1e-12), 0.0, most)
        return np.full_like(rise, data.chance), rise
    if data.ceiling is not None:
        # u − ceiling = −rise·(1 − F)
        q1, q2 = s0 - s1, s0 - 2 * s1 + s2
        rise = (data.ceiling * q1 - (y0 - y1)) / np.maximum(q2, 1e-12)
        rise = np.maximum(rise, 0.0)
        return data.ceiling - rise, rise
    spread = s0 * s2 - s1**2
    slope = np.where(spread > 1e-9 * s0**2, (s0 * y1 - s1 * y0) / np.maximum(spread, 1e-12), 0)
    slope = np.maximum(slope, 0.0)
    return (y0 - slope * s1) / s0, slope


def means(data: Data, rows: Rows, tables: Tables, t: Array) -> Array:
    """Of one table's curves at `t`, unit scale: rows × t. Levels are solved where not known."""
    rise = rows.rise(t)
    if data.bounded:
        return rows.floor[:, None] + (rows.ceiling - rows.floor)[:, None] * rise
    a, b = levels(data, basis(data, rows), tables)
    return a[0][:, None] + b[0][:, None] * rise


class Noise(NamedTuple):
    """How scores scatter about a curve."""

    # ρ between models, or the variance on the unit scale of an unbounded metric; one for all
    # tables, or one a table
    spread: float | Array
    shared: float = 0.0  # correlation of the deviations of one group's models


def simulate(data: Data, mean: Array, noise: Noise, count: int, rng: np.random.Generator) -> Array:
    """`count` tables of scores on the unit scale about `mean` (of each point)."""
    shape = (count, len(mean))
    spread = np.broadcast_to(noise.spread, count)[:, None]
    if not data.bounded:
        return np.asarray(mean + np.sqrt(spread) * _normal(data, noise.shared, shape, rng))
    mean = np.clip(mean, 0.0, 1.0)
    models: Array = np.broadcast_to(mean, shape)
    if (spread > LEAST_SPREAD).any():
        mass = 1 / np.clip(spread, LEAST_SPREAD, MOST_SPREAD) - 1
        safe = np.clip(mean, 1e-6, 1 - 1e-6)
        if noise.shared > 0:
            rank = ndtr(_normal(data, noise.shared, shape, rng))
            rank = np.clip(rank, 1e-9, 1 - 1e-9)
            drawn = np.asarray(betaincinv(safe * mass, (1 - safe) * mass, rank), dtype=float)
        else:
            drawn = rng.beta(safe * mass, (1 - safe) * mass, shape)
        models = np.where(spread > LEAST_SPREAD, drawn, mean)
    if np.isfinite(data.questions).all():
        whole = np.maximum(np.rint(data.questions), 1).astype(np.int64)
        return rng.binomial(whole, np.clip(models, 0, 1)) / whole
    return np.array(models)


def _normal(data: Data, shared: float, shape: tuple[int, int], rng: np.random.Generator) -> Array:
    own = rng.normal(size=shape)
    if shared <= 0 or data.group is None:
        return own
    common = rng.normal(size=(shape[0], int(data.group.max()) + 1))[:, data.group]
    both: Array = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return both
