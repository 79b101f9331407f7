"""The curves that a table leaves open, found by halving a mesh where they lie.

Profiles of a threshold are flat, stepped and many-peaked where scales are few, so nothing is
differentiated: a coarse mesh over midpoint, width, ceiling and floor is halved again and again
wherever the deviance is near the least of its kind. What is left is dense around every good
curve, and a fit of any other table nearby, an interval of any threshold or a hold-out is then a
minimum over its rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy.special import expit
from scipy.stats import f as f_ratio

from analysis.emergence.likelihood import (
    Basis,
    Data,
    Rows,
    Tables,
    Which,
    basis,
    deviances,
    stack,
)
from analysis.emergence.shapes import POWER, SHAPES, Shape
from analysis.expression import Array

SMOOTH_WIDTH = 0.5  # decades from 10% to 90%: narrower is not called smooth
ROUNDS = 8  # of halving at most: a midpoint is then known to 1/5000 of the range
BEAM = 24  # rows a kind that are halved at least
ENOUGH = 300, 500, 300  # rows of a kind near its best, by how many levels are fitted
NEAR = 12.0  # times the dispersion: three to four standard errors
FAR = 2.0  # times as far no simulated table strays
MOST_ROWS = 600  # of a kind
MOST = 6.0  # times as far if the dispersion itself is hardly known


@dataclass(frozen=True)
class Kind:
    """Curves searched together: one shape, and which of its levels are fitted."""

    shape: int
    free: int  # 0: as declared, 1: the ceiling, 2: the ceiling, and the floor where chance is known


@dataclass(frozen=True, eq=False)
class Mesh:
    """Curves near the best of each kind, and how far the table lies from each."""

    rows: Rows
    basis: Basis
    deviance: Array  # of the table it was made for

    def of(self, which: Which) -> Mesh:
        """Some of its rows."""
        curves = Basis(self.basis.slope[which], self.basis.level[which], self.rows[which])
        return Mesh(curves.rows, curves, self.deviance[which])

    @property
    def best(self) -> int:
        return int(np.argmin(self.deviance))


@dataclass(frozen=True, eq=False)
class _Nodes:
    """Mesh points of one kind: midpoint, log width, logit of ceiling, floor; and half-steps."""

    kind: Kind
    place: Array  # (nodes, 4)
    step: Array  # (4,), 0 where fixed


def shapes_for(data: Data) -> tuple[Shape, ...]:
    """Metrics without bounds may also follow a power law that never levels off."""
    return SHAPES if data.bounded else (*SHAPES, POWER)


def is_smooth(rows: Rows) -> Which:
    """Rows of the null of no break: a logistic or a power law in log-probability, not narrow."""
    return rows.where("smooth") & ((rows.width >= SMOOTH_WIDTH) | ~rows.where("floored"))


def search(
    data: Data,
    table: Tables,
    *,
    smooth: bool = False,
    dispersion: float | None = None,
    kinds: Sequence[Kind] = (),
) -> Mesh:
    """The mesh for one table; of smooth curves only, if asked.

    `kinds` are those that the scales can carry, if none is given. `dispersion` is the deviance a
    point that sets how far from the best a curve still matters; by default what the best curve
    leaves.
    """
    shapes = shapes_for(data)
    found: list[tuple[Rows, Array]] = []
    kinds = kinds or _kinds(data, shapes, smooth)
    start = [_coarse(data, kind, shapes, smooth) for kind in kinds]
    first = [_judge(data, nodes, table, shapes) for nodes in start]
    best = min(float(deviance.min()) for _, deviance in first)
    for nodes, (rows, deviance) in zip(start, first, strict=True):
        kept_rows, kept = [rows], [deviance]
        for _ in range(ROUNDS):
            least = float(deviance.min())
            cut = _cut(data, min(best, least) if dispersion is None else dispersion)
            near = deviance <= least + cut
            if near.sum() >= ENOUGH[int(nodes.kind.free)]:
                break
            if least > best + 2 * cut:  # nowhere near: enough to name its best
                near &= False
            count = max(int(near.sum()), BEAM)
            chosen = np.argsort(deviance)[:count]
            nodes = _halved(nodes, chosen, smooth)
            rows, deviance = _judge(data, nodes, table, shapes)
            best = min(best, float(deviance.min()))
            kept_rows.append(rows)
            kept.append(deviance)
        found.append((stack(kept_rows), np.concatenate(kept)))
    rows, deviance = stack([each for each, _ in found]), np.concatenate([d for _, d in found])
    cut = _cut(data, float(deviance.min()) if dispersion is None else dispersion)
    rows, deviance = _thinned(rows, deviance, FAR * cut)
    return Mesh(rows, basis(data, rows), deviance)


def judged(data: Data, mesh: Mesh, tables: Tables) -> Array:
    """Deviances of other tables from the curves of a mesh: tables × curves."""
    return deviances(data, mesh.basis, tables)


def midpoint_limits(data: Data) -> tuple[float, float]:
    """t between which thresholds are looked for."""
    low, high = float(data.at[0]), float(data.at[-1])
    beyond = max(1.0, 0.75 * (high - low))
    return low - beyond, high + beyond


def width_limits(data: Data) -> tuple[float, float]:
    """Decades: far below the distance of scales all widths are one; far above the range, too."""
    gap = float(np.median(np.diff(data.at)))
    span = float(data.at[-1] - data.at[0])
    return float(np.clip(0.2 * gap, 0.01, 0.25)), max(8.0, 4 * span)


def _kinds(data: Data, shapes: tuple[Shape, ...], smooth: bool) -> list[Kind]:
    """What so many scales can carry: twice as many as a curve has numbers, and two more.

    With fewer, some curve goes through every score and nothing is left to judge the spread by.
    """
    able = (len(data.at) - 2) / 2
    levels = int(data.chance is None) + (0 if data.bounded else int(data.ceiling is None))
    kinds = []
    for index, shape in enumerate(shapes):
        if smooth and not shape.smooth:
            continue
        numbers = 2 + levels + shape.searched
        if not shape.searched or numbers <= able:
            kinds.append(Kind(index, 0))
        if data.bounded and data.ceiling is None and not shape.searched:
            if numbers + 1 <= able:
                kinds.append(Kind(index, 1))
            if data.chance is not None and numbers + 2 <= able:
                kinds.append(Kind(index, 2))
    return kinds


def carries_ceiling(data: Data) -> bool:
    """Whether some curve is tried whose ceiling is fitted."""
    return any(kind.free for kind in _kinds(data, shapes_for(data), smooth=False))


def with_ceilings() -> list[Kind]:
    """Plain shapes of bounded metrics with their ceiling fitted, however few the scales."""
    return [Kind(index, 1) for index, shape in enumerate(SHAPES) if not shape.searched]


def _coarse(data: Data, kind: Kind, shapes: tuple[Shape, ...], smooth: bool) -> _Nodes:
    low, high = float(data.at[0]), float(data.at[-1])
    narrow, wide = width_limits(data)
    narrow = SMOOTH_WIDTH if smooth else narrow
    midpoint = np.linspace(*midpoint_limits(data), 36)
    if not shapes[kind.shape].floored:  # where it lies is taken up by floor and rise
        midpoint = np.array([(low + high) / 2])
    width = np.linspace(np.log(narrow), np.log(wide), 12 if kind.free < 2 else 9)
    ceilings = np.array([np.inf]), np.linspace(-4.0, 4.0, 8), np.linspace(-4.0, 4.0, 5)
    ceiling = ceilings[kind.free]
    known = not data.bounded or (data.chance is not None and kind.free < 2)
    floor = np.array([data.chance or 0.0]) if known else _floors(data, 4)
    axes = (midpoint, width, ceiling, floor)
    place = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
    step = np.array([(axis[1] - axis[0]) / 2 if len(axis) > 1 else 0.0 for axis in axes])
    return _Nodes(kind, place, step)


def _floors(data: Data, count: int) -> Array:
    """About the scores of the smaller half, whatever chance was said to be."""
    early = data.unit[data.t <= np.quantile(data.t, 0.5)]
    return np.linspace(0.0, min(0.9, float(early.max()) + 0.02), count)


def _halved(nodes: _Nodes, chosen: Which, smooth: bool) -> _Nodes:
    step = nodes.step / 2
    signs = np.array(list(itertools.product(*((-1, 1) if s > 0 else (0,) for s in step))))
    # Chosen cells split in two along every axis; the floor stays a level of the metric.
    place = (nodes.place[chosen][:, None, :] + signs * step).reshape(-1, 4)
    place[:, 3] = np.clip(place[:, 3], 0.0, 0.98)
    if smooth:
        place[:, 1] = np.maximum(place[:, 1], np.log(SMOOTH_WIDTH))
    return replace(nodes, place=place, step=step)


def _judge(
    data: Data, nodes: _Nodes, table: Tables, shapes: tuple[Shape, ...]
) -> tuple[Rows, Array]:
    place, kind = nodes.place, nodes.kind
    count = len(place)
    top = 1.0 if data.ceiling is None else data.ceiling
    floor = place[:, 3]
    if data.bounded:
        ceiling = floor + (top - floor) * expit(place[:, 2])
    else:
        floor, ceiling = np.full(count, np.nan), np.full(count, np.nan)
    rows = Rows(
        np.full(count, kind.shape),
        place[:, 0],
        np.exp(place[:, 1]),
        floor,
        ceiling,
        np.full(count, kind.free),
        shapes,
    )
    return rows, deviances(data, basis(data, rows), table)[0]


def _cut(data: Data, left: float) -> float:
    """How much worse than the best a curve may be and still matter; `left` is the best's."""
    freedom = max(len(data.t) - 4, 2)
    least = 1.0 if np.isfinite(data.questions).all() else 0.0
    return _reach(freedom) * max(left / freedom, least)


@cache
def _reach(freedom: int) -> float:
    known = float(f_ratio.ppf(0.99, 3, 1e6))
    return NEAR * min(float(f_ratio.ppf(0.99, 3, freedom)) / known, MOST)


def _thinned(rows: Rows, deviance: Array, cut: float) -> tuple[Rows, Array]:
    """Of every kind its best few, and of those near the best overall no more than a mesh needs."""
    near = deviance <= deviance.min() + cut
    kinds = rows.shape * 3 + rows.free
    keep = []
    for kind in np.unique(kinds):
        of_kind = np.flatnonzero(kinds == kind)
        of_kind = of_kind[np.argsort(deviance[of_kind])]
        rest = of_kind[BEAM:][near[of_kind[BEAM:]]]
        keep += [of_kind[:BEAM], rest[:: 1 + len(rest) // MOST_ROWS]]
    chosen = np.concatenate(keep)
    return rows[chosen], deviance[chosen]
