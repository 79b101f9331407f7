"""Which points of a grid are still to come: a part of it is another design than was planned."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.runs.files.load import load
from analysis.runs.messages import listed
from analysis.text import human, scientific
from experiments.cli.join.planned import RUN_TABLE, is_planned, other_study, other_table
from scaling.store.records import Refusal

DESIGN = ("params_total", "tokens", "seed", "budget_flops")  # of a run, what names its point
MOST_SIZES = 6  # that a sentence lists
ENDED = ("completed", "diverged", "failed")  # what `scaling run` leaves as it is


def unfinished(runs: Path) -> tuple[str, ...]:
    """What is to be said of the plan of a results folder that is fitted: that it is damaged, or of
    another study; which of its points have not ended, and which failed. One that diverged has its
    result.

    Raises Refusal where the run table is of another plan.
    """
    folder = runs if runs.is_dir() else runs.parent
    if not (folder / RUN_TABLE).is_file() or not (runs.is_dir() or runs.name == RUN_TABLE):
        return ()
    if not is_planned(folder):
        return ()
    from scaling.store.manifest import read_manifest  # takes long, and most tables have no plan

    try:
        manifest = read_manifest(folder)
    except Refusal as refused:
        return (f"nothing shows whether the grid is finished: {str(refused).rstrip('.')}",)
    if wrong := other_table(folder, manifest):
        raise Refusal(
            f"{wrong}. `scaling run` with the study writes the table of this plan; to fit that "
            "one, move it into another folder."
        )
    table, study = load(folder / RUN_TABLE), folder / "study.toml"
    points = pd.DataFrame(
        {"run_id": run.run_id, **dict.fromkeys(DESIGN), **run.columns}
        for run in manifest.runs
        if run.run_kind != "trunk"
    )
    statuses = dict(zip(table["run_id"], table["status"], strict=True))
    said = [
        other_study(folder, study.read_bytes(), manifest) if study.is_file() else "",
        _said(points, points["run_id"].map(statuses).fillna("not ended")) if len(points) else "",
    ]
    return tuple(filter(None, said))


def _said(points: pd.DataFrame, status: pd.Series) -> str:
    tally = Counter(status)
    why = ", ".join(f"{tally[each]} {each}" for each in sorted(tally) if each != "completed")
    have = f"{tally['completed']} of {len(points)} planned runs have a loss ({why})"
    left, failed = points[~status.isin(ENDED)], points[status.eq("failed")]
    sentences = []
    if len(left):
        missing = _sizes(points, left)
        sentences.append(f"Missing are {missing}. `scaling run` trains them")
    if len(failed):
        lost = _sizes(points, failed)
        sentences.append(f"Failed are {lost}. `scaling run --retry failed` trains them again")
    if not sentences:
        return ""
    state = "not finished" if len(left) else "not whole"
    return (
        f"the grid is {state}: {have}. {'. '.join(sentences)}; until then this is the fit of "
        "another design than was planned"
    )


def _sizes(points: pd.DataFrame, rows: pd.DataFrame) -> str:
    """What these rows are of the sizes of the plan."""
    sizes = [_size(points, some) for _, some in rows.groupby("params_total", sort=True)]
    more = f"; and {len(sizes) - MOST_SIZES} more sizes" if len(sizes) > MOST_SIZES else ""
    return f"{'; '.join(sizes[:MOST_SIZES])}{more}"


def _size(points: pd.DataFrame, rows: pd.DataFrame) -> str:
    """What some rows of one size are of it."""
    size = human(float(rows["params_total"].iloc[0]))
    of_size = points[points["params_total"].eq(rows["params_total"].iloc[0])]
    if len(rows) == len(of_size):
        return f"N = {size} altogether"
    if rows["budget_flops"].notna().all():
        of = (
            f"C = {listed([*map(scientific, sorted(rows['budget_flops'].astype(float).unique()))])}"
        )
    else:
        of = f"D = {listed([*map(human, sorted(rows['tokens'].astype(float).unique()))])}"
    if len(of_size["seed"].unique()) == 1:
        return f"N = {size} at {of}"
    return f"N = {size} at {of} (seed {listed([*map(str, sorted(rows['seed'].unique()))])})"
