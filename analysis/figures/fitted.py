"""A fit against its runs: the curves through the points, and what the curves leave over."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.array import Array
from analysis.figures import style
from analysis.figures.bulk import bulk, log_span, mark_beyond
from analysis.fitting.fit import Fit
from analysis.fitting.functionals import Quantity, interval_over_draws
from analysis.fitting.result import Status
from analysis.fitting.source import Source
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN, require_params_and_tokens
from analysis.text import decimal, with_interval
from scaling.store.records import Refusal

SHOWN_LEVELS = 6  # curves drawn where the runs have more levels than a legend can name
REACH = 3.0  # how far beyond the data the dashed curves run
BELOW = 0.6  # of the height of the runs: how far below them curves and the floor are drawn
ABOVE = 0.15  # and how far above
NEAR = 0.15  # of the panel's height: how far below it the floor may lie and be drawn
LONG = 100  # characters of a doubt, beyond which what follows its first clause is left out


def loss(fit: Fit, x: str | None = None, ax: Axes | None = None) -> Axes:
    """Loss against the feature `x`, by default that with most values; returns the axes.

    Runs are points. The fit is a curve at each value of the other feature, or at each budget
    C = 6ND where the runs have a few of those instead: solid inside the runs of that value, dashed
    outside. The bands of the least and the largest value (more of them would hide each other) are
    intervals of the fitted curve, from the fit's draws. The floor is dotted where it is near.
    Raises Refusal for a law of more than two features, for another `x`, and as `rows_of` does.
    """
    table = rows_of(fit)
    x, by = _against(fit.law, table, x)
    title = f"{fit.law.name} fitted to {fit.data.n} runs: RMSE {100 * fit.rmse_log:.2g}%"
    with style.panel(ax, title, counted_runs(fit), doubts(fit)) as axes:
        grid = np.geomspace(float(table[x].min()) / REACH, float(table[x].max()) * REACH, 120)
        style.note(axes, "Curves: the fit, solid inside the runs of each level, dashed outside.")
        least = _curves(axes, fit, table, x, by, grid)
        style.log_axis(axes.xaxis, style.quantity(x).label, style.quantity(x).kind)
        style.log_axis(axes.yaxis, loss_label(fit), "loss")
        axes.set_xlim(grid[0], grid[-1])
        _set_limits(axes, fit, table, least)
        style.note(axes, mark_beyond(axes))
    return axes


def loss_figure(fit: Fit) -> Figure:
    """`loss` against params and against tokens, side by side.

    Raises Refusal unless the law predicts from params and tokens.
    """
    require_params_and_tokens(fit.law)
    with style.figure(*style.PAIR) as made:
        left, right = made.subplots(1, 2, sharey=True)
        loss(fit, "params", left)
        loss(fit, "tokens", right)
        right.tick_params(labelleft=True)
        style.finish(made)
    return made


def doubts(source: Source) -> str:
    """What a caption doubts, since figures are read apart from the text: the fit's status, unless
    it is sound, and the warnings about its runs, shortened; "" where there are none."""
    if not isinstance(source, Fit):
        return ""
    at_bound = ", ".join(source.at_bound) or "a coefficient"
    said = {
        Status.WEAKLY_IDENTIFIED: "The fit is weakly identified.",
        Status.AT_BOUND: f"The fit is at the bound of {at_bound}.",
        Status.FAILED: "The fit failed.",
    }.get(source.status, "")
    if source.cautions:
        said += f" Doubtful: {'; '.join(map(_shortened, source.cautions))}."
    return said.strip()


def _shortened(caution: str) -> str:
    """Its first sentence without its parentheses, or if that is long its first clause."""
    first = re.split(r"(?<=[a-z)\]0-9%])\. (?=[A-Z])", caution)[0]
    first = re.sub(r" \([^()]*\)", "", first).rstrip(".")
    return first if len(first) <= LONG else re.split(r"[:;] ", first)[0]


def rows_of(fit: Fit) -> pd.DataFrame:
    """The rows fitted. Raises Refusal for a fit that holds none, and for losses that no
    logarithmic axis can show."""
    if fit.table.empty:
        raise Refusal(
            f"the fit of {fit.law.name} holds no runs to draw.",
            "Fit again from the run table and draw that.",
        )
    least = fit.table[fit.law.target].min()
    if not least > 0:
        raise Refusal(
            f"{fit.law.target} = {least:g} has no place on a logarithmic axis.",
            f"To draw, fit the rows above 0 alone: scaling fit RUNS --where '{fit.law.target}>0'.",
        )
    return fit.table


def counted_runs(fit: Fit) -> str:
    """How many runs were fitted, and what their N counts."""
    return style.counted(f"{fit.data.n} runs", fit.data.params_column if fit.data.params else None)


def loss_label(fit: Fit) -> str:
    """An axis of what the law predicts: losses, in the fit's own unit, or another quantity."""
    if fit.law.target != "loss":
        return fit.law.target.replace("_", " ")
    on = "" if fit.data.loss_set is None else f" on {fit.data.loss_set}"
    return f"loss{on}, {fit.data.loss_unit}"


