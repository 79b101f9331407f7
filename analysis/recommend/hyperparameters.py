"""Learning rate and batch size for a run, by published rules and by fits of one's own sweeps.

A rule is a law whose target is `learning_rate` or `batch_tokens` (`laws.published`, or a fit).
Each states what it was measured on, and warns outside that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from analysis.fitting.fit import Fit, Status
from analysis.fitting.functionals import interval_over_draws
from analysis.forecast.warnings import source_warnings
from analysis.interval import Interval
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.laws.published import published
from analysis.plain import plain
from analysis.text import human, paragraph, quotient, scientific, text_table
from scaling.store.records import Refusal

APART = 3.0  # a factor between rates that no tuning range covers
TARGETS = ("learning_rate", "batch_tokens")


@dataclass(frozen=True)
class Rule:
    """What a source says of one or both targets."""

    name: str
    source: str
    laws: tuple[tuple[Law, Mapping[str, Any]], ...]  # with coefficients
    seen: Mapping[str, Interval]  # features of the runs it was measured on
    params_column: str
    fit: Fit | None = None  # where the draws are


@dataclass(frozen=True)
class Rates:
    """A rule's answer for one run; None where it has none."""

    rule: str
    source: str
    learning_rate: float | None  # peak
    batch_tokens: float | None
    warnings: tuple[str, ...]
    interval: Mapping[str, Interval] = field(default_factory=dict)  # by target, of a fit with draws
    seen: Mapping[str, Interval] = field(default_factory=dict)  # what the rule was measured on


def _rule(name: str, said: str) -> Rule:
    """A rule of two published laws, whose source is that of the first, and what is `said` of it."""
    found = [published(f"{name}-{target}") for target in ("lr", "batch")]
    laws = tuple((each.law, each.coefficients) for each in found)
    first = found[0]
    return Rule(name, f"{first.source} {said}", laws, first.measured, first.params_column)


RULES: Mapping[str, Rule] = {
    name: _rule(name, said)
    for name, said in {
        "steplaw-2025": "(AdamW, peak rate, batch in tokens)",
        "deepseek-2024": "(C without embeddings, multi-step schedule)",
        "kaplan-2020": "(Adam, batches of 0.5M tokens) and critical batch, eq. 1.4",
    }.items()
}


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
        {key: span for key, span in spans.items() if span is not None},
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
    flops = FLOPS_PER_PARAM_TOKEN * params * tokens
    at = {"params": params, "tokens": tokens, "flops": flops, "loss": loss}
    values: dict[str, float] = {}
    spans: dict[str, Interval] = {}
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
        (*([] if rule.fit is None else source_warnings(rule.fit)), *_outside(rule, at)),
        spans,
        rule.seen,
    )


def _span(fit: Fit, at: Mapping[str, float]) -> Interval:
    columns = {name: np.array([value]) for name, value in at.items()}
    ends = interval_over_draws(
        fit, lambda c: np.log(fit.law.predict(c, columns)), fit.interval.level
    )
    return Interval(*(np.exp(end).item() for end in ends))


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


@dataclass(frozen=True)
class RatesByRule:
    """What several rules say for one run."""

    flops: float
    rates: tuple[Rates, ...]

    def json(self) -> list[dict[str, Any]]:
        """Plain values at full precision."""
        return list(plain(self.rates))

    def text(self) -> str:
        """A table: a row a rule, then their warnings, and what to think of rates far apart."""
        rows = [
            (
                each.rule,
                "none" if each.learning_rate is None else _short(each.learning_rate),
                "none" if each.batch_tokens is None else human(each.batch_tokens),
                each.source,
            )
            for each in self.rates
        ]
        table = text_table(("rule", "peak rate", "batch, tokens", "source"), rows)
        said = [text for each in self.rates for text in each.warnings] + self._apart()
        heading = f"{scientific(self.flops)} FLOPs: learning rate and batch"
        return "\n".join([heading, table, *map(paragraph, said)])

    def _apart(self) -> list[str]:
        """What each was measured on, where rates differ by more than `APART`."""
        known = [each.learning_rate for each in self.rates if each.learning_rate is not None]
        if not known or max(known) <= APART * min(known):
            return []
        low, high = _short(min(known)), _short(max(known))
        measured = "; ".join(f"{each.rule}, {_measured(each)}" for each in self.rates)
        return [
            f"The peak rates differ by a factor of {quotient(high, low)} ({low} … {high}). "
            f"Measured on: {measured}. "
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
