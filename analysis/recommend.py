"""How to spend a compute budget: the N*, D* and loss a fitted or published law asks for.

Here is the way in and the way out (JSON, text); `answer` holds what a law computes, `decide` who
is asked, `caution` what is said against it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from analysis.answer import Interval, Recommendation, Shape, answer, law_for
from analysis.buildable import FlopCount
from analysis.caution import Alone, Source, source_warnings, valley_warnings
from analysis.decide import WAYS, decide
from analysis.fit import Fit
from analysis.limited import Limited
from analysis.published import Published
from analysis.solve import Ask
from analysis.units import (
    COMPARED,
    Sizes,
    Span,
    Spans,
    count_of,
    decimal,
    ends,
    human,
    quotient,
    scientific,
    sizes,
    with_interval,
)
from analysis.valley import Leaning
from scaling.store.records import Refusal

HALF = 0.5  # of what is known: above it a prior says more than the runs
MOSTLY_PRIOR = 0.9  # above it the runs alone may say anything

__all__ = [
    "Ask",
    "Interval",
    "Recommendation",
    "answer",
    "convention",
    "law_for",
    "recommend",
    "to_json",
    "to_text",
]


def recommend(
    source: Source,
    flops: Sequence[float],
    *,
    by: Alone | None = None,
    level: float | None = None,
    build: Callable[[float], Shape | None] | None = None,
) -> list[Recommendation]:
    """The compute-optimal N*, D* and loss for each budget in `flops`, in the order given.

    `by` the law's optimum (closed form for the Chinchilla law, Hoffmann et al. 2022, eq. 4, and
    its like, numeric for other laws of params and tokens) or the valley of the runs' own losses;
    by default as `decide` chooses. `level` is the interval's, by default the fit's; `build` maps
    N* to the nearest buildable shape, attached as it comes. Raises Refusal for a failed fit, a law
    without both features, and a budget that is not positive and finite, lies below every
    run of the fit, or has no optimum.
    """
    if len(flops) == 0:
        raise Refusal("flops is empty: there is no budget to divide. Give one, e.g. --flops 1e21.")
    return decide(source, [Ask(flops=float(c)) for c in flops], by=by, level=level, build=build)


# --- out --------------------------------------------------------------------------------------


def to_json(
    source: Source, recommendations: Sequence[Recommendation], flop_count: FlopCount = "6nd"
) -> dict[str, Any]:
    """The plain values that `scaling recommend --json` writes."""
    return {
        "law": source.law.name,
        "source": source.name if isinstance(source, Published) else "fit",
        "by": recommendations[0].by if recommendations else "law",
        "params_convention": convention(source),
        "flop_count": flop_count,
        "warnings": source_warnings(source),
        "recommendations": [_entry(each) for each in recommendations],
    }


def convention(source: Source) -> str:
    """Which parameters the source's N counts."""
    return source.params_convention if isinstance(source, Published) else source.data.params_column


def _entry(each: Recommendation) -> dict[str, Any]:
    value: dict[str, Any] = {
        "asked": {name: value for name, value in asdict(each.ask).items() if value},
        "flops": each.flops,
        "params": each.params,
        "tokens": each.tokens,
        "loss": each.loss,
        "tokens_per_param": each.tokens_per_param,
        "compute_ratio": each.compute_ratio,
        "total_flops": each.total_flops,
        "epochs": each.epochs,
        "worth_of_last_token": each.worth_of_last_token,
        "params_exponent": each.params_exponent,
        "tokens_exponent": each.tokens_exponent,
        "interval": None,
        "decades_beyond_data": each.decades_beyond_data,
        "shape": None if each.shape is None else dict(each.shape),
        "by": each.by,
        "decided": _decided(each),
        "beside": _other(each.others[0]) if each.others else None,
        "others": [_other(other) for other in each.others],
        "warnings": list(each.warnings),
    }
    if each.interval is not None:
        value["interval"] = {
            name: list(span) if isinstance(span, tuple) else span
            for name, span in asdict(each.interval).items()
        }
        # As `predict` has it: `loss` is where the run's should fall, the curve's own beside it.
        value["interval"]["curve_loss"] = value["interval"].pop("loss")
        value["interval"]["loss"] = value["interval"].pop("run_loss")
        low, high = each.interval.params_exponent
        value["interval"]["tokens_exponent"] = [1 - high, 1 - low]
    return value


def _decided(each: Recommendation) -> dict[str, Any]:
    """Who answered, why, how the law weighs against the runs, the mean |residual| of log loss near
    the optimum of both (at runs left out of them), and how far the runs' minima rest on priors."""
    found = None if each.chosen is None else each.chosen.valley
    compared = found if found is not None and found.compared else None
    weight = {"law": 1.0, "runs": 0.0}.get(each.by, each.chosen.law_weight if each.chosen else 0.0)
    return {
        "by": each.by,
        "reason": "" if each.chosen is None else each.chosen.reason,
        "law_weight": weight,
        "law_misfit": None if compared is None else compared.law_misfit,
        "misfit": None if compared is None else compared.misfit,
        "priors": [] if found is None else [_prior(each, prior) for prior in found.leanings],
    }


