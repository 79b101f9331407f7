"""What a table of scores says of itself that cannot all be true, and scores far off their curve.

Nothing is refused here: each doubt is a sentence that every answer from these scores repeats, the
threshold and the forecast alike.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import t as student

from analysis.emergence.series import Series
from analysis.expression import Array

FAR = 1.5  # times: standard errors of one set of answers agree to some per cent
ENOUGH = 5.0  # right and wrong answers: with fewer a standard error is rough itself
NEAR_CHANCE = 0.2  # of the range: nobody guesses so much better than chance
GUESS = 1 / 4  # of four choices, the usual number
BELOW = 4.0  # standard errors below chance at which a single score is named
ABOVE = 3.0  # standard errors above chance at which the mean of the smaller models is named
AT_CHANCE = 0.01  # of the range: a curve so near to chance has not begun to rise
OFF = 5.0  # standard errors off the curve, and VISIBLE of the range, at which a score is named
VISIBLE = 0.05
CURVE = 3  # coefficients of a curve: midpoint, width, and one level
SURE = 1e-4  # two-sided: of few scores the spread of the others is known only roughly
MOST_NAMED = 3


def doubts(series: Series) -> list[str]:
    """Sentences on numbers of `series` that contradict each other; empty if none do."""
    return [*_range(series), *_stderr(series), *_far_from_chance(series), *_below_chance(series)]


def off_the_curve(series: Series, expected: Array) -> list[str]:
    """Sentences that name the scores far off `expected`, the curve at each score's scale.

    A score's standard error holds its questions and what the other scores spread about the curve.
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
    excess, largest = away**2 - asked, most
    spread = np.maximum(excess.sum() - excess, 0.0) / (largest.sum() - largest)
    spread *= (count - 1) / (count - 1 - CURVE)
    error = np.maximum(np.sqrt(asked + spread * most), 1e-9)
    errors = np.abs(away) / error
    limit = max(OFF, float(student.ppf(1 - SURE / 2, count - 1 - CURVE)))
    far = [i for i in np.argsort(-errors) if errors[i] > limit and abs(away[i]) > VISIBLE]
    more = f", and {len(far) - MOST_NAMED} more" if len(far) > MOST_NAMED else ""
    named = [
        f"{series.value[i]:.3g} at {series.scale} = {series.write(series.x[i])}, where the curve "
        f"says {expected[i]:.3g} ({errors[i]:.0f} standard errors away)"
        for i in far[:MOST_NAMED]
    ]
    if not named:
        return []
    return [
        f"far off the curve: {'; '.join(named)}{more}: check "
        f"{'this score' if len(far) == 1 else 'these scores'}, which the threshold, the width and "
        "any forecast follow"
    ]


def above_the_start(series: Series, expected: Array) -> list[str]:
    """A sentence where scores lie above chance though the curve, `expected`, is still at it."""
    if series.chance is None or not series.metric.bounded:
        return []
    unit, middle = series.unit, series.to_unit(expected)
    chance = float(series.to_unit(np.array(series.chance)))
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
    """Scores that look like shares, though the metric's range is that of percent."""
    low, high = series.metric.range
    if not (series.metric.bounded and low == 0.0 and high >= 50.0 and series.value.max() <= 1.0):
        return []
    return [
        f"no score is above {series.value.max():.3g}, though the range of {series.metric.name} is "
        f"taken as 0 to {high:g}: shares? Give --range 0,1"
    ]


def _stderr(series: Series) -> list[str]:
    """Standard errors that so many questions cannot have."""
    if series.n is None or series.stderr is None or not series.metric.bounded:
        return []
    share = series.unit * (1 - series.unit)
    rough = series.n * np.minimum(series.unit, 1 - series.unit) < ENOUGH
    expected = np.sqrt(share / series.n) * abs(np.subtract(*series.span))
    ratio = np.where(rough, 1.0, series.stderr / np.where(rough, 1.0, expected))
    # Answers that are right or wrong leave no choice; of shares of an answer sqrt(p(1-p)/n) is
    # the most that there can be.
    least = 1 / FAR if series.metric.question == "right" else 0.0
    wrong = np.flatnonzero((ratio > FAR) | (ratio < least))
    if not len(wrong):
        return []
    at = wrong[int(np.argmax(np.abs(np.log(np.maximum(ratio[wrong], 1e-9)))))]
    implied = ""
    if series.stderr[at] > 0:
        questions = share[at] * np.subtract(*series.span) ** 2 / series.stderr[at] ** 2
        implied = f", which is that of {questions:,.0f}"
    return [
        f"n and stderr contradict each other in {len(wrong)} of {len(ratio)} scores: "
        f"{series.value[at]:.3g} at {series.scale} = {series.write(series.x[at])} on "
        f"{series.n[at]:,.0f} questions has a standard error of {expected[at]:.2g}, and stderr "
        f"says {series.stderr[at]:.2g}{implied}; n is used: give the right one with --n, or "
        "correct the table"
    ]


def _far_from_chance(series: Series) -> list[str]:
    """A chance level that no score comes near: multiple choice that was given 0, mostly."""
    if series.chance is None or not series.metric.bounded or len(series.x) < 4:
        return []
    lowest = int(np.argmin(series.unit))
    chance = float(series.to_unit(np.array(series.chance)))
    if series.unit[lowest] - chance < NEAR_CHANCE:
        return []
    worst = "below" if series.metric.higher_is_better else "above"
    said = (
        f"no score is {worst} {series.value[lowest]:.3g}, though chance is taken as "
        f"{series.chance:.3g}: the threshold rests on a lower part of the curve that no score shows"
    )
    if series.metric.higher_is_better and chance < GUESS:
        guess = float(series.from_unit(np.array(GUESS)))
        said += f"; if answers are chosen from four, give --chance '{series.task}={guess:.3g}'"
    return [said]


def _below_chance(series: Series) -> list[str]:
    """A test that models fail worse than by guessing asks for another look at its chance."""
    if series.chance is None or len(series.x) < 4:
        return []
    unit, chance = series.unit, float(series.to_unit(np.array(series.chance)))
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
