"""A fit on one screen: digits stop where the interval stops."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.outliers import outlying
from analysis.fitting.result import HANDFULS
from analysis.runs.messages import rows_called
from analysis.solver.objective import THRESHOLDED
from analysis.solver.priors import away
from analysis.text import against, count_of, counted, decimal, human

if TYPE_CHECKING:
    from analysis.fitting.fit import Fit
    from analysis.fitting.lack_of_fit import LackOfFit

FLAT = 0.95  # correlation along the draws from which two coefficients are nearly one
EXACT = 1e-6  # rms log residual of runs that lie on the law: ratios of objectives mean nothing
MATTERS = 1e-3  # of a coefficient of such runs: a smaller move does not change the answer
SHOWN = 4  # lines at most
LACKING = 0.01  # p-value below which the law misses by more than chance
HINT = 0.05  # and below which that is likely
ALIKE = 0.9  # of the repeated runs: independent ones that are as good, from which they are shown


def summary(fit: Fit) -> str:
    """Heading with status, a row a coefficient, then what to know before using them."""
    head = f"{fit.law.name} on {fit.data.n} runs"
    starts = f"{fit.status.value}, {fit.starts_at_optimum} of {fit.starts} starts"
    level = f"{fit.interval.level:.0%} interval"
    lines = [
        f"{head:<40}{starts:>40}",
        *textwrap.wrap(fit.law.formula, 88, initial_indent="  ", subsequent_indent="    "),
        f"{'':<10}{'estimate':>10}   {level:<26}flat with",
        *(
            f"{row.name:<10}{row.estimate:>10}   {row.interval:<26}{row.flat_with}".rstrip()
            for row in _rows(fit)
        ),
        "",
        " · ".join(_minimised(fit)),
        " · ".join(_seen(fit)),
    ]
    # An outlier may be the reason for all that follows.
    first = fit.cautions if outlying(fit).any() else ()
    said = [*(f"warning: {each}" for each in first), *_used(fit), *doubts(fit)]
    if fit.status.value != "converged":
        said.append(f"{fit.status.value}: {fit.reason}")
    lines += [part for text in said for part in _wrapped(text)]
    for reason, rows in fit.excluded["reason"].value_counts().items():
        lines.append(f"left out: {counted(rows, 'row')}, {reason}")
    last = [warning for warning in fit.warnings if warning not in first]
    lines += [part for warning in last for part in _wrapped(f"warning: {warning}")]
    return "\n".join(lines)


def html_summary(fit: Fit) -> str:
    """The coefficients as a table for a notebook, below it the status and the warnings."""
    columns = ["", "estimate", f"{fit.interval.level:.0%} interval", "flat with"]
    table = pd.DataFrame(_rows(fit)).set_axis(columns, axis=1).to_html(index=False, border=0)
    said = [f"{fit.status.value}: {fit.reason}", *(f"warning: {each}" for each in fit.warnings)]
    title = html.escape(f"{fit.law.name} on {fit.data.n} runs: {fit.law.formula}")
    return f"<p>{title}</p>{table}" + "".join(f"<p>{html.escape(each)}</p>" for each in said)


class _Row(NamedTuple):
    """What is shown of a coefficient."""

    name: str
    estimate: str
    interval: str
    flat_with: str


def _rows(fit: Fit) -> Iterator[_Row]:
    for name in fit.law.coefficients:
        value, bounds = fit.coefficients[name], fit.interval.coefficients[name]
        if name in fit.fixed:
            yield _Row(name, f"{value:.6g}", "held", "")
            continue
        # Resamples that all stay at the bound do not show how far from it the truth may be.
        known = bounds.low < bounds.high
        ends = f"{decimal(bounds.low, bounds)} … {decimal(bounds.high, bounds)}"
        note = "at its bound" if name in fit.at_bound else _partner(fit, name)
        yield _Row(name, decimal(value, bounds), ends if known else "not known", note)


def _partner(fit: Fit, name: str) -> str:
    other = flat_with(fit, name)
    if other is None:
        return ""
    return f"{other.name} ({min(abs(other.correlation), 0.9999):.3f})".replace("0.", ".")


class FlatWith(NamedTuple):
    """A coefficient that another one changes with."""

    name: str
    correlation: float  # along the draws, of the logarithms of positive coefficients


def flat_with(fit: Fit, name: str) -> FlatWith | None:
    """The coefficient that changes most with `name` along the draws, if the two are nearly one: the
    rows determine a combination of them far better than each."""
    others = [c for c in fit.law.coefficients if c != name and c not in fit.fixed]
    if name in fit.fixed or len(fit.draws) < 3 or not others:
        return None
    scaled = {}
    for each in [name, *others]:
        values = fit.draws[each].to_numpy()
        positive = fit.law.symbols[each].positive and (values > 0).all()
        scaled[each] = np.log(values) if positive else values
        if not np.isfinite(scaled[each]).all() or np.ptp(scaled[each]) == 0:
            return None
    shared = {o: float(np.corrcoef(scaled[name], scaled[o])[0, 1]) for o in others}
    best = max(shared, key=lambda o: abs(shared[o]))
    return FlatWith(best, shared[best]) if abs(shared[best]) > FLAT else None


def _minimised(fit: Fit) -> Iterator[str]:
    """The objective reached, the residual and the condition number."""
    goal = fit.objective
    delta = f" (delta {goal.delta:g})" if goal.name in THRESHOLDED else ""
    yield f"{goal.name} = {goal.value:.6g}{delta}"
    if math.isfinite(fit.rmse_log):  # a loss of zero or below has no logarithm
        yield f"rms log residual {fit.rmse_log:.2g}"
    yield f"condition number {fit.condition_number:.1g}"


def _seen(fit: Fit) -> Iterator[str]:
    """What the intervals rest on, and which N and D the runs have."""
    data = fit.data
    yield f"intervals: {basis_of(fit)}"
    if data.params is not None and "params" in fit.law.features:
        span = f"{human(data.params.low)} to {human(data.params.high)}"
        yield f"N is {count_of(data.params_column)}, {span}"
    if data.tokens is not None and "tokens" in fit.law.features:
        yield f"D {human(data.tokens.low)} to {human(data.tokens.high)}"
    if data.loss_set is not None:
        yield f"loss on the validation set {data.loss_set}"


def basis_of(fit: Fit) -> str:
    """What the intervals rest on, or why there are none, in words."""
    clusters = counted(fit.data.clusters, "cluster")
    if not fit.settings.bootstrap:
        return "not asked for (--bootstrap 0)"
    settled = (*fit.fixed, *fit.at_bound)
    bounds = [fit.interval.coefficients[n] for n in fit.law.coefficients if n not in settled]
    if fit.interval.method == "none" or (bounds and all(math.isnan(each.low) for each in bounds)):
        return f"none of any coefficient ({clusters}; the reason is below)"
    return f"{fit.interval.method} over {clusters}"


def _used(fit: Fit) -> Iterator[str]:
    """What shaped the fit besides the rows: weights, and how far each estimate is off its prior."""
    made = fit.settings
    if made.weights is not None:
        yield f"weights: each row's penalty times {made.weights}"
    for name, off in away(fit.law, fit.coefficients, made.prior).items():
        known = made.prior[name]
        relative = " relative" if fit.law.symbols[name].positive else ""
        yield (
            f"prior of {name}: {known.value:g}, sd {known.sd:g}{relative}; "
            f"the estimate lies {abs(off):.1f} sd {'above' if off > 0 else 'below'} it"
        )


def doubts(fit: Fit) -> list[str]:
    """The profile of the floor, what moved the coefficients most, and lack of fit, in words."""
    checks = fit.diagnostics
    if checks is None:
        return []
    profile = (
        [] if fit.rmse_log < EXACT or checks.profile.empty else [_profile(fit, checks.profile)]
    )
    test = [] if checks.lack_of_fit is None else [_repeats(fit, checks.lack_of_fit)]
    return [*profile, *_sensitive(fit, checks.sensitivity), *test]


def _profile(fit: Fit, profile: pd.DataFrame) -> str:
    """By how much the objective grows where the floor is fixed at another value."""
    floor = next(name for name in fit.law.floors if name not in fit.fixed)
    least = profile["objective"].min()
    if least <= 0:
        return f"profile of {floor}: a perfect fit, nothing to profile"
    parts = [
        f"{value:.3g} {_more(cost / least)}"
        for value, cost in zip(profile[floor], profile["objective"], strict=True)
        if cost > least
    ]
    summed = " and priors" if fit.settings.prior else ""
    return f"{fit.objective.name}{summed} if {floor} is fixed: " + " · ".join(parts)


class _Move(NamedTuple):
    """By how much a coefficient moves where something is changed."""

    name: str
    before: float
    after: float
    size: float  # standard errors


def _sensitive(fit: Fit, sensitivity: pd.DataFrame) -> Iterator[str]:
    """The changes that change the answer, or else the one that changes it most."""
    first, *others = sensitivity.to_dict("records")
    moves = {row["change"]: found for row in others if (found := _moves(fit, first, row))}
    ranked = sorted(moves, key=lambda change: -max(move.size for move in moves[change]))
    large = {}
    for change in ranked:
        # A few rows that decide the answer are shown sooner than a tenth of all.
        least = 1 if change in HANDFULS else 2
        if shown := [move for move in moves[change] if move.size >= least]:
            large[change] = shown
    for change, shown in [*large.items()][:SHOWN]:
        parts = [
            f"{each.name} moves from {decimal(each.before, fit.interval.coefficients[each.name])} "
            f"to {decimal(each.after, fit.interval.coefficients[each.name])}"
            for each in shown
        ]
        yield f"{change}: {', '.join(parts)}"
    if large:
        yield (
            "The answer depends on these rows and choices. Check the rows left out, and fit only "
            "rows that the law should describe (--where)"
        )
    elif ranked:
        most = max(moves[ranked[0]], key=lambda move: move.size)
        yield f"most sensitive: {ranked[0]} moves {most.name} by {most.size:.1f} standard errors"


def _moves(fit: Fit, first: Mapping[Hashable, Any], changed: Mapping[Hashable, Any]) -> list[_Move]:
    """By how much the coefficients move; amplitudes, which always move far, are left out."""
    found = []
    for name in fit.law.coefficients:
        se, before, after = fit.se[name], float(first[name]), float(changed[name])
        small = fit.rmse_log < EXACT and abs(after - before) < MATTERS * abs(before)
        if not (name in fit.law.amplitudes or small or name in fit.fixed) and se > 0:
            found.append(_Move(name, before, after, abs(after - before) / se))
    return found


def _repeats(fit: Fit, test: LackOfFit) -> str:
    """Whether the law misses repeated runs by more than they scatter, in words."""
    independent = test.independent or test.replicates
    worth = ""
    if independent < ALIKE * test.replicates:
        worth = f" (they count as {independent:.0f} independent ones, because they share trunks)"
    verdict = "no lack of fit"
    if test.p_value < HINT:
        verdict = "weak evidence of a lack of fit"
    if test.p_value < LACKING:
        verdict = f"the law misses by more than that, so {_against_misfit(fit)}"
    return (
        f"{counted(test.replicates, 'repeated run')}{worth}: scatter of {test.replicate_sd:.2g} in "
        f"log loss, {verdict} (p = {against(test.p_value, LACKING, HINT)})"
    )


def _against_misfit(fit: Fit) -> str:
    """What to do about a lack of fit: outliers come first, which can be the whole reason for it."""
    rows = np.flatnonzero(outlying(fit))
    if not len(rows):
        return "compare it with others (scaling compare)"
    named = rows_called(fit.table, rows)
    return (
        f"correct or leave out {named} first, which may be the only reason; if it still misses, "
        "compare it with other laws (scaling compare)"
    )


def _more(ratio: float) -> str:
    """A ratio above 1 as a percentage, or as a factor where a percentage would be unreadable."""
    if ratio < 10:
        return f"+{ratio - 1:.1%}"
    return f"×{ratio:.0f}" if ratio < 1e6 else "×1e6 and more"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 92, subsequent_indent="  ")
