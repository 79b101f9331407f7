"""From a study to its runs: every shape, step, rate and FLOP before anything is trained.

Each size (and seed) trains one trunk at a constant rate; every token budget is a cooldown
branch off it, so a grid of many budgets costs little more than its longest (Hägele et al.
2024, arXiv:2405.18392). A cosine study trains each budget from the start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, replace

import pandas as pd

from models.config import ModelConfig
from models.count import count_params
from models.ladder import Ladder, Rung, nearest
from scaling.data.batches import unique_tokens
from scaling.data.corpus import CorpusInfo
from scaling.hardware import Estimate, estimate
from scaling.hparams import BETA2, LEARNING_RATES, WARMUP_TOKENS, resolve
from scaling.records import Refusal, fingerprint
from scaling.run import Optimizer, RunSpec, identity_of, run_columns, spent_flops
from scaling.schedule import Schedule
from scaling.study import Study

# Long warmups bend the exponent that a grid measures (Porian et al. 2024, arXiv:2406.19146,
# section 3.3, where the warmup was as long as small models' whole runs); the limit is ours.
MAX_WARMUP_SHARE = 0.2
# A budget may move so far when it is rounded to whole calls of steps; beyond, it is another budget.
MAX_ROUNDING = 0.05


@dataclass(frozen=True)
class LeftOut:
    """A cell of the grid that will not be trained."""

    model: ModelConfig
    tokens: float
    flops_6nd: float
    reason: str


@dataclass(frozen=True)
class Plan:
    """The runs of a study, trunks before their branches, and the cells left out."""

    study: Study
    runs: tuple[RunSpec, ...]
    rungs: tuple[Rung, ...]
    left_out: tuple[LeftOut, ...]
    train_tokens: int  # in the corpus

    @property
    def points(self) -> tuple[RunSpec, ...]:
        """The runs that end a decay: the (N, D) points a law is fitted to."""
        return tuple(run for run in self.runs if run.run_kind != "trunk")

    @property
    def flops_spent(self) -> float:
        """Exact FLOPs the grid trains, shared trunks counted once."""
        return sum(spent_flops(run) for run in self.runs)

    @property
    def flops_unshared(self) -> float:
        """Exact FLOPs the same points would take if each were trained from the start."""
        return sum(run.flops_per_token * run.tokens for run in self.points)


def make_plan(study: Study, corpus: CorpusInfo) -> Plan:
    """The runs of `study` on `corpus`.

    Raises Refusal for a size that no shape meets, an unknown rule, a warmup above 20% of a run,
    tokens beyond the corpus without leave to repeat it, and runs that coincide.
    """
    ladder = ladder_of(study, corpus.vocab_size)
    try:
        rungs = tuple(
            nearest(ladder, target, study.grid.params_convention) for target in study.grid.params
        )
    except (ValueError, TypeError) as error:
        raise Refusal(f"[grid] params or [model]: {error}.") from error
    _refuse_duplicates((f"params = {rung.target:.6g}", asdict(rung.config)) for rung in rungs)
    runs: list[RunSpec] = []
    left_out: list[LeftOut] = []
    for rung in rungs:
        budgets = []
        for tokens in sorted(study.grid.tokens):
            flops = 6.0 * count_params(rung.config).total * tokens
            if study.grid.max_run_flops is not None and flops > study.grid.max_run_flops:
                reason = (
                    f"6ND = {flops:.2e} is above max_run_flops = {study.grid.max_run_flops:.2e}"
                )
                left_out.append(LeftOut(rung.config, tokens, flops, reason))
            else:
                budgets.append(tokens)
        if not budgets:
            raise Refusal(
                f"[grid] max_run_flops = {study.grid.max_run_flops:.3g} leaves no budget for "
                f"params = {rung.target:.4g}. Raise it or drop the size."
            )
        for factor in study.grid.learning_rate_factors:
            for seed in study.grid.seeds:
                runs += _trajectory(study, corpus, rung.config, factor, seed, budgets)
            for seed in study.grid.replicate_seeds:
                if seed in study.grid.seeds:
                    raise Refusal(
                        f"[grid] replicate_seeds: seed {seed} is already in seeds. Give another."
                    )
                runs += _trajectory(study, corpus, rung.config, factor, seed, budgets[:1])
    _refuse_duplicates(
        (
            f"tokens = {run.tokens:,} (seed {run.seed}, rate {run.schedule.peak:.3g})",
            run.run_id,
        )
        for run in runs
    )
    return Plan(study, tuple(runs), rungs, tuple(left_out), corpus.train_tokens)


def ladder_of(study: Study, vocab_size: int) -> Ladder:
    """The family of shapes that a study's sizes come from.

    Raises Refusal for an override that names no dialect field or has the wrong type.
    """
    allowed = {f.name: f.default for f in fields(ModelConfig) if f.default is not MISSING}
    for name, value in study.model.overrides.items():
        if name not in allowed:
            raise Refusal(
                f"[model] overrides.{name} is not a known field. Give one of {', '.join(allowed)}."
            )
        wanted = type(allowed[name])
        if type(value) is not wanted and not (wanted is float and type(value) is int):
            raise Refusal(
                f"[model] overrides.{name} = {value!r}: give a {wanted.__name__}, such as "
                f"{allowed[name]!r}."
            )
    return Ladder(
        vocab_size=vocab_size,
        context_length=study.data.sequence_length,
        dialect=study.model.dialect,
        head_dim=study.model.head_dim,
        aspect_ratio=study.model.aspect_ratio,
        queries_per_kv=study.model.queries_per_kv,
        fields={name: type(allowed[name])(value) for name, value in study.model.overrides.items()},
    )


def _refuse_duplicates(named: Iterable[tuple[str, object]]) -> None:
    seen: dict[str, str] = {}
    for name, identity in named:
        key = repr(identity)
        if key in seen:
            raise Refusal(
                f"[grid] {seen[key]} and {name} round to the same run. Remove one, or space "
                "them wider than a rung of the ladder and a call of steps."
            )
        seen[key] = name


def _trajectory(
    study: Study,
    corpus: CorpusInfo,
    model: ModelConfig,
    learning_rate_factor: float,
    seed: int,
    budgets: list[float],
) -> list[RunSpec]:
    """The runs of one size, rate and seed: a trunk and its branches, or full cosine runs."""
    training, params = study.training, count_params(model)
    batch_tokens = training.batch_sequences * study.data.sequence_length
    call = training.steps_per_call

    def steps(tokens: float) -> int:
        return max(1, round(tokens / (batch_tokens * call))) * call

    for tokens in budgets:
        rounded = steps(tokens) * batch_tokens
        if abs(rounded / tokens - 1) > MAX_ROUNDING:
            raise Refusal(
                f"[grid] tokens = {tokens:,.0f} would round to {rounded:,}, whole calls of "
                f"{call} steps of {batch_tokens:,} tokens. Give a multiple of "
                f"{call * batch_tokens:,}, or lower steps_per_call or batch_sequences."
            )

    try:
        peak = learning_rate_factor * resolve(
            training.learning_rate, LEARNING_RATES, "learning_rate", params, batch_tokens
        )
        beta2 = resolve(training.beta2, BETA2, "beta2", params, batch_tokens)
        warmup_tokens = resolve(
            training.warmup_tokens, WARMUP_TOKENS, "warmup_tokens", params, batch_tokens
        )
    except ValueError as error:
        raise Refusal(f"[training] {error}.") from error
    warmup = max(1, round(warmup_tokens / batch_tokens))
    shortest = steps(budgets[0])
    if warmup > MAX_WARMUP_SHARE * shortest:
        raise Refusal(
            f"[training] warmup_tokens = {warmup * batch_tokens:,} is "
            f"{warmup / shortest:.0%} of the run of {params.non_embedding:,} parameters on "
            f"{shortest * batch_tokens:,} tokens; above {MAX_WARMUP_SHARE:.0%} it bends the law. "
            "Shorten the warmup or drop the budget."
        )
    epoch = unique_tokens(10**18, corpus.train_tokens, study.data.sequence_length)
    if epoch < batch_tokens:
        raise Refusal(
            f"[data] source = {corpus.source!r} has {epoch:,} tokens to train on, less than one "
            f"batch of {batch_tokens:,}. Give more text or a smaller batch_sequences."
        )
    longest = steps(budgets[-1]) * batch_tokens
    if longest > epoch and not study.data.allow_repeats:
        raise Refusal(
            f"[grid] tokens = {longest:,} is more than the {epoch:,} tokens of the corpus. "
            "Give more text, or set [data] allow_repeats = true to train on it again."
        )
    every = training.checkpoint_every_tokens or study.evaluation.every_tokens
    base = RunSpec(
        run_id="",
        trunk_id="",
        run_kind="trunk",
        model=model,
        corpus=corpus.fingerprint,
        sequence_length=study.data.sequence_length,
        batch_sequences=training.batch_sequences,
        seed=seed,
        optimizer=Optimizer(training.beta1, beta2, training.weight_decay, training.clip_norm),
        schedule=Schedule(peak, warmup, 0, "none", 0),
        compute_dtype=training.compute_dtype,
        steps_per_call=call,
        holdout_tokens=round(study.evaluation.tokens),
        evaluate_every=steps(study.evaluation.every_tokens),
        checkpoint_at=(),
        checkpoint_every=steps(every),
    )
    identity = identity_of(base)
    if training.schedule == "cosine":
        return [_cosine(base, identity, steps(tokens)) for tokens in budgets]

    trunk_id = fingerprint(identity)
    branches = []
    for tokens in budgets:
        total = steps(tokens)
        decay = max(1, round(training.cooldown_fraction * total / call)) * call
        if total - decay < warmup:
            raise Refusal(
                f"[grid] tokens = {total * batch_tokens:,}: the cooldown of {decay} steps would "
                f"start inside the warmup of {warmup}. Give a longer budget or a shorter warmup."
            )
        schedule = replace(
            base.schedule, steps=total, decay=training.cooldown_shape, decay_steps=decay
        )
        branch = {"trunk": trunk_id, "steps": total, "decay": schedule.decay, "over": decay}
        branches.append(
            replace(
                base,
                run_id=fingerprint(branch),
                trunk_id=trunk_id,
                run_kind="cooldown",
                schedule=schedule,
            )
        )
    points = tuple(sorted({branch.first_step for branch in branches}))
    trunk = replace(
        base,
        run_id=trunk_id,
        trunk_id=trunk_id,
        schedule=replace(base.schedule, steps=points[-1]),
        checkpoint_at=points,
    )
    return [trunk, *branches]


def _cosine(base: RunSpec, identity: dict[str, object], steps: int) -> RunSpec:
    schedule = replace(
        base.schedule,
        steps=steps,
        decay="cosine",
        decay_steps=steps - base.schedule.warmup_steps,
    )
    run_id = fingerprint({**identity, "schedule": asdict(schedule)})
    return replace(base, run_id=run_id, trunk_id=run_id, run_kind="full", schedule=schedule)


def plan_table(plan: Plan) -> pd.DataFrame:
    """One row a run: shape, every N, D, steps, rates, FLOPs, estimated time and memory.

    `flops_6nd` and `flops` are those of the (N, D) point; `flops_spent` is what the run itself
    trains. Times are for one worker on this machine. Cells that will not be trained stand below,
    with their reason in `refusal` and no run_id.
    """
    rungs = {rung.config: rung for rung in plan.rungs}
    rows = []
    for run in plan.runs:
        cost: Estimate = estimate(run.model, run.batch_tokens, spent_flops(run))
        rows.append(
            {
                "run_id": run.run_id,
                "trunk_id": run.trunk_id,
                "run_kind": run.run_kind,
                **run_columns(run, plan.train_tokens),
                "params_target": rungs[run.model].target,
                "params_error": rungs[run.model].error,
                "own_steps": run.schedule.steps - run.first_step,
                "beta2": run.optimizer.beta2,
                "flops_spent": spent_flops(run),
                "hours": None if cost.seconds is None else cost.seconds / 3600,
                "memory_bytes": cost.memory_bytes,
                "refusal": None,
            }
        )
    for cell in plan.left_out:
        params = count_params(cell.model)
        rows.append(
            {
                "n_layers": cell.model.n_layers,
                "d_model": cell.model.d_model,
                "params_total": params.total,
                "params_non_embedding": params.non_embedding,
                "params_matmul": params.matmul,
                "tokens": round(cell.tokens),
                "flops_6nd": cell.flops_6nd,
                "refusal": cell.reason,
            }
        )
    # Nullable types, so that a whole number stays one beside a missing value.
    return pd.DataFrame(rows).convert_dtypes()
