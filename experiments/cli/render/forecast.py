"""The screen and JSON of `scaling emergence --cut`: forecasts, observed scores and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from analysis.interval import Interval
from analysis.text import decimal, text_table, with_interval
from experiments.cli.render.emergence import OPEN, OPEN_END, estimate
from experiments.cli.text import Part

if TYPE_CHECKING:
    from analysis.emergence.forecast.forecast import Forecast
    from analysis.emergence.inference.analyse import Curve

MOST_ROWS = 24  # of forecasts on a screen
LEAST_ROWS = 3  # of one task
MOST_SEEN = 3  # scores of one scale that are listed


def forecasts_part(forecasts: Sequence[Forecast], curves: Sequence[Curve]) -> Part | None:
    """The forecasts with the observed scores, their errors next to the baselines', and warnings.

    `curves` are those of the same scores, in the same order. None without forecasts.
    """
    if not forecasts:
        return None
    first = forecasts[0]
    write = first.series.write
    lines = [
        "Forecast of a single new model from the scores up to "
        f"{first.series.scale} = {write(first.cutoff)}"
    ]
    if any(len(each.x) for each in forecasts):
        lines.append(_scores(forecasts))
    # Log-probabilities are judged in e-folds and by fewer baselines: a table of their own.
    for bounded in (True, False):
        kind = [each for each in forecasts if each.series.metric.bounded is bounded]
        compared = [each for each in kind if each.judged]
        if compared:
            lines += ["", _errors(compared)]
    said = [
        sentence
        for each, curve in zip(forecasts, curves, strict=True)
        if (sentence := _threshold(each, curve)) is not None
    ]
    if any(OPEN in each for each in said):
        said.append(OPEN_END)
    said += [f"{each.series.label}: {each.way.reason}" for each in forecasts if each.way]
    said += [f"{each.series.label}: {caution}" for each in forecasts for caution in each.warnings]
    text = "\n".join([*lines, *([""] if said else []), *said])
    return Part(text, {"forecasts": [each.to_json() for each in forecasts]})


def _scores(forecasts: Sequence[Forecast]) -> str:
    """Forecasts and observed scores, one row per scale; of many scales an even selection."""
    most = max(LEAST_ROWS, MOST_ROWS // len(forecasts))
    rows, left = [], 0
    for each in forecasts:
        scales = np.unique(each.x)
        if each.series.falling:
            scales = scales[::-1]
        chosen = np.unique(np.linspace(0, len(scales) - 1, min(most, len(scales))).round())
        left += len(scales) - len(chosen)
        for x in scales[chosen.astype(int)]:
            at = np.flatnonzero(each.x == x)
            span = Interval(float(each.low[at[0]]), float(each.high[at[0]]))
            seen = each.observed[at][~np.isnan(each.observed[at])]
            rows.append(
                (
                    each.series.label, each.series.write(float(x)),
                    with_interval(decimal, float(each.median[at[0]]), span), _listed(seen),
                )
            )  # fmt: skip
    scale, level = forecasts[0].series.scale, forecasts[0].level
    header = ("task / metric", scale, f"forecast, median [{100 * level:g}%]", "observed")
    more = [f"… {left} more scales; --json FILE has all"] if left else []
    return "\n".join([text_table(header, rows), *more])


def _listed(seen: np.ndarray) -> str:
    """The scores of one scale."""
    if not len(seen):
        return "-"
    if len(seen) <= MOST_SEEN:
        return ", ".join(f"{each:.3g}" for each in seen)
    return f"{seen.min():.3g} … {seen.max():.3g} ({len(seen)} scores)"


def _errors(compared: Sequence[Forecast]) -> str:
    """Errors of forecast and baselines, one row per task, and their means."""
    unit = "unit score" if compared[0].series.metric.bounded else "e-folds of nats"
    methods = [how.method for how in compared[0].judged]
    methods[0] = f"forecast ({methods[0]})"
    errors = [cell for name in methods for cell in (f"{name}: error", "CRPS")]
    header = ("task / metric", "fitted", "above", *errors, f"inside {100 * compared[0].level:g}%")
    rows = [
        (each.series.label, str(each.n), str(each.judged[0].n), *_means([each]))
        for each in compared
    ]
    if len(compared) > 1:
        total = sum(each.judged[0].n for each in compared)
        rows.append((f"mean of {len(compared)}", "", str(total), *_means(compared)))
    title = (
        f"Scores above the cut: mean absolute error of the median, and CRPS of the whole forecast, "
        f"in {unit}; lower is better"
    )
    return f"{title}\n{text_table(header, rows)}"


def _means(forecasts: Sequence[Forecast]) -> list[str]:
    """Mean errors of each method, and the share of all scores inside the forecast's interval."""
    cells = []
    for same in zip(*(each.judged for each in forecasts), strict=True):
        cells += [f"{np.mean([how.error for how in same]):.3f}"]
        cells += [f"{np.mean([how.crps for how in same]):.3f}"]
    own = [each.judged[0] for each in forecasts]
    inside = np.average([how.coverage for how in own], weights=[how.n for how in own])
    return [*cells, f"{inside:.0%}"]


def _threshold(each: Forecast, curve: Curve) -> str | None:
    """The scale at which the score is forecast to pass half-way, and the table's threshold.

    None where that lies among the scales fitted: the table's threshold is then the one to read.
    """
    series, ahead = each.series, each.threshold_ahead
    if ahead is None:
        return None
    score = f"a score of {each.half_way:.3g}, midway from chance to the best possible,"
    said = f"{series.label}: {score} is "
    if each.reached is not None:
        said = (
            f"{series.label}: {score} has been reached already: {each.reached.value:.3g} was "
            f"observed at {series.scale} = {series.write(each.reached.x)}. For one new model it is "
        )
    if series.to_t(ahead) > series.to_t(each.track.x[-1]):
        return f"{said}not forecast up to {series.scale} = {series.write(each.track.x[-1])}"
    where = estimate(replace(each.threshold, value=ahead), series.write)
    said += f"forecast at {series.scale} = {where}"
    if curve.threshold.value is None:
        return said
    return (
        f"{said}; the threshold above, {series.write(curve.threshold.value)}, is that of the curve "
        "through all scores, midway to the highest level of that curve"
    )
