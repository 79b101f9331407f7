"""Warnings about the rules of a study: outside their range, for another schedule or optimiser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from analysis.text import human, scientific
from scaling.planning.hyperparameters import outside, plateau_factor, rules_of
from scaling.planning.plan import Plan
from scaling.planning.rules import LETTERS, Rule, Scale, shipped
from scaling.planning.sweep import variants
from scaling.spec import RunSpec
from scaling.study import TrainingSection

REFERENCE = "steplaw-2025"  # whose batch, from D alone, others are compared with
# Times that batch. The limit is ours: the studies that ship for a CPU lie within it, and half a
# million tokens a step for 68M parameters, which leave 464 steps, do not.
MOST_BATCH = 4.0


@dataclass
class _Named:
    """A rule as a study names it, and the runs that it is for."""

    rule: Rule
    runs: list[RunSpec] = field(default_factory=list)
    # The runs outside its range by the variable, each with its value there.
    outside: dict[str, list[float]] = field(default_factory=dict)


def rule_warnings(plan: Plan) -> list[str]:
    """A sentence or two for each doubt."""
    named, other = _rules(plan)
    ranges = (_range_text(*key, each) for key, each in named.items() if each.outside)
    return [*ranges, *other, *_few_steps(plan)]


def _rules(plan: Plan) -> tuple[dict[tuple[str, str], _Named], dict[str, None]]:
    """The rules of all variants by field and setting, and what is said of their rates."""
    named: dict[tuple[str, str], _Named] = {}
    other: dict[str, None] = {}
    runs: dict[str | None, list[RunSpec]] = {}
    for run in plan.points:
        runs.setdefault(run.variant, []).append(run)
    for variant in variants(plan.study):
        training = variant.study.training
        for name, rule in rules_of(training).items():
            each = named.setdefault((name, getattr(training, name)), _Named(rule))
            for run in runs.get(variant.label, ()):
                each.runs.append(run)
                scale = _scale(rule, run)
                for variable in outside(rule, scale):
                    each.outside.setdefault(variable, []).append(scale.of(variable))
            other |= dict.fromkeys(_rate_text(training, rule) if rule.schedule else ())
    return named, other


def _scale(rule: Rule, run: RunSpec) -> Scale:
    """What the rule followed; where it follows no D, that of the run, at which it is used."""
    tokens = run.nominal_tokens if rule.follows_tokens else run.tokens
    return Scale(run.params, run.batch_tokens, tokens)


def _range_text(name: str, setting: str, named: _Named) -> str:
    measured = " and ".join(_span(each, *ends) for each, ends in named.rule.measured.items())
    lie = " and ".join(
        f"{len(values)} at {_span(variable, min(values), max(values))}"
        for variable, values in named.outside.items()
    )
    remedy = "Losses there are those of a value nobody tuned: read exponents with that in mind"
    if name == "learning_rate":
        remedy += ", or measure the rate with `scaling tune`"
    return (
        f"[training] {name} = {setting!r} was measured at {measured}; of {len(named.runs)} points "
        f"{lie} lie outside. {remedy}."
    )


def _span(variable: str, low: float, high: float) -> str:
    write = scientific if variable == "flops" else human
    ends = dict.fromkeys((write(low), write(high)))
    return f"{LETTERS[variable]} = {' to '.join(ends)}"


def _rate_text(training: TrainingSection, rule: Rule) -> Iterator[str]:
    said = f"[training] learning_rate = {training.learning_rate!r} is"
    if rule.schedule == "decay" and training.schedule == "wsd" and plateau_factor(training) == 1:
        yield (
            f"{said} the peak of a schedule that decays over the whole run, and schedule = 'wsd' "
            "holds it until the cooldown; its source gives no conversion. OLMo-core halves such a "
            "peak. Give learning_rate_factor = 0.5, or measure the rate with `scaling tune`."
        )
    if rule.schedule == "plateau" and training.schedule == "cosine":
        yield (
            f"{said} the rate of a plateau, and schedule = 'cosine' decays from it over the whole "
            "run. Measure the peak with `scaling tune`, or give a rule for one."
        )
    if rule.optimizer != training.optimizer:
        yield (
            f"[training] learning_rate = {training.learning_rate!r} was measured with "
            f"{rule.optimizer}, and optimizer = {training.optimizer!r} may have another best rate. "
            "Measure it with `scaling tune`, or sweep learning_rate_factor."
        )


def _few_steps(plan: Plan) -> Iterator[str]:
    """Runs whose batch is so large for their tokens that few steps are left."""
    rule = shipped("batch_sequences")[REFERENCE]
    few = []
    for run in plan.points:
        usual = rule.value(Scale(run.params, 0, run.tokens))
        if run.batch_tokens > MOST_BATCH * usual:
            few.append((run, usual))
    if not few:
        return
    ratios = [run.batch_tokens / usual for run, usual in few]
    steps = [run.schedule.steps for run, _ in few]
    most = min(MOST_BATCH * usual / run.sequence_length for run, usual in few)
    yield (
        f"{len(few)} of {len(plan.points)} points have few steps, {_between(steps)}: their batch "
        f"is {_between(ratios)} times the one that Step Law (arXiv:2503.04715) gives for "
        "their tokens. Too large a batch costs small models most, which bends exponents. Give "
        f"[training] batch_sequences = {max(1, int(most))} or fewer, or a rule that follows size."
    )


def _between(values: list[int] | list[float]) -> str:
    ends = dict.fromkeys(f"{each:,.0f}" for each in (min(values), max(values)))
    return " to ".join(ends)
