"""Who says where N* is: the law, the runs' own valley, or a mean of both.

The law answers where it describes runs it was not fitted to far better than the valley does, or
where the runs show no valley; the runs where it does no better, since laws that fit as well place
the optimum worse (benchmarks/decisions.py). In between, ln N* is a mean of both, whose weights go
smoothly from one to the other, and its interval covers both. The other answers stand beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

from analysis.answer import Chosen, Interval, NoOptimum, Recommendation, Shape, answer
from analysis.caution import Alone, By, Source, level_of, valley_warnings
from analysis.fit import Fit, Status
from analysis.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.solve import Ask
from analysis.support import FEWEST
from analysis.units import Span, human
from analysis.valley import DRAWS, Valley, valley
from scaling.store.records import Refusal

WAYS: Mapping[By, str] = {
    "law": "the law",
    "runs": "the runs' own minima",
    "both": "law and runs together",
}
APART = 2.0  # a factor between the two N*, where there are no intervals to compare


def choose(source: Source, by: Alone | None = None, draws: int = DRAWS) -> Chosen:
    """Who answers for budgets of fresh data; `by` as asked, or None for what the runs say.

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
    weight = found.law_weight
    way: By = "law" if weight == 1 else "both" if weight > 0 else "runs"
    return Chosen(way, found, _evidence(found), weight)


def _evidence(found: Valley) -> str:
    """What the choice rests on."""
    if not found.compared:
        return (
            f"the runs are of fewer than {FEWEST} clusters, too few to leave one out and compare "
            "law and runs: the runs answer, as they do where the law is no better; train more "
            "trunks to compare them"
        )
    share, error = found.law_misfit / found.misfit, found.misfit_se / found.misfit
    said = (
        f"the law leaves {share:.2f} × the residuals of a plain valley near the optimum, at runs "
    )
    said += f"that neither was fitted to, with a standard error of {error:.2f}"
    if 0 < (weight := found.law_weight) < 1:
        said += f"; of ln N* the law has weight {weight:.2f} and the runs {1 - weight:.2f}"
    if found.one_sided:
        said += "; on one side of the valley hardly a run lies"
    return said


def decide(
    source: Source,
    asks: Sequence[Ask],
    *,
    by: Alone | None = None,
    level: float | None = None,
    build: Callable[[float], Shape | None] | None = None,
    chosen: Chosen | None = None,
) -> list[Recommendation]:
    """Every question answered as `answer` does, budgets of fresh data by whom `choose` names.

    By the runs, or by both, the loss is what the law gives at their N*. Raises Refusal as `answer`
    and `choose` do, and for `by` runs of another question.
    """
    level = level_of(source, level)
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
        if untold and (chosen.by != "law" or not chosen.reason):
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
    source: Source, ask: Ask, who: Chosen, found: Valley | None, by: Alone | None, level: float,
    build: Callable[[float], Shape | None] | None,
) -> Recommendation:  # fmt: skip
    """By whom is chosen, with the other's answer beside it where runs have one (`found`)."""
    smooth = None
    try:
        smooth = answer(source, ask, level=level, build=build)
    except NoOptimum:
        if found is None or by == "law":
            raise
        if who.by != "runs":
            who = replace(who, by="runs", reason="the law has no optimum there")
    told = None if found is None else _by_runs(source, ask, found, level, build)
    alone = [each for each in (smooth, told) if each is not None]
    if smooth is not None and told is not None and who.by == "both":
        first = _by_both(source, ask, smooth, told, who.law_weight, level, build)
    else:
        [first] = [each for each in alone if each.by == who.by]
        alone.remove(first)
    answered = replace(first, others=tuple(alone), chosen=who)
    return replace(answered, warnings=(*answered.warnings, *between(answered)))


def _by_runs(
    source: Source, ask: Ask, found: Valley, level: float,
    build: Callable[[float], Shape | None] | None,
) -> Recommendation:  # fmt: skip
    """The run that the valley asks for, and what the law says of it."""
    assert ask.flops is not None
    run = _run(source, ask, _params(found, ask.flops), "runs", level, build)
    interval = run.interval
    if interval is not None and len(found.draws):
        params = found.interval(ask.flops, level)
        interval = _spanned(interval, ask.flops, params, found.exponent_interval(level))
    return replace(run, params_exponent=found.slope, interval=interval)


