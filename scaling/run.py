"""One run: everything that determines it, its identity, and what it costs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from models.config import ModelConfig
from models.count import count_flops, count_params
from scaling.data.batches import unique_tokens
from scaling.records import RunKind
from scaling.schedule import Schedule

# Part of every run's identity. Raise it when code that no configuration names changes results:
# initialisation, the optimiser's constants, the schedules' shapes.
RECIPE = 1


@dataclass(frozen=True)
class Optimizer:
    """AdamW with decoupled decay and global-norm clipping."""

    beta1: float
    beta2: float
    weight_decay: float  # multiplied by the learning rate; matrices only
    clip_norm: float


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
    compute_dtype: str
    steps_per_call: int
    holdout_tokens: int
    evaluate_every: int  # steps
    checkpoint_at: tuple[int, ...]  # steps where branches start, ascending
    checkpoint_every: int  # steps, beside those and the end

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def tokens(self) -> int:
        """D of the point this run ends at, the trunk's part included."""
        return self.schedule.steps * self.batch_tokens

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
    extends its trunk. Fields of the model at their defaults are left out, so that a field that
    is added later does not rename finished runs.
    """
    identity = asdict(run)
    for name in ("run_id", "trunk_id", "run_kind"):
        del identity[name]
    for name in ("checkpoint_at", "checkpoint_every", "evaluate_every"):
        del identity[name]
    defaults = {f.name: f.default for f in fields(ModelConfig)}
    identity["model"] = {
        name: value for name, value in identity["model"].items() if value != defaults[name]
    }
    return {"recipe": RECIPE, **identity}


def spent_flops(run: RunSpec) -> float:
    """Exact FLOPs this run itself trains, from where it takes over."""
    return run.flops_per_token * (run.schedule.steps - run.first_step) * run.batch_tokens


def run_columns(run: RunSpec, train_tokens: int) -> dict[str, Any]:
    """The columns of the run table that the specification alone determines."""
    params = count_params(run.model)
    flops = count_flops(run.model, run.sequence_length, "full")
    return {
        "seed": run.seed,
        "n_layers": run.model.n_layers,
        "d_model": run.model.d_model,
        "n_heads": run.model.n_heads,
        "n_kv_heads": run.model.n_kv_heads,
        "d_ff": run.model.d_ff,
        "vocab_size": run.model.vocab_size,
        "params_total": params.total,
        "params_non_embedding": params.non_embedding,
        "params_matmul": params.matmul,
        "tokens": run.tokens,
        "unique_tokens": unique_tokens(run.tokens, train_tokens, run.sequence_length),
        "flops_6nd": run.flops_6nd,
        "flops": run.flops_per_token * run.tokens,
        "flops_blocks": float(flops.blocks * run.tokens),
        "flops_attention": float(flops.attention * run.tokens),
        "flops_head": float(flops.head * run.tokens),
        "flops_attention_convention": "full",
        "sequence_length": run.sequence_length,
        "batch_tokens": run.batch_tokens,
        "learning_rate": run.schedule.peak,
        "warmup_steps": run.schedule.warmup_steps,
        "steps": run.schedule.steps,
    }
