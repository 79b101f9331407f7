"""A fit on one screen: digits stop where the interval stops."""

from __future__ import annotations

import math
import textwrap
from typing import NamedTuple

import pandas as pd

from analysis.constraints import away
from analysis.diagnostics import LackOfFit
from analysis.estimate import Estimate
from analysis.tradeoff import flat_with
from analysis.units import against, count_of, counted, decimal, human

# An rms log residual of runs that lie on the law, where a held floor costs any factor of nothing;
# and a share of a coefficient: a change of less says nothing of the answer.
EXACT, MATTERS = 1e-6, 1e-3
LACKING = 0.01  # p-value below which the law misses by more than chance
HINT = 0.05  # and below which that is likely
ALIKE = 0.9  # of the repeated runs: independent ones that are as good, from which they are shown


def summary(fit: Estimate) -> str:
    """Heading with status, a row a coefficient, then what to know before using them."""
    head = f"{fit.law.name} on {fit.data.n} runs"
    starts = f"{fit.status.value}, {fit.starts_at_optimum} of {fit.starts} starts"
    lines = [f"{head:<40}{starts:>40}"]
    lines += textwrap.wrap(fit.law.formula, 88, initial_indent="  ", subsequent_indent="    ")
    level = f"{fit.interval.level:.0%} interval"
    lines.append(f"{'':<10}{'estimate':>10}   {level:<26}flat with")
    for name in fit.law.coefficients:
        if name in fit.fixed:
            lines.append(f"{name:<10}{fit.coefficients[name]:>10.6g}   held")
            continue
        bounds = fit.interval.coefficients[name]
        estimate = decimal(fit.coefficients[name], bounds)
        # Resamples that all stay at the bound say nothing of how far from it the truth may be.
        known = bounds.low < bounds.high
        ends = f"{decimal(bounds.low, bounds)} … {decimal(bounds.high, bounds)}"
        span = ends if known else "not known"
        note = "at its bound" if name in fit.at_bound else _partner(fit, name)
        lines.append(f"{name:<10}{estimate:>10}   {span:<26}{note}".rstrip())
    data = fit.data
    lines.append("")
    facts = f"{fit.objective.name} = {fit.objective.value:.6g}"
    if fit.objective.name.startswith(("huber", "asym")):
        facts += f" (delta {fit.objective.delta:g})"
    if math.isfinite(fit.rmse_log):  # a loss of zero or below has no logarithm
        facts += f" · rms log residual {fit.rmse_log:.2g}"
    facts += f" · condition number {fit.condition_number:.1g}"
    lines.append(facts)
    seen = f"intervals: {basis_of(fit)}"
    if data.params is not None and "params" in fit.law.features:
        seen += f" · N is {count_of(data.params_column)}, "
        seen += f"{human(data.params.low)} to {human(data.params.high)}"
    if data.tokens is not None and "tokens" in fit.law.features:
        seen += f" · D {human(data.tokens.low)} to {human(data.tokens.high)}"
    lines.append(seen)
    lines += [part for used in _used(fit) for part in _wrapped(used)]
    lines += [part for doubt in doubts(fit) for part in _wrapped(doubt)]
    if fit.status.value != "converged":
        lines += _wrapped(f"{fit.status.value}: {fit.reason}")
    for reason, rows in fit.excluded["reason"].value_counts().items():
        lines.append(f"left out: {counted(rows, 'row')}, {reason}")
    for warning in fit.warnings:
        lines += _wrapped(f"warning: {warning}")
    return "\n".join(lines)


def basis_of(fit: Estimate) -> str:
    """What the intervals rest on, or why there are none, in words."""
    clusters = counted(fit.data.clusters, "cluster")
    if not fit.settings.bootstrap:
        return "not asked for (--bootstrap 0)"
    settled = (*fit.fixed, *fit.at_bound)
    bounds = [fit.interval.coefficients[n] for n in fit.law.coefficients if n not in settled]
    if fit.interval.method == "none" or (bounds and all(math.isnan(each.low) for each in bounds)):
        return f"none of any coefficient ({clusters}; the reason is below)"
    return f"{fit.interval.method} over {clusters}"


