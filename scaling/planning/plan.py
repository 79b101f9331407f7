"""From a study to its runs: every shape, step, rate and FLOP before anything is trained."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from models.architecture import Config
from models.sizes import Rung
from scaling.data.corpus import CorpusInfo
from scaling.planning.estimate import worker_memory, worker_seconds
from scaling.planning.grid import Cell, draft_cells
from scaling.planning.limits import refuse_beyond_corpus, refuse_warmups
from scaling.planning.refusals import MOST, Refusals
from scaling.planning.rounding import Batched, missed, refuse_rounding
from scaling.planning.runs_of import Size, base_of, common_batch, trajectory
from scaling.planning.sweep import Variant, variants
from scaling.spec import RunSpec, one_of_each, run_columns, spent_flops
from scaling.study import Study


@dataclass(frozen=True)
class LeftOut:
    """A cell of the grid that will not be trained."""

    rung: Rung
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
    corpus: CorpusInfo

    def judged_on(self, sets: Mapping[str, str]) -> Plan:
        """The plan with validation sets, by name the fingerprint of each."""
        named = tuple(sorted(sets.items()))
        return replace(self, runs=tuple(replace(run, sets=named) for run in self.runs))

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


@dataclass(frozen=True)
class Draft:
    """The plan of what can be planned, and what is wrong with the rest."""

    plan: Plan
    refusals: Refusals


def make_plan(study: Study, corpus: CorpusInfo) -> Plan:
    """The runs of `study` on `corpus`.

    Raises one Refusal for all sizes that no shape meets, unknown rules, warmups above 20% of a
    run, tokens beyond the corpus without leave to repeat it, and runs that coincide.
    """
    made = draft(study, corpus)
    made.refusals.raise_any()
    return made.plan


def draft(study: Study, corpus: CorpusInfo) -> Draft:
    """The runs of `study` on `corpus`, as far as they can be planned."""
    refusals = Refusals()
    runs: list[RunSpec] = []
    left_out: list[LeftOut] = []
    rungs: dict[Config, Rung] = {}
    several: tuple[Variant, ...] = ()
    astray = False
    with refusals.gathered():
        several = variants(study)
    for variant in several:
        if len(refusals) > MOST:  # more are not shown
            break
        made = _variant(variant.study, variant.label, corpus, refusals)
        runs += made.plan.runs
        left_out += made.plan.left_out
        rungs |= {rung.config: rung for rung in made.plan.rungs}
        astray = astray or made.astray
    # Tokens that are rounded too far may meet there, which is no second mistake.
    merged = _merge_trunks(study, runs, Refusals() if astray else refusals)
    plan = Plan(study, merged, tuple(rungs.values()), tuple(dict.fromkeys(left_out)), corpus)
    return Draft(plan, refusals)


@dataclass(frozen=True)
class _Planned:
    """The plan of one variant, and whether tokens of it are refused, for being rounded too far."""

    plan: Plan
    astray: bool


def _variant(study: Study, label: str | None, corpus: CorpusInfo, refusals: Refusals) -> _Planned:
    """The plan of one combination of a sweep's values."""
    grid = study.grid
    left_out: list[LeftOut] = []
    rungs: list[Rung] = []
    sizes: list[Size] = []
    batched: list[Batched] = []
    most = math.inf if grid.max_run_flops is None else grid.max_run_flops
    found: tuple[Cell, ...] = ()
    with refusals.gathered():
        found = draft_cells(study, corpus.vocab_size, refusals)
    for _, group in itertools.groupby(found, lambda cell: cell.rung.config):
        cells = list(group)
        rung = cells[0].rung
        rungs.append(rung)
        kept = tuple(cell for cell in cells if cell.flops_6nd <= most)
        for cell in cells:
            if cell.flops_6nd > most:
                reason = f"6ND = {cell.flops_6nd:.2e} is above max_run_flops = {most:.2e}"
                left_out.append(LeftOut(rung, cell.tokens, cell.flops_6nd, reason))
        if not kept:
            refusals.add(
                f"[grid] max_run_flops = {most:.3g} leaves no budget for params = "
                f"{rung.target:.4g}. Give {cells[0].flops_6nd:.3g} or more, or drop the size."
            )
            continue
        batch = common_batch(study)
        with refusals.gathered():
            base = base_of(study, corpus, rung)
            batch = base.batch_tokens
            sizes.append(Size(base, kept))
        if batch is not None:
            batched += [Batched(cell, batch) for cell in kept]
    with refusals.gathered():
        refuse_rounding(study, batched)
    astray = missed(study, batched)
    # What is refused for its tokens will have others: nothing more is said of it.
    sound = [replace(s, cells=tuple(c for c in s.cells if c not in astray)) for s in sizes]
    sound = [size for size in sound if size.cells]
    with refusals.gathered():
        refuse_warmups(study, sound)
    with refusals.gathered():
        refuse_beyond_corpus(study, corpus, sound)
    runs: list[RunSpec] = []
    for size in sizes:
        for seed in grid.seeds:
            runs += trajectory(study, replace(size.base, seed=seed), size.cells)
        for seed in grid.replicate_seeds:
            runs += trajectory(study, replace(size.base, seed=seed), size.cells[:1])
    runs = [replace(run, variant=label) for run in runs]
    plan = Plan(study, tuple(runs), tuple(rungs), tuple(left_out), corpus)
    return _Planned(plan, bool(astray))


