"""The best value of a swept setting, such as the learning rate, at each N and D.

Of the values tried the best is the one with the least loss, seeds averaged. Between them the
optimum is the bottom of a curve in the logarithm of the value through the best and its two
neighbours on each side. A best at the end of what was tried is only a bound: the optimum may lie
anywhere beyond. Intervals cover the noise in the runs, and an error in the curve's form only so
far as two readings of it differ: where values lie a factor of two apart, they may be too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.expression import Array
from analysis.runs.cells import levelled
from analysis.runs.settings import SWEEP, settings
from analysis.runs.status import LEFT_OUT
from analysis.runs.table import name_of, standardise, usable
from analysis.runs.vocabulary import is_number
from analysis.uncertainty import Bounds
from scaling.store.records import Refusal

CORE = ("params", "tokens", "loss")
Edge = Literal["lowest", "highest"]

NEIGHBOURS = 2  # on each side of the best
DRAWS = 2000  # their 5% and 95% points are stable to a hundredth of the interval
LEAST_FREEDOM = 2  # degrees of freedom of the noise; with one, an interval is 12 times too wide


@dataclass(frozen=True)
class Best:
    """What the runs at one N and D say of the swept value."""

    params: float
    tokens: float
    tried: tuple[float, ...]  # in rising order
    losses: tuple[float, ...]  # of each, the mean over seeds
    value: float  # of those tried, the one with the least loss
    loss: float  # at it
    edge: Edge | None  # the end of the sweep that `value` is, or the optimum's interval reaches
    optimum: float | None  # None where `value` is an end of the sweep
    interval: Bounds | None  # of the optimum; None where nothing tells the noise


@dataclass(frozen=True)
class Sweep:
    """The best of `column` at each N and D, in the order of N, then D."""

    column: str
    level: float
    noise: float | None  # standard deviation of one run's loss; None where nothing tells it
    cells: tuple[Best, ...]

    @property
    def bounds(self) -> tuple[Best, ...]:
        """Those whose best is an end of what was tried."""
        return tuple(each for each in self.cells if each.optimum is None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Cells whose best value is only a bound, in words."""
        found = []
        for end in ("lowest", "highest"):
            at = [each for each in self.bounds if each.edge == end]
            if at:
                other = "lower" if end == "lowest" else "higher"
                found.append(
                    f"the {end} {self.column} tried is the best at {len(at)} of "
                    f"{len(self.cells)} (N, D): the optimum lies beyond the sweep, and the loss "
                    f"there is not the least these sizes can reach. Train with {other} ones."
                )
        return tuple(found)


def sweep(table: pd.DataFrame, column: str, *, level: float = 0.9, seed: int = 0) -> Sweep:
    """The best of `column` at each N and D of a run table, with `level` intervals of the optimum.

    The noise of a run's loss is taken from seeds where a value has several, else from what the
    curves leave. Raises Refusal if the column is missing or holds no positive numbers, and
    where no N and D has three values of it, or another setting varies beside it.
    """
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. Give e.g. 0.9.")
    rows = usable(table).rows
    _refuse_zero(rows, column)
    rows = levelled(standardise(rows, require=(*CORE, column)))
    _refuse_other_axes(rows, column)
    means = rows.groupby(["params", "tokens", column])["loss"].agg(["mean", "size"]).reset_index()
    cells = [cell for _, cell in means.groupby(["params", "tokens"])]
    if max(map(len, cells)) < SWEEP:
        raise Refusal(
            f"{name_of(table)}: {column} has at most {max(map(len, cells))} values at one N and D, "
            "so that no best can be told. Give three or more values of it at each."
        )
    inside = [cell for cell in cells if _end_of(cell) is None]
    windows = [_window(cell, column) for cell in inside]
    curves = _curves(windows, [window.loss[None] for window in windows])
    noise = _noise(rows, column, windows, curves)
    drawn = None if noise is None else _drawn(windows, noise, seed)
    found, at = [], 0
    for cell in cells:
        if _end_of(cell) is not None:
            found.append(_best(cell, column, edge=_end_of(cell)))
            continue
        bottom, draws = float(curves.bottom[at][0]), None if drawn is None else drawn[at]
        found.append(_between(cell, column, bottom, draws, level))
        at += 1
    return Sweep(column, level, None if noise is None else noise.sd, tuple(found))


