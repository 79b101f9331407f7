"""One run: everything that determines it, its identity, and what it costs."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import PlainValidator, TypeAdapter, ValidationInfo

from models.architecture import Config, architecture, code_of
from models.sizes import FlopCount, ParamCount
from scaling.data.corpus import CorpusInfo, unique_tokens
from scaling.hardware import Hardware
from scaling.optimizers import OptimizerName, step_flops
from scaling.schedule import Schedule
from scaling.store.manifest import PlannedRun
from scaling.store.records import Refusal, fingerprint
from scaling.store.run_record import RunKind, read_run
from scaling.tasks.mix import TaskMix

# Part of every run's identity, by the number format of its activations. Raised where code that no
# configuration names changes results beyond roundings: initialisation, the optimiser's constants,
# the schedules' shapes. bfloat16 2: the gradient of the embedding is summed in float32, and logits
# are float32 throughout; before, a frequent token's gradient was up to 80% off. float32 2 and
# bfloat16 3: tables of tokens and positions are not decayed.
RECIPES: Mapping[str, int] = MappingProxyType({"float32": 2, "bfloat16": 3})

# What a run is: the fields of RunSpec that are part of its identity, `schedule` of a trunk without
# its length. All others say how it is carried out, how it is judged, or what it is for.
SCIENCE = (
    *("architecture", "model", "corpus", "sequence_length", "batch_sequences", "seed"),
    *("optimizer", "schedule", "dtype", "nominal_tokens", "unique_tokens", "tasks"),
)

# Fields that were added after runs had their ids, each with the value that those runs had without
# saying so. It is hashed only where it is another one. Entries are added and never changed, so that
# no later default makes an old run another one, or another one an old run.
FORMER: Mapping[str, Any] = MappingProxyType({"optimizer.name": "adamw"})
# The same of the fields of a model, by its architecture.
FORMER_OF_MODELS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "decoder": MappingProxyType(
            {
                "dropout": 0.0,
                "norm_placement": "pre",
                "parametrization": "standard",
                "base_width": None,
                "base_depth": None,
            }
        )
    }
)

# What the compiled step of a run depends on, whatever it trains on. Not its seed: it enters the
# initial values alone, and dropout's keys as constants.
PROGRAM = (
    *("architecture", "model", "optimizer", "dtype"),
    *("sequence_length", "batch_sequences", "hardware"),
)

# Fields of a run that name it for its study and determine nothing.
LABELS = ("budget_flops", "variant", "rate_bracketed")


@dataclass(frozen=True)
class Optimizer:
    """Of this name, with decoupled decay and global-norm clipping, on cross-entropy plus z-loss.

    Beside "muon", which is for matrices in blocks, all other arrays have AdamW.
    """

    beta1: float
    beta2: float
    weight_decay: float  # multiplied by the learning rate; matrices and heads only
    clip_norm: float
    # Weight of the mean of (ln Z)², Z the softmax's normaliser (Chowdhery et al. 2022,
    # arXiv:2204.02311, section 5, who take 1e-4); reported losses leave it out.
    z_loss: float = 0.0
    name: OptimizerName = "adamw"


def _own_config(value: Any, info: ValidationInfo) -> Config:
    """A model's configuration from plain values, as the architecture of its run has it."""
    if "architecture" not in info.data:
        raise ValueError("of no architecture")
    config: type[Config] = architecture(info.data["architecture"]).config
    return TypeAdapter(config).validate_python(value)


