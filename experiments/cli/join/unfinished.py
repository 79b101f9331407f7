"""Which points of a grid are still to come: a part of it is another design than was planned."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from pathlib import Path

import pandas as pd

from analysis.runs.files.load import load
from analysis.runs.messages import listed
from analysis.text import human, scientific
from scaling.store.records import Refusal

RUN_TABLE = "runs.parquet"  # not from where it is written, which takes long to import
MOST_SIZES = 6  # that a sentence lists
ENDED = ("completed", "diverged", "failed")  # what `scaling run` leaves as it is


def unfinished(runs: Path) -> str:
    """Which points of the plan of a results folder have not ended, and which failed; empty where
    there is none of either, or no plan. One that diverged has its result."""
    folder = runs if runs.is_dir() else runs.parent
    if not runs.is_dir() and runs.name != RUN_TABLE:
        return ""
    with suppress(Refusal, LookupError, TypeError, ValueError):
        plan, table = load(folder / "plan.csv"), load(folder / RUN_TABLE)
        points = plan[plan["run_id"].notna() & plan["run_kind"].ne("trunk")]
        statuses = dict(zip(table["run_id"], table["status"], strict=True))
        return _said(points, points["run_id"].map(statuses).fillna("not ended"))
    return ""


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