def best_rows(table: pd.DataFrame, swept: Sweep) -> pd.DataFrame:
    """The table with all rows but those at the best value of each N and D set aside.

    A fit then names them among the rows left out, and carries the sweep's warnings.
    """
    numbers = standardise(table, require=(*CORE, swept.column))
    value = np.array([each.value for each in swept.cells])
    worse = numbers[swept.column].to_numpy() != value[_cell_of(numbers, swept)]
    reason = f"another {swept.column} is better at this N and D"
    return _doubted(_set_aside(numbers, worse, reason), swept)


def optima(table: pd.DataFrame, swept: Sweep) -> pd.DataFrame:
    """A row an N and D with the optimum of the column: what a law of optima is fitted to.

    Where the best is an end of the sweep it only bounds the optimum, and the row is set aside.
    The loss is that of the best value tried.
    """
    rows = pd.DataFrame(
        [
            {
                "params": each.params,
                "tokens": each.tokens,
                "loss": each.loss,
                swept.column: each.value if each.optimum is None else each.optimum,
            }
            for each in swept.cells
        ]
    )
    rows.attrs["notes"] = []
    for name in ("file", "params_column", "loss_unit"):
        if name in table.attrs:
            rows.attrs[name] = table.attrs[name]
    bound = np.array([each.optimum is None for each in swept.cells])
    reason = f"the best {swept.column} is an end of its sweep: a bound, no optimum"
    return _doubted(_set_aside(rows, bound, reason), swept)


def _cell_of(numbers: pd.DataFrame, swept: Sweep) -> NDArray[np.intp]:
    """The cell of each row, by its number: the nearest, since N and D may be rounded apart."""
    with np.errstate(invalid="ignore", divide="ignore"):  # rows that are set aside already
        rows = np.log(numbers[["params", "tokens"]].to_numpy())
    cells = np.log([(each.params, each.tokens) for each in swept.cells])
    return np.array(np.abs(rows[:, None] - cells).sum(axis=2).argmin(axis=1), dtype=np.intp)


def _set_aside(table: pd.DataFrame, rows: NDArray[np.bool_], reason: str) -> pd.DataFrame:
    # The settings of a swept study are what was chosen among: they tell no rows apart any more.
    result = table.drop(columns="variant", errors="ignore")
    result.attrs = dict(table.attrs)
    known = table[LEFT_OUT] if LEFT_OUT in table else pd.Series("", index=table.index)
    result[LEFT_OUT] = known.where(known.ne("") | ~rows, reason)
    return result


def _doubted(table: pd.DataFrame, swept: Sweep) -> pd.DataFrame:
    table.attrs["doubts"] = [*table.attrs.get("doubts", []), *swept.warnings]
    return table


def _refuse_zero(rows: pd.DataFrame, column: str) -> None:
    """Raises Refusal for values that have no logarithm, in which the curves are drawn."""
    if column in rows and is_number(rows[column]) and (least := rows[column].min()) <= 0:
        others = rows.loc[rows[column] > 0, column].nunique() >= SWEEP
        raise Refusal(
            f"{name_of(rows)}: {column} = {least:g} in some rows, and the best of a sweep is "
            "looked for in the logarithm of the value. Fit one value: "
            f"--where '{column}=={least:g}'"
            + (f", or leave out what has no logarithm: --where '{column}>0'." if others else ".")
        )


def _refuse_other_axes(rows: pd.DataFrame, column: str) -> None:
    """Raises Refusal where the best of the column would be the best of other settings too."""
    if found := settings(rows, ("params", "tokens", column)):
        raise Refusal(
            f"{name_of(rows)}: {found[0].column} varies too at equal params, tokens and {column} "
            f"({found[0].count} values), so that the best {column} is one for each of them. "
            f"Select one: {found[0].remedy}."
        )