def _by_both(
    source: Source, ask: Ask, smooth: Recommendation, told: Recommendation, weight: float,
    level: float, build: Callable[[float], Shape | None] | None,
) -> Recommendation:  # fmt: skip
    """The run of the mean ln N* of the law, of that weight, and of the runs."""
    assert ask.flops is not None
    logs = math.log(smooth.params), math.log(told.params)
    params = math.exp(weight * logs[0] + (1 - weight) * logs[1])
    run = _run(source, ask, params, "both", level, build)
    exponents = smooth.params_exponent, told.params_exponent
    if (interval := run.interval) is not None and smooth.interval and told.interval:
        spans = [(_log(n.params[0]), _log(n.params[1])) for n in (smooth.interval, told.interval)]
        low, high = mixed(logs, (spans[0], spans[1]), weight, level)
        slopes = smooth.interval.params_exponent, told.interval.params_exponent
        exponent = mixed(exponents, slopes, weight, level)
        interval = _spanned(interval, ask.flops, (_exp(low), _exp(high)), exponent)
    exponent_of_both = weight * exponents[0] + (1 - weight) * exponents[1]
    return replace(run, params_exponent=exponent_of_both, interval=interval)


def _run(
    source: Source, ask: Ask, params: float, by: By, level: float,
    build: Callable[[float], Shape | None] | None,
) -> Recommendation:  # fmt: skip
    """The run of a size that spends the budget, as the law has it."""
    assert ask.flops is not None
    # Of fresh data the fit's own law speaks, unless it needs to be told that it is fresh.
    unique = ask.unique_tokens if "unique_tokens" in source.law.features else None
    tokens = ask.flops / FLOPS_PER_PARAM_TOKEN / params
    asked = Ask(params=params, tokens=tokens, unique_tokens=unique)
    run = answer(source, asked, level=level, build=build, by=by)
    return replace(run, ask=ask, flops=ask.flops)


def mixed(middles: Span, spans: tuple[Span, Span], weight: float, level: float) -> Span:
    """The central interval of a mixture: what the first says has `weight`, the second the rest.

    Each is normal to either side of its middle, as wide as its own central interval at `level`.
    """
    reach = NormalDist().inv_cdf((1 + level) / 2)
    parts = [
        (share, middle, max(middle - low, 0.0) / reach, max(high - middle, 0.0) / reach)
        for share, middle, (low, high) in zip((weight, 1 - weight), middles, spans, strict=True)
    ]

    def below(x: float) -> float:
        return sum(
            share * _normal(x - middle, under if x < middle else over)
            for share, middle, under, over in parts
        )

    return _where(below, (1 - level) / 2, parts), _where(below, (1 + level) / 2, parts)


def _normal(off: float, sd: float) -> float:
    if sd == 0:
        return 0.5 * (1 + math.copysign(1, off)) if off else 0.5
    return 0.5 if math.isinf(sd) else NormalDist().cdf(off / sd)


def _where(
    below: Callable[[float], float], share: float, parts: Sequence[tuple[float, ...]]
) -> float:
    """Where a rising share reaches `share`, by bisection; infinite where it never does."""
    far = [10 * sd for _, _, *sides in parts for sd in sides if math.isfinite(sd)]
    low = min(middle for _, middle, *_ in parts) - max(far, default=0.0)
    high = max(middle for _, middle, *_ in parts) + max(far, default=0.0)
    if below(low) > share:
        return -math.inf
    if below(high) < share:
        return math.inf
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if below(middle) < share else (low, middle)
    return high


def _log(value: float) -> float:
    return math.log(value) if value > 0 else -math.inf


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf


def _params(found: Valley, flops: float) -> float:
    """N* by the runs, of at least one parameter and one token."""
    return min(max(found.params(flops), 1.0), flops / FLOPS_PER_PARAM_TOKEN)


def _spanned(interval: Interval, flops: float, params: Span, exponent: Span) -> Interval:
    """The interval of a run at N*, with those of N* and its exponent."""
    product = flops / FLOPS_PER_PARAM_TOKEN
    low, high = params
    return replace(
        interval,
        flops=(flops, flops),
        params=params,
        tokens=(product / high, _over(product, low)),
        tokens_per_param=(product / high / high, _over(_over(product, low), low)),
        params_exponent=exponent,
    )


def _over(value: float, by: float) -> float:
    return value / by if by > 0 else math.inf


def between(each: Recommendation) -> list[str]:
    """What law and runs say against each other."""
    valley = None if each.chosen is None else each.chosen.valley
    return [*valley_warnings(valley, each.by), *disagreement(each)]


def disagreement(each: Recommendation) -> list[str]:
    """A warning where the intervals of N* of the law and of the runs do not meet."""
    alone = [one for one in (each, *each.others) if one.by != "both"]
    if len(alone) < 2:
        return []
    one, other = alone
    a, b = _params_span(one), _params_span(other)
    if a[0] <= b[1] and b[0] <= a[1]:
        return []
    apart = math.exp(abs(math.log(one.params / other.params)))
    return [
        f"{WAYS[one.by]} and {WAYS[other.by]} disagree on N* by a factor {apart:.2g}, "
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