def _used(fit: Estimate) -> list[str]:
    """What shaped the fit beside the rows: weights, and how far each estimate is off its prior."""
    made = fit.settings
    lines = [] if made.weights is None else [f"weights: each row's penalty times {made.weights}"]
    for name, off in away(fit.law, fit.coefficients, made.prior).items():
        known = made.prior[name]
        relative = " relative" if fit.law.symbols[name].positive else ""
        lines.append(
            f"prior of {name}: {known.value:g}, sd {known.sd:g}{relative}; "
            f"the estimate lies {abs(off):.1f} sd {'above' if off > 0 else 'below'} it"
        )
    return lines


class _Move(NamedTuple):
    size: float  # standard errors
    name: str
    before: float
    after: float


def doubts(fit: Estimate) -> list[str]:
    """The profile of the floor, what moved the coefficients most, and lack of fit, in words."""
    checks = fit.diagnostics
    if checks is None:
        return []
    lines = []
    exact = fit.rmse_log < EXACT
    if len(checks.profile) and not exact:
        floor = next(name for name in fit.law.floors if name not in fit.fixed)
        lines.append(_profile(fit, checks.profile, floor))
    table = checks.sensitivity
    moves: dict[str, list[_Move]] = {}
    for name in fit.law.coefficients:
        se = fit.se[name]
        intercept = fit.law.symbols[name].intercept and name not in fit.law.floors
        if intercept or name in fit.fixed or not se > 0:
            continue
        first = float(table[name].iloc[0])
        for change, value in zip(table["change"][1:], table[name][1:], strict=True):
            if exact and abs(value - first) < MATTERS * abs(first):
                continue
            move = _Move(abs(value - first) / se, name, first, float(value))
            moves.setdefault(change, []).append(move)
    ranked = sorted(moves.items(), key=lambda item: -max(m.size for m in item[1]))
    # A handful of rows that decides the answer is worth a line sooner than a tenth of them.
    large = [
        (change, shown)
        for change, all_moves in ranked
        if (shown := [m for m in all_moves if m.size >= (1 if "largest" in change else 2)])
    ]
    for change, shown in large[:4]:
        parts = [
            f"{m.name} moves from {decimal(m.before, fit.interval.coefficients[m.name])} to "
            f"{decimal(m.after, fit.interval.coefficients[m.name])}"
            for m in shown
        ]
        lines.append(f"{change}: {', '.join(parts)}")
    if large:
        lines.append(
            "these changes move the answer: check those rows, and fit the ones that the law is to "
            "describe (--where)"
        )
    if ranked and not large:
        change, all_moves = ranked[0]
        most = max(all_moves)
        lines.append(
            f"most sensitive: {change} moves {most.name} by {most.size:.1f} standard errors"
        )
    test = checks.lack_of_fit
    if test is not None:
        lines.append(_repeats(test))
    return lines


def _profile(fit: Estimate, profile: pd.DataFrame, floor: str) -> str:
    least = profile["objective"].min()
    if least <= 0:
        return f"profile of {floor}: a perfect fit, nothing to profile"
    parts = [
        f"{value:.3g} {_more(cost / least)}"
        for value, cost in zip(profile[floor], profile["objective"], strict=True)
        if cost > least
    ]
    summed = " and the priors rise" if fit.settings.prior else " rises"
    return f"{fit.objective.name}{summed} with {floor} held at: " + " · ".join(parts)


def _repeats(test: LackOfFit) -> str:
    """What repeated runs say of the law, and how many independent ones that rests on."""
    independent = test.independent or test.replicates
    alike = independent < ALIKE * test.replicates
    worth = f" (worth {independent:.0f} independent ones: they share trunks)" if alike else ""
    verdict = "no lack of fit"
    if test.p_value < HINT:
        verdict = "weak evidence of a lack of fit"
    if test.p_value < LACKING:
        verdict = "the law misses by more than that, so compare it with others (scaling compare)"
    return (
        f"{counted(test.replicates, 'repeated run')}{worth}: scatter of {test.replicate_sd:.2g} in "
        f"log loss, {verdict} (p = {against(test.p_value, LACKING, HINT)})"
    )


def _more(ratio: float) -> str:
    """A ratio above 1 as a percentage, or as a factor where a percentage would be unreadable."""
    return (
        f"+{ratio - 1:.1%}" if ratio < 10 else f"×{ratio:.0f}" if ratio < 1e6 else "×1e6 and more"
    )


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 92, subsequent_indent="  ")


def _partner(fit: Estimate, name: str) -> str:
    other = flat_with(fit, name)
    if other is None:
        return ""
    return f"{other.name} ({min(abs(other.correlation), 0.9999):.3f})".replace("0.", ".")
