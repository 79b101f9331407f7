"""Warnings about scores: numbers that contradict each other, and scores far from their curve.

Nothing is refused here: each warning is a sentence that is repeated with every result from these
scores, the threshold as well as the forecast.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from analysis.array import Array
from analysis.emergence.scores.series import Series

FAR = 1.5  # times: standard errors of one set of answers agree to some per cent
ENOUGH = 5.0  # right and wrong answers: with fewer, a standard error is itself uncertain
NEAR_CHANCE = 0.2  # of the range: guesses are not further above chance
GUESS = 1 / 4  # of four choices, the usual number
BELOW = 4.0  # standard errors below chance at which a single score is named
ABOVE = 3.0  # standard errors above chance at which the mean of the smaller models is named
AT_CHANCE = 0.01  # of the range: a curve that close to chance has not begun to rise
OFF = 5.0  # standard errors off the curve, and VISIBLE of the range, at which a score is named
VISIBLE = 0.05
CURVE = 3  # coefficients of a curve: midpoint, width, and one level
SURE = 1e-4  # two-sided p-value: with few scores the spread of the others is uncertain
MOST_NAMED = 3


def contradictions(series: Series) -> list[str]:
    """Sentences on numbers of `series` that contradict each other; empty if none do."""
    return [*_range(series), *_stderr(series), *_far_from_chance(series), *_below_chance(series)]


def off_the_curve(series: Series, expected: Array) -> list[str]:
    """Sentences that name the scores far from `expected`, the curve at each score's scale.

    A score's standard error comes from its questions and from the spread of the other scores about
    the curve.
    """
    count = len(series.x)
    if count < CURVE + 3:
        return []
    unit, middle = series.unit, series.to_unit(expected)
    away = unit - middle
    if series.metric.bounded:
        most = np.clip(middle, 0.01, 0.99) * (1 - np.clip(middle, 0.01, 0.99))
        asked = most / series.questions
    else:
        most, asked = np.ones(count), np.zeros(count)
    excess = away**2 - asked
    spread = np.maximum(excess.sum() - excess, 0.0) / (most.sum() - most)
    spread *= (count - 1) / (count - 1 - CURVE)
    error = np.maximum(np.sqrt(asked + spread * most), 1e-9)
    errors = np.abs(away) / error
    limit = max(OFF, float(student.ppf(1 - SURE / 2, count - 1 - CURVE)))
    far = [i for i in np.argsort(-errors) if errors[i] > limit and abs(away[i]) > VISIBLE]
    if not far:
        return []
    more = f", and {len(far) - MOST_NAMED} more" if len(far) > MOST_NAMED else ""
    named = [
        f"{series.value[i]:.3g} at {series.scale} = {series.write(series.x[i])}, where the curve "
        f"is at {expected[i]:.3g} ({errors[i]:.0f} standard errors away)"
        for i in far[:MOST_NAMED]
    ]
    return [
        f"far from the curve: {'; '.join(named)}{more}: check "
        f"{'this score' if len(far) == 1 else 'these scores'}, on which threshold, width and "
        "forecast depend"
    ]


def above_the_start(series: Series, expected: Array) -> list[str]:
    """A sentence where scores lie above chance though the curve, `expected`, is still at it."""
    unit, middle, chance = series.unit, series.to_unit(expected), series.unit_chance
    if chance is None or not series.metric.bounded:
        return []
    start = (series.t <= np.quantile(series.t, 0.5)) & (middle - chance < AT_CHANCE)
    excess = (unit - np.maximum(middle, chance))[start]
    if len(excess) < CURVE + 1:
        return []
    asked = math.sqrt(float(np.mean(unit[start])) / float(series.questions[start].sum()))
    error = max(float(excess.std(ddof=1)) / math.sqrt(len(excess)), asked, 1e-9)
    if float(excess.mean()) < ABOVE * error:
        return []
    mean = float(series.from_unit(unit[start].mean()))
    return [
        f"the {len(excess)} smallest models score {mean:.3g} on average, better than chance "
        f"{series.chance:.3g} by {excess.mean() / error:.0f} standard errors, where the curve is "
        "still at chance: if guessing scores as much, give it with --chance"
    ]


def _range(series: Series) -> list[str]:
    """A sentence where scores look like shares, though the metric's range is in percent."""
    low, high = series.metric.range
    if not (series.metric.bounded and low == 0.0 and high >= 50.0 and series.value.max() <= 1.0):
        return []
    return [
        f"no score is above {series.value.max():.3g}, though the range of {series.metric.name} is "
        f"taken as 0 to {high:g}: shares? Give --range 0,1"
    ]


