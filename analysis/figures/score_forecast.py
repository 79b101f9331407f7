"""Forecasts of scores: what was fitted up to the cut, and what was forecast of larger models."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.emergence.foresee import Forecast
from analysis.figures.panels import MOST_PANELS, left_out, panels, scale_axis, score_axes, short
from analysis.figures.style import DASHED, FAINT, INK, OTHERS, OWN, set_caption

INSIDE = 0.01  # of the axis: so far from its ends an interval that goes on ends in an arrow


def forecast_panels(forecasts: Sequence[Forecast]) -> Figure:
    """A panel a forecast: scores fitted and scores above the cut, the fit and the forecast."""
    shown = forecasts[:MOST_PANELS]
    with panels(len(shown)) as (made, grid):
        for axes, each in zip(grid, shown, strict=True):
            _panel(axes, each)
            axes.set_title(short(each.series.task), fontsize=8.5)
        score_axes(grid, [each.series for each in shown])
        set_caption(made, _caption(shown) + left_out(len(forecasts), "forecasts"))
    return made


def _panel(axes: Axes, each: Forecast) -> None:
    series, path = each.series, each.track
    above = series.to_t(series.x) > series.to_t(each.cut)
    axes.plot(series.x[~above], series.value[~above], "o", markerfacecolor="none",
              color=FAINT, markersize=3.6, markeredgewidth=0.8)  # fmt: skip
    axes.plot(series.x[above], series.value[above], "o", color=INK, markersize=3.6, zorder=4)
    t, cut = series.to_t(path.x), float(series.to_t(each.cut))
    for part, alpha, line in (
        (t <= cut + 1e-9, 0.1, "-"),
        (t >= cut - 1e-9, 0.2, DASHED),
    ):
        axes.fill_between(path.x[part], path.low[part], path.high[part], color=OWN,
                          alpha=alpha, linewidth=0)  # fmt: skip
        axes.plot(path.x[part], path.median[part], color=OWN, linewidth=1.6, linestyle=line)
    scale_axis(axes, series)
    axes.axvline(each.cut, color=FAINT, linestyle=":", linewidth=1.0)
    at = _threshold(each)
    if at is None:
        return
    # The interval may reach far beyond the axis: what is asked for decides its limits.
    axes.set_xlim(axes.get_xlim())
    left, right = sorted(axes.get_xlim())
    room = (right / left) ** INSIDE
    limits = left * room, right / room
    ends = [
        limit if end is None else min(max(end, limits[0]), limits[1])
        for end, limit in zip(each.emergence_interval, limits, strict=True)
    ]
    axes.plot(ends, [each.half_way] * 2, color=OTHERS[0], linewidth=1.2, zorder=5)
    for end, limit, marker in zip(ends, limits, "<>", strict=True):
        if end == limit:  # it reaches further than the axis does
            axes.plot(end, each.half_way, marker, color=OTHERS[0], markersize=4.5, zorder=6)
    axes.plot(at, each.half_way, "D", color=OTHERS[0], markersize=4.5, zorder=6)


def _threshold(each: Forecast) -> float | None:
    """Where the forecast passes half-way, if that lies between the cut and the last scale."""
    at, to_t = each.threshold_ahead, each.series.to_t
    return at if at is not None and to_t(at) <= to_t(each.track.x).max() else None


def _caption(shown: Sequence[Forecast]) -> str:
    level = f"{100 * shown[0].level:g}%"
    said = "Hollow: scores fitted, up to the cut (dotted)."
    if any(each.judged for each in shown):
        said += " Filled: scores of larger models."
    said += f" Blue: median and {level} interval of one new model, solid fitted, dashed forecast."
    if any(_threshold(each) is not None for each in shown):
        said += (
            " Diamond: where the forecast is half-way from chance to the best possible score, with "
            f"its {level} interval."
        )
    risen = [each for each in shown if _threshold(each) is not None and each.reached]
    said += _about(risen, "A score of half-way has been seen already")
    off = [each for each in shown if each.missed]
    said += _about(off, "Doubtful: the forecast misses the score at the largest scale fitted")
    return said


def _about(some: Sequence[Forecast], what: str) -> str:
    """A sentence of some forecasts by their tasks; empty for none."""
    if not some:
        return ""
    return f" {what} ({', '.join(short(each.series.task, 24) for each in some)})."
