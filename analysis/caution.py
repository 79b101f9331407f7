"""Why the numbers of an answer may not hold, in one sentence a reason.

What is doubtful about the fit itself comes first, in every answer: `source_warnings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from analysis.derived import Quantity, clusters_behind, interval_over_draws
from analysis.expression import Array
from analysis.fit import Fit, Status
from analysis.judgement import interpolates
from analysis.laws import Law
from analysis.limited import REFITTED, Limited
from analysis.published import Published
from analysis.runs.rows import listed
from analysis.scatter import scatter_of
from analysis.summary import LACKING
from analysis.support import FEWEST
from analysis.units import Span, against, count_of, counted, decimal, factor, human
from analysis.valley import Valley
from scaling.store.records import Refusal

Source: TypeAlias = Fit | Published
# Where N* is from: the law, the runs' own valley, or a mean of both.
Alone: TypeAlias = Literal["law", "runs"]
By: TypeAlias = Alone | Literal["both"]

FEW = 5.0  # independent residuals: Student's interval of so many is a quarter wider than a normal
LEVEL = 0.9  # of what has no fit
FEW_DRAWS = 100  # fewer give no stable 5% and 95% points
OUTSIDE = 0.3  # decades by which N or D may lie further out than the compute does
# × the valley's residuals, of runs left out of either. Errors of a law's form as large as the runs'
# own scatter leave √2 times it; from twice on they are the larger part.
MISFITS = 2.0


def level_of(source: Source, asked: float | None) -> float:
    """The level of an answer's intervals: what is asked, else the fit's own. Raises Refusal for
    none between 0 and 1."""
    own = source.interval.level if isinstance(source, Fit) else LEVEL
    level = own if asked is None else asked
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. Give e.g. 0.9.")
    return level


def refuse_failed(source: Source) -> None:
    """Raises Refusal for a fit that failed."""
    if isinstance(source, Fit) and source.status is Status.FAILED:
        raise Refusal(
            f"the fit of {source.law.name} has status = failed ({source.reason}), so its "
            "coefficients tell nothing of other runs. Fit again with more or better runs."
        )


def source_warnings(source: Source) -> list[str]:
    """What the source itself says against its coefficients and their intervals.

    First what is doubtful about the runs (`Fit.cautions`), then the fit's status, its lack of fit
    and its draws. Every answer repeats them.
    """
    if not isinstance(source, Fit):
        return []
    # Their remedies are options of another command than the one that repeats them.
    said = [
        f"Of the runs: {each}{' (an option of `scaling fit`)' * ('--' in each)}"
        for each in source.cautions
    ]
    if source.status is Status.WEAKLY_IDENTIFIED:
        said.append(
            "The fit is weakly identified: its runs do not determine the law well enough, and "
            f"answers beyond them can be far off. Reason: {source.reason}."
        )
    if source.status is Status.AT_BOUND:
        said.append(
            "The fit is at a bound of its coefficients, and its answers rest on that bound. "
            f"Reason: {source.reason}."
        )
    return [
        *said,
        *_lack_of_fit(source),
        *_few_draws(source),
        *_exact(source),
        *_scatter(source),
        *_weighted(source),
    ]


def _lack_of_fit(source: Fit) -> list[str]:
    test = None if source.diagnostics is None else source.diagnostics.lack_of_fit
    if test is None or test.p_value >= LACKING:
        return []
    p = against(test.p_value, LACKING)
    return [
        f"The law misses the runs by {test.residual_sd:.1%} of the loss where repeated runs differ "
        f"by {test.replicate_sd:.1%} (p = {p}): its form is wrong somewhere among "
        "them, and no interval covers that."
    ]


def _weighted(source: Fit) -> list[str]:
    """Of which runs the scatter is that an interval of one run's loss takes."""
    column = source.settings.weights
    if column is None or column not in source.table or source.table[column].nunique() == 1:
        return []
    return [
        f"The runs are weighted by {column}, and the interval of a run's loss takes them to "
        "scatter alike: it is too wide for a run as exact as those of large weight, and too "
        "narrow for one of small weight. For such an interval, fit runs of like weight alone."
    ]


