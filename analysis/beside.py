"""Other laws' answers to the same budget, beside one's own: the spread no bootstrap shows.

An interval holds the noise of the runs under one law and one way of counting N. Which law and
which N is a choice too, and published choices differ by more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.answer import law_for
from analysis.caution import Source
from analysis.frontiers import KAPLAN_2020
from analysis.optimum import compute_optimal
from analysis.published import Published, published
from analysis.recommend import convention
from analysis.solve import Ask
from analysis.units import Span, decimal, human, scientific
from scaling.records import Refusal

PUBLISHED_BESIDE = ("chinchilla-2022", "besiroglu-2024")


@dataclass(frozen=True)
class Other:
    """What one source asks for; no loss where it has none (Kaplan's printed N*(C) and D*(C))."""

    name: str
    params_convention: str
    params: float
    tokens: float
    loss: float | None

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


def beside(own: Sequence[Source], flops: float) -> Beside:
    """N*, D* and loss of one's own sources (several laws, or one law under several counts of N),
    then of Hoffmann et al. 2022, Besiroglu et al. 2024 and Kaplan et al. 2020.

    `flops` is C = 6ND. Losses compare only on the same data and tokeniser. Raises Refusal as
    `recommend` does.
    """
    ask = Ask(flops=flops)
    sources = [*own, *(published(name) for name in PUBLISHED_BESIDE)]
    rows = [_other(source, ask) for source in sources]
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


def _other(source: Source, ask: Ask) -> Other:
    assert ask.flops is not None
    law = law_for(source, ask)
    best = compute_optimal(law, source.coefficients, ask.flops)
    if not best.interior:
        raise Refusal(f"{ask}: {law.name} has no optimum there. Give a larger budget.")
    name = source.name if isinstance(source, Published) else f"{law.name}, own fit"
    return Other(name, convention(source), float(best.params), float(best.tokens), float(best.loss))


def to_json(each: Beside) -> dict[str, Any]:
    """Plain values."""
    return asdict(each) | {"params": list(each.params), "tokens": list(each.tokens)}


def to_text(each: Beside) -> str:
    """A table for the terminal: a row a source, then the spread."""
    rows = [("", "N counts", "params N*", "tokens D*", "tokens/param", "loss")]
    rows += [
        (
            other.name,
            other.params_convention,
            human(other.params),
            human(other.tokens),
            human(other.tokens_per_param),
            "" if other.loss is None else decimal(other.loss),
        )
        for other in each.others
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    low, high = each.params
    return "\n".join(
        [
            f"{scientific(each.flops)} FLOPs by law and by count of N",
            *lines,
            f"N* spans a factor of {human(high / low)}: {human(low)} … {human(high)}",
        ]
    )
