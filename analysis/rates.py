"""Learning rate and batch size for a run, by rules that someone fitted.

A rule is a law whose target is `learning_rate` or `batch_tokens`: published, or a fit of one's own
sweeps. Each says what it was measured on, and warns outside that.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from analysis.caution import source_warnings
from analysis.derived import interval_over_draws
from analysis.expression import feature, log, number
from analysis.fit import Fit, Status
from analysis.laws import Law
from analysis.published import published
from analysis.units import Span, human, quotient, scientific
from scaling.store.records import Refusal

APART = 3.0  # a factor between rates that no tuning range covers
TARGETS = ("learning_rate", "batch_tokens")


@dataclass(frozen=True)
class Rule:
    """What a source says of one or both targets. Its N leaves embeddings out unless a fit's own."""

    name: str
    source: str
    laws: tuple[tuple[Law, Mapping[str, Any]], ...]  # with coefficients
    seen: Mapping[str, Span]  # features of the runs it was measured on
    params_column: str = "params_non_embedding"
    fit: Fit | None = None  # where the draws are


@dataclass(frozen=True)
class Rates:
    """A rule's answer for one run; None where it has none."""

    rule: str
    source: str
    learning_rate: float | None  # peak
    batch_tokens: float | None
    warnings: tuple[str, ...]
    interval: Mapping[str, Span] = field(default_factory=dict)  # by target, of a fit with draws
    seen: Mapping[str, Span] = field(default_factory=dict)  # what the rule was measured on


def _powers(target: str, source: str, **coefficients: float) -> tuple[Law, Mapping[str, Any]]:
    c = feature("C", "flops")
    k, a = (number(coefficients[name]) for name in ("k", "a"))
    return Law(f"bi_{target}", k * c**a, source, target=target), {}


_BI = "Bi et al. 2024 (DeepSeek LLM), arXiv:2401.02954, eq. 1"
_KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"
_N, _L = feature("N", "params"), feature("L", "loss")
_STEPLAW = published("steplaw-2025-lr"), published("steplaw-2025-batch")

RULES: Mapping[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule(
            "steplaw-2025",
            f"{_STEPLAW[0].source} (AdamW, peak rate, batch in tokens)",
            tuple((each.law, each.coefficients) for each in _STEPLAW),
            # Its released grid, to one digit; the largest test is 1B on 100B tokens (abstract).
            {"params": (6e7, 1e9), "tokens": (2e9, 1e11)},
        ),
        Rule(
            "deepseek-2024",
            f"{_BI} (C without embeddings, multi-step schedule)",
            (
                _powers("learning_rate", _BI, k=0.3118, a=-0.1250),
                _powers("batch_tokens", _BI, k=0.2920, a=0.3271),
            ),
            {"flops": (1e17, 2e19)},  # section 3.1; extrapolated there to 7B and 67B on 2T tokens
        ),
        Rule(
            "kaplan-2020",
            f"{_KAPLAN}, eq. D.1 (Adam, batches of 0.5M tokens) and critical batch, eq. 1.4",
            (
                (Law("kaplan_lr", number(0.003239) - number(0.0001395) * log(_N), _KAPLAN,
                     target="learning_rate"), {}),
                (Law("kaplan_batch", number(2e8) / _L ** number(1 / 0.21), _KAPLAN,
                     target="batch_tokens"), {}),
            ),
            {"params": (1e3, 1e10)},  # "up to 10 billion parameters" (D.6); 0 at 1.2e10
        ),
    )
}  # fmt: skip


def rule_of(fit: Fit, name: str) -> Rule:
    """A fit of a learning rate or a batch as a rule.

    Raises Refusal for a fit of anything else, or one that failed.
    """
    if fit.status is Status.FAILED:
        raise Refusal(f"{name} is a fit that failed ({fit.reason}): no rule can be read from it.")
    if fit.law.target not in TARGETS:
        raise Refusal(
            f"{name} predicts {fit.law.target}. A rule predicts {' or '.join(TARGETS)}: "
            "fit steplaw_lr or steplaw_batch to a table of best settings."
        )
    spans = {"params": fit.data.params, "tokens": fit.data.tokens}
    return Rule(
        name,
        f"{fit.law.name} on {fit.data.n} optima",
        ((fit.law, fit.coefficients),),
        {key: (span.low, span.high) for key, span in spans.items() if span is not None},
        fit.data.params_column,
        fit,
    )