@dataclass(frozen=True)
class RunSpec:
    """One run: what it is (SCIENCE), how it is carried out and judged, and what it is for."""

    run_id: str  # of what it is: `run_id_of`
    trunk_id: str  # the run whose trajectory this one continues; its own id if none
    run_kind: RunKind
    architecture: str  # the name of a family of models
    model: Annotated[Config, PlainValidator(_own_config)]  # one of them, as the family describes it
    corpus: str  # fingerprint of the tokenised corpus
    sequence_length: int
    batch_sequences: int
    seed: int
    optimizer: Optimizer
    schedule: Schedule
    dtype: Literal["float32", "bfloat16"]  # of activations; parameters are float32 always
    hardware: Hardware
    holdout_tokens: int
    evaluate_every: int  # steps
    checkpoint_at: tuple[int, ...]  # steps where branches start, ascending
    checkpoint_every: int  # steps, beside those and the end
    nominal_tokens: int | None = None  # the D that rules follow; null where none is declared
    unique_tokens: int | None = None  # cap on the distinct training tokens; null: the whole corpus
    tasks: TaskMix | None = None  # null: text alone
    # How held-out text is cut. Records of before have none: windows lay in long documents alone.
    holdout_windows: Literal["packed"] = "packed"
    # Validation sets by name, each with the fingerprint of its tokens, in the order of the names.
    sets: tuple[tuple[str, str], ...] = ()
    budget_flops: float | None = None  # the isoFLOP budget that the point belongs to
    variant: str | None = None  # the values of its sweep, as PATH=VALUE; null without one
    # Whether its rate lies inside what the sweep of its rule tried at such N and D; null without.
    rate_bracketed: bool | None = None

    @property
    def program(self) -> tuple[object, ...]:
        """What its compiled step depends on."""
        return tuple(getattr(self, name) for name in PROGRAM)

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def params(self) -> ParamCount:
        """The parameters of its model by kind."""
        return architecture(self.architecture).count_params(self.model)

    @property
    def token_flops(self) -> FlopCount:
        """Exact training FLOPs a token by part, attention counted in full."""
        return architecture(self.architecture).count_flops(self.model, self.sequence_length)

    @property
    def tokens(self) -> int:
        """D of the point this run ends at, the trunk's part included."""
        return self.schedule.steps * self.batch_tokens

    @property
    def task_sequences(self) -> int:
        """Sequences of each batch that are task windows."""
        return 0 if self.tasks is None else self.tasks.sequences

    @property
    def text_batch_tokens(self) -> int:
        """Those of a batch that are from the corpus; what tasks ask is made, and never runs out."""
        return (self.batch_sequences - self.task_sequences) * self.sequence_length

    @property
    def first_step(self) -> int:
        """Where this run takes over: the branch point of a cooldown, else 0."""
        return self.schedule.decay_start if self.run_kind == "cooldown" else 0

    @property
    def flops_6nd(self) -> float:
        """6·params_total·D, the headline compute of the point."""
        return 6.0 * self.params.total * self.tokens

    @property
    def optimizer_flops(self) -> int:
        """FLOPs that the optimiser's own matrix products add to a step, whatever its batch."""
        matrices = architecture(self.architecture).matrices(self.model)
        return step_flops(self.optimizer.name, matrices)

    @property
    def flops_per_token(self) -> float:
        """Exact training FLOPs a token, attention in full, and the optimiser's part of a step."""
        return self.token_flops.total + self.optimizer_flops / self.batch_tokens

    @property
    def causal_flops_per_token(self) -> float:
        """The same, of attention's scores only those that the causal mask keeps."""
        family = architecture(self.architecture)
        causal = family.count_causal_flops(self.model, self.sequence_length)
        return causal.total + self.optimizer_flops / self.batch_tokens


def one_of_each(runs: Iterable[RunSpec]) -> list[RunSpec]:
    """One run of each program among them: a large grid has few."""
    return list({run.program: run for run in runs}.values())


def run_id_of(run: RunSpec) -> str:
    """The name of what a run is: twelve hex digits of the SHA-256 of its identity."""
    return fingerprint(identity_of(run))


def has_own_id(run: RunSpec) -> bool:
    """Whether its id is that of what it is, by the recipe of now or an earlier one.

    Another recipe trains otherwise, and what was trained is the same model.
    """
    identity = identity_of(run)
    recipes = range(1, RECIPES[run.dtype] + 1)
    return run.run_id in {fingerprint({**identity, "recipe": recipe}) for recipe in recipes}


def identity_of(run: RunSpec) -> dict[str, Any]:
    """What a run is, every field of SCIENCE written out as plain values but for those of FORMER.

    How it is laid out on hardware, judged and saved is no part of it, nor a trunk's length: a
    longer budget extends it.
    """
    science = {name: plain(getattr(run, name)) for name in SCIENCE}
    if run.tasks is not None:
        science["tasks"] = run.tasks.identity
    if run.run_kind == "trunk":
        science["schedule"] = {"peak": run.schedule.peak, "warmup_steps": run.schedule.warmup_steps}
    if code := code_of(run.architecture):
        science["architecture_code"] = code
    for path, value in _former(run.architecture).items():
        *parents, name = path.split(".")
        place = science
        for parent in parents:
            place = place[parent]
        if name in place and place[name] == value:
            del place[name]
    return {"recipe": RECIPES[run.dtype], **science}


def _former(name: str) -> Mapping[str, Any]:
    """What runs of an architecture had without saying so, by the path of the field."""
    own = FORMER_OF_MODELS.get(name, {})
    return {**FORMER, **{f"model.{field}": value for field, value in own.items()}}