def _stderr(series: Series) -> list[str]:
    """A sentence where the number of questions contradicts the standard errors."""
    if series.n is None or series.stderr is None or not series.metric.bounded:
        return []
    share = series.unit * (1 - series.unit)
    rough = series.n * np.minimum(series.unit, 1 - series.unit) < ENOUGH
    expected = np.sqrt(share / series.n) * abs(np.subtract(*series.span))
    ratio = np.where(rough, 1.0, series.stderr / np.where(rough, 1.0, expected))
    # Right or wrong answers have this standard error; for shares of an answer sqrt(p(1-p)/n) is
    # the largest possible.
    least = 1 / FAR if series.metric.question == "right" else 0.0
    wrong = np.flatnonzero((ratio > FAR) | (ratio < least))
    if not len(wrong):
        return []
    at = wrong[int(np.argmax(np.abs(np.log(np.maximum(ratio[wrong], 1e-9)))))]
    implied = ""
    if series.stderr[at] > 0:
        questions = share[at] * np.subtract(*series.span) ** 2 / series.stderr[at] ** 2
        implied = f", as from {questions:,.0f}"
    return [
        f"n and stderr contradict each other in {len(wrong)} of {len(ratio)} scores: "
        f"{series.value[at]:.3g} at {series.scale} = {series.write(series.x[at])} on "
        f"{series.n[at]:,.0f} questions has a standard error of {expected[at]:.2g}, and the "
        f"table has {series.stderr[at]:.2g}{implied}; n is used: give the right one with --n, or "
        "correct the table"
    ]


def _far_from_chance(series: Series) -> list[str]:
    """A sentence where no score is near chance: mostly multiple choice with a chance level of 0."""
    chance, lowest = series.unit_chance, int(np.argmin(series.unit))
    if chance is None or not series.metric.bounded or len(series.x) < 4:
        return []
    if series.unit[lowest] - chance < NEAR_CHANCE:
        return []
    worst = "below" if series.metric.higher_is_better else "above"
    said = (
        f"no score is {worst} {series.value[lowest]:.3g}, though chance is taken as "
        f"{series.chance:.3g}: the threshold depends on a lower part of the curve without scores"
    )
    if series.metric.higher_is_better and chance < GUESS:
        guess = float(series.from_unit(GUESS))
        said += f"; if answers are chosen from four, give --chance '{series.task}={guess:.3g}'"
    return [said]


def _below_chance(series: Series) -> list[str]:
    """A sentence where scores are worse than chance, which then is probably wrong."""
    unit, chance = series.unit, series.unit_chance
    if chance is None or len(series.x) < 4:
        return []
    first = series.t <= np.quantile(series.t, 0.5)
    early = unit[first]
    error = float(early.std(ddof=1)) / math.sqrt(len(early)) if len(early) > 1 else math.inf
    if series.n is not None:  # a few scores may be equal by chance
        error = max(error, math.sqrt(chance * (1 - chance) / float(series.n[first].sum())))
    if float(early.mean()) + 3 * error < chance:
        mean = float(series.from_unit(early.mean()))
        return [
            f"the smaller models score {mean:.3g} on average, worse than chance "
            f"{series.chance:.3g}: is that the chance level of this metric?"
        ]
    if series.n is None or not 0 < chance < 1:
        return []
    errors = (chance - unit) / np.sqrt(chance * (1 - chance) / series.n)
    below = np.flatnonzero(errors > BELOW)
    if not len(below):
        return []
    at = below[int(np.argmax(errors[below]))]
    return [
        f"{len(below)} of {len(unit)} scores are worse than chance {series.chance:.3g} by more "
        f"than {BELOW:.0f} standard errors: {series.value[at]:.3g} at {series.scale} = "
        f"{series.write(series.x[at])} by {errors[at]:.0f}; is that the chance level of this "
        "metric?"
    ]
