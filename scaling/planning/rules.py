"""Hyper-parameters that follow a model's size: rules as data, each with its source and its range.

A rule is a TOML file. Those that ship are in rule_files/, in a folder for the field of [training]
that they are for, and a study names one by its file's name; a file of your own, by its path.
Because every token budget of a size branches off one trunk, a rule may depend on the model, the
batch, and the one D that a study declares ([training] nominal_tokens), never on a run's own tokens.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from models.sizes import ParamCount
from scaling.fields import Positive
from scaling.optimizers import OptimizerName
from scaling.store.records import did_you_mean

SHIPPED = Path(__file__).with_name("rule_files")
SUFFIX = ".toml"  # of the path of a file, which no name of a rule has
MAX_BYTES = 1 << 20  # of a rule file

Gives = Literal[
    "learning_rate", "batch_tokens", "warmup_tokens", "beta2_half_life", "weight_decay_timescale"
]
# What a rule for each field of [training] gives. β2 is given by the tokens over which the second
# moment forgets half of itself, and weight decay by the share of D over which weights average their
# updates, B / (rate × decay × D): these are what stays the same where batch and rate do not.
GIVES: Mapping[str, Gives] = MappingProxyType(
    {
        "learning_rate": "learning_rate",
        "batch_sequences": "batch_tokens",
        "warmup_tokens": "warmup_tokens",
        "beta2": "beta2_half_life",
        "weight_decay": "weight_decay_timescale",
    }
)
# What a rule may follow, with the letter that a formula has for it.
Variable = Literal["params", "params_total", "tokens", "batch_tokens", "flops"]
LETTERS: Mapping[str, str] = MappingProxyType(
    {"params": "N", "params_total": "N total", "tokens": "D", "batch_tokens": "B", "flops": "C"}
)
_FILE = ConfigDict(extra="forbid", strict=True)
Number = Annotated[float, Field(allow_inf_nan=False)]


class NoRule(ValueError):
    """What a field says is neither a number nor a rule that can be read."""


@dataclass(frozen=True, config=_FILE)
class Power:
    """(x / unit)^exponent."""

    exponent: Number
    unit: Positive = 1.0


@dataclass(frozen=True, config=_FILE)
class Optimum:
    """The best value at one N and D, between those that a sweep tried."""

    params: Positive
    tokens: Positive
    tried: tuple[Positive, Positive]  # the lowest and the highest
    optimum: Positive
    interval: tuple[Positive, Positive] | None = None

    def __post_init__(self) -> None:
        low, high = self.tried
        if low > high:
            raise ValueError(f"tried = [{low:g}, {high:g}] ends before it begins")


@dataclass(frozen=True, config=_FILE)
class Rule:
    """factor · Π (x / unit)^exponent + Σ slope · ln x, published or measured.

    x are `params` (N without embedding and head), `params_total`, `tokens` (D), `batch_tokens` and
    `flops` (6·params·tokens).
    """

    gives: Gives
    source: Annotated[str, Field(min_length=1)]
    factor: Number
    powers: Mapping[Variable, Power] = field(default_factory=dict)
    logarithms: Mapping[Variable, Number] = field(default_factory=dict)  # slopes
    # Of a rate: the peak of a schedule that decays over the whole run, or the rate of a plateau.
    schedule: Literal["decay", "plateau"] | None = None
    on_plateau: Positive | None = None  # what the source multiplies such a peak by for a plateau
    optimizer: OptimizerName = "adamw"  # of the runs that a rate was measured in
    measured: Mapping[Variable, tuple[Positive, Positive]] = field(default_factory=dict)
    optima: tuple[Optimum, ...] = ()  # of the sweep that it was fitted to

    def __post_init__(self) -> None:
        if (self.schedule is None) == (self.gives == "learning_rate"):
            raise ValueError(
                "schedule = 'decay' or 'plateau' says what a learning rate is the peak of, and "
                f"goes with no other rule; {'give it' if self.schedule is None else 'remove it'}"
            )
        if self.optima and not {"params", "tokens", "flops"}.issuperset(self.follows):
            raise ValueError("optima are of rules that follow params, tokens and flops alone")
        if self.gives == "batch_tokens" and "batch_tokens" in self.follows:
            raise ValueError("a batch cannot follow batch_tokens, which is the batch itself")
        for name, (low, high) in self.measured.items():
            if low > high:
                raise ValueError(f"measured.{name} = [{low:g}, {high:g}] ends before it begins")

    @property
    def follows(self) -> tuple[str, ...]:
        """The variables that it depends on."""
        return (*self.powers, *self.logarithms)

    @property
    def follows_size(self) -> bool:
        """Whether it depends on N."""
        return not {"params", "params_total", "flops"}.isdisjoint(self.follows)

    @property
    def follows_tokens(self) -> bool:
        """Whether it depends on the D that a study declares."""
        return not {"tokens", "flops"}.isdisjoint(self.follows)

    @property
    def formula(self) -> str:
        """As it is written on paper."""
        return " ".join([f"{self.factor:g}", *_terms(self)])

    def value(self, scale: Scale) -> float:
        """What it gives. Raises ValueError where it follows a D that the study does not declare."""
        found = self.factor
        for name, power in self.powers.items():
            try:
                found *= (scale.of(name) / power.unit) ** power.exponent
            except OverflowError:
                return math.inf
        for name, slope in self.logarithms.items():
            found += slope * math.log(scale.of(name))
        return found

    def bracket(self) -> tuple[float, float] | None:
        """The multiples of its value that were tried at every N and D of its sweep, if any."""
        ratios = [[each.tried[end] / self._at(each) for each in self.optima] for end in (0, 1)]
        return (max(ratios[0]), min(ratios[1])) if self.optima else None

    def _at(self, optimum: Optimum) -> float:
        params = ParamCount(
            embedding=0, matrix=round(optimum.params), vector=0, head=0, head_matmul=0
        )
        return self.value(Scale(params, 1, round(optimum.tokens)))


def _terms(rule: Rule) -> Iterator[str]:
    for name, power in rule.powers.items():
        letter = LETTERS[name] if power.unit == 1 else f"({LETTERS[name]} / {power.unit:g})"
        yield f"{letter}^{power.exponent:g}"
    for name, slope in rule.logarithms.items():
        yield f"{'-' if slope < 0 else '+'} {abs(slope):g} ln {LETTERS[name]}"


@dataclass(frozen=True)
class Scale:
    """What a rule may follow."""

    params: ParamCount
    batch_tokens: int
    nominal_tokens: int | None  # the D that a study declares

    def of(self, name: str) -> float:
        """A variable. Raises ValueError for one that follows D where the study declares none."""
        if name == "params":
            return self.params.non_embedding
        if name == "params_total":
            return self.params.total
        if name == "batch_tokens":
            return self.batch_tokens
        if self.nominal_tokens is None:
            raise ValueError("follows D: declare one, [training] nominal_tokens")
        tokens = float(self.nominal_tokens)
        return tokens if name == "tokens" else 6.0 * self.params.non_embedding * tokens


@cache
def shipped(field: str) -> Mapping[str, Rule]:
    """The rules that ship for a field of [training], by name."""
    files = sorted((SHIPPED / field).glob(f"*{SUFFIX}"))
    return MappingProxyType({path.stem: read_rule(path, field) for path in files})


def rule_of(setting: str, field: str) -> Rule:
    """The rule that a study names for a field: one that ships, or the file at a path.

    Raises NoRule, naming the field and what would do, where there is none.
    """
    if setting.endswith(SUFFIX):
        return read_rule(Path(setting), field)
    known = shipped(field)
    if setting not in known:
        raise NoRule(
            f"{field} = {setting!r} is no known rule.{did_you_mean(setting, known)} Give a number, "
            f"one of {', '.join(known)}, or the path of a rule file, which ends in {SUFFIX}"
        )
    return known[setting]


def read_rule(path: Path, field: str) -> Rule:
    """The rule in a file, for a field of [training]. Raises NoRule where there is none for it."""
    said = f"{field} = {str(path)!r}"
    try:
        with path.open("rb") as file:
            raw = tomllib.loads(file.read(MAX_BYTES).decode())
        # By way of JSON, whose strict mode takes arrays for tuples.
        rule = TypeAdapter(Rule).validate_json(json.dumps(raw, default=str))
    except OSError as error:
        raise NoRule(
            f"{said} cannot be read: {error.strerror}. Give the path of a rule file, from the "
            "folder where the command is given"
        ) from error
    except ValidationError as error:
        mistake = error.errors()[0]
        where = ".".join(str(part) for part in mistake["loc"])
        text = str(mistake["msg"]).removeprefix("Value error, ")
        place = where or "the file"
        raise NoRule(f"{said}: {place}: {text}. docs/tuning.md has the fields") from error
    except (ValueError, RecursionError) as error:
        raise NoRule(f"{said} is not valid TOML: {error}. docs/tuning.md has the fields") from error
    if rule.gives != GIVES[field]:
        raise NoRule(f"{said} gives {rule.gives}, not {GIVES[field]}. Give a rule for this field")
    return rule
