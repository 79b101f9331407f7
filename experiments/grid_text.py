"""What the terminal shows of a grid: its plan, its runs, where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from analysis.units import human, scientific
from experiments.text import MOST_ROWS, columns, duration, printable
from scaling.data.corpus import CorpusInfo
from scaling.hardware import devices_used
from scaling.plan import Plan, plan_table
from scaling.records import Status
from scaling.run import RunSpec, spent_flops

# CPU seconds of a trunk with its branches beside its steps: a process starts, imports and compiles
# (13 to 22 were seen on tiny studies, on a busy machine).
JOB_SECONDS = 15.0


def plan_text(plan: Plan, condition_number: float | None, workers: int | None) -> str:
    """A plan on one screen: the ladder, a row a run, what it costs, what is left out.

    Times are left out where no number of workers on this machine is given.
    """
    table = plan_table(plan)
    left_out = table[table["refusal"].notna()].to_dict("records")
    table = table[table["refusal"].isna()]
    rows = [
        [
            run["run_kind"],
            f"{run['n_layers']}×{run['d_model']}",
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
            "" if pd.isna(run["hours"]) or not workers else duration(3600 * run["hours"]),
            f"{run['memory_bytes'] / 1e9:.2g} GB",
        ]
        for run in table.to_dict("records")
    ]
    header = [
        "kind",
        "L×d",
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
        "time",
        "memory",
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
        f"exact FLOPs{_time(table, workers)}. Shared trunks save a factor of {saved:.2f}.",
        _corpus(plan.corpus),
    ]
    if condition_number is not None:
        lines.append(
            f"Design for {plan.study.law}: condition number {condition_number:.2g} "
            "(1e3 identifies every coefficient, 1e8 none)."
        )
    lines += [
        f"Left out: {human(cell['params_total'])} parameters on {human(cell['tokens'])} tokens, "
        f"{cell['refusal']}."
        for cell in left_out[:MOST_ROWS]
    ]
    if len(left_out) > MOST_ROWS:
        lines.append(f"Left out: {len(left_out) - MOST_ROWS:,} more; --json FILE has them all.")
    return "\n".join(lines)


def idle_text(runs: Sequence[RunSpec], devices: int) -> str | None:
    """What to know where runs train on fewer than all devices of this machine; else null."""
    few = [run for run in runs if devices_used(run, devices) < devices]
    if not few:
        return None
    least = min(few, key=lambda run: devices_used(run, devices))
    return (
        f"Idle devices: {len(few)} of {len(runs)} runs train on fewer than the {devices} devices "
        f"here, some on {devices_used(least, devices)}. A run uses as many as divide its "
        f"microbatch (batch_sequences over accumulate), {least.microbatch_sequences} sequences "
        f"there. Give microbatches that {devices} divides."
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
        f"{corpus.train_documents + corpus.holdout_documents} documents."
    )


def to_do_text(runs: Sequence[RunSpec]) -> str:
    """The runs that would be trained."""
    rows = [
        [
            run.run_id,
            run.run_kind,
            f"{run.model.n_layers}×{run.model.d_model}",
            human(run.tokens),
            str(run.seed),
            str(run.schedule.steps - run.first_step),
            scientific(spent_flops(run)),
        ]
        for run in runs
    ]
    header = ["run", "kind", "L×d", "D", "seed", "steps", "FLOPs"]
    return columns(header, rows, "scaling plan --json FILE")


def _time(table: pd.DataFrame, workers: int | None) -> str:
    """How long training takes here: no less than the longest trunk with its branches."""
    if table["hours"].isna().any() or not workers:
        return ""
    jobs = JOB_SECONDS + 3600 * table.groupby("trunk_id")["hours"].sum()
    seconds = max(jobs.sum() / workers, jobs.max())
    return (
        f", about {duration(seconds)} of training with {workers} worker{'s' * (workers > 1)} here"
    )


def runs_text(table: pd.DataFrame) -> str:
    """The run table's points: shape, N, D, C, losses."""
    points = table[table["run_kind"] != "trunk"].sort_values(
        ["params_total", "tokens", "seed"], kind="stable"
    )
    rows = [
        [
            f"{run['n_layers']}×{run['d_model']}",
            human(run["params_non_embedding"]),
            human(run["params_total"]),
            human(run["tokens"]),
            str(run["seed"]),
            scientific(run["flops_6nd"]),
            f"{run['learning_rate']:.2g}",
            _loss(run["loss"], run["loss_stderr"]),
            "" if pd.isna(run["bits_per_byte"]) else f"{run['bits_per_byte']:.3f}",
            run["status"],
        ]
        for run in points.to_dict("records")
    ]
    header = [
        "L×d",
        "N non-emb",
        "N total",
        "D",
        "seed",
        "6ND",
        "LR",
        "loss",
        "bits/byte",
        "status",
    ]
    return columns(header, rows, "runs.parquet")


def _loss(loss: Any, stderr: Any) -> str:
    if pd.isna(loss):
        return ""
    return f"{loss:.4f}" if pd.isna(stderr) else f"{loss:.4f} ± {stderr:.4f}"


def status_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Where every run is, and how many are in each state.

    Of very many runs, first those that need a look: running, diverged or failed.
    """
    tally = Counter(row["status"] for row in rows)
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: row["status"] in ("planned", "completed"))
    header = ["run", "kind", "N", "D", "seed", "status", "step", "loss", "reason"]
    cells = [
        [
            row["run_id"],
            row["run_kind"],
            human(row["params_non_embedding"]),
            human(row["tokens"]),
            str(row["seed"]),
            row["status"],
            "" if row["step"] is None else f"{row['step']} of {row['steps']}",
            "" if row["loss"] is None else f"{row['loss']:.4f}",
            row["reason"] or "",
        ]
        for row in rows
    ]
    counted = ", ".join(f"{tally[name]} {name}" for name in get_args(Status) if tally[name])
    return f"{columns(header, cells)}\n\n{counted or 'no runs'}"
