"""How far scores lie from a curve, for many tables and many curves at once.

Models of one size differ by more than the questions of a test explain, so the variance of a score
is that of a beta-binomial: μ(1−μ)(ρ + (1−ρ)/n), with overdispersion ρ between models (where n is
not known it is infinite: a beta distribution). Its quasi-likelihood (Williams 1982, Applied
Statistics 31:144; Papke and Wooldridge 1996 for shares) is that of the binomial with weights
n/(1+(n−1)ρ). It is linear in the score, so the deviances of B tables from K curves are one matrix
product. Metrics without bounds have a normal error, and regression gives their floor and ceiling.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from analysis.array import Array
from analysis.emergence.response.links import SHAPES, Shape
from analysis.emergence.scores.series import Series

Indices = NDArray[Any]  # indices or flags
COLUMNS = ("shape", "midpoint", "width", "floor", "ceiling", "free")  # of Curves

# A score does not distinguish a probability from 0 more finely than half an answer, or than this
# where the number of answers is not known.
UNKNOWN_RESOLUTION = 0.005
ROUNDING = 1e-10  # of all questions: deviances that differ by less differ by rounding
MOST_SCALES = 48  # kept apart: a fiftieth of the range is far below any width that is judged


@dataclass(frozen=True, eq=False)
class Curves:
    """Many curves, one per row: the shape, its place, its width and its levels (unit scale)."""

    shape: Indices  # index into `shapes`
    midpoint: Array  # t of the threshold
    width: Array  # decades from 10% to 90% of the rise
    floor: Array  # NaN: solved for each table
    ceiling: Array
    free: Indices  # levels fitted beyond those declared: 0, 1 the ceiling, 2 the floor as well
    shapes: tuple[Shape, ...] = SHAPES

    def __len__(self) -> int:
        return len(self.shape)

    def __getitem__(self, which: Indices | list[int] | slice) -> Curves:
        return replace(self, **{name: getattr(self, name)[which] for name in COLUMNS})

    def rise(self, t: Array) -> Array:
        """The share of the rise at `t`, curves × t."""
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

    def scores(self, t: Array) -> Array:
        """Expected scores at `t` on the unit scale, curves × t; the levels must be known."""
        return self.floor[:, None] + (self.ceiling - self.floor)[:, None] * self.rise(t)

    def reaches(self, share: float | Array) -> Array:
        """t at which each curve has made `share` of its rise; one share for all, or one each."""
        shares = np.broadcast_to(share, len(self)).tolist()
        own = zip(self.shape.astype(int), shares, strict=True)
        return self.midpoint + self.width * np.array([self.shapes[i].at(each) for i, each in own])

    def where(self, attribute: str) -> Indices:
        """Flags of the curves whose shape has this attribute, such as `smooth`."""
        flags = np.array([bool(getattr(shape, attribute)) for shape in self.shapes])
        return flags[self.shape.astype(int)]


def stack(parts: list[Curves]) -> Curves:
    """The curves of all parts, one after another."""
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS
    }
    return replace(parts[0], **columns)


class Tables(NamedTuple):
    """Scores as the deviance needs them: one row per table, one column per distinct scale."""

    weight: Array  # sum of weights; one row where it is the same for every table
    score: Array  # sum of weighted scores
    constant: Array  # (tables,): the part of the deviance that does not depend on the curve


@dataclass(frozen=True, eq=False)
class Data:
    """The points of a series, with what their deviance needs."""

    t: Array  # of each point
    unit: Array
    questions: Array  # inf where unknown
    weight: Array
    bounded: bool
    chance: float | None  # on the unit scale
    group: Indices | None  # codes
    at: Array  # the distinct scales
    scale_of: Indices  # index into `at` of each point
    dispersion: float = 0.0  # ρ that the weights allow for

    @cached_property
    def resolution(self) -> Array:
        """The least probability that differs from 0, at each distinct scale."""
        questions = np.full(len(self.at), np.inf)
        np.minimum.at(questions, self.scale_of, self.questions)
        fine = np.where(np.isfinite(questions), 0.5 / questions, UNKNOWN_RESOLUTION)
        return np.maximum(fine, min(0.5 * self.dispersion, UNKNOWN_RESOLUTION))

    @cached_property
    def observed(self) -> Tables:
        """The scores themselves, as one table."""
        return self.tables(self.unit[None])

    @property
    def counted(self) -> bool:
        """Whether every score is of a bounded metric with a known number of questions."""
        return self.bounded and bool(np.isfinite(self.questions).all())

    def reweighted(self, dispersion: float) -> Data:
        """The same for models of that overdispersion ρ: a further question then adds less."""
        n = self.questions
        if not self.bounded or not np.isfinite(n).any():
            return self
        finite = np.where(np.isfinite(n), n, 1e12)
        weight = finite / (1 + (finite - 1) * max(dispersion, 1e-9))
        return replace(self, weight=weight, dispersion=dispersion)

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
    """The series as points on the unit scale, weighted by their questions."""
    t = series.t
    at, scale_of = _distinct(t)
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
        chance=series.unit_chance,
        group=group,
        at=at,
        scale_of=scale_of,
    )


def _distinct(t: Array) -> tuple[Array, Indices]:
    """The distinct scales, and the index of each point's; of very many, neighbours are averaged."""
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
    level: Array  # log(1 − μ), or the square of that share


