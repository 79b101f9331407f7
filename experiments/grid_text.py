"""What the terminal shows of a grid: its plan, its runs, where they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from analysis.units import human, scientific
from experiments.text import MOST_ROWS, columns, few, printable
from scaling.launch.slots import Slots
from scaling.spec import RunSpec, shape_text, spent_flops
from scaling.store.run_record import Status


def slots_text(places: Slots, runs: int) -> str:
    """How many of so many runs are trained at once and on what, and which devices are idle."""
    host, slots = places.host, places.slots
    each, kind = slots[0], printable(host.kind)
    width = len(host.devices if each.devices is None else each.devices)
    at_once = "1 run at a time" if len(slots) == 1 else f"{len(slots)} runs at once"
    if host.platform == "cpu":
        return f"{at_once}, on one core" if len(slots) == 1 else f"{at_once}, each on one core"
    if each.sharing > 1:
        where = f"{each.sharing} to each {kind}"
    else:
        where = "on " if len(slots) == 1 else "each on "
        where += f"one {kind}" if width == 1 else f"{width} {kind}"
    lines = [f"{at_once}, {where}"]
    if places.idle:
        idle = few(places.idle)
        lines.append(
            f"warning: of {len(host.devices)} devices {len(places.idle)} idle ({idle}): there are "
            f"{len(slots)} workers with {width} each."
        )
    if runs < len(slots):
        lines.append(f"warning: {runs} runs are left for {len(slots)} workers; the others idle.")
    return "\n".join(lines)


def to_do_text(runs: Sequence[RunSpec]) -> str:
    """The runs that would be trained."""
    rows = [
        [
            run.run_id,
            run.run_kind,
            shape_text(run.architecture, run.model),
            human(run.tokens),
            str(run.seed),
            str(run.schedule.steps - run.first_step),
            scientific(spent_flops(run)),
        ]
        for run in runs
    ]
    header = ["run", "kind", "shape", "D", "seed", "steps", "FLOPs"]
    return columns(header, rows, "scaling plan --json FILE")


def runs_text(table: pd.DataFrame) -> str:
    """The run table's points: shape, N, D, C, losses."""
    points = table[table["run_kind"] != "trunk"].sort_values(
        ["params_total", "tokens", "seed"], kind="stable"
    )
    rows = [
        [
            _shape(run),
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
        "shape",
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
    for name in _hidden(points):
        header.append(name)
        for row, cell in zip(rows, points[name], strict=True):
            row.append("" if pd.isna(cell) else str(cell))
    return columns(header, rows, "runs.parquet")


def _shape(run: Mapping[Any, Any]) -> str:
    """A run's shape; tables from before they had a column of it are of decoders."""
    return str(run.get("shape") or f"{run.get('n_layers')}×{run.get('d_model')}")


def _hidden(points: pd.DataFrame) -> list[str]:
    """The first setting that is not shown and tells runs apart which would print the same."""
    shown = [name for name in ("shape", "n_layers", "d_model") if name in points]
    shown += ["params_total", "tokens", "seed", "learning_rate"]
    some = [name for name in ("variant", "unique_tokens", "task_share") if name in points]
    kinds = len(points.drop_duplicates(shown))
    return [name for name in some if len(points.drop_duplicates([*shown, name])) > kinds][:1]


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