def to_json(swept: Sweep) -> dict[str, Any]:
    """Plain values for a file, from which `from_json` has the sweep again."""
    return {
        "column": swept.column,
        "level": swept.level,
        "noise": swept.noise,
        "cells": [asdict(each) for each in swept.cells],
        "warnings": list(swept.warnings),
    }


def from_json(value: Mapping[str, Any]) -> Sweep:
    """The sweep that `to_json` wrote."""
    cells = tuple(
        Best(
            **{
                **each,
                "tried": tuple(each["tried"]),
                "losses": tuple(each["losses"]),
                "interval": None if each["interval"] is None else Bounds(*each["interval"]),
            }
        )
        for each in value["cells"]
    )
    return Sweep(value["column"], value["level"], value["noise"], cells)


# --- curves --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """The values near the best: x is the logarithm of each over the best, runs are behind each."""

    x: Array
    loss: Array
    runs: Array


@dataclass(frozen=True)
class _Noise:
    sd: float  # of one run's loss
    freedom: int


@dataclass(frozen=True)
class _Curves:
    """Of each cell, a row a draw: where the curve has its least, and its losses at the window."""

    bottom: list[Array]
    fitted: list[Array]


def _window(cell: pd.DataFrame, column: str) -> _Window:
    at = int(cell["mean"].to_numpy().argmin())
    near = slice(max(0, at - NEIGHBOURS), at + NEIGHBOURS + 1)
    x = np.log(cell[column].to_numpy() / cell[column].iloc[at])[near]
    return _Window(x, cell["mean"].to_numpy()[near], cell["size"].to_numpy(dtype=float)[near])


def _curves(windows: list[_Window], losses: list[Array]) -> _Curves:
    """Least squares of c0 + c1·x + c2·(x² + γx³), γ one number for all cells.

    Loss rises faster above the best rate than below it; a plain parabola would place every
    optimum too low or too high by the same share. `losses` has a row a draw.
    """
    skew = _skew(windows, losses)
    bottoms, fitted = [], []
    for window, loss in zip(windows, losses, strict=True):
        x = window.x
        bent = x**2 + skew[:, None] * x**3
        design = np.stack([np.ones_like(bent), np.broadcast_to(x, bent.shape), bent], axis=2)
        weighted = design * window.runs[:, None]
        normal = np.swapaxes(weighted, 1, 2) @ design
        right = np.einsum("dpk,dp->dk", weighted, loss)
        found = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        bottoms.append(_bottom(found, skew, x))
        fitted.append(np.einsum("dpk,dk->dp", design, found))
    return _Curves(bottoms, fitted)


def _skew(windows: list[_Window], losses: list[Array]) -> Array:
    """γ: what the cubics of all cells with points for one have in common."""
    above = below = np.zeros(len(losses[0]) if losses else 1)
    for window, loss in zip(windows, losses, strict=True):
        if len(window.x) < 4:
            continue
        root = np.sqrt(window.runs)
        cubic = np.linalg.pinv(np.vander(window.x, 4, increasing=True) * root[:, None]) * root
        _, _, second, third = cubic @ loss.T
        above, below = above + second * third, below + second**2
    if not windows:
        return above
    steepest = 1 / (3 * max(np.abs(window.x).max() for window in windows))  # beyond it bends back
    return np.clip(np.divide(above, below, where=below > 0, out=0 * above), -steepest, steepest)


def _bottom(found: Array, skew: Array, x: Array) -> Array:
    """Where each curve has its least within the window: its slope is c1 + c2·(2x + 3γx²)."""
    _, slope, curvature = found.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = slope / curvature
        inside = np.clip(-ratio / (1 + np.sqrt(np.maximum(1 - 3 * skew * ratio, 0))), x[0], x[-1])
    # A curve that bends down has its least at an end: the one it falls towards.
    return np.where(curvature > 0, inside, np.where(slope > 0, x[0], x[-1]))


