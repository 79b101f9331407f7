"""What is shown of a plan: a row a run, what it costs, what it is judged on, what to doubt."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis import cost
from analysis.units import bytes_text, duration, human, scientific
from experiments import compiling, placing
from experiments.bills import Bill, missing
from experiments.compiling import CompiledStep
from experiments.doubts import doubts, too_large
from experiments.placing import Placing
from experiments.planning import Planned
from experiments.text import MOST_ROWS, columns, printable
from models.devices import Device
from scaling.data.corpus import CorpusInfo
from scaling.data.holdout import Judged
from scaling.planning.plan import plan_table

# CPU seconds of a trunk with its branches beside its steps: a process starts, imports and compiles
# (13 to 22 were seen on tiny studies, on a busy machine).
JOB_SECONDS = 15.0
WIDTH = 100  # columns of a sentence


@dataclass(frozen=True)
class Shown:
    """A plan with what is said of it."""

    planned: Planned
    devices: tuple[Device, ...] = ()  # asked for; where there are none it is about this machine
    placings: tuple[Placing, ...] = ()  # on each of the devices, or on this machine
    bills: tuple[Bill, ...] = ()  # of the devices of which it is known what they reach
    count: int = 1  # of devices, among which each run is divided
    workers: int = 1  # at once, on this machine
    compiled: CompiledStep | None = None


def plan_text(shown: Shown) -> str:
    """A plan on one screen: the ladder, a row a run, what it costs, how each size is laid out,
    what to doubt.

    Time and memory are those of one worker on this machine; where devices are named, the time of
    each run on `count` of them, if there is a bill.
    """
    planned, devices, bills, count = shown.planned, shown.devices, shown.bills, shown.count
    plan = planned.plan
    table = plan_table(plan)
    costs = _device_columns(bills, count) if devices else _machine_columns(table)
    left_out = table[table["refusal"].notna()].to_dict("records")
    table = table[table["refusal"].isna()]
    rows = [
        [
            run["run_kind"],
            run["shape"],
            human(run["params_non_embedding"]),
            human(run["params_total"]),
            f"{run['params_error']:+.1%}",
            human(run["tokens"]),
            str(run["seed"]),
            str(run["own_steps"]),
            human(run["batch_tokens"]),
            f"{run['learning_rate']:.2g}",
            str(run["warmup_steps"]),
            scientific(run["flops_6nd"]),
            *cells,
        ]
        for at, run in enumerate(table.to_dict("records"))
        for cells in [[cells[at] for cells in costs.values()]]
    ]
    header = [
        "kind",
        "shape",
        "N non-emb",
        "N total",
        "to target",
        "D",
        "seed",
        "steps",
        "batch",
        "LR",
        "warmup",
        "6ND",
        *costs,
    ]
    epochs = table["tokens"] / table["unique_tokens"]
    if (epochs > 1).any():
        header.append("epochs")
        for row, passes in zip(rows, epochs, strict=True):
            row.append(f"{passes:.3g}")
    if plan.study.sweep:
        header.append("variant")
        for row, run in zip(rows, table.to_dict("records"), strict=True):
            row.append("" if pd.isna(run["variant"]) else run["variant"])
    saved = plan.flops_unshared / plan.flops_spent
    lines = [
        columns(header, rows),
        "",
        f"{len(plan.points)} points from {len(plan.runs)} runs: {scientific(plan.flops_spent)} "
        f"exact FLOPs{'' if devices else _time(table, shown.workers)}. Shared trunks save a factor "
        f"of {saved:.2f}.",
        _corpus(plan.corpus),
        *map(_judged, planned.judged),
    ]
    if planned.condition_number is not None:
        lines.append(
            f"Design for {plan.study.law}: condition number {planned.condition_number:.2g} "
            "(1e3 identifies every coefficient, 1e8 none)."
        )
    lines += [
        f"Left out: {human(cell['params_total'])} parameters on {human(cell['tokens'])} tokens, "
        f"{cell['refusal']}."
        for cell in left_out[:MOST_ROWS]
    ]
    if len(left_out) > MOST_ROWS:
        lines.append(f"Left out: {len(left_out) - MOST_ROWS:,} more; --json FILE has them all.")
    if bills:
        lines += ["", "The whole grid, its runs one after the other on all devices:"]
        for bill in bills:
            lines += [cost.bill_text(bill.cost), textwrap.fill(f"  by {bill.basis}", WIDTH)]
    if without := missing(devices, bills):
        lines.append(textwrap.fill(without, WIDTH))
    for each in shown.placings:
        lines += ["", *placing.to_text(each)]
    if shown.compiled is not None:
        lines += ["", textwrap.fill(compiling.to_text(shown.compiled), WIDTH)]
    here = () if devices else too_large(plan)
    said = [f"warning: {each}" for each in (*doubts(planned), *here)]
    lines += [textwrap.fill(each, WIDTH, subsequent_indent="  ") for each in said]
    return "\n".join(lines)


def plan_json(shown: Shown) -> dict[str, Any]:
    """A plan as JSON values; hours are of a worker here, null where devices are named."""
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
        "warnings": doubts(planned),
        "memory": [placing.to_json(each) for each in shown.placings],
        "compiled": None if shown.compiled is None else compiling.to_json(shown.compiled),
        "cost": [{**cost.to_json(bill.cost), "basis": bill.basis} for bill in shown.bills],
    }


def _machine_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """Time and memory of one worker on this machine; no time where nothing was measured."""
    table = table[table["refusal"].isna()]
    hours = table["hours"]
    return {
        "time": ["" if pd.isna(each) else duration(3600 * each) for each in hours],
        "memory": [bytes_text(each) for each in table["memory_bytes"]],
    }


def _device_columns(bills: Sequence[Bill], count: int) -> dict[str, list[str]]:
    """The time that each run's FLOPs take on `count` of a device."""
    return {
        f"time on {count} {bill.cost.device.name}": list(map(duration, bill.seconds))
        for bill in bills
    }


def _judged(judged: Judged) -> str:
    """Which held-out text the runs of a sequence length are judged on."""
    n = judged.sequence_length
    size = "" if judged.bytes is None else f" (about {human(judged.bytes)} bytes)"
    all_of = judged.tokens >= judged.held_out_tokens - n * judged.held_out
    spaced = "one after another" if all_of else "evenly spaced"
    docs = f"{judged.documents} of the {judged.held_out} held-out documents"
    if judged.documents == judged.held_out:
        docs = f"all {judged.held_out} held-out documents"
    short = f"; {judged.short} of no more than {n} tokens are left out" if judged.short else ""
    return (
        f"Held-out loss: over {human(judged.tokens)} of {human(judged.held_out_tokens)} tokens"
        f"{size} in {docs}, windows of {n} {spaced} in each{short}; the same for every run."
    )


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
        "different tokens."
    )


def _time(table: pd.DataFrame, workers: int) -> str:
    """How long training takes here: no less than the longest trunk with its branches."""
    if table["hours"].isna().any():
        return ""
    jobs = JOB_SECONDS + 3600 * table.groupby("trunk_id")["hours"].sum()
    seconds = max(jobs.sum() / workers, jobs.max())
    return (
        f", about {duration(seconds)} of training with {workers} worker{'s' * (workers > 1)} here"
    )
