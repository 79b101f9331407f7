"""What `scaling emergence --cut` says on one screen: forecasts, the scores seen, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.units import decimal, with_interval
from experiments.emerging_text import OPEN, OPEN_END, between
from experiments.text import columns

if TYPE_CHECKING:
    from analysis.emergence.curve import Curve
    from analysis.emergence.foresee import Forecast

MOST_ROWS = 24  # of forecasts on a screen
LEAST_ROWS = 3  # of one task
MOST_SEEN = 3  # scores of one scale that are listed


def forecasts_text(forecasts: Sequence[Forecast], curves: Sequence[Curve]) -> str:
    """The forecasts beside the scores seen, how they did beside the baselines, and what to doubt.

    `curves` are those of the same scores, in the same order.
    """
    first = forecasts[0]
    write = first.series.write
    lines = [
        "Forecast of a single new model from the scores up to "
        f"{first.series.scale} = {write(first.cut)}"
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
    said += [f"{each.series.label}: {caution}" for each in forecasts for caution in each.warnings]
    return "\n".join([*lines, *([""] if said else []), *said])


def _scores(forecasts: Sequence[Forecast]) -> str:
    """Each forecast and the scores seen, a row a scale; of many scales some, evenly chosen."""
    most = max(LEAST_ROWS, MOST_ROWS // len(forecasts))
    rows: list[tuple[str, ...]] = []
    left = 0
    for each in forecasts:
        scales = np.unique(each.x)
        if each.series.falling:
            scales = scales[::-1]
        chosen = np.unique(np.linspace(0, len(scales) - 1, min(most, len(scales))).round())
        left += len(scales) - len(chosen)
        for x in scales[chosen.astype(int)]:
            at = np.flatnonzero(each.x == x)
            span = float(each.low[at[0]]), float(each.high[at[0]])
            seen = each.observed[at][~np.isnan(each.observed[at])]
            rows.append(
                (
                    each.series.label, each.series.write(float(x)),
                    with_interval(decimal, float(each.median[at[0]]), span), _listed(seen),
                )
            )  # fmt: skip
    scale, level = forecasts[0].series.scale, forecasts[0].level
    header = ("task / metric", scale, f"forecast, median [{100 * level:g}%]", "seen")
    more = [f"… {left} more scales; --json FILE has all"] if left else []
    return "\n".join([columns(header, rows), *more])


def _listed(seen: np.ndarray) -> str:
    """The scores of one scale."""
    if not len(seen):
        return "-"
    if len(seen) <= MOST_SEEN:
        return ", ".join(f"{each:.3g}" for each in seen)
    return f"{seen.min():.3g} … {seen.max():.3g} ({len(seen)} scores)"


def _errors(compared: Sequence[Forecast]) -> str:
    """How near forecast and baselines came, a row a task, and their means."""
    unit = "unit score" if compared[0].series.metric.bounded else "e-folds of nats"
    methods = [how.method for how in compared[0].judged]
    methods[0] = f"forecast ({methods[0]})"
    header = ["task / metric", "fitted", "above"]
    for name in methods:
        header += [f"{name}: error", "CRPS"]
    header.append(f"inside {100 * compared[0].level:g}%")
    rows = []
    for each in compared:
        cells = [each.series.label, str(each.n), str(each.judged[0].n)]
        for how in each.judged:
            cells += [f"{how.error:.3f}", f"{how.crps:.3f}"]
        rows.append([*cells, f"{each.judged[0].coverage:.0%}"])
    if len(compared) > 1:
        rows.append(_means(compared))
    title = (
        f"Scores above the cut: mean absolute error of the median, and CRPS of the whole forecast, "
        f"in {unit}; less is better"
    )
    return f"{title}\n{columns(header, rows)}"


def _means(compared: Sequence[Forecast]) -> list[str]:
    total = sum(each.judged[0].n for each in compared)
    cells = [f"mean of {len(compared)}", "", str(total)]
    for index in range(len(compared[0].judged)):
        errors = [each.judged[index] for each in compared]
        cells += [
            f"{np.mean([each.error for each in errors]):.3f}",
            f"{np.mean([each.crps for each in errors]):.3f}",
        ]
    inside = sum(each.judged[0].coverage * each.judged[0].n for each in compared)
    return [*cells, f"{inside / total:.0%}"]


def _threshold(each: Forecast, curve: Curve) -> str | None:
    """Where the score is forecast to pass half-way, and why the table's threshold differs.

    None where that lies among the scales fitted: the table's threshold is then the one to read.
    """
    series, ahead = each.series, each.threshold_ahead
    if ahead is None:
        return None
    said = (
        f"{series.label}: a score of {each.half_way:.3g}, half-way from chance to the best "
        "possible, is "
    )
    if each.reached is not None:
        said = (
            f"{said.removesuffix('is ')}has been reached already: {each.reached.value:.3g} "
            f"was seen at {series.scale} = {series.write(each.reached.x)}. For one new model it is "
        )
    if series.to_t(ahead) > series.to_t(each.track.x[-1]):
        return f"{said}not forecast up to {series.scale} = {series.write(each.track.x[-1])}"
    where = between(ahead, each.emergence_interval, series.write)
    said += f"forecast at {series.scale} = {where}"
    if curve.threshold.value is None:
        return said
    return (
        f"{said}; the threshold above, {series.write(curve.threshold.value)}, is that of the curve "
        "through all scores, half-way to the highest level of that curve"
    )
