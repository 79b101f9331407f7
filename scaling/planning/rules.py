"""Hyper-parameters that follow a model's size: named rules, each with its source.

A study gives a number or the name of a rule; nothing else decides. Because every token budget
of a size branches off one trunk, a rule may depend on the model, the batch, and the one D that a
study declares ([training] nominal_tokens), never on the tokens of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.sizes import ParamCount
from scaling.study import TrainingSection


@dataclass(frozen=True)
class Scale:
    """What a rule may follow."""

    params: ParamCount
    batch_tokens: int
    nominal_tokens: int | None  # the D that a study declares

    @property
    def tokens(self) -> int:
        """The declared D. Raises ValueError where a study declares none."""
        if self.nominal_tokens is None:
            raise ValueError("follows D: declare one, [training] nominal_tokens")
        return self.nominal_tokens


@dataclass(frozen=True)
class Rule:
    """A published or measured rule."""

    value: Callable[[Scale], float]
    formula: str
    source: str


LEARNING_RATES: Mapping[str, Rule] = {
    "kaplan-2020": Rule(
        lambda scale: 0.003239 - 0.0001395 * math.log(scale.params.non_embedding),
        "0.003239 - 0.0001395 ln N, N non-embedding",
        "Kaplan et al. 2020, arXiv:2001.08361, eq. D.1 (Adam, 0.5M-token batches, N up to 1e10)",
    ),
    "sotu-bytes": Rule(
        lambda scale: 0.0053 * (scale.params.non_embedding / 1e5) ** -0.44,
        "0.0053 (N / 1e5)^-0.44, N non-embedding",
        "measured here, on the embedded corpus with 1,024-token batches and 1M tokens, N from 25k "
        "to 800k: experiments/learning_rate.toml, results/reference/learning_rate",
    ),
}

WARMUP_TOKENS: Mapping[str, Rule] = {
    "params": Rule(
        lambda scale: scale.params.total,
        "N tokens, N total",
        "Porian et al. 2024, arXiv:2406.19146, section 3.3",
    ),
}

BETA2: Mapping[str, Rule] = {
    # The second moment forgets half of itself over a fixed number of tokens, whatever the batch.
    "half-life-7M": Rule(
        lambda scale: 0.5 ** (scale.batch_tokens / 7e6),
        "0.5^(batch_tokens / 7e6)",
        "Marek et al. 2025, arXiv:2507.07101: constant half-life in tokens; 7M tokens is "
        "0.95 at 0.5M-token batches (Brown et al. 2020, arXiv:2005.14165, appendix B)",
    ),
}


def peak_rate(training: TrainingSection, scale: Scale) -> float:
    """The learning rate that a study's [training] means at this scale, its factor included.

    Raises ValueError as `resolve` does.
    """
    rate = resolve(training.learning_rate, LEARNING_RATES, "learning_rate", scale)
    return training.learning_rate_factor * rate


def resolve(setting: float | str, rules: Mapping[str, Rule], field: str, scale: Scale) -> float:
    """The number that `setting` means at this scale.

    Raises ValueError, naming the field and the known rules, for an unknown rule, and for one that
    gives no positive number here or follows a D where none is declared.
    """
    if not isinstance(setting, str):
        return float(setting)
    if setting not in rules:
        raise ValueError(
            f"{field} = {setting!r} is no known rule; give a number or one of {', '.join(rules)}"
        )
    try:
        value = rules[setting].value(scale)
    except ValueError as error:
        raise ValueError(f"{field} = {setting!r} {error}") from error
    if not value > 0:
        raise ValueError(
            f"{field} = {setting!r} gives {value:.3g} at {scale.params.non_embedding} parameters "
            f"({rules[setting].formula}); give a number"
        )
    return value
