"""One run: everything that determines it, its identity, and what it costs."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from models.architecture import code_of
from models.decoder.config import ModelConfig
from models.decoder.count import count_flops, count_params
from scaling.data.corpus import CorpusInfo, unique_tokens
from scaling.schedule import Schedule
from scaling.store.manifest import PlannedRun
from scaling.store.records import Refusal
from scaling.store.run_record import RunKind, read_run
from scaling.tasks.mix import TaskMix

# Part of every run's identity. Raise it when code that no configuration names changes results:
# initialisation, the optimiser's constants, the schedules' shapes.
RECIPE = 1


# Fields of a run that name it for its study and determine nothing.
LABELS = ("budget_flops", "variant")


@dataclass(frozen=True)
class Optimizer:
    """AdamW with decoupled decay and global-norm clipping, on the cross-entropy plus z-loss."""

    beta1: float
    beta2: float
    weight_decay: float  # multiplied by the learning rate; matrices only
    clip_norm: float
    # Weight of the mean of (ln Z)², Z the softmax's normaliser (Chowdhery et al. 2022,
    # arXiv:2204.02311, section 5, who take 1e-4); reported losses leave it out.
    z_loss: float = 0.0


@dataclass(frozen=True)
class Compute:
    """How the mathematics of a run is carried out; the results differ by roundings."""

    dtype: Literal["float32", "bfloat16"]  # of activations; parameters are float32 always
    layers: Literal["unrolled", "scanned"] = "unrolled"
    remat: bool = False
    accumulate: int = 1  # microbatches a step


@dataclass(frozen=True)
class RunSpec:
    """Everything that determines one run; its ids are hashes of it."""

    run_id: str
    trunk_id: str  # the run whose trajectory this one continues; its own id if none
    run_kind: RunKind
    model: ModelConfig
    corpus: str  # fingerprint of the tokenised corpus
    sequence_length: int
    batch_sequences: int
    seed: int
    optimizer: Optimizer
    schedule: Schedule
    compute: Compute
    steps_per_call: int
    holdout_tokens: int
    evaluate_every: int  # steps
    checkpoint_at: tuple[int, ...]  # steps where branches start, ascending
    checkpoint_every: int  # steps, beside those and the end
    unique_tokens: int | None = None  # cap on the distinct training tokens; null: the whole corpus
    tasks: TaskMix | None = None  # null: text alone
    budget_flops: float | None = None  # the isoFLOP budget that the point belongs to
    variant: str | None = None  # the values of its sweep, as PATH=VALUE; null without one

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def microbatch_sequences(self) -> int:
        """Sequences whose activations are held at once, in training and in evaluation."""
        return self.batch_sequences // self.compute.accumulate

    def devices_used(self, devices: int) -> int:
        """Over how many of so many devices it is split: as many as divide a microbatch."""
        return math.gcd(self.microbatch_sequences, devices)

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
        return 6.0 * count_params(self.model).total * self.tokens

    @property
    def flops_per_token(self) -> float:
        """Exact training FLOPs a token, attention counted in full."""
        return float(count_flops(self.model, self.sequence_length, "full").total)


def identity_of(run: RunSpec) -> dict[str, Any]:
    """What determines a trajectory from its start, as plain values.

    How often a run is evaluated or saved is not part of it, nor its length: a longer budget
    extends its trunk. Fields at their defaults are left out, so that a field that is added later
    does not rename finished runs.
    """
    identity = _given(run)
    for name in ("run_id", "trunk_id", "run_kind", *LABELS):
        identity.pop(name, None)
    for name in ("checkpoint_at", "checkpoint_every", "evaluate_every"):
        del identity[name]
    if run.tasks is not None:
        identity["tasks"] = run.tasks.identity
    if run.model.architecture != "decoder":
        identity["architecture_code"] = code_of(run.model.architecture)
    compute = identity.pop("compute")
    return {"recipe": RECIPE, **identity, "compute_dtype": compute.pop("dtype"), **compute}


def _given(spec: Any) -> dict[str, Any]:
    """The fields of a specification that have no default or another value, nested alike."""
    found = {}
    for each in fields(spec):
        value = getattr(spec, each.name)
        if each.default is MISSING or value != each.default:
            found[each.name] = _given(value) if is_dataclass(value) else value
    return found


def spent_flops(run: RunSpec) -> float:
    """Exact FLOPs this run itself trains, from where it takes over."""
    return run.flops_per_token * (run.schedule.steps - run.first_step) * run.batch_tokens


def run_columns(run: RunSpec, corpus: CorpusInfo) -> dict[str, Any]:
    """The columns of the run table that the specification alone determines."""
    params = count_params(run.model)
    flops = count_flops(run.model, run.sequence_length, "full")
    text_tokens = run.schedule.steps * run.text_batch_tokens
    text = unique_tokens(text_tokens, corpus, run.sequence_length, run.unique_tokens)
    return {
        "seed": run.seed,
        **vars(run.model),
        "params_total": params.total,
        "params_non_embedding": params.non_embedding,
        "params_matmul": params.matmul,
        "tokens": run.tokens,
        # A window of tasks is made for its place in the run, and counts as new.
        "unique_tokens": text + run.tokens - text_tokens,
        "flops_6nd": run.flops_6nd,
        "flops": run.flops_per_token * run.tokens,
        "flops_blocks": float(flops.blocks * run.tokens),
        "flops_attention": float(flops.attention * run.tokens),
        "flops_head": float(flops.head * run.tokens),
        "flops_attention_convention": "full",
        "budget_flops": run.budget_flops,
        "variant": run.variant,
        "sequence_length": run.sequence_length,
        "batch_sequences": run.batch_sequences,
        "batch_tokens": run.batch_tokens,
        "learning_rate": run.schedule.peak,
        **vars(run.optimizer),
        "decay": run.schedule.decay,
        "decay_steps": run.schedule.decay_steps,
        "warmup_steps": run.schedule.warmup_steps,
        "steps": run.schedule.steps,
        "compute_dtype": run.compute.dtype,
        **({} if run.tasks is None else {"task_share": run.task_sequences / run.batch_sequences}),
    }


def planned_run(run: RunSpec, corpus: CorpusInfo) -> PlannedRun:
    """The run as a plan's manifest has it."""
    return PlannedRun(
        run_id=run.run_id,
        trunk_id=run.trunk_id,
        run_kind=run.run_kind,
        first_step=run.first_step,
        steps=run.schedule.steps,
        flops=spent_flops(run),
        config=_specification().dump_python(run, mode="json"),
        columns=run_columns(run, corpus),
    )


def spec_of(config: dict[str, Any]) -> RunSpec:
    """The specification whose plain values these are. Raises ValueError if it is none."""
    return _specification().validate_python(config)


def read_spec(folder: Path) -> RunSpec:
    """The specification in a run's folder. Raises Refusal if it is not one."""
    config = read_run(folder).config
    try:
        return spec_of(config)
    except ValueError as error:
        raise Refusal(f"{folder / 'run.json'} is no run specification: {error}") from error


@cache
def _specification() -> TypeAdapter[RunSpec]:
    return TypeAdapter(RunSpec)
