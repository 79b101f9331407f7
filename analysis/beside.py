"""Other laws' answers to the same budget, beside one's own: the spread no bootstrap shows.

An interval holds the noise of the runs under one law and one way of counting N. Which law and
which N is a choice too, and published choices differ by more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from analysis.answer import law_for
from analysis.caution import Source
from analysis.fit import Fit, Status
from analysis.frontiers import KAPLAN_2020
from analysis.laws import law as law_named
from analysis.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.published import PUBLISHED, Published, published
from analysis.recommend import convention
from analysis.solve import Ask
from analysis.units import Span, decimal, human, quotient, scientific, sizes
from analysis.valley import Valley
from scaling.store.records import Refusal

PUBLISHED_BESIDE = ("chinchilla-2022", "besiroglu-2024")
LAWS_BESIDE = ("chinchilla", "chinchilla_tied", "chinchilla_coupled", "kaplan_nd")


@dataclass(frozen=True)
class Other:
    """What one source asks for.

    No loss where it has none (Kaplan's printed N*(C) and D*(C)), nor beside that of one's own runs.
    """

    name: str
    params_convention: str
    params: float
    tokens: float
    loss: float | None
    own: bool = False  # from one's own runs

    @property
    def tokens_per_param(self) -> float:
        return self.tokens / self.params


@dataclass(frozen=True)
class Beside:
    """Everyone's N* and D* for one budget, in the order: own, then published."""

    flops: float
    others: tuple[Other, ...]

    @property
    def params(self) -> Span:
        """Least and largest N*."""
        values = [each.params for each in self.others]
        return min(values), max(values)

    @property
    def tokens(self) -> Span:
        """Least and largest D*."""
        values = [each.tokens for each in self.others]
        return min(values), max(values)

    @property
    def own_params(self) -> Span | None:
        """Least and largest N* by one's own runs; None where they give only one."""
        values = [each.params for each in self.others if each.own]
        return (min(values), max(values)) if len(values) > 1 else None


def beside(own: Sequence[Source], flops: float, valley: Valley | None = None) -> Beside:
    """N*, D* and loss of one's own sources (several laws, or one law under several counts of N;
    first the `valley` of the runs of the first), then of Hoffmann et al. 2022, Besiroglu et al.
    2024 and Kaplan et al. 2020.

    `flops` is C = 6ND. Raises Refusal as `recommend` does.
    """
    ask = Ask(flops=flops)
    rows = [_other(source, ask) for source in own]
    if valley is not None:
        at = valley.params(flops)
        tokens = flops / FLOPS_PER_PARAM_TOKEN / at
        rows.insert(
            0, Other("the runs' own minima", rows[0].params_convention, at, tokens, None, True)
        )
    named = {row.name for row in rows}
    others = [_other(published(name), ask) for name in PUBLISHED_BESIDE if name not in named]
    if any(row.own for row in rows):  # on other text, in other tokens: not to be compared
        others = [replace(other, loss=None) for other in others]
    rows += others
    rows.append(
        Other(
            KAPLAN_2020.name,
            KAPLAN_2020.params_convention,
            float(KAPLAN_2020.params(flops)),
            float(KAPLAN_2020.tokens(flops)),
            None,
        )
    )
    return Beside(flops, tuple(rows))


def refits(own: Fit) -> list[Fit]:
    """Other laws of N and D fitted to the same rows by the same objective, without intervals.

    A law that cannot be fitted to them, or has no optimum at their largest compute, is left out.
    Empty for a fit without its rows.
    """
    if own.table.empty or {"params", "tokens"} - set(own.table):
        return []
    found = []
    for name in LAWS_BESIDE:
        if law_named(name).form is own.law.form:
            continue
        try:
            again = own.again(own.table, law=law_named(name), bootstrap=0)
        except Refusal:
            continue
        most = float((6 * own.table["params"] * own.table["tokens"]).max())
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


def _other(source: Source, ask: Ask) -> Other:
    assert ask.flops is not None
    law = law_for(source, ask)
    best = compute_optimal(law, source.coefficients, ask.flops)
    if not best.interior:
        raise Refusal(f"{ask}: {law.name} has no optimum there. Give a larger budget.")
    name = source.name if isinstance(source, Published) else f"{law.name}, own fit"
    own = name not in PUBLISHED
    n, d, loss = (float(value) for value in (best.params, best.tokens, best.loss))
    return Other(name, convention(source), n, d, loss, own)


def to_json(each: Beside) -> dict[str, Any]:
    """Plain values."""
    return asdict(each) | {
        "params": list(each.params),
        "tokens": list(each.tokens),
        "own_params": None if each.own_params is None else list(each.own_params),
    }


def to_text(each: Beside) -> str:
    """A table for the terminal: a row a source, then the spread."""
    rows = [("", "N counts", "params N*", "tokens D*", "tokens/param", "loss")]
    rows += [
        (
            other.name,
            other.params_convention,
            *sizes(other.params, other.tokens),
            "" if other.loss is None else decimal(other.loss),
        )
        for other in each.others
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    said = [f"N* spans {_factor(each.params)}"]
    if each.own_params is not None:
        said.insert(0, f"N* by your own runs spans {_factor(each.own_params)}")
    return "\n".join([f"{scientific(each.flops)} FLOPs by law and by count of N", *lines, *said])


def _factor(span: Span) -> str:
    low, high = map(human, span)
    return f"a factor of {quotient(high, low)}: {low} … {high}"