def _few_draws(source: Fit) -> list[str]:
    count = len(source.draws)
    if source.status is Status.WEAKLY_IDENTIFIED and count == 0:
        return []  # its reason says that no interval is to be had
    clusters = source.data.clusters
    if count == 0 and source.settings.bootstrap > 0 and clusters < FEWEST:
        return [
            f"No interval: the runs are of {counted(clusters, 'cluster')}, and {FEWEST} are "
            "needed. Train more trunks, or seeds."
        ]
    if count == 0:
        return ["No interval: the fit has no draws. Fit with --bootstrap 4000."]
    if count < FEW_DRAWS:
        return [f"The interval rests on {count} draws only; fit with --bootstrap 4000."]
    return []


def _exact(source: Fit) -> list[str]:
    """Held coefficients, of whose errors no interval knows."""
    if source.draws.empty or not source.fixed or len(source.fixed) == len(source.coefficients):
        return []
    are = "are" if len(source.fixed) > 1 else "is"
    return [
        f"Intervals take {listed(source.fixed)} as exact, which {are} held at a given value. Where "
        "that has an error, give it as a prior (--prior of `scaling fit`) instead."
    ]


def _scatter(source: Fit) -> list[str]:
    """On how few residuals the scatter of runs about the law rests."""
    scatter = None if source.draws.empty or interpolates(source) else scatter_of(source)
    if scatter is None or not scatter.freedom < FEW:
        return []
    runs = f"{counted(source.data.n, 'run')} in {counted(source.data.clusters, 'cluster')}"
    free = counted(len(source.coefficients) - len(source.fixed), "coefficient")
    return [
        f"The scatter of runs about the curve rests on {scatter.freedom:.2g} independent "
        f"residuals ({runs}, {free}): the interval of a run's loss is wide for that. Train more "
        "runs for a narrower one."
    ]


def basis_warnings(source: Source, quantity: Quantity, what: str) -> list[str]:
    """On how many clusters in effect the interval of the answer rests, where a coefficient that it
    is computed from has none for want of clusters."""
    if not isinstance(source, Fit) or source.draws.empty or source.table.empty:
        return []
    settled = (*source.fixed, *source.at_bound)
    names = [
        name
        for name, (low, _) in source.interval.coefficients.items()
        if math.isnan(low) and name not in settled
    ]
    count = clusters_behind(source, quantity) if names else math.inf
    if not math.isfinite(count):
        return []
    return [
        f"{listed(names)} {'have' if len(names) > 1 else 'has'} no interval, and that of {what} "
        f"rests on {against(count, FEWEST)} of the {counted(source.data.clusters, 'cluster')} of "
        "runs in effect: it is wide, by Student's t, and holds only if the law does. Train more "
        "independent runs, of other seeds or trunks, before relying on it."
    ]


def assumptions(source: Source) -> str:
    """What an answer takes for granted: what the law does not name is as in its runs."""
    features = {*source.law.features}
    alike = ["text, tokenizer and recipe"]
    if source.law.target == "loss":
        alike.append("a learning rate decayed at the end")
    if "flops" in features and not features & {"params", "tokens"}:
        alike.append("how compute is divided between N and D")
    else:
        alike += [
            w
            for w, name in (("the size N", "params"), ("the tokens D", "tokens"))
            if name not in features
        ]
    repeats = "unique_tokens" in features or isinstance(source.law, Limited)
    if "tokens" in features and not repeats:
        alike.append("no token seen twice")
    runs = "the runs fitted" if isinstance(source, Fit) else "the published runs"
    said = f"Assumed to be as in {runs}: {', '.join(alike)}."
    if "params" in features:
        by = source.data.params_column if isinstance(source, Fit) else source.params_convention
        said += f" N is {count_of(by.rstrip('.'))}."
    return said


