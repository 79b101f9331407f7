"""What a study's [training] means for one size: batch, rate, warmup, β2 and weight decay.

A study gives each as a number or as a rule; nothing else decides. The batch comes first, for other
rules may follow it, and the rate before the decay, which is given by its timescale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from models.sizes import ParamCount
from scaling.planning.refusals import Refusals
from scaling.planning.rules import GIVES, Rule, Scale, rule_of
from scaling.store.records import Refusal
from scaling.study import Study, TrainingSection

# A batch by a rule keeps so many binary digits after its first, 8 to 15 times a power of two: from
# 64 sequences on it divides among 8 devices, and into microbatches, and is off by 6% at most.
DIGITS = 3
RANGE_SLACK = 0.05  # decades beyond what a rule was measured on that count as inside


@dataclass(frozen=True)
class Hyperparameters:
    """Of one size."""

    batch_sequences: int
    learning_rate: float  # peak, its factor included
    warmup_tokens: float
    beta2: float
    weight_decay: float


def hyperparameters(study: Study, params: ParamCount) -> Hyperparameters:
    """What all runs of a size are trained with.

    Raises one Refusal for all rules that are unknown, give no positive number here, or follow a D
    where none is declared.
    """
    training, refusals = study.training, Refusals()

    def resolved(field: str, scale: Scale) -> float:
        try:
            return resolve(getattr(training, field), field, scale)
        except ValueError as error:
            refusals.add(f"[training] {error}.")
            return math.nan

    batch, nominal = batch_of(study, params), _nominal(training)
    scale = Scale(params, batch * study.data.sequence_length, nominal)
    rate = training.learning_rate_factor * resolved("learning_rate", scale)
    warmup, beta2 = resolved("warmup_tokens", scale), resolved("beta2", scale)
    decay = resolved("weight_decay", scale)
    if isinstance(training.weight_decay, str) and nominal is None:
        refusals.add(
            f"[training] weight_decay = {training.weight_decay!r} is a share of D: declare one, "
            "[training] nominal_tokens."
        )
    refusals.raise_any()
    rate *= plateau_factor(training)
    if isinstance(training.beta2, str):
        beta2 = 0.5 ** (scale.batch_tokens / beta2)
        if not 0 < beta2 < 1:
            refusals.add(
                f"[training] beta2 = {training.beta2!r} gives {beta2:g} for a batch of "
                f"{scale.batch_tokens:,} tokens, which is none. Give a number from 0 to below 1."
            )
    if isinstance(training.weight_decay, str):
        decay = scale.batch_tokens / (rate * scale.of("tokens") * decay)
        if not rate * decay < 1:  # weights would change their sign at every step
            refusals.add(
                f"[training] weight_decay = {training.weight_decay!r} gives {decay:.3g} at a rate "
                f"of {rate:.3g}, and takes more from a weight at a step than it has. Give a number."
            )
    refusals.raise_any()
    return Hyperparameters(batch, rate, warmup, beta2, decay)


def batch_of(study: Study, params: ParamCount) -> int:
    """The sequences of a step of a size. Raises Refusal as `hyperparameters` does."""
    setting = study.training.batch_sequences
    if not isinstance(setting, str):
        return setting
    try:
        tokens = resolve(setting, "batch_sequences", Scale(params, 0, _nominal(study.training)))
    except ValueError as error:
        raise Refusal(f"[training] {error}.") from error
    if tokens >= 2**31 * study.data.sequence_length:  # as a number of sequences is refused
        raise Refusal(
            f"[training] batch_sequences = {setting!r} gives {tokens:.3g} tokens at "
            f"{params.non_embedding} parameters, more than any batch; give a number."
        )
    return in_few_digits(tokens / study.data.sequence_length)


def _nominal(training: TrainingSection) -> int | None:
    return None if training.nominal_tokens is None else round(training.nominal_tokens)


def resolve(setting: float | str, field: str, scale: Scale) -> float:
    """The number that `setting` means at this scale: a number itself, a rule what it gives.

    Raises ValueError, naming the field and what would do, for an unknown rule, and for one that
    gives no positive number here or follows a D where none is declared.
    """
    if not isinstance(setting, str):
        return float(setting)
    rule = rule_of(setting, field)
    try:
        value = rule.value(scale)
    except ValueError as error:
        raise ValueError(f"{field} = {setting!r} {error}") from error
    if not 0 < value < math.inf:
        raise ValueError(
            f"{field} = {setting!r} gives {value:.3g} at {scale.params.non_embedding} parameters "
            f"({rule.formula}); give a number"
        )
    return value


def rules_of(training: TrainingSection) -> dict[str, Rule]:
    """The rules that a study names, by field. Raises NoRule as `rule_of` does."""
    settings = {field: getattr(training, field) for field in GIVES}
    return {
        field: rule_of(name, field) for field, name in settings.items() if isinstance(name, str)
    }


def plateau_factor(training: TrainingSection) -> float:
    """By what the peak of a rule is multiplied for the plateau of a trunk, if its source says."""
    setting = training.learning_rate
    if training.schedule != "wsd" or not isinstance(setting, str):
        return 1.0
    return rule_of(setting, "learning_rate").on_plateau or 1.0


def bracketed(
    training: TrainingSection, params: ParamCount, rate: float
) -> Callable[[int], bool | None]:
    """Whether the rate of a size lies inside what the sweep of its rule tried, by the run's tokens.

    Null where the rule was fitted to no sweep with this optimiser, or to none at such N and D.
    """
    setting = training.learning_rate
    rule = rule_of(setting, "learning_rate") if isinstance(setting, str) else None
    bracket = None if rule is None else rule.bracket()

    def judge(tokens: int) -> bool | None:
        # What was tried at this D, whatever D the rate is for.
        at = Scale(params, 1, tokens)
        if rule is None or bracket is None or any(outside(rule, at)):
            return None
        if rule.optimizer != training.optimizer:
            return None
        return bracket[0] < rate / rule.value(at) < bracket[1]

    return judge


def outside(rule: Rule, scale: Scale) -> Iterator[str]:
    """The variables that lie outside what a rule was measured on."""
    for name, (low, high) in rule.measured.items():
        if name in ("tokens", "flops") and scale.nominal_tokens is None:
            continue
        value = scale.of(name)
        if max(math.log10(value / high), math.log10(low / value)) > RANGE_SLACK:
            yield name


def in_few_digits(number: float) -> int:
    """The nearest whole number with few binary digits, at least 1."""
    unit = 2 ** max(0, math.floor(math.log2(max(1.0, number))) - DIGITS)
    return max(1, round(number / unit)) * unit
