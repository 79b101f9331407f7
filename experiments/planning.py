"""Where a study meets the law it is meant for: its plan, checked against what it must identify."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from analysis.cost import Cost, cost, device_named
from analysis.units import scientific
from experiments.cli import number
from models.count import count_params
from scaling.data.corpus import Corpus
from scaling.data.documents import SourceMissing
from scaling.data.holdout import holdout_windows
from scaling.data.prepare import declared, prepare
from scaling.hardware import cache_folder
from scaling.plan import Plan, make_plan
from scaling.records import Refusal
from scaling.study import LadderGrid, Study
from scaling.tasks.mix import TaskMix

MIN_DISTINCT = {"params": 3, "tokens": 2}  # two sizes fit any exponent and any floor
MAX_CONDITION = 1e6  # a grid has about 1e3, a single ray 5.6e8


@dataclass(frozen=True)
class Planned:
    """A plan and how well its design identifies the study's law."""

    plan: Plan
    condition_number: float | None  # null when the study names no law of params and tokens


def plan_study(study: Study) -> Planned:
    """Tokenise the corpus (once) and plan the runs.

    A study that declares the size of its corpus is planned without it where it is not at hand;
    `plan.corpus.declared` says so.
    Raises Refusal where a study cannot be trained, where no run could answer its [tasks], and
    where it names a law that its grid cannot identify: fewer than three sizes, a single ray
    D = kN, or a condition number above 1e6. Only laws of params and tokens are checked beyond the
    number of sizes.
    """
    try:
        corpus = prepare(study.data, cache_folder() / "corpora")
    except SourceMissing:
        if study.data.train_tokens is None:
            raise
        plan = make_plan(study, declared(study.data))
        return Planned(plan, _identifies(plan))
    plan = make_plan(study, corpus.info)
    # Refuses held-out documents too short to be cut into sequences, before anything is trained.
    for length in {run.sequence_length for run in plan.runs}:
        holdout_windows(corpus, length, round(study.evaluation.tokens))
    _refuse_tasks(plan, corpus)
    return Planned(plan, _identifies(plan))


def _refuse_tasks(plan: Plan, corpus: Corpus) -> None:
    """Raises Refusal for tasks that no run could train on or answer."""
    from scaling.tasks.questions import every_question, refuse_cut
    from scaling.tasks.vocabulary import vocabulary_of

    seen: list[tuple[TaskMix, int]] = []
    for run in plan.runs:
        if run.tasks is None or (run.tasks, run.sequence_length) in seen:
            continue
        seen.append((run.tasks, run.sequence_length))
        vocabulary = vocabulary_of(corpus)
        refuse_cut(run.tasks, vocabulary, run.sequence_length)
        every_question(run.tasks, vocabulary, run.sequence_length)


def _identifies(plan: Plan) -> float | None:
    """The design's condition number for a law of params and tokens; null for other laws."""
    from analysis.identifiability import condition_number, refuse_line
    from analysis.laws import law

    if plan.study.law is None:
        return None
    features, grid = law(plan.study.law).features, plan.study.grid
    if isinstance(grid, LadderGrid) and {"params", "tokens"} <= set(features):
        multiples = sorted(set(grid.tokens_per_param))
        if len(multiples) == 1:
            raise Refusal(
                f"[grid] tokens_per_param = [{multiples[0]:g}] puts every run on one ray D = "
                f"{multiples[0]:g} N, which cannot separate the exponents of {plan.study.law!r}. "
                "Give at least two multiples, e.g. [10, 20, 40], or remove law."
            )
    columns = {
        "params": np.array([count_params(run.model).total for run in plan.points], float),
        "tokens": np.array([run.tokens for run in plan.points], float),
    }
    condition = condition_number(columns["params"], columns["tokens"])
    found = f"(condition number {condition:.1e}; a grid has 1e3)"
    for name in sorted(set(features) & set(columns)):
        distinct = len(np.unique(columns[name]))
        if distinct < (least := MIN_DISTINCT[name]):
            raise Refusal(
                f"[grid] {name} has {distinct} distinct value{'s' * (distinct > 1)}; law = "
                f"{plan.study.law!r} needs at least {least} to tell its exponent from its floor "
                f"{found}. Give more, or remove law."
            )
    if set(features) != set(columns):
        return None
    try:
        refuse_line(columns)
    except Refusal as error:
        raise Refusal(f"[grid] {error} {found}") from error
    if condition > MAX_CONDITION:
        raise Refusal(
            f"[grid] cannot identify law = {plan.study.law!r} {found}. Spread params and tokens "
            "over a wider grid."
        )
    return condition


def refuse_above(max_flops: str | None, flops: float) -> None:
    """Raise Refusal where a grid would train more than the user's --max-flops."""
    limit = number("--max-flops", max_flops)
    if limit is not None and flops > limit:
        raise Refusal(
            f"--max-flops {max_flops}: the grid would train {scientific(flops)} exact FLOPs. Raise "
            "the limit, or drop sizes, budgets or seeds."
        )


def grid_costs(
    plan: Plan, names: tuple[str, ...], count: int, mfu: float | None, dtype: str
) -> list[Cost]:
    """What the whole grid costs on each named device; its largest model must fit.

    Raises Refusal where a run could not use so many: it splits a microbatch over as many devices
    as divide it, and the others would be paid for and idle.
    """
    if names and mfu is None:
        raise Refusal("--device needs --mfu, the share of its peak you measured, e.g. 0.4.")
    if names:
        used, sequences = min(
            (math.gcd(run.microbatch_sequences, count), run.microbatch_sequences)
            for run in plan.runs
        )
        if used < count:
            raise Refusal(
                f"--count {count}: a microbatch of {sequences} sequences splits over {used} of the "
                f"devices. Give --count {used}, or microbatches (batch_sequences over accumulate) "
                f"that {count} divides."
            )
    largest = max(count_params(run.model).total for run in plan.runs)
    return [
        cost(plan.flops_spent, largest, device_named(name), count=count, mfu=mfu, dtype=dtype)
        for name in names
        if mfu is not None
    ]