def repeat_warnings(law: Law, tokens: float, told: Callable[[Limited], str]) -> list[str]:
    """Constants of repetition that are not the source's own, and what others would answer.

    `told` puts the answer of a law into words.
    """
    if not isinstance(law, Limited) or law.otherwise is None or tokens <= law.unique_tokens:
        return []
    apart = REFITTED["R_D"] / dict(law.borrowed)["R_D"]
    return [
        f"{factor(tokens / law.unique_tokens)} epochs: how little a repeated token adds is "
        "Muennighoff et al. 2023's, measured on C4, not these runs', and their runs leave it open "
        f"by a factor of {apart:.0f}, of which no interval here knows: {told(law)} with "
        f"{law.lent} as published, {told(law.otherwise)} with {law.otherwise.lent}, which fits "
        "their runs as well. Fit data_constrained to runs of yours that repeat data."
    ]


@dataclass(frozen=True)
class Lost:
    """Refits that have no answer, of all from which its interval comes."""

    count: int
    of: int

    def told(self, level: float) -> bool:
        """Whether an end of the interval rests on them."""
        return self.count > self.of * (1 - level) / 2


def lost_warnings(lost: Lost, level: float, loss_asked: bool) -> list[str]:
    """How many refits have no answer, and what the interval then says."""
    if not lost.told(level):
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


def valley_warnings(found: Valley | None, by: By) -> list[str]:
    """What the runs near the optimum say against the law's loss, and against their own N*."""
    if found is None:
        return []
    said = []
    if found.law_misfit > MISFITS * found.misfit:
        said.append(
            "The loss shown is the law's, which misfits the runs near the optimum: where they are "
            f"left out of its fit it is off by {found.law_misfit:.1%} of the loss, "
            f"{factor(found.law_misfit / found.misfit)} × what a plain valley is. Fit another law, "
            "or the runs near the optimum alone, before relying on the loss."
        )
    if by != "law":
        said += found.warnings
    return said


def distance_warnings(decades: float | None, by: By) -> list[str]:
    """How far the compute lies beyond the runs, in words that grow with it."""
    if decades is None or decades < 0.05:
        return []
    beyond = f"{decades:.1f} decades ({factor(10**decades)}× the compute of the largest run fitted)"
    if decades <= 1:
        return [f"{beyond} beyond the data."]
    if decades <= 2:
        covered = {
            "law": "the intervals of N* and D* cover noise in the runs, not an error in the law's "
            "form. See --beside before relying on them.",
            "runs": "the intervals of N* and D* are widened by what runs' own minima were off on "
            "published tables, but the loss is the law's.",
            "both": "the intervals of N* and D* hold the law's and those of the runs' own minima, "
            "but the loss is the law's.",
        }
        return [f"{beyond} beyond the data: {covered[by]}"]
    if decades <= 4:
        grown = {
            "law": "a small error in the law's form grows past the interval at this distance.",
            # valley.DRIFT
            "runs": "runs' own minima were checked on published tables up to 2.4 decades beyond.",
            "both": "runs' own minima were checked on published tables up to 2.4 decades beyond.",
        }
        return [
            f"Far extrapolation, {beyond} beyond the data: {grown[by]} Train a run in between "
            "first."
        ]
    # The longest check known: GPT-4's loss from runs of 1e-4 of its compute (OpenAI 2023,
    # arXiv:2303.08774, section 3.1).
    return [
        f"Not evidence, {beyond} beyond the data: published laws have been checked over 4 decades "
        "at most. Read it as a direction, not as a plan."
    ]


def distance(source: Fit, rows: Mapping[str, ArrayLike]) -> Array:
    """How far each run of `rows` lies outside the fitted runs, in decades; 0 inside.

    Of compute 6·N·D, or of the feature of the law that lies farthest outside: a thousand times the
    parameters on a thousandth of the tokens is as far out as a thousand times the compute.
    """
    names = [name for name in source.law.features if name in rows]
    if {"params", "tokens"} <= {*names} and "flops" in rows:
        names.append("flops")
    far = [outside(source, name, rows[name]) for name in dict.fromkeys(names)]
    return np.max(np.broadcast_arrays(0.0, *far), axis=0)