def rule_named(name: str) -> Rule:
    """A published rule. Raises Refusal listing the names."""
    if name not in RULES:
        raise Refusal(f"no rule {name!r}. Known: {', '.join(RULES)}; or a fit of steplaw_lr.")
    return RULES[name]


def rates(rule: Rule, params: float, tokens: float, loss: float) -> Rates:
    """What the rule says for a run; `params` in the rule's own count (`rule.params_column`).

    A loss is needed by Kaplan's critical batch alone. Raises Refusal for a fit whose law has
    other features.
    """
    flops = 6.0 * params * tokens
    at = {"params": params, "tokens": tokens, "flops": flops, "loss": loss}
    values: dict[str, float] = {}
    spans: dict[str, Span] = {}
    for law, coefficients in rule.laws:
        missing = set(law.features) - set(at)
        if missing:
            raise Refusal(f"{rule.name}: {law.name} needs {', '.join(sorted(missing))}.")
        value = float(law.predict(coefficients, at))
        if value > 0:
            values[law.target] = value
        if rule.fit is not None and len(rule.fit.draws):
            spans[law.target] = _span(rule.fit, at)
    return Rates(
        rule.name,
        rule.source,
        values.get("learning_rate"),
        values.get("batch_tokens"),
        (*(source_warnings(rule.fit) if rule.fit is not None else ()), *_outside(rule, at)),
        spans,
        rule.seen,
    )


def _span(fit: Fit, at: Mapping[str, float]) -> Span:
    columns = {name: np.array([value]) for name, value in at.items()}
    low, high = interval_over_draws(
        fit, lambda c: np.log(fit.law.predict(c, columns)), fit.interval.level
    )
    return float(np.exp(low[0])), float(np.exp(high[0]))


_WRITTEN = {"params": ("N", human), "tokens": ("D", human), "flops": ("C", scientific)}


def _outside(rule: Rule, at: Mapping[str, float]) -> list[str]:
    said = []
    for key, (low, high) in rule.seen.items():
        beyond = max(math.log10(at[key] / high), math.log10(low / at[key]))
        if beyond > 0.05:
            letter, write = _WRITTEN[key]
            said.append(
                f"{rule.name}: {letter} = {write(at[key])} lies {beyond:.1f} decades outside what "
                f"it was measured on ({write(low)} … {write(high)})."
            )
    return said


# --- out --------------------------------------------------------------------------------------


def to_json(found: Sequence[Rates]) -> list[dict[str, Any]]:
    """Plain values."""
    return [
        asdict(each)
        | {"interval": {name: list(span) for name, span in each.interval.items()}}
        | {"seen": {name: list(span) for name, span in each.seen.items()}}
        for each in found
    ]


def to_text(heading: str, found: Sequence[Rates]) -> str:
    """A table: a row a rule, then their warnings, and what to think of rates far apart."""
    rows = [("rule", "peak rate", "batch, tokens", "source")]
    rows += [
        (
            each.rule,
            "none" if each.learning_rate is None else _short(each.learning_rate),
            "none" if each.batch_tokens is None else human(each.batch_tokens),
            each.source,
        )
        for each in found
    ]
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    said = [text for each in found for text in each.warnings]
    wrapped = [
        textwrap.fill(text, 100, initial_indent="  ", subsequent_indent="    ")
        for text in (*said, *_apart(found))
    ]
    return "\n".join([heading, *lines, *wrapped])


def _apart(found: Sequence[Rates]) -> list[str]:
    """What each was measured on, where rates differ by more than `APART`."""
    known = [each.learning_rate for each in found if each.learning_rate is not None]
    if not known or max(known) <= APART * min(known):
        return []
    low, high = _short(min(known)), _short(max(known))
    return [
        f"The peak rates differ by a factor of {quotient(high, low)} ({low} … {high}). "
        f"Measured on: {'; '.join(f'{each.rule}, {_measured(each)}' for each in found)}. "
        "No rule settles this: sweep the rate at two smaller sizes first."
    ]


def _measured(each: Rates) -> str:
    spans = []
    for key, (low, high) in each.seen.items():
        letter, write = _WRITTEN[key]
        spans.append(f"{letter} {write(low)} … {write(high)}")
    return " and ".join(spans) or "nothing, its file sets the rate"


def _short(rate: float) -> str:
    return f"{rate:.2e}".replace("e-0", "e-")
