"""The best value of a swept setting, such as the learning rate, at each N and D.

The best value tried is the one with the least mean loss over seeds. The optimum between the values
is the minimum of a curve in the logarithm of the value, through the best and its two neighbours on
each side. A best value at the end of the sweep is only a bound: the optimum may lie anywhere
beyond. Intervals cover the noise in the runs, and an error in the curve's form only as far as two
readings of it differ: where values are a factor of two apart, they may be too narrow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.array import Array, Index
from analysis.interval import Interval, percentiles
from analysis.runs.columns.kinds import is_number
from analysis.runs.messages import name_of
from analysis.runs.replicates import MIN_SWEPT, labels, levelled, settings, variants
from analysis.runs.status import LEFT_OUT
from analysis.runs.sweep_curves import Curves, Window, draw_minima, fit_curves, noise_of
from analysis.runs.table import ASKED, CORE, standardise, usable
from analysis.text import human
from scaling.store.records import Refusal

Edge = Literal["lowest", "highest"]

OPTIMA = "optima"  # attrs of a table whose rows are optima, and no rows of any file

SHOWN = 6  # points that a warning names
NEIGHBOURS = 2  # on each side of the best


@dataclass(frozen=True)
class Best:
    """The best value of the swept setting at one N and D."""

    params: float
    tokens: float
    tried: tuple[float, ...]  # in rising order
    losses: tuple[float, ...]  # of each, the mean over seeds
    value: float  # of those tried, the one with the least loss
    loss: float  # at it
    edge: Edge | None  # the end of the sweep where the best is, or that the interval reaches
    optimum: float | None = None  # None where that is an end of the sweep
    interval: Interval | None = None  # of the optimum; None where the noise is not known

    @property
    def logs(self) -> Array:
        """ln(value/best) of each value tried."""
        return np.asarray(np.log(np.array(self.tried) / self.value))


@dataclass(frozen=True)
class Sweep:
    """The best of `column` at each N and D, in the order of N, then D."""

    column: str
    level: float
    noise: float | None  # standard deviation of one run's loss; None where it is not known
    cells: tuple[Best, ...]

    @property
    def bounds(self) -> tuple[Best, ...]:
        """The points whose best value, or the curve's bottom, is an end of the sweep."""
        return tuple(each for each in self.cells if each.optimum is None)

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each end of the sweep that is the best value somewhere."""
        at = {end: [each for each in self.bounds if each.edge == end] for end in get_args(Edge)}
        return tuple(
            f"the {end} {self.column} tried is the best at {len(at[end])} of "
            f"{len(self.cells)} (N, D), {_places(at[end])}: the optimum lies beyond the sweep, and "
            f"the loss there is not the least these sizes can reach. Train with {other} ones."
            for end, other in (("lowest", "lower"), ("highest", "higher"))
            if at[end]
        )


def _places(cells: Sequence[Best]) -> str:
    """Their N and D, of many the first."""
    some = ", ".join(f"{human(each.params)} × {human(each.tokens)}" for each in cells[:SHOWN])
    return some + (f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else "")


def sweep(table: pd.DataFrame, column: str, *, level: float = 0.9, seed: int = 0) -> Sweep:
    """The best of `column` at each N and D of a run table, with `level` intervals of the optimum.

    The noise of a run's loss is that between seeds where a value has several, else that of the
    residuals of the curves. Raises Refusal if the column is missing or has no positive numbers, and
    where no N and D has three values of it or another setting varies too.
    """
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. Give e.g. 0.9.")
    read = measured(table, column)
    noise = noise_of(read.rows, column, read.windows, read.curves)
    drawn: Sequence[Array | None] = [None] * len(read.windows)
    if noise is not None:
        drawn = draw_minima(read.windows, noise, seed)
    bottoms = iter(zip(read.curves.bottom, drawn, strict=True))
    cells = (best if best.edge else _between(best, *next(bottoms), level) for best in read.best)
    return Sweep(column, level, None if noise is None else noise.sd, tuple(cells))


class Measured(NamedTuple):
    """What a sweep is read from."""

    rows: pd.DataFrame  # of the table that count, N and D of one point equal
    best: tuple[Best, ...]  # tried at each N and D, in the order of N, then D
    windows: list[Window]  # of those that are no end of their sweep
    curves: Curves  # through the windows


def measured(table: pd.DataFrame, column: str) -> Measured:
    """The best values tried and the curves near them. Raises Refusal as `sweep` does."""
    rows = usable(table).rows
    _refuse_zero(rows, column)
    rows = levelled(standardise(rows, require=(*CORE, column)))
    _refuse_other_axes(rows, column)
    means = rows.groupby(["params", "tokens", column])["loss"].agg(["mean", "size"]).reset_index()
    points = [of.to_numpy(dtype=float) for _, of in means.groupby(["params", "tokens"])]
    if (most := max(map(len, points))) < MIN_SWEPT:
        raise Refusal(
            f"{name_of(table)}: {column} has at most {most} values at one N and D, which show no "
            "optimum between them.",
            "Give three or more values of it at each.",
        )
    found = tuple(_best_tried(*point.T[:4]) for point in points)
    pairs = zip(found, points, strict=True)
    windows = [_window(best, point[:, 4]) for best, point in pairs if best.edge is None]
    return Measured(
        rows, found, windows, fit_curves(windows, [each.loss[None] for each in windows])
    )


def chosen(table: pd.DataFrame, swept: Sweep, target: str) -> pd.DataFrame:
    """What a law of `target` is fitted to: a law of the swept column to its optima, another to the
    rows at its best values."""
    return optima(table, swept) if target == swept.column else best_rows(table, swept)


def best_rows(table: pd.DataFrame, swept: Sweep) -> pd.DataFrame:
    """The table with all rows left out but those at the best value of each N and D.

    A fit then reports them among the rows left out, and repeats the sweep's warnings.
    """
    numbers = standardise(table, require=(*CORE, swept.column))
    value = np.array([each.value for each in swept.cells])
    worse = numbers[swept.column].to_numpy() != value[_cell_of(numbers, swept)]
    reason = f"another {swept.column} is better at this N and D"
    return _set_aside(numbers, worse, reason, swept)


def optima(table: pd.DataFrame, swept: Sweep) -> pd.DataFrame:
    """One row per N and D with the optimum of the column, to which a law of optima is fitted.

    The loss is that of the best value tried. Where that is an end of the sweep it only bounds the
    optimum, and the row is left out.
    """
    rows = pd.DataFrame(
        [(each.params, each.tokens, each.loss, each.optimum or each.value) for each in swept.cells],
        columns=[*CORE, swept.column],
    )
    kept = {"file", "params_column", "loss_unit", "loss_set", ASKED} & set(table.attrs)
    rows.attrs = {"notes": [], OPTIMA: True, **{name: table.attrs[name] for name in kept}}
    bound = np.array([each.optimum is None for each in swept.cells])
    reason = f"the best {swept.column} is an end of its sweep: a bound, no optimum"
    return _set_aside(rows, bound, reason, swept)


def _cell_of(numbers: pd.DataFrame, swept: Sweep) -> Index:
    """The number of each row's point: the nearest one, since N and D may be rounded differently."""
    with np.errstate(invalid="ignore", divide="ignore"):  # rows that are left out already
        rows = np.log(numbers[["params", "tokens"]].to_numpy())
    cells = np.log([(each.params, each.tokens) for each in swept.cells])
    return np.array(np.abs(rows[:, None] - cells).sum(axis=2).argmin(axis=1), dtype=np.intp)


