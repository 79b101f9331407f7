"""The verdict on a curve, by fixed rules, with the reason in words.

`sharp`: the sharpness test rejects a smooth rise (at 5%; at 3% if scales are few), the rise takes
less than half a decade of scale from 10% to 90%, and the whole interval of that width is below one
decade. `smooth`: the rise is significant and the whole interval of its width is above half a
decade. `none`: no rise is significant. `undetermined`: the data do not decide. The interval is at
90% whatever level is asked for the intervals shown.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from analysis.emergence.inference.trend_test import SIGNIFICANT, Trend
from analysis.emergence.response.estimate import NOT_IDENTIFIED, NOT_IN_RANGE, Estimate
from analysis.emergence.response.search import SMOOTH_WIDTH
from analysis.emergence.scores.series import Series
from analysis.interval import Interval

Verdict = Literal["sharp", "smooth", "none", "undetermined"]

LEVEL = 0.9  # of the intervals that decide a verdict, whatever level is shown
FEWEST_FOR_SHARP = 8  # distinct scales
FEWEST_TO_COVER = 16  # scores: from fewer, coverage and p-values differ from their nominal values
# With fewer than FEWEST_TO_COVER scales, p-values of the sharpness test are slightly too small
# where models differ: of 800 smooth curves at 8 scales 5.6% were at .05 or below (7.5% of those
# that differ most), and 3.1% (3.5%) at .03.
FEW_SIGNIFICANT = 0.03
MOST_SHARP = 1.0  # decades: the interval of a sharp rise's width lies below it


class Conclusion(NamedTuple):
    """A verdict, and one sentence on why."""

    verdict: Verdict
    reason: str


def significance(scales: int) -> float:
    """The p-value at or below which a smooth rise is rejected, for that many distinct scales."""
    return SIGNIFICANT if scales >= FEWEST_TO_COVER else FEW_SIGNIFICANT


def verdict_of(trend: Trend, p_sharp: float, width: Estimate, scales: int) -> Conclusion:
    """The verdict on a significant rise. `width` is in decades, with an interval at LEVEL."""
    low, high = width.interval or Interval(0.0, math.inf)
    rejected = p_sharp <= significance(scales)
    takes = f"the rise takes {_decades(width)}"
    narrow = width.value is not None and width.value < SMOOTH_WIDTH and high < MOST_SHARP
    if rejected and narrow:
        why = f"a smooth curve is rejected (p = {p_sharp:.2g}) and {takes}"
        if scales >= FEWEST_FOR_SHARP:
            return Conclusion("sharp", why)
        few = f"{scales} scales are too few to call it sharp (at least {FEWEST_FOR_SHARP})"
        return Conclusion("undetermined", f"{why}, but {few}")
    if low > SMOOTH_WIDTH:
        return Conclusion("smooth", f"the score rises ({trend.words}) and {takes}")
    why = "a smooth curve is rejected" if rejected else "a smooth curve fits as well"
    return Conclusion(
        "undetermined", f"the score rises ({trend.words}); {why} (p = {p_sharp:.2g}) and {takes}"
    )


def of_one_run(trend: Trend) -> Conclusion:
    """The verdict where the trend test has only one run, or one group of runs."""
    one, more = "one run's checkpoints are", "train more seeds"
    if trend.grouped:
        one, more = "the runs of one group are", "add runs of other groups"
    return Conclusion("undetermined", f"{one} not independent, so a rise cannot be tested: {more}")


def against_loss(series: Series, trend: Trend) -> Conclusion:
    """The verdict against a loss. Half a decade of compute is a fortieth of a decade of loss, and
    the rule is for the former."""
    return Conclusion(
        "undetermined",
        f"the score rises ({trend.words}); how sharply is not judged against {series.scale}, whose "
        "whole range is a fraction of a decade: use params or compute",
    )


def without_rise(series: Series, trend: Trend) -> Conclusion:
    """The verdict where no rise is significant: `none` if the test could have found one."""
    if trend.least_p <= SIGNIFICANT:
        return Conclusion("none", f"no rise is significant ({trend.words})")
    if trend.runs:
        return Conclusion(
            "undetermined",
            f"no rise is significant ({trend.words}), but the checkpoints of a run are not "
            f"independent and {trend.counted} are too few to show that there is none: train more "
            "seeds",
        )
    return Conclusion(
        "undetermined",
        f"with {series.scales} scales no order of the scores could be significant (p at least "
        f"{trend.least_p:.2g})",
    )


def no_threshold(trend: Trend) -> Estimate:
    """A threshold or width where no rise is significant, with the reason."""
    if trend.least_p <= SIGNIFICANT:
        return Estimate(None, None, f"{NOT_IN_RANGE}: no significant rise")
    few = "runs" if trend.runs else "scales"
    return Estimate(None, None, f"{NOT_IDENTIFIED}: too few {few} to show a rise")


def _decades(width: Estimate) -> str:
    value = "an unidentified number of" if width.value is None else f"{width.value:.2g}"
    if width.interval is None:
        return f"{value} decades"
    low, high = width.interval
    most = f"{high:.2g}" if math.isfinite(high) else "any"
    return f"{value} decades ({LEVEL:.0%} interval {low:.2g} to {most})"
