"""Who says where N* is: the law, or the runs' own valley.

The law where it describes the runs near the optimum clearly better than a plain valley does, or
where the runs show no valley; else the runs. The other answer stands beside. At held-out budgets
of published tables this loses a fifth of what the law alone does (benchmarks/decisions.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from analysis.answer import Chosen, Interval, NoOptimum, Recommendation, Shape, answer
from analysis.caution import By, Source, valley_warnings
from analysis.fit import Fit, Status
from analysis.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.solve import Ask
from analysis.units import Span, human
from analysis.valley import DRAWS, Valley, valley
from scaling.store.records import Refusal

WAYS: Mapping[By, str] = {"law": "the law", "runs": "the runs' own minima"}
APART = 2.0  # a factor between the two N*, where there are no intervals to compare


def choose(source: Source, by: By | None = None, draws: int = DRAWS) -> Chosen:
    """Who answers for budgets of fresh data; `by` as asked, or None for the better of the two.

    Raises Refusal for `by` runs that show no valley.
    """
    if not isinstance(source, Fit):
        if by == "runs":
            raise Refusal("--by runs needs runs: give a fit, not a published law.")
        return Chosen("law", None, "a published law comes without runs")
    if source.status is Status.FAILED:
        return Chosen("law", None, "")
    try:
        found = valley(source, draws=draws if len(source.draws) else 0)
    except Refusal as refusal:
        if by == "runs":
            raise
        cause, _, _ = str(refusal).partition(". ")  # the remedy is what is done already
        return Chosen("law", None, cause)
    if by is not None:
        return Chosen(by, found, "as asked")
    share = found.law_misfit / found.misfit
    said = f"the law leaves {share:.2f} × the residuals of a plain valley near the optimum"
    if found.one_sided:
        said += ", on one side of which hardly a run lies"
    return Chosen("law" if found.law_is_better else "runs", found, said)


def decide(
    source: Source,
    asks: Sequence[Ask],
    *,
    by: By | None = None,
    level: float = 0.9,
    build: Callable[[float], Shape | None] | None = None,
    chosen: Chosen | None = None,
) -> list[Recommendation]:
    """Every question answered as `answer` does, budgets of fresh data by whom `choose` names.

    By the runs, N* is theirs and the loss what the law gives there. Raises Refusal as `answer`
    and `choose` do, and for `by` runs of another question.
    """
    if chosen is None:
        # A fit's valley takes a second, and nothing but a budget needs it.
        needless = isinstance(source, Fit) and by != "runs" and not any(map(_divides, asks))
        chosen = Chosen("law", None, "") if needless else choose(source, by)
    found = []
    for ask in asks:
        untold = untold_by_runs(ask, chosen.valley)
        if untold and by == "runs":
            raise Refusal(
                f"{ask}: --by runs divides a budget of fresh data ({untold}). Give --flops alone, "
                "or --by law."
            )
        who = chosen
        if untold and (chosen.by == "runs" or not chosen.reason):
            who = replace(chosen, by="law", reason=untold)
        found.append(_answered(source, ask, who, None if untold else who.valley, by, level, build))
    return found


def untold_by_runs(ask: Ask, found: Valley | None) -> str:
    """Why runs cannot answer a question, or "": they divide budgets of data that does not repeat.

    Unique tokens that N* leaves to spare are such data.
    """
    if not _divides(ask) or ask.flops is None:
        return "runs tell only how to divide a budget"
    if ask.unique_tokens is None or found is None:
        return ""
    tokens = ask.flops / FLOPS_PER_PARAM_TOKEN / _params(found, ask.flops)
    if tokens <= ask.unique_tokens:
        return ""
    return f"runs tell of fresh data, and {human(ask.unique_tokens)} tokens repeat at their minimum"


def _divides(ask: Ask) -> bool:
    return set(ask.given) == {"flops"}


def _answered(
    source: Source, ask: Ask, who: Chosen, found: Valley | None, by: By | None, level: float,
    build: Callable[[float], Shape | None] | None,
) -> Recommendation:  # fmt: skip
    """By whom is chosen, with the other's answer beside it where runs have one (`found`)."""
    smooth = None
    try:
        smooth = answer(source, ask, level=level, build=build)
    except NoOptimum:
        if found is None or by == "law":
            raise
        if who.by == "law":
            who = replace(who, by="runs", reason="the law has no optimum there")
    told = None if found is None else _by_runs(source, ask, found, level, build)
    first, other = (smooth, told) if who.by == "law" else (told, smooth)
    assert first is not None
    both = replace(first, other=other, chosen=who)
    return replace(both, warnings=(*both.warnings, *between(both)))


def _by_runs(
    source: Source, ask: Ask, found: Valley, level: float,
    build: Callable[[float], Shape | None] | None,
) -> Recommendation:  # fmt: skip
    """The run that the valley asks for, and what the law says of it."""
    assert ask.flops is not None
    params = _params(found, ask.flops)
    tokens = ask.flops / FLOPS_PER_PARAM_TOKEN / params
    # Of fresh data the fit's own law speaks, unless it needs to be told that it is fresh.
    unique = ask.unique_tokens if "unique_tokens" in source.law.features else None
    asked = Ask(params=params, tokens=tokens, unique_tokens=unique)
    run = answer(source, asked, level=level, build=build, by="runs")
    interval = run.interval
    if interval is not None and len(found.draws):
        interval = _spanned(interval, found, ask.flops)
    return replace(run, ask=ask, flops=ask.flops, params_exponent=found.slope, interval=interval)


def _params(found: Valley, flops: float) -> float:
    """N* by the runs, of at least one parameter and one token."""
    return min(max(found.params(flops), 1.0), flops / FLOPS_PER_PARAM_TOKEN)


def _spanned(interval: Interval, found: Valley, flops: float) -> Interval:
    """The interval of a run at N*, with the valley's own of N*."""
    product = flops / FLOPS_PER_PARAM_TOKEN
    low, high = found.interval(flops, interval.level)
    return replace(
        interval,
        flops=(flops, flops),
        params=(low, high),
        tokens=(product / high, product / low),
        tokens_per_param=(product / high**2, product / low**2),
        params_exponent=found.exponent_interval(interval.level),
    )


def between(each: Recommendation) -> list[str]:
    """What law and runs say against each other."""
    valley = None if each.chosen is None else each.chosen.valley
    return [*valley_warnings(valley, each.by), *disagreement(each)]


def disagreement(each: Recommendation) -> list[str]:
    """A warning where the two answers' intervals of N* do not meet."""
    if each.other is None:
        return []
    a, b = _params_span(each), _params_span(each.other)
    if a[0] <= b[1] and b[0] <= a[1]:
        return []
    apart = math.exp(abs(math.log(each.params / each.other.params)))
    return [
        f"{WAYS[each.by]} and {WAYS[each.other.by]} disagree on N* by a factor {apart:.2g}, "
        f"beyond their intervals ({_written(a)} and {_written(b)}): the law's covers no error in "
        "its form, the runs' what such minima were off on published tables. Runs at both sizes and "
        "one budget would tell."
    ]


def _params_span(each: Recommendation) -> Span:
    if each.interval is not None:
        return each.interval.params
    return each.params / math.sqrt(APART), each.params * math.sqrt(APART)


def _written(span: Span) -> str:
    return f"{human(span[0])} … {human(span[1])}"
