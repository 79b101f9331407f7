"""A grid search over curves, refined where they fit a table.

The deviance as a function of the threshold is flat, stepped and has many minima where scales are
few, so no derivative is used. A coarse grid over midpoint, width, ceiling and floor is halved again
and again wherever the deviance is close to the least of its kind. The resulting mesh is dense
around every good curve: a fit of any similar table, an interval of any threshold or a held-out
scale is then a minimum over its curves.

The table that the mesh was made for would always be fitted better than simulated ones, and would
look sharper than they do. Therefore `refit` follows every table, the observed one too, to its own
optimum: nearby curves are tried at random, in steps that shrink.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import f as f_ratio

from analysis.array import Array
from analysis.emergence.response.deviance import (
    COLUMNS,
    Basis,
    Curves,
    Data,
    Indices,
    Tables,
    basis,
    deviances,
    levels,
    rounded,
    stack,
)
from analysis.emergence.response.links import POWER, SHAPES, Shape

SMOOTH_WIDTH = 0.5  # decades from 10% to 90%: a narrower rise is not called smooth
ROUNDS = 8  # of halving at most: a midpoint is then known to 1/5000 of the range
BEAM = 24  # curves of a kind that are halved at least
ENOUGH = 300, 500, 300  # curves of a kind near its best, by how many levels are fitted
NEAR = 12.0  # times the dispersion: three to four standard errors
FAR = 2.0  # times as far: no simulated table goes beyond
MOST_CURVES = 600  # of a kind
MOST = 6.0  # times as far where the dispersion is poorly known
TRIES = 16  # nearby curves per round
REFINEMENTS = 6
# Of a midpoint in widths, of a log width, of a ceiling's logit, of a floor: halved every round.
MOVES = np.array([0.2, 0.3, 0.5, 0.02])


@dataclass(frozen=True)
class Kind:
    """Curves searched together: one shape, and which of its levels are fitted."""

    shape: int
    free: int  # 0: as declared, 1: the ceiling, 2: the ceiling, and the floor where chance is known


@dataclass(frozen=True, eq=False)
class Mesh:
    """Curves near the best of each kind, with the deviance of the table from each."""

    curves: Curves
    basis: Basis
    deviance: Array  # of the table that it was made for

    def of(self, which: Indices) -> Mesh:
        """Some of its curves."""
        at = Basis(self.basis.slope[which], self.basis.level[which])
        return Mesh(self.curves[which], at, self.deviance[which])

    @property
    def best(self) -> int:
        """The index of the curve of least deviance."""
        return int(np.argmin(self.deviance))


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Nodes of the grid of one kind: midpoint, log width, logit of ceiling, floor; half-steps."""

    kind: Kind
    place: Array  # (nodes, 4)
    step: Array  # (4,), 0 where fixed


class _Tried(NamedTuple):
    """The curves at some nodes, with the deviance of the table from each."""

    nodes: _Nodes
    curves: Curves
    deviance: Array


def shapes_for(data: Data) -> tuple[Shape, ...]:
    """The shapes tried; without bounds also a power law that never levels off."""
    return SHAPES if data.bounded else (*SHAPES, POWER)


def is_smooth(curves: Curves) -> Indices:
    """Flags of the smooth null: a logistic or a power law in log-probability that is not narrow."""
    wide = (curves.width >= SMOOTH_WIDTH) | ~curves.where("floored")
    return curves.where("smooth") & wide


def search(
    data: Data,
    table: Tables,
    *,
    kinds: Sequence[Kind] = (),
    narrowest: float = 0.0,
    left: float | None = None,
) -> Mesh:
    """The mesh of curves for one table.

    `kinds` are by default those that the scales support. No curve is narrower than `narrowest`
    decades. `left` is the deviance of a good fit, which sets how far from the best a curve still
    matters; by default that of the best curve found.
    """
    shapes = shapes_for(data)

    def tried(nodes: _Nodes) -> _Tried:
        curves = _curves_at(data, nodes, shapes)
        return _Tried(nodes, curves, deviances(data, basis(data, curves), table)[0])

    first = [tried(_coarse(data, kind, shapes, narrowest)) for kind in kinds or all_kinds(data)]
    best = min(float(each.deviance.min()) for each in first)
    found: list[_Tried] = []
    for newest in first:
        found.append(newest)
        for _ in range(ROUNDS):
            least = float(newest.deviance.min())
            cut = _cut(data, min(best, least) if left is None else left)
            near = int((newest.deviance <= least + cut).sum())
            if near >= ENOUGH[newest.nodes.kind.free]:
                break
            # Of a kind that is far from the best overall, only its own best is needed.
            count = BEAM if least > best + 2 * cut else max(near, BEAM)
            chosen = np.argsort(newest.deviance, kind="stable")[:count]
            newest = tried(_halved(newest.nodes, chosen, narrowest))
            best = min(best, float(newest.deviance.min()))
            found.append(newest)
    curves = stack([each.curves for each in found])
    deviance = np.concatenate([each.deviance for each in found])
    cut = _cut(data, float(deviance.min()) if left is None else left)
    kept = _thinned(curves, deviance, FAR * cut)
    return Mesh(curves[kept], basis(data, curves[kept]), deviance[kept])