def _set_aside(
    table: pd.DataFrame, rows: NDArray[np.bool_], reason: str, swept: Sweep
) -> pd.DataFrame:
    """The table with these rows left out, and the sweep's warnings among its doubts."""
    # The variants of a swept study are what the best was chosen from: no longer variants of rows.
    result = table.drop(columns="variant", errors="ignore")
    result.attrs = {**table.attrs, "doubts": [*table.attrs.get("doubts", []), *swept.warnings]}
    known = table[LEFT_OUT] if LEFT_OUT in table else pd.Series("", index=table.index)
    result[LEFT_OUT] = known.where(known.ne("") | ~rows, reason)
    return result


def _refuse_zero(rows: pd.DataFrame, column: str) -> None:
    """Raises Refusal for values without a logarithm."""
    if column not in rows or not is_number(rows[column]) or (least := rows[column].min()) > 0:
        return
    remedy = f"Fit one value: --where '{column}=={least:g}'"
    if rows.loc[rows[column] > 0, column].nunique() >= MIN_SWEPT:
        remedy += f", or leave out values without one: --where '{column}>0'"
    raise Refusal(
        f"{name_of(rows)}: {column} = {least:g} in some rows, and the optimum of a sweep is found "
        "in the logarithm of the value.",
        f"{remedy}.",
    )


