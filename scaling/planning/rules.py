"""Hyper-parameters that follow a model's size: named rules, each with its source.

A study gives a number or the name of a rule; nothing else decides. Because every token budget
of a size branches off one trunk, a rule may depend on the model and the batch, never on the
number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.counts import ParamCount


@dataclass(frozen=True)
class Rule:
    """A published or measured rule: f(params, batch_tokens)."""

    value: Callable[[ParamCount, int], float]
    formula: str
    source: str


LEARNING_RATES: Mapping[str, Rule] = {
    "kaplan-2020": Rule(
        lambda params, _: 0.003239 - 0.0001395 * math.log(params.non_embedding),
        "0.003239 - 0.0001395 ln N, N non-embedding",
        "Kaplan et al. 2020, arXiv:2001.08361, eq. D.1 (Adam, 0.5M-token batches, N up to 1e10)",
    ),
    "sotu-bytes": Rule(
        lambda params, _: 0.0053 * (params.non_embedding / 1e5) ** -0.44,
        "0.0053 (N / 1e5)^-0.44, N non-embedding",
        "measured here, on the embedded corpus with 1,024-token batches and 1M tokens, N from 25k "
        "to 800k: experiments/learning_rate.toml, results/reference/learning_rate",
    ),
}

WARMUP_TOKENS: Mapping[str, Rule] = {
    "params": Rule(
        lambda params, _: params.total,
        "N tokens, N total",
        "Porian et al. 2024, arXiv:2406.19146, section 3.3",
    ),
}

BETA2: Mapping[str, Rule] = {
    # The second moment forgets half of itself over a fixed number of tokens, whatever the batch.
    "half-life-7M": Rule(
        lambda _, batch_tokens: 0.5 ** (batch_tokens / 7e6),
        "0.5^(batch_tokens / 7e6)",
        "Marek et al. 2025, arXiv:2507.07101: constant half-life in tokens; 7M tokens is "
        "0.95 at 0.5M-token batches (Brown et al. 2020, arXiv:2005.14165, appendix B)",
    ),
}


def resolve(
    setting: float | str, rules: Mapping[str, Rule], field: str, params: ParamCount, batch: int
) -> float:
    """The number that `setting` means for this model.

    Raises ValueError, naming the field and the known rules, for an unknown rule or a rule that
    gives no positive number here.
    """
    if not isinstance(setting, str):
        return float(setting)
    if setting not in rules:
        raise ValueError(
            f"{field} = {setting!r} is no known rule; give a number or one of {', '.join(rules)}"
        )
    value = rules[setting].value(params, batch)
    if not value > 0:
        raise ValueError(
            f"{field} = {setting!r} gives {value:.3g} at {params.non_embedding} parameters "
            f"({rules[setting].formula}); give a number"
        )
    return value
