"""Recommendations on one screen: a table, where N* is from, and what to doubt."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from analysis.fitting.fit import Fit
from analysis.fitting.source import Source, convention, loss_set_of
from analysis.forecast.warnings import source_warnings
from analysis.laws.law import Law
from analysis.laws.published import Published
from analysis.laws.repeated import epochs_at_worth, lent, otherwise
from analysis.recommend.by_law import law_for
from analysis.recommend.question import FlopCount
from analysis.recommend.recommendation import BY_IN_WORDS, Recommendation
from analysis.recommend.warnings import valley_warnings
from analysis.text import (
    COMPARED,
    Sizes,
    count_of,
    decimal,
    ends,
    human,
    paragraph,
    quotient,
    scientific,
    sizes,
    text_table,
    with_interval,
)

HALF = 0.5  # of what is known: above it a prior says more than the runs
MOSTLY_PRIOR = 0.9  # above it the runs alone may say anything


def text(source: Source, answers: Sequence[Recommendation], flop_count: FlopCount) -> str:
    """The summary as lines for the terminal: what is doubtful about the source comes first."""
    said = _summary(source, answers, flop_count)
    blocks = [
        said.of_source,
        said.title,
        (text_table(said.header, said.rows), *said.notes),
        said.of_answers,
    ]
    return "\n\n".join("\n".join(lines) for lines in blocks if lines)


def html(source: Source, answers: Sequence[Recommendation], flop_count: FlopCount) -> str:
    """The same for a notebook, with an HTML table."""
    said = _summary(source, answers, flop_count)

    def lines(of: Sequence[str]) -> str:
        return "".join(f"<p>{escape(line)}</p>" for line in of)

    table = pd.DataFrame(said.rows, columns=pd.Index(said.header)).to_html(index=False)
    above, below = (said.of_source, said.title), (said.notes, said.of_answers)
    return "".join([*map(lines, above), table, *map(lines, below)])


@dataclass(frozen=True)
class _Summary:
    """The parts of the summary, in paragraphs."""

    of_source: tuple[str, ...]  # warnings
    title: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]  # one for each question
    notes: tuple[str, ...]
    of_answers: tuple[str, ...]  # warnings


def _summary(source: Source, answers: Sequence[Recommendation], flop_count: FlopCount) -> _Summary:
    of_source = source_warnings(source)
    # What the runs near the optimum say against every answer alike is said once.
    of_valley = [text for each in answers for text in valley_warnings(each.valley, each.by)]
    of_answers = [f"Warning: {text}" for text in dict.fromkeys(of_valley)]
    for each in answers:
        own = [text for text in each.warnings if text not in (*of_source, *of_valley)]
        of_answers += [f"Warning, {each.question}: {text}" for text in own]
    header = _columns(answers)
    notes = [*_repeating(source, answers), *_answered_by(source, answers), *_priors(answers)]
    return _Summary(
        of_source=_paragraphs([f"Warning: {text}" for text in of_source]),
        title=_paragraphs(_title(source, answers, flop_count)),
        header=tuple(header),
        rows=tuple(tuple(CELLS[name](each) for name in header) for each in answers),
        notes=_paragraphs(notes),
        of_answers=_paragraphs(of_answers),
    )


def _paragraphs(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(paragraph(each) for each in texts)


# --- the table --------------------------------------------------------------------------------


def _columns(answers: Sequence[Recommendation]) -> list[str]:
    names = ["FLOPs", "params N*", "tokens D*", "loss", "tokens/param", "beyond data"]
    if any(str(each.question) != f"{scientific(each.flops)} FLOPs" for each in answers):
        names = ["asked", *names, "× least compute"]
    if any(each.question.unique_tokens is not None for each in answers):
        names += ["epochs", "worth of last token"]
    if any(each.question.served for each in answers):
        names.append("FLOPs with serving")
    return names


# How each column of the table prints an answer.
CELLS: Mapping[str, Callable[[Recommendation], str]] = {
    "asked": lambda each: str(each.question),
    "FLOPs": lambda each: with_interval(scientific, each.flops, each.span("flops")),
    "params N*": lambda each: _sizes(each).params + ends(human, each.params, each.span("params")),
    "tokens D*": lambda each: _sizes(each).tokens + ends(human, each.tokens, each.span("tokens")),
    "loss": lambda each: with_interval(decimal, each.loss, each.span("loss")),  # of the run
    "tokens/param": lambda each: (
        _sizes(each).tokens_per_param
        + ends(human, each.tokens_per_param, each.span("tokens_per_param"))
    ),
    "beyond data": lambda each: _distance(each.decades_beyond_data),
    "× least compute": lambda each: human(each.compute_ratio),
    "epochs": lambda each: human(each.epochs),
    "worth of last token": lambda each: f"{each.worth_of_last_token:.0%}",
    "FLOPs with serving": lambda each: scientific(each.total_flops),
}


def _sizes(each: Recommendation) -> Sizes:
    spans = (each.span(name) for name in ("params", "tokens", "tokens_per_param"))
    return sizes(each.params, each.tokens, *spans)


def _distance(decades: float | None) -> str:
    if decades is None:
        return "unknown"
    return "inside" if decades < 0.05 else f"{decades:.1f} decades"


# --- the title --------------------------------------------------------------------------------


def _title(
    source: Source, answers: Sequence[Recommendation], flop_count: FlopCount
) -> tuple[str, str]:
    """What answers, in which counts, and the exponents of the first answer."""
    if isinstance(source, Published):
        name, intervals = f"{source.name} ({source.source})", "Published coefficients, no intervals"
    else:
        name, intervals = f"{source.law.name} on {source.data.n} runs", _intervals(source, answers)
    counted = "C = 6ND" if flop_count == "6nd" else "C counted exactly, of shapes that can be built"
    on = "" if (text := loss_set_of(source)) is None else f", loss on the validation set {text}"
    title = f"{name}, {counted}, N = {count_of(convention(source))}{on}. {intervals}."
    first = answers[0]
    span = first.span("params_exponent")
    if span is not None and span.width > 1e-6:  # some laws fix the exponent
        written = decimal(first.params_exponent, span)
    else:
        written, span = f"{first.params_exponent:.3f}", None
    places = len(written.partition(".")[2])  # the two exponents add up as printed
    return title, (
        f"N* ∝ C^{written}{ends(decimal, first.params_exponent, span)}, "
        f"D* ∝ C^{first.tokens_exponent:.{places}f}"
    )


def _intervals(source: Fit, answers: Sequence[Recommendation]) -> str:
    """Where the intervals are from."""
    interval = answers[0].interval
    if interval is None:
        return "No intervals"
    of_n = ""
    for each in answers:
        if each.by != "law" and each.valley is not None:
            law = " and from the law's draws, by their weights" if each.by == "both" else ""
            of_n = (
                f"of N* and D* come from {len(each.valley.draws)} resamples of the runs, widened "
                f"by the errors of such minima on published tables{law}; all others "
            )
            break
    return (
        f"The {100 * interval.level:.0f}% intervals [low … high] {of_n}come from "
        f"{len(source.draws)} draws of the coefficients. The loss is that of one run"
    )


# --- below the table --------------------------------------------------------------------------


def _repeating(source: Source, answers: Sequence[Recommendation]) -> list[str]:
    """Where repeating stops paying, if data is limited."""
    law = law_for(source, answers[0].question)
    if "unique_tokens" not in law.given:
        return []

    def worth(law: Law) -> str:
        half, tenth = (epochs_at_worth(law, source.coefficients, each) for each in (0.5, 0.1))
        return f"half a fresh one's worth after {half:.3g} epochs, a tenth after {tenth:.3g}"

    other = otherwise(law)
    or_else = "" if other is None else f" ({lent(law)}), or {worth(other)} ({lent(other)})"
    return [f"One more token adds {worth(law)}{or_else}"]


def _answered_by(source: Source, answers: Sequence[Recommendation]) -> list[str]:
    """Where N* is from, why, and N* by the other ways: once for all answers that agree in these."""
    if isinstance(source, Published):
        return []
    alike: dict[str, list[Recommendation]] = {}
    for each in answers:
        of = "Answered" if each.question.budget is None else "N*"
        why = f" ({each.reason.rstrip('.')})" if each.reason else ""
        alike.setdefault(f"{of} by {BY_IN_WORDS[each.by]}{why}", []).append(each)
    lines = []
    for said, group in alike.items():
        asked = "" if len(alike) == 1 else f"{'; '.join(str(each.question) for each in group)}: "
        more = " Train more runs near the optimum to decide between the two."
        lines.append(f"{asked}{said}.{_other_ways(group)}{more * (group[0].by == 'both')}")
    return lines


def _other_ways(group: Sequence[Recommendation]) -> str:
    """N* by each other way alone, and how many times the answer that is."""
    trained: dict[str, list[str]] = {}
    for each in group:
        printed = _sizes(each).params
        for other in each.others:
            size = human(other.params, other.span("params"), COMPARED)
            trained.setdefault(other.by, []).append(f"{size} ({quotient(size, printed)} ×")
    return "".join(
        f" By {BY_IN_WORDS[by]} alone: {'), '.join(trained[by])}; --by {by})."
        for by in ("law", "runs")
        if by in trained
    )


def _priors(answers: Sequence[Recommendation]) -> list[str]:
    """How far the runs' own minima rest on priors, where they answer: at the last such budget."""
    by_runs = [each for each in answers if each.by != "law" and each.valley is not None]
    if not by_runs or (found := by_runs[-1].valley) is None or not found.priors:
        return []
    last = by_runs[-1]
    parts = []
    for prior in found.priors:
        without = "the runs alone do not determine it"
        if prior.share < MOSTLY_PRIOR:
            moved = found.params_without(prior, last.flops) / found.params(last.flops)
            without = f"without it {prior.without:.2g}, and N* at {last.question} {moved:.2f} ×"
        parts.append(
            f"{prior.of} {prior.mean:g} ± {prior.sd:g}, weight of the prior {prior.share:.0%} "
            f"({without})"
        )
    said = (
        "The runs' own minima rest on the runs and on two priors from published isoFLOP studies: "
        f"{'; '.join(parts)}"
    )
    most = max(found.priors, key=lambda prior: prior.share)
    if most.share > HALF:
        more = {"exponent": "budgets", "curvature": "sizes at equal compute"}[most.of]
        said += f". Train more {more}, and the prior of the {most.of} counts less"
    return [f"{said}."]