def _noise(
    rows: pd.DataFrame, column: str, windows: list[_Window], curves: _Curves
) -> _Noise | None:
    """Between seeds of one value, else about the curves of all cells together."""
    groups = rows.groupby(["params", "tokens", column])["loss"]
    freedom = int((groups.size() - 1).sum())
    squares = float(((rows["loss"] - groups.transform("mean")) ** 2).sum())
    if freedom < LEAST_FREEDOM or squares == 0:
        freedom = sum(len(window.x) - 3 for window in windows) - 1
        squares = sum(
            float(np.sum(window.runs * (window.loss - fitted[0]) ** 2))
            for window, fitted in zip(windows, curves.fitted, strict=True)
        )
    if freedom < LEAST_FREEDOM or squares == 0:
        return None
    return _Noise(float(np.sqrt(squares / freedom)), freedom)


def _drawn(windows: list[_Window], noise: _Noise, seed: int) -> list[Array]:
    """Bottoms of each cell, had the runs come out otherwise: the noise's own size is drawn too.

    Half of them are read off the best and one neighbour on each side alone, which rests less on
    the form of the curve: where the two readings differ, the interval holds both.
    """
    rng = np.random.default_rng(seed)
    sd = noise.sd * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, (DRAWS, 1)))
    losses = [
        window.loss + sd / np.sqrt(window.runs) * rng.standard_normal((DRAWS, len(window.x)))
        for window in windows
    ]
    half = DRAWS // 2
    near = [np.abs(np.arange(len(w.x)) - int(np.argmin(np.abs(w.x)))) <= 1 for w in windows]
    narrow = [_Window(w.x[n], w.loss[n], w.runs[n]) for w, n in zip(windows, near, strict=True)]
    wide = _curves(windows, [loss[:half] for loss in losses])
    close = _curves(narrow, [loss[half:, n] for loss, n in zip(losses, near, strict=True)])
    return [np.concatenate(pair) for pair in zip(wide.bottom, close.bottom, strict=True)]


# --- one N and D ---------------------------------------------------------------------------------


def _end_of(cell: pd.DataFrame) -> Edge | None:
    at = int(cell["mean"].to_numpy().argmin())
    return "lowest" if at == 0 else "highest" if at == len(cell) - 1 else None


def _between(
    cell: pd.DataFrame, column: str, bottom: float, drawn: Array | None, level: float
) -> Best:
    """A best between others, with the optimum `bottom` and its draws, as ln of value over best."""
    at = int(cell["mean"].to_numpy().argmin())
    value = float(cell[column].iloc[at])
    if drawn is None:
        return _best(cell, column, optimum=value * float(np.exp(bottom)))
    low, high = (float(e) for e in np.percentile(drawn, [50 * (1 - level), 50 * (1 + level)]))
    tried = np.log(cell[column].to_numpy() / value)
    # Draws stop at the ends of the window: where one is the sweep's own, the interval is open.
    edge: Edge | None = "lowest" if low <= tried[0] else "highest" if high >= tried[-1] else None
    ends = Bounds(value * float(np.exp(low)), value * float(np.exp(high)))
    return _best(cell, column, edge, value * float(np.exp(bottom)), ends)


def _best(
    cell: pd.DataFrame,
    column: str,
    edge: Edge | None = None,
    optimum: float | None = None,
    interval: Bounds | None = None,
) -> Best:
    at = int(cell["mean"].to_numpy().argmin())
    return Best(
        params=float(cell["params"].iloc[0]),
        tokens=float(cell["tokens"].iloc[0]),
        tried=tuple(map(float, cell[column])),
        losses=tuple(map(float, cell["mean"])),
        value=float(cell[column].iloc[at]),
        loss=float(cell["mean"].iloc[at]),
        edge=edge,
        optimum=optimum,
        interval=interval,
    )
