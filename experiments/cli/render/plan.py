"""What is shown of a plan: its runs, what they cost, what they are evaluated on, and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.text import (
    MOST_ROWS,
    bytes_text,
    counted,
    duration,
    human,
    paragraph,
    printable,
    scientific,
    text_table,
)
from experiments.cli.join.costs import Bill, missing
from experiments.cli.join.placement import CompiledStep, Placing
from experiments.cli.join.plan import Planned
from experiments.cli.join.warnings import design_warnings, too_large
from experiments.cli.render import layouts
from experiments.cli.render.prepare import once_text
from models.devices import Device
from scaling.data.corpus import CorpusInfo
from scaling.data.holdout import Judged
from scaling.planning.plan import Plan, plan_table
from scaling.planning.rules import rule_of

# CPU seconds of a trunk with its branches besides its steps: a process starts, imports and compiles
# (13 to 22 were measured on tiny studies, on a busy machine).
JOB_SECONDS = 15.0


@dataclass(frozen=True)
class Shown:
    """A plan with what is printed about it."""

    planned: Planned
    devices: tuple[Device, ...] = ()  # named; if there are none, the plan is for this machine
    placings: tuple[Placing, ...] = ()  # on each of the devices, or on this machine
    bills: tuple[Bill, ...] = ()  # of the devices whose share of the peak is known
    count: int = 1  # of devices among which each run is divided
    workers: int = 1  # at once, on this machine
    compiled: CompiledStep | None = None


def plan_text(shown: Shown) -> str:
    """A plan on one screen: one row per run, totals, costs, layouts, warnings.

    Time and memory are those of one worker on this machine; if devices are named, the time of each
    run on `count` of them, where it is known.
    """
    table = plan_table(shown.planned.plan)
    kept = table["refusal"].isna()
    lines = [
        *_runs(shown, table[kept]),
        "",
        *_totals(shown, table[kept]),
        *_left_out(table[~kept].to_dict("records")),
        *_bills(shown),
    ]
    for each in shown.placings:
        lines += ["", *layouts.placing_text(each)]
    if shown.compiled is not None:
        lines += ["", paragraph(layouts.compiled_text(shown.compiled))]
    here = () if shown.devices else too_large(shown.planned.plan)
    warnings = (*design_warnings(shown.planned), *here)
    return "\n".join([*lines, *(paragraph(f"warning: {each}") for each in warnings)])


def _runs(shown: Shown, table: pd.DataFrame) -> list[str]:
    """One row per run; epochs and variants only where runs differ by them."""
    columns: dict[str, Sequence[str]] = {
        "kind": list(table["run_kind"]),
        "shape": list(table["shape"]),
        "N non-emb": [human(n) for n in table["params_non_embedding"]],
        "N total": [human(n) for n in table["params_total"]],
        "to target": [f"{error:+.1%}" for error in table["params_error"]],
        "D": [human(tokens) for tokens in table["tokens"]],
        "seed": [str(seed) for seed in table["seed"]],
        "steps": [str(steps) for steps in table["own_steps"]],
        "batch": [human(tokens) for tokens in table["batch_tokens"]],
        "LR": [f"{rate:.2g}" for rate in table["learning_rate"]],
        "warmup": [str(steps) for steps in table["warmup_steps"]],
        "6ND": [scientific(flops) for flops in table["flops_6nd"]],
    }
    for bill in shown.bills:
        columns[f"time on {shown.count} {bill.cost.device.name}"] = [*map(duration, bill.seconds)]
    if not shown.devices:
        hours = table["hours"]
        columns["time"] = ["" if pd.isna(each) else duration(3600 * each) for each in hours]
        columns["memory"] = [bytes_text(each) for each in table["memory_bytes"]]
    epochs = table["tokens"] / table["unique_tokens"]
    if (epochs > 1).any():
        columns["epochs"] = [f"{passes:.3g}" for passes in epochs]
    if shown.planned.plan.study.sweep:
        columns["variant"] = ["" if pd.isna(name) else name for name in table["variant"]]
    return text_table([*columns], [*zip(*columns.values(), strict=True)]).split("\n")


def _totals(shown: Shown, table: pd.DataFrame) -> list[str]:
    """What all runs cost together, what they read, and whether they identify the law."""
    plan = shown.planned.plan
    saved = plan.flops_unshared / plan.flops_spent
    lines = [
        f"{len(plan.points)} points from {len(plan.runs)} runs: {scientific(plan.flops_spent)} "
        f"exact FLOPs{'' if shown.devices else _time(table, shown.workers)}. Shared trunks save a "
        f"factor of {saved:.2f}.",
        *_batches(plan),
        _corpus(plan.corpus),
        *map(_evaluated, shown.planned.judged),
    ]
    if shown.planned.condition_number is not None:
        lines.append(
            f"Design for {plan.study.law}: condition number {shown.planned.condition_number:.2g} "
            "(lower is better: near 1e8 nothing can be fitted)."
        )
    return [*map(paragraph, lines)]


def _batches(plan: Plan) -> Iterator[str]:
    """How batches by a rule were rounded."""
    rule = plan.study.training.batch_sequences
    if isinstance(rule, str):
        batches = sorted({run.batch_sequences for run in plan.runs})
        yield (
            f"Batch by {rule!r}, {rule_of(rule, 'batch_sequences').formula} tokens: "
            f"{', '.join(map(str, batches[:MOST_ROWS]))}{' …' * (len(batches) > MOST_ROWS)} "
            "sequences, rounded by 6% at most to 8 to 15 times a power of two, so that devices "
            "and microbatches divide them."
        )


def _left_out(cells: Sequence[Mapping[Any, Any]]) -> Iterator[str]:
    """The points of the grid that are not planned, and why."""
    for cell in cells[:MOST_ROWS]:
        point = f"{human(cell['params_total'])} parameters on {human(cell['tokens'])} tokens"
        yield paragraph(f"Left out: {point}, {cell['refusal']}.")
    if len(cells) > MOST_ROWS:
        yield f"Left out: {len(cells) - MOST_ROWS:,} more; --json FILE has them all."


def _bills(shown: Shown) -> Iterator[str]:
    """The cost of the whole grid on each device, and what to do about devices without a cost."""
    if shown.bills:
        yield from ("", "The whole grid, its runs one after another on all devices:")
    for bill in shown.bills:
        yield from (paragraph(bill.cost.bill()), paragraph(f"  by {bill.basis}"))
    if without := missing(shown.devices, shown.bills):
        yield paragraph(without)


def plan_json(shown: Shown) -> dict[str, Any]:
    """A plan as JSON values; hours are those of one worker here, null if devices are named."""
    planned = shown.planned
    plan = planned.plan
    table = plan_table(plan).astype(object).replace({pd.NA: None})
    if shown.devices:
        table["hours"] = None
    return {
        "runs": table[table["refusal"].isna()].to_dict("records"),
        "left_out": table[table["refusal"].notna()].to_dict("records"),
        "flops_spent": plan.flops_spent,
        "flops_unshared": plan.flops_unshared,
        "condition_number": planned.condition_number,
        "judged": [asdict(each) for each in planned.judged],
        "warnings": design_warnings(planned),
        "memory": [layouts.placing_json(each) for each in shown.placings],
        "compiled": None if shown.compiled is None else layouts.compiled_json(shown.compiled),
        "cost": [{**bill.cost.json(), "basis": bill.basis} for bill in shown.bills],
    }


def _evaluated(judged: Judged) -> str:
    """The text on which the runs of one sequence length are evaluated."""
    if judged.set is not None:
        return _of_set(judged)
    n = judged.sequence_length
    all_of = judged.tokens >= judged.held_out_tokens - n
    spaced = "one after another" if all_of else "evenly spaced"
    docs = f"{judged.documents} of the {judged.held_out} held-out documents"
    if judged.documents == judged.held_out:
        docs = f"all {judged.held_out} held-out documents"
    return (
        f"Held-out loss: over {human(judged.tokens)} of {human(judged.held_out_tokens)} tokens"
        f"{_bytes(judged)} in {docs}, windows of {n} {spaced}; the same for every run."
    )


def _of_set(judged: Judged) -> str:
    return (
        f"Validation set {judged.set}: {human(judged.tokens)} of {human(judged.held_out_tokens)} "
        f"tokens{_bytes(judged)} in {judged.documents} of {counted(judged.held_out, 'document')}, "
        f"at the end of each run; column loss_{judged.set}."
    )


def _bytes(judged: Judged) -> str:
    return "" if judged.bytes is None else f" ({human(judged.bytes)} bytes)"


def _corpus(corpus: CorpusInfo) -> str:
    if corpus.declared:
        return (
            f"Corpus: {printable(corpus.source)} is not on this machine; planned as declared, "
            f"{human(corpus.train_tokens)} tokens to train on."
        )
    return (
        f"Corpus: {human(corpus.train_tokens)} tokens to train on, {human(corpus.holdout_tokens)} "
        f"held out in {corpus.holdout_documents} of "
        f"{corpus.train_documents + corpus.holdout_documents} documents; {corpus.vocab_size:,} "
        f"different tokens. {once_text(corpus)}"
    ).rstrip()


def _time(table: pd.DataFrame, workers: int) -> str:
    """How long training takes on this machine: at least as long as the longest trunk."""
    if table["hours"].isna().any():
        return ""
    jobs = JOB_SECONDS + 3600 * table.groupby("trunk_id")["hours"].sum()
    seconds = max(jobs.sum() / workers, jobs.max())
    return (
        f", about {duration(seconds)} of training with {workers} worker{'s' * (workers > 1)} here"
    )