def outside(source: Fit, name: str, values: ArrayLike) -> Array:
    """How far `values` of a column lie outside its range in the fitted runs, in decades.

    0 inside, and for a column of which no range is known or that has no logarithm.
    """
    span = getattr(source.data, name, None)
    if name == "flops" and name not in source.law.features:  # 6·N·D, whatever the table counts
        most = source.data.flops_max
        span = None if most is None else (0.0, most)  # how little is told by N and D
    elif span is None and name in source.table:
        span = (float(source.table[name].min()), float(source.table[name].max()))
    numbers = np.atleast_1d(np.asarray(values, dtype=float))
    if span is None or not span[1] > 0:
        return np.zeros(len(numbers))
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.fmax(np.log10(numbers / span[1]), np.log10(span[0] / numbers))
    return np.where(np.isfinite(far), np.maximum(far, 0.0), 0.0)


def range_warnings(source: Source, rows: Mapping[str, ArrayLike]) -> list[str]:
    """An N or a D further outside the runs than the compute 6·N·D itself: a lopsided run.

    `rows` are columns, or the numbers of one run; a law of N or D alone says how far itself.
    """
    if not isinstance(source, Fit) or not {"params", "tokens"} <= {*rows}:
        return []
    columns = {n: np.atleast_1d(np.asarray(rows[n], dtype=float)) for n in ("params", "tokens")}
    compute = outside(source, "flops", 6 * columns["params"] * columns["tokens"])
    said = []
    for name, word in (("params", "N"), ("tokens", "D")):
        span = getattr(source.data, name)
        if span is None:
            continue
        values = columns[name]
        far = outside(source, name, values)
        lopsided = far > compute + OUTSIDE
        if not lopsided.any():
            continue
        worst = int(np.argmax(np.where(lopsided, far, -np.inf)))
        of = "" if len(values) == 1 else f"{int(lopsided.sum())} of {len(values)} rows: "
        most = "" if len(values) == 1 else "up to "
        said.append(
            f"{of}{word} = {human(values[worst])} lies {most}{far[worst]:.1f} decades outside the "
            f"runs ({human(span.low)} … {human(span.high)}), further than the compute does."
        )
    return said


def _floor_interval(source: Fit, name: str, level: float) -> Span:
    """Of a floor at that level: the fit's own where it has one, so that one number has one text."""
    own = source.interval.coefficients[name]
    if level == source.interval.level:
        return own.low, own.high
    low, high = (end[0] for end in interval_over_draws(source, lambda c: c[name], level))
    return float(low), float(high)


def floor_warnings(source: Source, losses: ArrayLike, level: float) -> list[str]:
    """A hard warning where the interval of the law's floor reaches a predicted loss, or it has no
    interval though it is neither held nor at its bound. One for all `losses`."""
    if not isinstance(source, Fit):
        return []
    each = np.atleast_1d(np.asarray(losses, dtype=float))
    said = []
    for name in source.law.floors:
        if name in (*source.fixed, *source.at_bound):
            continue
        if not math.isfinite(source.interval.coefficients[name].high):
            remedy = "Train more runs" if source.settings.bootstrap else "Fit with --bootstrap 4000"
            said.append(
                f"THE FLOOR IS NOT KNOWN WELL ENOUGH: {name} has no interval, so that nothing says "
                f"how far more compute can lower the loss. {remedy}."
            )
            continue
        low, high = _floor_interval(source, name, level)
        reached = int((each <= high).sum())
        if reached:
            loss = decimal(float(each.min()), (low, high))
            of = f"the predicted loss {loss}"
            if len(each) > 1:
                of = f"the predicted loss of {reached} of {len(each)} runs (the least is {loss})"
            said.append(
                f"THE FLOOR IS NOT KNOWN WELL ENOUGH: the {100 * level:.0f}% interval of {name}, "
                f"{decimal(low, (low, high))} … {decimal(high, (low, high))}, reaches {of}, so the "
                "data allow that more compute buys nothing. Add runs at larger budgets."
            )
    return said