def basis(data: Data, curves: Curves) -> Basis:
    """`curves` at the scales of `data`."""
    if not data.bounded:
        rise = curves.rise(data.at)
        return Basis(rise, rise**2)
    mean = np.clip(curves.scores(data.at), data.resolution, 1 - data.resolution)
    level = np.log1p(-mean)
    return Basis(np.log(mean) - level, level)


def deviances(data: Data, curves: Basis, tables: Tables) -> Array:
    """Twice the log quasi-likelihood lost to a curve through every point, tables × curves."""
    if data.bounded:
        # In place: these are the largest arrays, and their memory is the cost.
        left = tables.score @ curves.slope.T
        left += tables.weight @ curves.level.T
        left *= -2
        left += 2 * tables.constant[:, None]
        return rounded(np.maximum(left, 0.0, out=left), tables.weight.sum(1)[:, None])
    a, b = levels(data, curves, tables)
    sums = tables.weight @ curves.slope.T, tables.weight @ curves.level.T
    total, score = tables.weight.sum(1)[:, None], tables.score.sum(1)[:, None]
    cross = tables.score @ curves.slope.T
    left = tables.constant[:, None] - 2 * a * score - 2 * b * cross
    left += a**2 * total + 2 * a * b * sums[0] + b**2 * sums[1]
    return np.maximum(rounded(left, total), 1e-12)


def rounded(deviance: Array, weight: Array | float) -> Array:
    """`deviance`, in place, to the digits that arithmetic gives; `weight` is the sum of weights.

    Curves often fit equally well: a step anywhere between two scales, a rise anywhere beyond the
    last. Rounding differs between processors, and would choose among them: here they are equal, and
    the first is the best.
    """
    unit = ROUNDING * weight
    deviance /= unit
    np.rint(deviance, out=deviance)
    deviance *= unit
    return deviance


def levels(data: Data, curves: Basis, tables: Tables) -> tuple[Array, Array]:
    """Floor and rise of unbounded metrics by weighted least squares, tables × curves.

    A rise is never negative.
    """
    s0, s1 = tables.weight.sum(1)[:, None], tables.weight @ curves.slope.T
    s2, y0 = tables.weight @ curves.level.T, tables.score.sum(1)[:, None]
    y1 = tables.score @ curves.slope.T
    if data.chance is not None:
        rise = np.maximum((y1 - data.chance * s1) / np.maximum(s2, 1e-12), 0.0)
        return np.full_like(rise, data.chance), rise
    spread = s0 * s2 - s1**2
    slope = np.where(spread > 1e-9 * s0**2, (s0 * y1 - s1 * y0) / np.maximum(spread, 1e-12), 0)
    slope = np.maximum(slope, 0.0)
    return (y0 - slope * s1) / s0, slope


def with_levels(data: Data, curves: Curves, table: Tables) -> Curves:
    """The curves with both levels, on the unit scale; levels left open fit the one table."""
    if data.bounded:
        return curves
    floor, rise = (each[0] for each in levels(data, basis(data, curves), table))
    return replace(curves, floor=floor, ceiling=floor + rise)


def standardised(deviation: Array, mean: Array) -> Array:
    """Deviations of shares from their mean, in units of the largest possible."""
    share = np.clip(mean, 0.02, 0.98)
    return np.clip(deviation / np.sqrt(share * (1 - share)), -3, 3)


def intraclass(deviation: Array, group: Indices) -> float:
    """The correlation of deviations within groups (codes from 0); 0 where it is not identified.

    The analysis-of-variance estimate of an intraclass correlation, for groups of unequal size.
    """
    sizes = np.bincount(group).astype(float)
    groups, points = len(sizes), len(deviation)
    if groups < 2 or groups == points:
        return 0.0
    centre = np.bincount(group, deviation) / sizes
    within = float(((deviation - centre[group]) ** 2).sum() / (points - groups))
    between = float((sizes * (centre - deviation.mean()) ** 2).sum() / (groups - 1))
    typical = (points - (sizes**2).sum() / points) / (groups - 1)
    total = between + (typical - 1) * within
    return float(np.clip((between - within) / total, 0.0, 0.95)) if total > 0 else 0.0
