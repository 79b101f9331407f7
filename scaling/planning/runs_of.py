"""The runs of one size and seed: a trunk with a cooldown branch a budget, or full cosine runs.

Each size (and seed) trains one trunk at a constant rate; every token budget is a cooldown
branch off it, so a grid of many budgets costs little more than its longest (Hägele et al.
2024, arXiv:2405.18392). A cosine study trains each budget from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from models.architecture import architecture
from models.sizes import Rung
from scaling.data.corpus import CorpusInfo
from scaling.planning.deriving import layout_of
from scaling.planning.grid import Cell
from scaling.planning.hyperparameters import bracketed, hyperparameters
from scaling.planning.layout import native
from scaling.planning.refusals import Refusals
from scaling.planning.rules import NoRule, rule_of
from scaling.schedule import Schedule
from scaling.spec import Optimizer, RunSpec, run_id_of
from scaling.study import Study, TrainingSection
from scaling.tasks.mix import TaskMix, resolve_mix


@dataclass(frozen=True)
class Size:
    """The cells of one shape, tokens ascending, and what their runs have in common."""

    base: RunSpec
    cells: tuple[Cell, ...]


def common_batch(study: Study) -> int | None:
    """Tokens of a step, where all sizes have the same; null where it follows size."""
    batch = study.training.batch_sequences
    return None if isinstance(batch, str) else batch * study.data.sequence_length


def whole_steps(study: Study, batch_tokens: int, tokens: float) -> int:
    """The steps of a batch nearest to `tokens`, a multiple of the study's round_to_steps."""
    unit = study.training.round_to_steps
    return max(1, round(tokens / (batch_tokens * unit))) * unit


def trajectory(study: Study, base: RunSpec, points: Sequence[Cell]) -> list[RunSpec]:
    """The runs that end at `points`, cells of one shape with tokens ascending.

    `base` is what they have in common; scaling/planning/limits.py refuses those that would mislead.
    """
    training = study.training
    steps = [whole_steps(study, base.batch_tokens, cell.tokens) for cell in points]
    inside = bracketed(training, base.params, base.schedule.peak)
    if training.schedule == "cosine":
        runs = [_cosine(base, total) for total in steps]
        return [
            replace(
                run,
                budget_flops=cell.budget_flops,
                rate_bracketed=inside(run.tokens),
            )
            for run, cell in zip(runs, points, strict=True)
        ]
    trunk_id = run_id_of(base)
    branches = []
    for total, cell in zip(steps, points, strict=True):
        schedule = replace(
            base.schedule,
            steps=total,
            decay=training.cooldown_shape,
            decay_steps=cooldown_steps(study, total),
        )
        branch = replace(
            base,
            trunk_id=trunk_id,
            run_kind="cooldown",
            schedule=schedule,
            budget_flops=cell.budget_flops,
        )
        branch = replace(branch, rate_bracketed=inside(branch.tokens))
        branches.append(replace(branch, run_id=run_id_of(branch)))
    starts = tuple(sorted({branch.first_step for branch in branches}))
    trunk = replace(
        base,
        run_id=trunk_id,
        trunk_id=trunk_id,
        schedule=replace(base.schedule, steps=starts[-1]),
        checkpoint_at=starts,
    )
    return [trunk, *branches]


def _cosine(base: RunSpec, steps: int) -> RunSpec:
    schedule = replace(
        base.schedule,
        steps=steps,
        decay="cosine",
        decay_steps=steps - base.schedule.warmup_steps,
    )
    run = replace(base, run_kind="full", schedule=schedule)
    run_id = run_id_of(run)
    return replace(run, run_id=run_id, trunk_id=run_id)


def cooldown_steps(study: Study, steps: int) -> int:
    """Steps of the decay that ends a run of so many: a multiple of the study's round_to_steps."""
    unit = study.training.round_to_steps
    return max(1, round(study.training.cooldown_fraction * steps / unit)) * unit


def base_of(study: Study, corpus: CorpusInfo, rung: Rung) -> RunSpec:
    """What all runs of a size have in common, as a trunk of no steps and the study's first seed.

    Raises Refusal for rules that are unknown or give no rate here, layouts that an architecture
    does not have, and tasks that make no mixture.
    """
    training, found, tasks = study.training, None, None
    refusals = Refusals()
    with refusals.gathered():
        found = hyperparameters(study, rung.counts)
    batch = training.batch_sequences if found is None else found.batch_sequences
    if isinstance(batch, int):
        with refusals.gathered():
            tasks = _mix_of(study, batch)
    with refusals.gathered():
        _refuse_unsuited(study, rung)
    refusals.raise_any()
    assert found is not None
    batch_tokens = found.batch_sequences * study.data.sequence_length
    base = RunSpec(
        run_id="",
        trunk_id="",
        run_kind="trunk",
        architecture=study.model.architecture,
        model=rung.config,
        corpus=corpus.fingerprint,
        sequence_length=study.data.sequence_length,
        batch_sequences=found.batch_sequences,
        seed=study.grid.seeds[0],
        optimizer=Optimizer(
            training.beta1,
            found.beta2,
            found.weight_decay,
            training.clip_norm,
            training.z_loss,
            training.optimizer,
        ),
        schedule=Schedule(
            found.learning_rate, max(1, round(found.warmup_tokens / batch_tokens)), 0, "none", 0
        ),
        dtype=training.compute_dtype,
        hardware=study.hardware,
        holdout_tokens=round(study.evaluation.tokens),
        evaluate_every=whole_steps(study, batch_tokens, study.evaluation.every_tokens),
        checkpoint_at=(),
        checkpoint_every=whole_steps(
            study,
            batch_tokens,
            training.checkpoint_every_tokens or study.evaluation.every_tokens,
        ),
        nominal_tokens=rounded(training.nominal_tokens),
        unique_tokens=rounded(study.data.unique_tokens),
        tasks=tasks,
    )
    # Whatever it will be trained on, what it asks for must be possible somewhere.
    layout_of(base, native(base.hardware.attention))
    return base


def _refuse_unsuited(study: Study, rung: Rung) -> None:
    """Raise Refusal for an optimiser, or a rate, that is not for models of this kind."""
    training, family = study.training, architecture(study.model.architecture)
    refusals = Refusals()
    if training.optimizer == "muon" and not family.matrices(rung.config):
        refusals.add(
            f'[training] optimizer = "muon": architecture = {study.model.architecture!r} names no '
            'matrices for it (its matrices()). Give optimizer = "adamw".'
        )
    if family.ratios(rung.config) and _rate_follows_size(training):
        refusals.add(
            f"[training] learning_rate = {training.learning_rate!r} follows size, and so does "
            '[model] parametrization = "mup". Give the rate at base_width as a number.'
        )
    refusals.raise_any()


def _rate_follows_size(training: TrainingSection) -> bool:
    with suppress(NoRule):  # which is refused as it is
        setting = training.learning_rate
        return isinstance(setting, str) and rule_of(setting, "learning_rate").follows_size
    return False


def _mix_of(study: Study, batch_sequences: int) -> TaskMix | None:
    if study.tasks is None:
        return None
    asked = study.tasks
    return resolve_mix(
        asked.fraction,
        asked.list,
        batch_sequences,
        asked.shots,
        asked.items,
        asked.samples,
    )


def rounded(tokens: float | None) -> int | None:
    """Tokens as a whole number, where the study gives some."""
    return None if tokens is None else round(tokens)
