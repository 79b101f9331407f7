"""What the terminal shows of a launch: where runs train, which are left, results, what is next."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.fitting.inputs import SPARE_ROWS
from analysis.laws.catalogue import law
from analysis.runs.status import reasons
from analysis.text import counted, human, printable, scientific
from experiments.cli.text import few, rows_text
from scaling.launch.ray import Needs, Node
from scaling.launch.slots import Slots
from scaling.planning.plan import Plan
from scaling.spec import RunSpec, shape_text, spent_flops
from scaling.store.results import Results
from scaling.store.table import Published

# The columns of a study's run table that a fit reads as the features of a law.
COLUMNS = {"params": "params_total", "flops": "flops_6nd"}
RATE = "learning_rate"


def counts_text(plan: Plan) -> str:
    """How many runs a plan has, and how many of these are trunks and points if both are there."""
    points = len(plan.points)
    trunks = len(plan.runs) - points
    kinds = f" ({counted(trunks, 'trunk')}, {counted(points, 'point')})" if trunks else ""
    return f"{counted(len(plan.runs), 'run')}{kinds}"


def slots_text(places: Slots, runs: int) -> str:
    """How many runs are trained at once and on what, and which devices or workers are idle."""
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
            f"{counted(len(slots), 'worker')} with {width} each."
        )
    if runs < len(slots):
        lines.append(_idle_text(runs, len(slots)))
    return "\n".join(lines)


def ray_text(nodes: Sequence[Node], needs: Needs, workers: int, runs: int) -> str:
    """How many runs a Ray cluster trains at once and on what, and whether workers are idle."""
    at_once = "1 run at a time" if workers == 1 else f"{workers} runs at once"
    each = counted(needs.gpus, "GPU") if needs.gpus else "one core"
    if needs.sharing > 1:
        each = f"1/{needs.sharing} of a GPU"
    there = sum(node.gpus if needs.gpus else node.cpus for node in nodes)
    has = counted(int(there), "GPU" if needs.gpus else "core")
    lines = [f"{at_once}, each on {each} of a Ray cluster: {counted(len(nodes), 'node')}, {has}"]
    if runs < workers:
        lines.append(_idle_text(runs, workers))
    return "\n".join(lines)


def _idle_text(runs: int, workers: int) -> str:
    left = "1 run is" if runs == 1 else f"{runs} runs are"
    return f"warning: {left} left for {workers} workers; the others idle."


def run_json(
    plan: Plan, folder: Results, to_do: Sequence[RunSpec], published: Published | None = None
) -> dict[str, Any]:
    """What `scaling run --json` writes: counts of runs, and the run table where one was made.

    `table` and `statuses` are null where none was: after a dry run, or while an engine trains.
    """
    found: dict[str, Any] = {"table": None, "statuses": None, "damaged": {}, "orphans": []}
    if published is not None:
        statuses = Counter(published.table["status"])
        if left := len(plan.runs) - statuses.total():
            statuses["planned"] += left
        found = {
            "table": published.path,
            "statuses": dict(statuses),
            "damaged": published.damaged,
            "orphans": list(published.orphans),
        }
    return {
        "study": plan.study.name,
        "results": str(folder),
        "runs": len(plan.runs),
        "to_do": [run.run_id for run in to_do],
        "flops": sum(map(spent_flops, to_do)),
        **found,
    }


def to_do_text(runs: Sequence[RunSpec]) -> str:
    """The runs that would be trained."""
    rows = (
        {
            "run": run.run_id,
            "kind": run.run_kind,
            "shape": shape_text(run.architecture, run.model),
            "D": human(run.tokens),
            "seed": str(run.seed),
            "steps": str(run.schedule.steps - run.first_step),
            "FLOPs": scientific(spent_flops(run)),
        }
        for run in runs
    )
    return rows_text(rows, "scaling plan --json FILE")


def runs_text(table: pd.DataFrame) -> str:
    """The run table's points: shape, N, D, C, losses."""
    points = table[table["run_kind"] != "trunk"].sort_values(
        ["params_total", "tokens", "seed"], kind="stable"
    )
    hidden = _hidden(points)
    rows = (
        {
            # Tables from before they had such a column are of decoders.
            "shape": str(run.get("shape") or f"{run.get('n_layers')}×{run.get('d_model')}"),
            "N non-emb": human(run["params_non_embedding"]),
            "N total": human(run["params_total"]),
            "D": human(run["tokens"]),
            "seed": str(run["seed"]),
            "6ND": scientific(run["flops_6nd"]),
            "LR": f"{run['learning_rate']:.2g}",
            "loss": _known(run["loss"], "{:.4f}")
            + _known(run["loss_stderr"], " ± {:.4f}") * pd.notna(run["loss"]),
            "bits/byte": _known(run["bits_per_byte"], "{:.3f}"),
            "status": run["status"],
            **{name: _known(run[name], "{}") for name in hidden},
        }
        for run in points.to_dict("records")
    )
    return rows_text(rows, "runs.parquet")


def _known(cell: Any, form: str) -> str:
    return "" if pd.isna(cell) else form.format(cell)


def _hidden(points: pd.DataFrame) -> list[str]:
    """The first setting by which runs differ that would otherwise print the same."""
    shown = [name for name in ("shape", "n_layers", "d_model") if name in points]
    shown += ["params_total", "tokens", "seed", "learning_rate"]
    some = [name for name in ("variant", "unique_tokens", "task_share") if name in points]
    kinds = len(points.drop_duplicates(shown))
    return [name for name in some if len(points.drop_duplicates([*shown, name])) > kinds][:1]


def next_text(folder: Path | Results, table: pd.DataFrame, name: str) -> str:
    """The command that fits the law of this name to a study's run table, or why there is none.

    Each variant of a swept study has a law of its own.
    """
    wanted = law(name)
    completed = table[reasons(table).eq("")]  # a fit leaves trunks out
    columns = [COLUMNS.get(feature, feature) for feature in wanted.features]
    by_variant = {
        str(variant): (len(runs[columns].drop_duplicates()), len(runs))
        for variant, runs in completed.groupby("variant", dropna=False)
    }
    variant = max(by_variant, key=lambda each: by_variant[each], default="")
    points, runs = by_variant.get(variant, (0, 0))
    several, coefficients = len(by_variant) > 1, len(wanted.coefficients)
    if runs < coefficients + SPARE_ROWS or points < coefficients:
        of_one = f" of one of the {len(by_variant)} variants" * several
        return (
            f"Next: no fit of {name} yet. It has {coefficients} coefficients and needs "
            f"{coefficients + SPARE_ROWS} runs at {coefficients} or more different "
            f"({', '.join(wanted.features)}); the {runs} completed runs{of_one} "
            f"lie at {points}."
            + f" The best rates: scaling fit {folder} --best-of {RATE}"
            * _is_sweep(completed)
        )
    fit = f"Next: scaling fit {folder} --law {name}"
    if not several:
        return fit
    if _is_sweep(completed):
        return f"{fit} --best-of {RATE} (the law through the best rate at each N and D)"
    return f"{fit} --where {shlex.quote(f'variant=={variant}')} (each variant has its own law)"


def _is_sweep(completed: pd.DataFrame) -> bool:
    """Whether the variants differ by learning rate alone, with three or more at a point."""
    if RATE not in completed or completed.empty:
        return False
    tried = int(completed.groupby(["params_total", "tokens"])[RATE].nunique().max())
    rates = [re.fullmatch(rf"training\.{RATE}\S*", str(each)) for each in completed["variant"]]
    return tried >= 3 and all(rates)
