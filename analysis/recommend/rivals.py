"""The answers of other laws to the same budget: a spread that no bootstrap shows.

An interval holds the noise of the runs under one law and one way of counting N. Which law and
which N is a choice too, and published choices differ by more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from analysis.fitting.fit import Fit, Status
from analysis.fitting.source import Source, convention
from analysis.interval import Interval
from analysis.laws.catalogue import law as law_named
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.laws.published import PUBLISHED, Published, published
from analysis.plain import plain
from analysis.recommend.by_law import law_for, solved
from analysis.recommend.question import Question
from analysis.text import decimal, human, quotient, scientific, sizes, text_table
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.allocation.valley import Valley

PUBLISHED_RIVALS = ("chinchilla-2022", "besiroglu-2024")
LAWS_REFITTED = ("chinchilla", "chinchilla_tied", "chinchilla_coupled", "kaplan_nd")


@dataclass(frozen=True)
class RivalAnswer:
    """What one source asks for.

    `loss` is None where the source has none (Kaplan's printed N*(C) and D*(C)), and for published
    sources that are shown with one's own: losses on other text are not comparable.
    """

    name: str
    params_convention: str
    params: float
    tokens: float
    loss: float | None
    own: bool = False  # from one's own runs


@dataclass(frozen=True)
class RivalAnswers:
    """Everyone's N* and D* for one budget, in the order: own, then published."""

    flops: float
    others: tuple[RivalAnswer, ...]

    @property
    def params(self) -> Interval:
        """Least and largest N*."""
        return _ends([each.params for each in self.others])

    @property
    def tokens(self) -> Interval:
        """Least and largest D*."""
        return _ends([each.tokens for each in self.others])

    @property
    def own_params(self) -> Interval | None:
        """Least and largest N* by one's own runs; None where they give only one."""
        values = [each.params for each in self.others if each.own]
        return _ends(values) if len(values) > 1 else None

    def json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        ends = {name: plain(getattr(self, name)) for name in ("params", "tokens", "own_params")}
        return {**plain(self), **ends}

    def text(self) -> str:
        """A table for the terminal: one row for each source, then the spread."""
        header = ("", "N counts", "params N*", "tokens D*", "tokens/param", "loss")
        rows = [
            (
                other.name,
                other.params_convention,
                *sizes(other.params, other.tokens),
                "" if other.loss is None else decimal(other.loss),
            )
            for other in self.others
        ]
        said = [f"N* spans {_factor(self.params)}"]
        if self.own_params is not None:
            said.insert(0, f"N* by your own runs spans {_factor(self.own_params)}")
        title = f"{scientific(self.flops)} FLOPs by law and by count of N"
        return "\n".join([title, text_table(header, rows), *said])


def _ends(values: Sequence[float]) -> Interval:
    return Interval(min(values), max(values))


def rival_answers(
    own: Sequence[Source], flops: float, valley: Valley | None = None
) -> RivalAnswers:
    """N*, D* and loss of one's own sources (several laws, or one law under several counts of N;
    first the `valley` of the runs of the first), then of Hoffmann et al. 2022, Besiroglu et al.
    2024 and Kaplan et al. 2020.

    `flops` is C = 6ND. Raises Refusal as `recommend` does.
    """
    question = Question(flops=flops)
    rows = [_answer_of(source, question) for source in own]
    named = {row.name for row in rows}
    theirs = [_answer_of(published(name), question) for name in PUBLISHED_RIVALS
              if name not in named]  # fmt: skip
    if any(row.own for row in rows):  # on other text, in other tokens: not to be compared
        theirs = [replace(other, loss=None) for other in theirs]
    if valley is not None:
        at = valley.params(flops)
        tokens, counted = flops / FLOPS_PER_PARAM_TOKEN / at, rows[0].params_convention
        rows.insert(0, RivalAnswer("the runs' own minima", counted, at, tokens, None, True))
    params, tokens_of = published("kaplan-2020-params"), published("kaplan-2020-tokens")
    at, tokens = (float(each.predict({"flops": flops})) for each in (params, tokens_of))
    kaplan = RivalAnswer("Kaplan et al. 2020", params.params_convention, at, tokens, None)
    return RivalAnswers(flops, (*rows, *theirs, kaplan))


def refits(own: Fit) -> list[Fit]:
    """Other laws of N and D fitted to the same rows by the same objective, without intervals.

    A law that cannot be fitted to them, or has no optimum at their largest compute, is left out.
    Empty for a fit without its rows.
    """
    if own.table.empty or {"params", "tokens"} - set(own.table):
        return []
    found = []
    for name in LAWS_REFITTED:
        if law_named(name).form is own.law.form:
            continue
        try:
            again = own.again(own.table, law=law_named(name), bootstrap=0)
        except Refusal:
            continue
        most = FLOPS_PER_PARAM_TOKEN * float((own.table["params"] * own.table["tokens"]).max())
        if again.status is not Status.FAILED and bool(
            compute_optimal(again.law, again.coefficients, most).interior
        ):
            # Its rows have N as `params`, whatever the column was called.
            data = replace(again.data, params_column=own.data.params_column)
            found.append(replace(again, data=data))
    return found


def by_count(own: Fit, conventions: Iterable[Mapping[str, Any]]) -> list[Published]:
    """The same law under the other counts of N, from what `scaling fit --params-column all` wrote
    into the fit's file under `conventions`."""
    return [
        Published(f"{own.law.name}, own fit", own.law, each["coefficients"], each["column"], "")
        for each in conventions
        if each["column"] != own.data.params_column and each["params_exponent"] is not None
    ]


def _answer_of(source: Source, question: Question) -> RivalAnswer:
    best = solved(source, law_for(source, question), question)
    name = source.name if isinstance(source, Published) else f"{source.law.name}, own fit"
    n, d, loss = (float(value) for value in (best.params, best.tokens, best.loss))
    return RivalAnswer(name, convention(source), n, d, loss, name not in PUBLISHED)


def _factor(span: Interval) -> str:
    low, high = map(human, span)
    return f"a factor of {quotient(high, low)}: {low} … {high}"