def _against(law: Law, table: pd.DataFrame, x: str | None) -> tuple[str, str | None]:
    """The feature on the x axis, and the quantity of which each value has a curve, if any."""
    if len(law.features) > 2:
        raise Refusal(
            f"{law.name} predicts from {', '.join(law.features)}, and loss draws one or two.",
            "Draw its residuals: analysis.figures.fitted.residuals(fit).",
        )
    count = {name: len(style.levels(table[name])) for name in law.features}
    x = max(law.features, key=count.__getitem__) if x is None else x
    if x not in count:
        raise Refusal(f"{law.name} has no feature {x!r}.", f"Give {' or '.join(count)}.")
    others = [name for name in count if name != x]
    if not others:
        return x, None
    if {*count} == {"params", "tokens"} and count[others[0]] > style.MANY:
        by_compute = len(style.levels(_values(table, "flops"))) <= style.MANY
        return x, "flops" if by_compute else others[0]
    return x, others[0]


def _values(table: pd.DataFrame, name: str) -> Array:
    """A quantity of each row; compute is 6ND."""
    if name != "flops":
        return table[name].to_numpy(dtype=np.float64)
    return FLOPS_PER_PARAM_TOKEN * _values(table, "params") * _values(table, "tokens")


def _along(x: str, by: str | None, level: float) -> Callable[[Array], dict[str, Array]]:
    """The features of points on the x axis at which `by` has the value `level`."""
    if by is None:
        return lambda at: {x: at}
    if by != "flops":
        return lambda at: {x: at, by: np.full_like(at, level)}
    other = "tokens" if x == "params" else "params"
    return lambda at: {x: at, other: level / (FLOPS_PER_PARAM_TOKEN * at)}


def _curves(
    axes: Axes, fit: Fit, table: pd.DataFrame, x: str, by: str | None, grid: Array
) -> float:
    """The points, and the fit at each level of `by`, the lowest loss of which is returned."""
    values = np.ones(len(table)) if by is None else _values(table, by)
    palette = style.Palette(values, by or x)
    style.points(axes, table[x], table[fit.law.target], values, palette)
    shown = palette.levels if palette.few else _some(palette.levels)
    # Runs nearest to a level (in ratio) are its own; their range is where its curve is solid.
    nearest = np.abs(np.log(values[:, None] / shown)).argmin(axis=1)
    level = fit.interval.level
    least = math.inf
    for index, value in enumerate(shown):
        colour, features = palette(float(value)), _along(x, by, float(value))
        own = table[x].to_numpy()[nearest == index]
        curve = fit.predict(features(grid))
        least = min(least, float(curve.min()))
        axes.plot(grid, curve, color=colour, linestyle=style.DASHED, linewidth=1.0)
        if len(own):
            inside = np.geomspace(own.min(), own.max(), 60)
            axes.plot(inside, fit.predict(features(inside)), color=colour, linewidth=1.7)
        if index in (0, len(shown) - 1) and not fit.draws.empty:
            band = interval_over_draws(fit, _log_of(fit.law, features(grid)), level)
            axes.fill_between(grid, *np.exp(band), color=colour, alpha=0.18, linewidth=0)
            style.note(axes, f"Bands: {level:.0%} intervals of the curve, not forecasts of a run.")
    if by is not None:
        palette.key(axes, marked=shown)
    if not palette.few:
        style.note(axes, f"Of more than {style.MANY} levels, curves at the ticks of the bar.")
    return least


def _log_of(law: Law, features: dict[str, Array]) -> Quantity:
    """The logarithm of what coefficients predict at these features."""
    return lambda coefficients: np.log(law.predict(coefficients, features))


def _some(distinct: Array) -> Array:
    """SHOWN_LEVELS of the levels, both ends among them, or fewer where those would be near."""
    even = np.geomspace(distinct[0], distinct[-1], SHOWN_LEVELS)
    apart = math.log(even[1] / even[0]) / 2
    found = [float(distinct[0])]
    for each in distinct[np.abs(np.log(distinct[:, None] / even[1:-1])).argmin(axis=0)]:
        if min(math.log(each / found[-1]), math.log(distinct[-1] / each)) > apart:
            found.append(float(each))
    return np.array([*found, distinct[-1]])


def _set_limits(axes: Axes, fit: Fit, table: pd.DataFrame, least: float) -> None:
    """Limits in which the runs fill most of the height; `least` is the lowest point of the
    curves."""
    low, high = log_span(table[fit.law.target])
    span = max(high / low, 1.02)
    bottom = min(low, max(least, low / span**BELOW))
    axes.set_ylim(bottom / span**0.05, high * span**ABOVE)
    draw_floor(axes, fit, NEAR)


