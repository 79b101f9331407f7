"""How a fit ended, and why: what its rows determine, leave open, or push against a bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.estimate import Estimate, Status
from analysis.identifiability import Design
from analysis.laws import LAWS, Law
from analysis.limited import Limited
from analysis.newton import Mask
from analysis.runs.cells import cells
from analysis.runs.rows import listed
from analysis.search import Optimum
from analysis.uncertainty import JUDGED, Uncertainty

WIDE = 20.0  # an interval spanning more than this factor pins nothing down
OPEN_FLOOR = 0.75  # of the smallest loss: so does a floor's interval that is longer
MIDDLE = 0.41  # of a normal's 90% interval is its middle half
NO_FLOOR = 0.01  # of the smallest loss: a floor whose interval begins lower may be 0
DIFFERENT = 1.05  # a ratio of losses at one point that no seed makes
_BEST = {  # of one variable, the runs that the others hold back least
    "params": "the runs of most tokens alone",
    "tokens": "the runs of the largest models alone",
    "flops": "the run of least loss at each flops alone",
}


class Verdict(NamedTuple):
    """How a fit ended, and one sentence of it that a user can act on."""

    status: Status
    reason: str


def judge(
    law: Law, rows: pd.DataFrame, best: Optimum, bound: tuple[str, ...], design: Design,
    spread: Uncertainty, held: Mask, smallest: float,
) -> Verdict:  # fmt: skip
    """The status of a fit by where its optimum lies and how far its intervals reach.

    `smallest` is the least loss, in its own unit; `bound` names the coefficients at their bounds.
    """
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
        names = ", ".join(bound)
        return Verdict(
            Status.AT_BOUND,
            f"{names} ended at the edge of what the law allows; these rows do not determine "
            f"{'it' if len(bound) == 1 else 'them'}: {_instead(law, rows, bound)}",
        )
    if design.open:
        return Verdict(Status.WEAKLY_IDENTIFIED, _open(law, rows, design.open))
    free = [name for name, h in zip(law.coefficients, held, strict=True) if not h]
    if (count := points(law, rows)) <= len(free):
        return Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"{count} distinct {' and '.join(law.features)} for {len(free)} coefficients: "
            f"{law.name} passes through the mean loss of each, whatever they are, so that nothing "
            "says whether the rows follow it, and no interval holds beyond them: add runs at other "
            f"{' and '.join(law.features)}",
        )
    if spread.short:
        return Verdict(Status.WEAKLY_IDENTIFIED, spread.short)
    vague = [name for name in free if _vague(law, name, spread, smallest)]
    if vague:
        # An amplitude is far from the runs whatever they are: by itself it is no reason.
        wide = [n for n in free if n in vague or (_amplitude(law, n) and _wide(n, spread))]
        return Verdict(
            Status.WEAKLY_IDENTIFIED,
            f"these rows leave {listed(wide)} open (intervals span a factor of {WIDE:g} or "
            f"more, a floor's {OPEN_FLOOR:.0%} of the smallest {law.target}): add runs that vary "
            f"{' and '.join(law.features)} more, or fix a coefficient",
        )
    return Verdict(Status.CONVERGED, f"{best.reached} of {best.starts} starts reached the optimum")


def points(law: Law, rows: pd.DataFrame) -> int:
    """How many points of the law's features the rows are at."""
    return len(np.unique(cells(rows, list(law.features))))


def interpolates(found: Estimate) -> bool:
    """Whether the law passes through the mean loss of each point, whatever these are: it has as
    many free coefficients as there are points, and nothing says what it is off by beyond them."""
    law = found.law.fitted if isinstance(found.law, Limited) else found.law
    if {*law.features} - {*found.table}:  # saved without its rows
        return False
    return points(law, found.table) <= len(law.coefficients) - len(found.fixed)


def _instead(law: Law, rows: pd.DataFrame, bound: tuple[str, ...]) -> str:
    """What to do about coefficients at their bounds."""
    hold = f"hold {listed(bound)} at a value known from other runs (fixed)"
    if "unique_tokens" in law.features and (rows["unique_tokens"] < rows["tokens"]).any():
        return f"{hold}, or train with more repetition; a simpler law knows nothing of repetition"
    simple = LAWS.get(law.within)
    if simple is not None and not set(bound) & set(simple.coefficients):
        without = [name for name in law.coefficients if name not in simple.coefficients]
        use = f"use {law.within}, which is {law.name} without {listed(without)}"
        return f"{use}, {hold}, or train over a wider range"
    return f"{hold}, use a law without {listed(bound)}, or train over a wider range"


def _open(law: Law, rows: pd.DataFrame, names: tuple[str, ...]) -> str:
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
    """Open within a factor WIDE; a floor, which may be nothing, within most of the losses.

    Not by the tails alone: which few draws end in another valley changes with the resampling.
    """
    if spread.interval.method == "none" or _amplitude(law, name):
        return False
    if name in law.floors:
        return all(
            not high - low < OPEN_FLOOR * smallest * part
            for low, high, part in _spans(name, spread)
        )
    return law.symbols[name].lower == 0.0 and _wide(name, spread)


def _amplitude(law: Law, name: str) -> bool:
    """Of a term; a floor is judged as one even where it was given as an amplitude."""
    return law.symbols[name].intercept and name not in law.floors


def _wide(name: str, spread: Uncertainty) -> bool:
    return all(not high < WIDE**part * low for low, high, part in _spans(name, spread))


def _spans(name: str, spread: Uncertainty) -> list[tuple[float, float, float]]:
    """Ends of the interval at which a fit is judged and of its middle half, and how much of the
    limits is for each."""
    return [(*spread.bounds(name, JUDGED), 1.0), (*spread.bounds(name, 0.5), MIDDLE)]


def no_floor(law: Law, spread: Uncertainty, settled: Sequence[str], smallest: float) -> list[str]:
    """Floors that other resamples of the runs would do without."""
    return [
        f"{name} may be 0 (its interval begins at {low:.2g}): these runs do not say how far the "
        f"loss can fall beyond them. Add runs of more {' and '.join(law.features)}"
        for name, (low, _) in spread.interval.coefficients.items()
        if name in law.floors and name not in settled and low < NO_FLOOR * smallest
    ]


def regime(law: Law, rows: pd.DataFrame) -> list[str]:
    """A law of one variable, fitted where another varies too."""
    if len(law.features) != 1 or law.features[0] not in _BEST or law.target != "loss":
        return []
    if not {"params", "tokens"} <= set(rows.columns):
        return []
    column = law.features[0]
    repeated = rows.groupby(column)[law.target].agg(lambda x: x.max() / x.min()).max()
    single = rows[column].nunique() == len(rows)
    if single or repeated <= DIFFERENT:
        return []
    return [
        f"runs of equal {column} differ by up to {repeated - 1:.0%} in loss, and {law.name} is a "
        f"law of {column} alone: it passes between them and describes none. Fit {_BEST[column]} "
        "(select rows with --where), or a law of params and tokens, e.g. chinchilla"
    ]