def midpoint_limits(data: Data) -> tuple[float, float]:
    """The t between which thresholds are searched."""
    low, high = float(data.at[0]), float(data.at[-1])
    beyond = max(1.0, 0.75 * (high - low))
    return low - beyond, high + beyond


def width_limits(data: Data) -> tuple[float, float]:
    """Decades between which widths are searched.

    Far below the distance between scales all widths give the same scores, and far above the range
    too.
    """
    gap = float(np.median(np.diff(data.at)))
    span = float(data.at[-1] - data.at[0])
    return float(np.clip(0.2 * gap, 0.01, 0.25)), max(8.0, 4 * span)


def all_kinds(data: Data) -> list[Kind]:
    """The kinds that the scales support: twice as many scales as a curve has numbers, and two more.

    With fewer, some curve passes through every score, and nothing is left to estimate the
    overdispersion from.
    """
    able = (len(data.at) - 2) / 2
    levels = int(data.chance is None) + int(not data.bounded)
    kinds = []
    for index, shape in enumerate(shapes_for(data)):
        numbers = 2 + levels + shape.searched
        if not shape.searched or numbers <= able:
            kinds.append(Kind(index, 0))
        if data.bounded and not shape.searched:
            if numbers + 1 <= able:
                kinds.append(Kind(index, 1))
            if data.chance is not None and numbers + 2 <= able:
                kinds.append(Kind(index, 2))
    return kinds


def smooth_kinds(data: Data) -> list[Kind]:
    """Of all kinds, those of the smooth null."""
    shapes = shapes_for(data)
    return [kind for kind in all_kinds(data) if shapes[kind.shape].smooth]


def with_ceilings() -> list[Kind]:
    """Plain shapes of bounded metrics with a fitted ceiling, however few the scales are."""
    return [Kind(index, 1) for index, shape in enumerate(SHAPES) if not shape.searched]


def _coarse(data: Data, kind: Kind, shapes: tuple[Shape, ...], narrowest: float) -> _Nodes:
    low, high = float(data.at[0]), float(data.at[-1])
    narrow, wide = width_limits(data)
    midpoint = np.linspace(*midpoint_limits(data), 36)
    if not shapes[kind.shape].floored:  # its place changes only floor and rise
        midpoint = np.array([(low + high) / 2])
    width = np.linspace(np.log(narrowest or narrow), np.log(wide), 12 if kind.free < 2 else 9)
    ceilings = np.array([np.inf]), np.linspace(-4.0, 4.0, 8), np.linspace(-4.0, 4.0, 5)
    ceiling = ceilings[kind.free]
    known = not data.bounded or (data.chance is not None and kind.free < 2)
    early = data.unit[data.t <= np.quantile(data.t, 0.5)]  # where a floor shows, declared or not
    floors = np.linspace(0.0, min(0.9, float(early.max()) + 0.02), 4)
    floor = np.array([data.chance or 0.0]) if known else floors
    axes = (midpoint, width, ceiling, floor)
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    step = np.array([(axis[1] - axis[0]) / 2 if len(axis) > 1 else 0.0 for axis in axes])
    return _Nodes(kind, place, step)


def _halved(nodes: _Nodes, chosen: Indices, narrowest: float) -> _Nodes:
    """The chosen cells, each split in two along every axis."""
    step = nodes.step / 2
    signs = np.array(list(itertools.product(*((-1, 1) if s > 0 else (0,) for s in step))))
    place = (nodes.place[chosen][:, None, :] + signs * step).reshape(-1, 4)
    place[:, 3] = np.clip(place[:, 3], 0.0, 0.98)  # the floor stays a level of the metric
    if narrowest:
        place[:, 1] = np.maximum(place[:, 1], math.log(narrowest))
    return replace(nodes, place=place, step=step)


def _curves_at(data: Data, nodes: _Nodes, shapes: tuple[Shape, ...]) -> Curves:
    midpoint, log_width, odds, floor = nodes.place.T
    floor = floor if data.bounded else np.full_like(floor, np.nan)  # NaN: solved for each table
    ceiling = floor + (1 - floor) * expit(odds)
    shape, free = (np.full(len(floor), each) for each in (nodes.kind.shape, nodes.kind.free))
    return Curves(shape, midpoint, np.exp(log_width), floor, ceiling, free, shapes)