def _prior(each: Recommendation, prior: Leaning) -> dict[str, Any]:
    """A prior of the runs' minima, and what they would be without it."""
    assert each.chosen is not None and each.chosen.valley is not None
    found = each.chosen.valley
    return {
        "of": prior.of,
        "mean": prior.mean,
        "sd": prior.sd,
        "share": prior.share,
        "without": prior.value,
        "params_without": found.params(each.flops) * prior.moves(found, each.flops),
    }


def _other(each: Recommendation) -> dict[str, Any]:
    span = None if each.interval is None else list(each.interval.params)
    return {"by": each.by, "params": each.params, "tokens": each.tokens, "interval": span}


# --- text -------------------------------------------------------------------------------------


def to_text(
    source: Source, recommendations: Sequence[Recommendation], flop_count: FlopCount = "6nd"
) -> str:
    """What is said against the fit itself; a table for the terminal, one row a question, intervals
    in brackets, who answered and why; then what is said against these answers."""
    columns = [_column(name, recommendations) for name in _columns(recommendations)]
    table = ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]
    table += _repeating(source, recommendations)
    for who in [*_who(source, recommendations), *_rests(recommendations)]:
        table += textwrap.wrap(who, 100, subsequent_indent="  ")
    of_source = source_warnings(source)
    of_valley = _of_valley(recommendations)
    of_answers = [f"Warning: {text}" for text in of_valley]
    for each in recommendations:
        own = [text for text in each.warnings if text not in (*of_source, *of_valley)]
        of_answers += [f"Warning, {each.ask}: {text}" for text in own]
    blocks = [
        _wrapped([f"Warning: {text}" for text in of_source]),
        [_title(source, recommendations, flop_count)],
        table,
        _wrapped(of_answers),
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def _wrapped(texts: Sequence[str]) -> list[str]:
    return [textwrap.fill(text, 100, subsequent_indent="  ") for text in texts]


def _of_valley(recommendations: Sequence[Recommendation]) -> list[str]:
    """What the runs near the optimum say against every answer alike, each once."""
    said = [
        text
        for each in recommendations
        if each.chosen is not None
        for text in valley_warnings(each.chosen.valley, each.by)
    ]
    return list(dict.fromkeys(said))


def _who(source: Source, recommendations: Sequence[Recommendation]) -> list[str]:
    """Who answered, why, and what the other would have said: once for all questions alike."""
    if isinstance(source, Published):
        return []
    alike: dict[str, list[Recommendation]] = {}
    for each in recommendations:
        reason = "" if each.chosen is None else each.chosen.reason
        of = "N*" if set(each.ask.given) == {"flops"} else "Answered"
        said = f"{of} by {WAYS[each.by]}" + (f" ({reason.rstrip('.')})" if reason else "")
        alike.setdefault(said, []).append(each)
    lines = []
    for said, group in alike.items():
        asked = "" if len(alike) == 1 else f"{'; '.join(str(each.ask) for each in group)}: "
        tell = " More runs near the optimum would tell which of the two is right."
        lines.append(f"{asked}{said}.{_would(group)}{tell * (group[0].by == 'both')}")
    return lines


def _would(group: Sequence[Recommendation]) -> str:
    """What each other way would train."""
    ways: dict[Alone, list[str]] = {}
    for each in group:
        for other in each.others:
            size = human(other.params, _span(other, "params"), COMPARED)
            trained = f"{size} ({quotient(size, _sizes(each).params)} ×)"
            ways.setdefault("law" if other.by == "law" else "runs", []).append(trained)
    said = [
        f" {WAYS[by].capitalize()} would train {', '.join(trained)} (--by {by})."
        for by, trained in ways.items()
    ]
    return "".join(said)


def _rests(recommendations: Sequence[Recommendation]) -> list[str]:
    """How far the runs' own minima rest on priors, where they answer: at the last such budget."""
    told = [each for each in recommendations if each.by != "law" and each.chosen is not None]
    if not told or told[-1].chosen is None or (found := told[-1].chosen.valley) is None:
        return []
    parts = []
    for prior in found.leanings:
        without = "the runs hardly tell it themselves"
        if prior.share < MOSTLY_PRIOR:
            moved = prior.moves(found, told[-1].flops)
            without = f"without it {prior.value:.2g}, and N* at {told[-1].ask} {moved:.2f} ×"
        parts.append(
            f"{prior.of} {prior.mean:g} ± {prior.sd:g}, {prior.share:.0%} of what is known of it "
            f"({without})"
        )
    if not parts:
        return []
    said = (
        "The runs' own minima rest on the runs and on two priors from published isoFLOP studies: "
    )
    said += "; ".join(parts)
    most = max(found.leanings, key=lambda prior: prior.share)
    if most.share > HALF:
        more = {"exponent": "budgets", "curvature": "sizes at equal compute"}[most.of]
        said += f". Train more {more}, and the prior of the {most.of} counts less"
    return [f"{said}."]


def _repeating(source: Source, recommendations: Sequence[Recommendation]) -> list[str]:
    """Where repeating stops paying, if data is limited."""
    law = law_for(source, recommendations[0].ask)
    if not isinstance(law, Limited):
        return []

    def worth(law: Limited) -> str:
        half, tenth = (law.epochs_at_worth(source.coefficients, share) for share in (0.5, 0.1))
        return f"half a fresh one's worth after {half:.3g} epochs, a tenth after {tenth:.3g}"

    other = law.otherwise
    or_else = "" if other is None else f" ({law.lent}), or {worth(other)} ({other.lent})"
    return [f"One more token adds {worth(law)}{or_else}"]


def _columns(recommendations: Sequence[Recommendation]) -> list[str]:
    names = ["FLOPs", "params N*", "tokens D*", "loss", "tokens/param", "beyond data"]
    if any(str(each.ask) != f"{scientific(each.flops)} FLOPs" for each in recommendations):
        names = ["asked", *names, "× least compute"]
    if any(each.ask.unique_tokens is not None for each in recommendations):
        names += ["epochs", "worth of last token"]
    if any(each.ask.served for each in recommendations):
        names.append("FLOPs with serving")
    return names


def _column(name: str, recommendations: Sequence[Recommendation]) -> list[str]:
    cells = [name, *(cell(name, each) for each in recommendations)]
    width = max(len(cell) for cell in cells)
    return [cell.ljust(width) for cell in cells]


def cell(name: str, each: Recommendation) -> str:
    """How a column of the table prints an answer."""
    match name:
        case "asked":
            return str(each.ask)
        case "FLOPs":
            return with_interval(scientific, each.flops, _span(each, "flops"))
        case "params N*":
            return _sizes(each).params + ends(human, each.params, _span(each, "params"))
        case "tokens D*":
            return _sizes(each).tokens + ends(human, each.tokens, _span(each, "tokens"))
        case "tokens/param":
            span = _span(each, "tokens_per_param")
            return _sizes(each).tokens_per_param + ends(human, each.tokens_per_param, span)
        case "loss":  # of the run itself, not of the curve
            return with_interval(decimal, each.loss, _span(each, "run_loss"))
        case "beyond data":
            return _distance(each.decades_beyond_data)
        case "× least compute":
            return human(each.compute_ratio)
        case "epochs":
            return human(each.epochs)
        case "worth of last token":
            return f"{each.worth_of_last_token:.0%}"
        case "FLOPs with serving":
            return scientific(each.total_flops)
    raise KeyError(name)


def _distance(decades: float | None) -> str:
    if decades is None:
        return "unknown"
    return "inside" if decades < 0.05 else f"{decades:.1f} decades"


def _sizes(each: Recommendation) -> Sizes:
    names = ("params", "tokens", "tokens_per_param")
    return sizes(each.params, each.tokens, Spans(*(_span(each, name) for name in names)))


def _span(each: Recommendation, name: str) -> Span | None:
    return None if each.interval is None else getattr(each.interval, name)


def _title(source: Source, recommendations: Sequence[Recommendation], flop_count: FlopCount) -> str:
    interval = recommendations[0].interval
    if isinstance(source, Published):
        name, worth = f"{source.name} ({source.source})", "published coefficients, no intervals"
    else:
        name = f"{source.law.name} on {source.data.n} runs"
        worth = "no intervals" if interval is None else _worth(source, recommendations, interval)
    first = recommendations[0]
    span = None if interval is None else interval.params_exponent
    if span is not None and span[1] - span[0] > 1e-6:  # some laws fix the exponent
        written = decimal(first.params_exponent, span)
    else:
        written, span = f"{first.params_exponent:.3f}", None
    places = len(written.partition(".")[2])  # the two exponents add up as printed
    exponents = f"N* ∝ C^{written}{ends(decimal, first.params_exponent, span)}, "
    exponents += f"D* ∝ C^{first.tokens_exponent:.{places}f}"
    counted = "C = 6ND" if flop_count == "6nd" else "C counted exactly, of shapes that can be built"
    title = f"{name}, {counted}, N = {count_of(convention(source))}; {worth}"
    if isinstance(source, Fit):
        title = textwrap.fill(title, 100, subsequent_indent="  ")
    return f"{title}\n{exponents}"


def _worth(source: Fit, recommendations: Sequence[Recommendation], interval: Interval) -> str:
    """Where the intervals are from."""
    said = f"[{100 * interval.level:.0f}% intervals] "
    for each in recommendations:
        if each.by != "law" and each.chosen is not None and each.chosen.valley is not None:
            laws = " and from the law's draws, as they weigh" if each.by == "both" else ""
            said += (
                f"of N* and D* from {len(each.chosen.valley.draws)} resamples of the runs, widened "
                f"by the errors of such minima on published tables{laws}; all others "
            )
            break
    return f"{said}from {len(source.draws)} draws; the loss is that of one run"
