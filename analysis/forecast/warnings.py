"""Warnings of a source and of how far a run lies outside it: predictions and answers have them.

What is doubtful about the fit itself comes first: `source_warnings`. Warnings that a recommendation
alone has are in `analysis.recommend.warnings`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.fitting.effective_clusters import FEWEST
from analysis.fitting.fit import Fit, Status
from analysis.fitting.functionals import Quantity, clusters_behind
from analysis.fitting.intervals import coefficient_intervals
from analysis.fitting.source import Source, loss_set_of
from analysis.fitting.status import interpolates
from analysis.fitting.summary import LACKING
from analysis.forecast.scatter import scatter_of
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.laws.repeated import REFITTED, borrowed, lent, otherwise
from analysis.runs.messages import listed
from analysis.text import against, count_of, counted, decimal, factor, human

FEW = 5.0  # independent residuals: Student's interval of so many is a quarter wider than a normal
FEW_DRAWS = 100  # fewer give no stable 5% and 95% points
OUTSIDE = 0.3  # decades by which N or D may lie further out than the compute does


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
    """Weighted runs: the interval of one run's loss takes all to scatter alike."""
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
    """Held coefficients, whose errors no interval covers."""
    if source.draws.empty or not source.fixed or len(source.fixed) == len(source.coefficients):
        return []
    are = "are" if len(source.fixed) > 1 else "is"
    return [
        f"Intervals take {listed(source.fixed)} as exact, which {are} held at a given value. Where "
        "that has an error, give it as a prior (--prior of `scaling fit`) instead."
    ]


def _scatter(source: Fit) -> list[str]:
    """How few residuals the scatter of runs about the law was measured on."""
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
    """What is assumed: what the law does not name is as in its runs."""
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
    repeats = "unique_tokens" in {*features, *source.law.given}
    if "tokens" in features and not repeats:
        alike.append("no token seen twice")
    runs = "the runs fitted" if isinstance(source, Fit) else "the published runs"
    said = f"Assumed to be as in {runs}: {', '.join(alike)}."
    if "params" in features:
        by = source.data.params_column if isinstance(source, Fit) else source.params_convention
        said += f" N is {count_of(by.rstrip('.'))}."
    if (on := loss_set_of(source)) is not None:
        said += f" The loss is that on the validation set {on}."
    return said


def repeat_warnings(law: Law, tokens: float, in_words: Callable[[Law], str]) -> list[str]:
    """Constants of repetition that are not the source's own, and what others would answer.

    `in_words` puts the answer of a law into words.
    """
    other = otherwise(law)
    if other is None or tokens <= law.given["unique_tokens"]:
        return []
    apart = REFITTED["R_D"] / borrowed(law)["R_D"]
    epochs = factor(tokens / law.given["unique_tokens"])
    return [
        f"{epochs} epochs: how little a repeated token adds is "
        "Muennighoff et al. 2023's, measured on C4, not these runs', and their runs leave it open "
        f"by a factor of {apart:.0f}, which no interval here covers: {in_words(law)} with "
        f"{lent(law)} as published, {in_words(other)} with {lent(other)}, which fits "
        "their runs as well. Fit data_constrained to runs of yours that repeat data."
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
        span = None if most is None else (0.0, most)  # N and D say how little
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
    compute = outside(
        source, "flops", FLOPS_PER_PARAM_TOKEN * columns["params"] * columns["tokens"]
    )
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
        within = coefficient_intervals(source, level)[name]
        reached = int((each <= within.high).sum())
        if reached:
            loss = decimal(float(each.min()), within)
            of = f"the predicted loss {loss}"
            if len(each) > 1:
                of = f"the predicted loss of {reached} of {len(each)} runs (the least is {loss})"
            said.append(
                f"THE FLOOR IS NOT KNOWN WELL ENOUGH: the {100 * level:.0f}% interval of {name}, "
                f"{decimal(within.low, within)} … {decimal(within.high, within)}, reaches {of}, so "
                "more compute may not help at all, as far as these data show. Add runs at larger "
                "budgets."
            )
    return said