def draw_floor(axes: Axes, source: Source, reach: float) -> None:
    """The law's floor as a dotted line, if it lies at most `reach` of the height below the panel;
    the caption has it in either case."""
    floor = source.coefficients[source.law.floors[0]] if source.law.floors else 0.0
    low, high = axes.get_ylim()
    if low * (low / high) ** reach < floor < high:
        axes.axhline(floor, color=style.INK, linestyle=style.DOTTED, linewidth=1.2)
        axes.set_ylim(min(low, floor * (low / high) ** 0.05), high)
        style.note(axes, f"Dotted: the {floor_text(source)}.")
    elif floor > 0:
        style.note(axes, f"The {floor_text(source)} lies below the panel.")


def floor_text(source: Source) -> str:
    """The law's floor, of which it has one, with its interval, if there is one."""
    (name,) = source.law.floors[:1]
    span = None
    if isinstance(source, Fit) and not source.draws.empty:
        span = source.interval.coefficients[name]
    return f"floor {name} = {with_interval(decimal, source.coefficients[name], span)}"


# --- residuals ----------------------------------------------------------------------------------


def residuals(fit: Fit, ax: Axes | None = None) -> Axes:
    """100·ln(observed / fitted) of every run against the fitted loss, for any law; returns the
    axes.

    The root mean square over all rows is in the title. Raises Refusal as `rows_of` does.
    """
    rows = _residual_rows(fit)
    with _residual_panel(ax, fit, rows) as axes:
        _palette(rows).key(axes)
    return axes


def residuals_figure(fit: Fit) -> Figure:
    """Observed against fitted loss, and below the residuals, over one axis of fitted losses."""
    rows = _residual_rows(fit)
    with style.figure(6.4, 6.4) as made:
        above, below = made.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
        with _residual_panel(below, fit, rows):
            style.note(below, "Upper line: observed = fitted.")
        ends = below.get_xlim()
        above.plot(ends, ends, color=style.FAINT, linewidth=1.0, zorder=1)
        style.points(above, rows["fitted"], rows["observed"], rows["by"], _palette(rows))
        style.log_axis(above.yaxis, f"observed {loss_label(fit)}", _kind(fit))
        above.set_ylim(ends)
        _palette(rows).key(above)
        mark_beyond(above)  # the caption counts those of the residuals
        style.finish(made)
    return made


def _residual_rows(fit: Fit) -> pd.DataFrame:
    """The fitted and observed loss of every run, the residual in per cent, and the feature of its
    colour, whose name is in `attrs`."""
    table = rows_of(fit)
    by = "params" if "params" in table else fit.law.features[0]
    fitted = np.asarray(fit.predict({name: table[name].to_numpy() for name in fit.law.features}))
    rows = pd.DataFrame({"fitted": fitted, "observed": table[fit.law.target].to_numpy(dtype=float)})
    rows["residual"] = 100 * np.log(rows["observed"] / rows["fitted"])
    rows["by"], rows.attrs["by"] = table[by].to_numpy(dtype=float), by
    return rows


@contextmanager
def _residual_panel(ax: Axes | None, fit: Fit, rows: pd.DataFrame) -> Iterator[Axes]:
    """The panel of the residuals, but for the key of its colours."""
    inside = bulk(rows["residual"])
    title = f"Residuals of {fit.law.name} on {fit.data.n} runs: RMSE {_rms(rows['residual'])}"
    if not inside.all():
        title += f" ({_rms(rows['residual'][inside])} without those beyond the axis)"
    with style.panel(ax, title, counted_runs(fit), doubts(fit)) as axes:
        axes.axhline(0.0, color=style.FAINT, linewidth=1.0, zorder=1)
        style.points(axes, rows["fitted"], rows["residual"], rows["by"], _palette(rows))
        largest = 1.15 * float(rows["residual"][inside].abs().max()) or 1.0
        axes.set_ylim(-largest, largest)
        axes.set_ylabel("residual, %")
        style.log_axis(axes.xaxis, f"fitted {loss_label(fit)}", _kind(fit))
        spans = [log_span(rows[name]) for name in ("fitted", "observed")]
        axes.set_xlim(0.98 * min(e.low for e in spans), 1.02 * max(e.high for e in spans))
        style.note(axes, "Residual: 100·ln(observed/fitted).", mark_beyond(axes))
        yield axes


def _palette(rows: pd.DataFrame) -> style.Palette:
    return style.Palette(rows["by"], rows.attrs["by"])


def _kind(fit: Fit) -> style.Kind:
    return "loss" if fit.law.target == "loss" else "flops"


def _rms(values: pd.Series) -> str:
    return f"{np.sqrt(np.mean(values**2)):.2g}%"