def _merge_trunks(study: Study, runs: Sequence[RunSpec], refusals: Refusals) -> tuple[RunSpec, ...]:
    """The runs with trunks of one id made one, which serves all their branches.

    Variants of a sweep that differ only in their decay share a trunk. Other points that coincide
    are refused.
    """
    merged: dict[str, RunSpec] = {}
    for run in runs:
        other = merged.get(run.run_id)
        if other is None:
            merged[run.run_id] = run
        elif run.run_kind == "trunk":
            points = sorted({*run.checkpoint_at, *other.checkpoint_at})
            merged[run.run_id] = replace(
                run,
                variant=None,  # it belongs to several
                checkpoint_at=tuple(points),
                schedule=replace(run.schedule, steps=points[-1]),
            )
        elif run.variant != other.variant:
            refusals.add(
                f"[sweep] {other.variant} and {run.variant} train the same run. Remove one."
            )
        else:
            unit = study.training.round_to_steps * run.batch_tokens
            refusals.add(
                f"[grid] two points round to the same run: {run.params.total:,} "
                f"parameters on {run.tokens:,} tokens (seed {run.seed}, rate "
                f"{run.schedule.peak:.3g}). Remove one, or space them wider than round_to_steps, "
                f"{unit:,} tokens."
            )
    return tuple(merged.values())


def plan_table(plan: Plan) -> pd.DataFrame:
    """One row a run: shape, every N, D, steps, rates, FLOPs, estimated time and memory.

    `flops_6nd` and `flops` are those of the (N, D) point; `flops_spent` is what the run itself
    trains. Times are for one worker on this machine. Cells that will not be trained stand below,
    with their reason in `refusal` and no run_id.
    """
    rungs = {rung.config: rung for rung in plan.rungs}
    memory = {run.program: worker_memory(run) for run in one_of_each(plan.runs)}
    rows = []
    for run in plan.runs:
        seconds = worker_seconds(spent_flops(run))
        rows.append(
            {
                "run_id": run.run_id,
                "trunk_id": run.trunk_id,
                "run_kind": run.run_kind,
                **run_columns(run, plan.corpus),
                "params_target": rungs[run.model].target,
                "params_error": rungs[run.model].error,
                "own_steps": run.schedule.steps - run.first_step,
                "flops_spent": spent_flops(run),
                "hours": None if seconds is None else seconds / 3600,
                "memory_bytes": memory[run.program],
                "refusal": None,
            }
        )
    for cell in plan.left_out:
        params = cell.rung.counts
        rows.append(
            {
                **vars(cell.rung.config),
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
