"""Warnings of one answer: its draws, its distance in compute, and law and runs against each other.

Warnings of the source, of N and D outside the runs and of the floor are in
`analysis.forecast.warnings`: predictions have them too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis.interval import Interval
from analysis.text import factor, human

if TYPE_CHECKING:
    from analysis.allocation.valley import Valley
    from analysis.recommend.recommendation import By, Recommendation

# × the valley's residuals, of runs left out of either. Errors of a law's form as large as the runs'
# own scatter leave √2 times it; from twice on they are the larger part.
MISFITS = 2.0
APART = 2.0  # a factor between the two N*, where there are no intervals to compare


@dataclass(frozen=True)
class Lost:
    """Refits that have no answer, of all from which its interval comes."""

    count: int
    of: int

    def matter(self, level: float) -> bool:
        """Whether an end of the interval depends on them."""
        return self.count > self.of * (1 - level) / 2


def lost_warnings(lost: Lost, level: float, loss_asked: bool) -> list[str]:
    """How many refits have no answer, and what the interval then says."""
    if not lost.matter(level):
        return []
    which = f"{lost.count / lost.of:.0%} of the draws"
    if loss_asked:
        return [
            f"{which} never reach that loss: the interval has no upper end. Ask for a larger "
            "loss, or train more runs."
        ]
    return [
        f"{which} have no optimum there (all N and no D, or the reverse): an end of the interval "
        "is only the bound of the search. Ask for a budget nearer the runs, or train more of them."
    ]


def distance_warnings(decades: float | None, by: By) -> list[str]:
    """How far the compute lies beyond the runs, in words that grow with it."""
    if decades is None or decades < 0.05:
        return []
    beyond = f"{decades:.1f} decades ({factor(10**decades)}× the compute of the largest run fitted)"
    if decades <= 1:
        return [f"slightly beyond the data: {beyond}."]
    if decades <= 2:
        covered = {
            "law": "the intervals of N* and D* cover noise in the runs, not an error in the law's "
            "form. See --compare before relying on them.",
            "runs": "the intervals of N* and D* are widened by the errors that such minima had on "
            "published tables, but the loss is the law's.",
            "both": "the intervals of N* and D* hold the law's and those of the runs' own minima, "
            "but the loss is the law's.",
        }
        return [f"{beyond} beyond the data: {covered[by]}"]
    if decades <= 4:
        # valley.DRIFT
        checked = "runs' own minima were checked on published tables up to 2.4 decades beyond."
        if by == "law":
            checked = "a small error in the law's form grows past the interval at this distance."
        return [
            f"Far extrapolation, {beyond} beyond the data: {checked} Train a run in between first."
        ]
    # The longest check known: GPT-4's loss from runs of 1e-4 of its compute (OpenAI 2023,
    # arXiv:2303.08774, section 3.1).
    return [
        f"Not evidence, {beyond} beyond the data: published laws have been checked over 4 decades "
        "at most. Read it as a direction, not as a plan."
    ]


# --- law and runs -----------------------------------------------------------------------------


def warnings_of_both(each: Recommendation) -> list[str]:
    """What the law and the runs say against each other, in an answer that knows both."""
    return [*valley_warnings(each.valley, each.by), *disagreement(each)]


def valley_warnings(found: Valley | None, by: By) -> list[str]:
    """What the runs near the optimum say against the law's loss, and against their own N*."""
    if found is None:
        return []
    said = []
    if found.law_misfit > MISFITS * found.misfit:
        said.append(
            "The loss shown is the law's, which misfits the runs near the optimum: where they are "
            f"left out of its fit it is off by {found.law_misfit:.1%} of the loss, "
            f"{factor(found.law_misfit / found.misfit)} × that of a local quadratic. Fit another "
            "law, or the runs near the optimum alone, before relying on the loss."
        )
    if by != "law":
        said += found.warnings
    return said


def disagreement(each: Recommendation) -> list[str]:
    """A warning where the intervals of N* of the law and of the runs do not meet."""
    if len(each.alone) < 2:
        return []
    one, other = each.alone
    spans = _params_span(one), _params_span(other)
    if spans[0].meets(spans[1]):
        return []
    apart = math.exp(abs(math.log(one.params / other.params)))
    first, second = (f"{human(low)} … {human(high)}" for low, high in spans)
    return [
        f"{one.by_in_words} and {other.by_in_words} disagree on N* by a factor "
        f"{apart:.2g}, beyond their intervals ({first} and {second}): the law's covers no error in "
        "its form, the runs' covers the errors of such minima on published tables. Train runs of "
        "both sizes at one budget to decide."
    ]


def _params_span(each: Recommendation) -> Interval:
    if each.interval is not None:
        return each.interval.params
    return Interval(each.params / math.sqrt(APART), each.params * math.sqrt(APART))