def plain(value: Any) -> Any:
    """A part of a run as plain values."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def spent_flops(run: RunSpec) -> float:
    """Exact FLOPs this run itself trains, from where it takes over."""
    return run.flops_per_token * (run.schedule.steps - run.first_step) * run.batch_tokens


def run_columns(run: RunSpec, corpus: CorpusInfo) -> dict[str, Any]:
    """The columns of the run table that the specification alone determines."""
    params, flops = run.params, run.token_flops
    optimizer = plain(run.optimizer)
    text_tokens = run.schedule.steps * run.text_batch_tokens
    text = unique_tokens(text_tokens, corpus, run.sequence_length, run.unique_tokens)
    return {
        "seed": run.seed,
        "architecture": run.architecture,
        "shape": shape_text(run.architecture, run.model),
        **vars(run.model),
        "params_total": params.total,
        "params_non_embedding": params.non_embedding,
        "params_matmul": params.matmul,
        "params_active": params.active,
        "tokens": run.tokens,
        # A window of tasks is made for its place in the run, and counts as new.
        "unique_tokens": text + run.tokens - text_tokens,
        "flops_6nd": run.flops_6nd,
        "flops": run.flops_per_token * run.tokens,
        "flops_blocks": float(flops.blocks * run.tokens),
        "flops_attention": float(flops.attention * run.tokens),
        "flops_head": float(flops.head * run.tokens),
        "flops_optimizer": float(run.optimizer_flops * run.schedule.steps),
        "flops_attention_convention": "full",
        "budget_flops": run.budget_flops,
        "variant": run.variant,
        "sequence_length": run.sequence_length,
        "batch_sequences": run.batch_sequences,
        "batch_tokens": run.batch_tokens,
        "learning_rate": run.schedule.peak,
        "rate_bracketed": run.rate_bracketed,
        "optimizer": optimizer.pop("name"),
        **optimizer,
        "decay": run.schedule.decay,
        "decay_steps": run.schedule.decay_steps,
        "warmup_steps": run.schedule.warmup_steps,
        "steps": run.schedule.steps,
        "compute_dtype": run.dtype,
        **({} if run.tasks is None else {"task_share": run.task_sequences / run.batch_sequences}),
    }


def shape_text(name: str, model: Config) -> str:
    """The shape of a model in a few characters, such as 2×64×4."""
    return "×".join(map(str, architecture(name).shape(model).values()))


def planned_run(run: RunSpec, corpus: CorpusInfo) -> PlannedRun:
    """The run as a plan's manifest has it."""
    return PlannedRun(
        run_id=run.run_id,
        trunk_id=run.trunk_id,
        run_kind=run.run_kind,
        first_step=run.first_step,
        steps=run.schedule.steps,
        flops=spent_flops(run),
        config=config_of(run),
        columns=run_columns(run, corpus),
    )


def config_of(run: RunSpec) -> dict[str, Any]:
    """The specification as plain values, of which `spec_of` makes it again."""
    config: dict[str, Any] = _specification().dump_python(run, mode="json")
    return config


def spec_of(config: dict[str, Any]) -> RunSpec:
    """The specification whose plain values these are. Raises ValueError if it is none.

    What an earlier version did not write has the value that it had then.
    """
    config = copy.deepcopy(config)
    for path, value in _former(config.get("architecture", "")).items():
        *parents, name = path.split(".")
        with suppress(KeyError, TypeError, AttributeError):
            functools.reduce(operator.getitem, parents, config).setdefault(name, value)
    _ask_as_now(config)
    return _specification().validate_python(config)


def _ask_as_now(config: dict[str, Any]) -> None:
    """Rewrite what an earlier version asked of the hardware: its microbatches by their number."""
    with suppress(KeyError, TypeError, AttributeError, ZeroDivisionError):
        hardware = config["hardware"]
        accumulate = hardware.pop("accumulate")
        hardware["remat"] = "full" if hardware["remat"] else "none"
        if accumulate > 1:
            batch = config["batch_sequences"] * config["sequence_length"]
            hardware["microbatch_tokens"] = batch // accumulate


def read_spec(folder: Path) -> RunSpec:
    """The specification in a run's folder. Raises Refusal if it is not one."""
    config = read_run(folder).config
    try:
        return spec_of(config)
    except ValueError as error:
        raise Refusal(f"{folder / 'run.json'} is no run specification: {error}") from error


@functools.cache
def _specification() -> TypeAdapter[RunSpec]:
    return TypeAdapter(RunSpec)