def _cut(data: Data, left: float) -> float:
    """How much worse than the best a curve may be and still matter; `left` is the best's."""
    freedom = max(len(data.t) - 4, 2)
    least = 1.0 if data.counted else 0.0
    return _reach(freedom) * max(left / freedom, least)


@cache
def _reach(freedom: int) -> float:
    known = float(f_ratio.ppf(0.99, 3, 1e6))
    return NEAR * min(float(f_ratio.ppf(0.99, 3, freedom)) / known, MOST)


def _thinned(curves: Curves, deviance: Array, cut: float) -> Indices:
    """Of every kind its best few, and of those near the best overall as many as a mesh needs."""
    near = deviance <= deviance.min() + cut
    kinds = curves.shape * 3 + curves.free
    keep = []
    for kind in np.unique(kinds):
        of_kind = np.flatnonzero(kinds == kind)
        of_kind = of_kind[np.argsort(deviance[of_kind], kind="stable")]
        rest = of_kind[BEAM:][near[of_kind[BEAM:]]]
        keep += [of_kind[:BEAM], rest[:: 1 + len(rest) // MOST_CURVES]]
    return np.concatenate(keep)


# --- refinement for many tables at once --------------------------------------------------------


def refit(
    data: Data,
    curves: Curves,
    deviance: Array,
    tables: Tables,
    rng: np.random.Generator,
    narrowest: float = 0.0,
) -> Array:
    """The least deviance of each table: that of the best of `curves`, refined.

    `deviance` is that of every table from every curve. Curves with a floor are not made narrower
    than `narrowest` decades.
    """
    best = curves[np.argmin(deviance, axis=1)]
    count = len(best)
    owner = np.repeat(np.arange(count), TRIES + 1)
    least = _deviance_of_owner(data, best, tables, np.arange(count))
    for around in range(REFINEMENTS):
        noise = rng.normal(size=(count, TRIES + 1, 4)) * MOVES / 2**around
        noise[:, 0] = 0  # the curve itself stays among them
        tried = _moved(data, best[owner], noise.reshape(-1, 4), narrowest)
        left = _deviance_of_owner(data, tried, tables, owner).reshape(count, -1)
        chosen = np.argmin(left, axis=1)
        best = tried[np.arange(count) * (TRIES + 1) + chosen]
        least = left[np.arange(count), chosen]
    return least


def _moved(data: Data, curves: Curves, noise: Array, narrowest: float) -> Curves:
    width = curves.width * np.exp(noise[:, 1])
    width = np.maximum(width, np.where(curves.where("floored"), narrowest, 0.0))
    columns = {name: getattr(curves, name) for name in COLUMNS}
    columns |= {"midpoint": curves.midpoint + noise[:, 0] * curves.width, "width": width}
    if data.bounded:
        fitted = (curves.free == 2) | (data.chance is None)
        moved = np.clip(curves.floor + noise[:, 3], 0.0, 0.98)
        floor = np.where(fitted, moved, curves.floor)
        share = np.clip((curves.ceiling - curves.floor) / (1 - curves.floor), 1e-6, 1 - 1e-6)
        share = np.where(curves.free > 0, expit(logit(share) + noise[:, 2]), 1.0)
        columns |= {"floor": floor, "ceiling": floor + (1 - floor) * share}
    return Curves(**columns, shapes=curves.shapes)


def _deviance_of_owner(data: Data, curves: Curves, tables: Tables, owner: Indices) -> Array:
    """The deviance of each curve from the one table that owns it."""
    at = basis(data, curves)
    score, constant = tables.score[owner], tables.constant[owner]
    weight = tables.weight if len(tables.weight) == 1 else tables.weight[owner]
    if data.bounded:
        fitted = (score * at.slope).sum(1) + (weight * at.level).sum(1)
        return rounded(np.maximum(2 * (constant - fitted), 0.0), weight.sum(1))
    left = np.empty(len(curves))
    for start in range(0, len(curves), 512):  # levels are solved for every pair of table and curve
        part = np.arange(start, min(start + 512, len(curves)))
        left[part] = _unbounded(data, curves[part], Tables(weight, score[part], constant[part]))
    return left


def _unbounded(data: Data, curves: Curves, tables: Tables) -> Array:
    """The deviance of each curve from the table of the same row."""
    a, b = (each.diagonal() for each in levels(data, basis(data, curves), tables))
    mean = a[:, None] + b[:, None] * curves.rise(data.at)
    left = tables.constant - 2 * (tables.score * mean).sum(1) + (tables.weight * mean**2).sum(1)
    return np.maximum(rounded(left, tables.weight.sum(1)), 1e-12)