def _refuse_other_axes(rows: pd.DataFrame, column: str) -> None:
    """Raises Refusal where other settings vary too, and would be chosen with the column."""
    # In a swept study each value of the column is a variant, which tells its other axes apart.
    found = settings(rows.drop(columns="variant", errors="ignore"), ("params", "tokens", column))
    if found:
        varies, count, remedy = found[0].column, found[0].count, found[0].remedy
    elif _variants_at(rows, column) > 1:
        varies, count = "variant", variants(rows)
        remedy = f"--where 'variant=={labels(rows)[0]}'"
    else:
        return
    raise Refusal(
        f"{name_of(rows)}: {varies} varies too at equal params, tokens and {column} "
        f"({count} values), so each of them has its own best {column}. Select one: {remedy}."
    )


def _variants_at(rows: pd.DataFrame, column: str) -> int:
    """The most variants at one N, D and value of the column."""
    if "variant" not in rows:
        return 1
    at = rows.groupby(["params", "tokens", column])["variant"]
    return int(at.nunique(dropna=False).max())


def _best_tried(params: Array, tokens: Array, values: Array, losses: Array) -> Best:
    """The best of the rising values tried at one N and D, with their mean losses over seeds."""
    at = int(losses.argmin())
    edge: Edge | None = "lowest" if at == 0 else "highest" if at == len(values) - 1 else None
    return Best(
        params=float(params[0]),
        tokens=float(tokens[0]),
        tried=tuple(values.tolist()),
        losses=tuple(losses.tolist()),
        value=float(values[at]),
        loss=float(losses[at]),
        edge=edge,
    )


def _window(best: Best, runs: Array) -> Window:
    """The best value and its neighbours; `runs` is the number of runs with each value tried."""
    at = best.tried.index(best.value)
    near = slice(max(0, at - NEIGHBOURS), at + NEIGHBOURS + 1)
    return Window(best.logs[near], np.array(best.losses[near]), runs[near])


def _between(best: Best, bottom: Array, draws: Array | None, level: float) -> Best:
    """With the optimum between the values, of which `bottom` is ln(optimum/best), and its draws.

    A curve that falls to an end of the sweep has no optimum, even if the best tried lies inside.
    """
    if not best.logs[0] < bottom[0] < best.logs[-1]:
        return replace(best, edge="lowest" if bottom[0] <= best.logs[0] else "highest")
    found = replace(best, optimum=best.value * float(np.exp(bottom[0])))
    if draws is None:
        return found
    low, high = map(float, percentiles(draws, level))
    # Draws stop at the ends of the window: where one is an end of the sweep, the interval is open.
    lowest, highest = low <= best.logs[0], high >= best.logs[-1]
    edge: Edge | None = "lowest" if lowest else "highest" if highest else None
    ends = Interval(float(np.exp(low)), float(np.exp(high))).times(best.value)
    return replace(found, edge=edge, interval=ends)


def to_json(swept: Sweep) -> dict[str, Any]:
    """Plain values for a file, which `from_json` reads."""
    return {**asdict(swept), "warnings": list(swept.warnings)}


def from_json(value: Mapping[str, Any]) -> Sweep:
    """The sweep that `to_json` wrote."""
    from pydantic import TypeAdapter  # takes a tenth of a second to import

    return TypeAdapter(Sweep).validate_python(value)
