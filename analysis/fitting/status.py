"""How a fit ended: what its rows determine, leave open, or push against a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.inputs import Inputs
from analysis.fitting.result import Status
from analysis.laws.catalogue import LAWS
from analysis.laws.law import Law
from analysis.runs.messages import listed

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit
    from analysis.fitting.identifiability import Design
    from analysis.fitting.intervals import Uncertainty
    from analysis.interval import Interval
    from analysis.solver.search import BestDescent

JUDGED = 0.9  # the level of the intervals by which a fit is judged, whatever level is asked for
WIDE = 20.0  # an interval that spans a larger factor leaves its coefficient open
OPEN_FLOOR = 0.75  # of the smallest loss: a longer interval leaves a floor open
MIDDLE = 0.41  # of the length of a normal's 90% interval is that of its middle half


class Verdict(NamedTuple):
    """How a fit ended, and one sentence of it that a user can act on."""

    status: Status
    reason: str


def judge(
    inputs: Inputs, best: BestDescent, bound: tuple[str, ...], design: Design, spread: Uncertainty
) -> Verdict:
    """The status of a fit by where its optimum lies and how far its intervals reach.

    `bound` names the coefficients at their bounds.
    """
    law, rows, held = inputs.law, inputs.rows, inputs.held.mask
    if not best.converged or not np.isfinite(best.value):
        return Verdict(
            Status.FAILED,
            f"none of {best.starts} starts came to rest; the rows may not follow {law.name}: "
            "plot them, or fit a law with fewer coefficients",
        )
    if held.all():
        return Verdict(
            Status.CONVERGED,
            "every coefficient is held: nothing was fitted, and the rows say how far off it is",
        )
    if bound:
        return Verdict(
            Status.AT_BOUND,
            f"{', '.join(bound)} ended at the edge of what the law allows; these rows do not "
            f"determine {'it' if len(bound) == 1 else 'them'}: {_instead(law, rows, bound)}",
        )
    if design.open:
        return Verdict(Status.WEAKLY_IDENTIFIED, _left_open(law, rows, design.open))
    free = [name for name, h in zip(law.coefficients, held, strict=True) if not h]
    features = " and ".join(law.features)
    if inputs.points <= len(free):
        return Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"{inputs.points} distinct {features} for {len(free)} coefficients: "
            f"{law.name} fits any such points exactly, so the fit cannot be checked, and no "
            f"interval holds beyond them: add runs at other {features}",
        )
    if spread.missing:
        return Verdict(Status.WEAKLY_IDENTIFIED, spread.missing)
    smallest = float(inputs.data.scale.min())
    vague = [name for name in free if _vague(law, name, spread, smallest)]
    if vague:
        # An amplitude always lies far from the runs: by itself it is no reason.
        wide = [n for n in free if n in vague or (n in law.amplitudes and _wide(n, spread))]
        return Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"these rows leave {listed(wide)} open (intervals span a factor of {WIDE:g} or "
            f"more, a floor's {OPEN_FLOOR:.0%} of the smallest {law.target}): add runs that vary "
            f"{features} more, or fix a coefficient",
        )
    return Verdict(Status.CONVERGED, f"{best.reached} of {best.starts} starts reached the optimum")


def interpolates(fit: Fit) -> bool:
    """Whether the law passes through the mean loss of each point, whatever these are, because there
    are no more points than free coefficients: then its error beyond them is not known."""
    law = fit.law.fitted
    points = Inputs(law, fit.table, fit.settings).points
    return points <= len(law.coefficients) - len(fit.fixed)


def _instead(law: Law, rows: pd.DataFrame, bound: tuple[str, ...]) -> str:
    """What to do about coefficients at their bounds."""
    hold = f"hold {listed(bound)} at a value known from other runs (fixed)"
    if "unique_tokens" in law.features and (rows["unique_tokens"] < rows["tokens"]).any():
        return f"{hold}, or train with more repetition; a simpler law leaves repetition out"
    simple = LAWS.get(law.within)
    if simple is not None and not set(bound) & set(simple.coefficients):
        without = [name for name in law.coefficients if name not in simple.coefficients]
        use = f"use {law.within}, which is {law.name} without {listed(without)}"
        return f"{use}, {hold}, or train over a wider range"
    return f"{hold}, use a law without {listed(bound)}, or train over a wider range"


def _left_open(law: Law, rows: pd.DataFrame, names: tuple[str, ...]) -> str:
    """What these rows leave open altogether, and which rows would not."""
    counts = {column: int(rows[column].nunique()) for column in law.features}
    fewest = min(counts, key=lambda column: counts[column])
    change = "take any value" if len(names) == 1 else "change together"
    distinct = listed([f"{count} distinct {column}" for column, count in counts.items()])
    return (
        f"{listed(names)} can {change} without changing a prediction at these rows ({distinct}), "
        "so that their values are arbitrary and no interval is given: "
        f"add runs at other {fewest}, or hold a coefficient (fixed)"
    )


def _vague(law: Law, name: str, spread: Uncertainty, smallest: float) -> bool:
    """Whether a coefficient's interval spans a factor of WIDE, or a floor's, which may begin at 0,
    most of the smallest loss."""
    if spread.interval.method == "none" or name in law.amplitudes:
        return False
    if name in law.floors:  # "not less": an end that is NaN reaches far
        far = OPEN_FLOOR * smallest
        return all(not span.width < far * share for span, share in _spans(name, spread))
    return law.symbols[name].lower == 0.0 and _wide(name, spread)


def _wide(name: str, spread: Uncertainty) -> bool:
    """Whether a coefficient's interval spans a factor of WIDE."""
    return all(not span.high < WIDE**share * span.low for span, share in _spans(name, spread))


def _spans(name: str, spread: Uncertainty) -> list[tuple[Interval, float]]:
    """A coefficient's interval and its middle half, each with its share of the length.

    Tails alone decide nothing: which few draws end in another valley changes with the resampling.
    """
    return [(spread.bounds(name, JUDGED), 1.0), (spread.bounds(name, 0.5), MIDDLE)]
