"""Loss curves under learning-rate schedules, as a table: curve, step, lr, loss.

One row per recorded step. Between two rows the rate is a straight line; a row without a loss gives
its rate alone, so a schedule can be written step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.array import Array, Index
from analysis.runs.files.load import load
from analysis.runs.messages import listing, row_called, shown
from analysis.runs.table import read_runs, standardise
from scaling.store.records import Refusal
from scaling.store.steps import MAX_STEPS, read_steps

COLUMNS = ("curve", "step", "lr", "loss")


class Schedule(NamedTuple):
    rates: Array  # of every step from `origin` on
    origin: int


def read_curves(path: Path | str, loss_column: str = "loss", window: int = 16) -> pd.DataFrame:
    """The curves of a results folder, or of a CSV or Parquet file with the columns of a curve.

    A folder gives one curve per completed run, by its run_id, with columns of the run table, and
    its size as `params` (params_total), which `fit_sizes` takes. A
    cooldown has its trunk's rates up to the branch, but not the trunk's losses, which would count
    twice. loss_column: loss (of the training batches) or val_loss, of the step records. A training
    loss is the mean of `window` steps, once per window, since single batches scatter too much; a
    val_loss is in the row where it was evaluated. Raises Refusal without step records.
    """
    path = Path(path)
    if not path.is_dir():
        return load(path)
    if loss_column not in ("loss", "val_loss"):
        raise Refusal(
            f"loss_column = {loss_column!r} is not loss or val_loss, of the step records."
        )
    runs = read_runs(path)
    runs = runs[runs["status"] == "completed"] if "status" in runs else runs
    steps = {run: read_steps(path / "runs" / run) for run in runs["run_id"]}
    found = []
    for run, trunk_id in zip(runs["run_id"], runs["trunk_id"], strict=True):
        own, trunk = steps[run], steps.get(trunk_id)
        loss = own[loss_column]
        if loss_column == "loss":
            last = np.arange(1, len(own) + 1) % window == 0
            loss = loss.rolling(window, min_periods=1).mean().where(last)
        own = own.assign(loss=loss)
        if trunk_id != run and trunk is not None and len(own):
            before = trunk[trunk["step"] < own["step"].iloc[0]]
            own = pd.concat([before.assign(loss=np.nan), own])
        found.append(own[["step", "lr", "loss"]].assign(curve=run))
    if not any(len(each) for each in found):
        raise Refusal(
            f"{path} has no step records; a reference folder is shipped without them. Give the "
            "folder that `scaling run` wrote."
        )
    wanted = ["run_id", "trunk_id", "run_kind", "params_total", "seed", "batch_tokens"]
    columns = runs[[name for name in wanted if name in runs]]
    columns = columns.assign(params=columns["params_total"])
    return pd.concat(found).merge(columns, left_on="curve", right_on="run_id")


def schedule_of(rows: pd.DataFrame, warmup_steps: int | None) -> Schedule:
    """The rate of every step of one curve. Raises Refusal where its beginning is not known."""
    step, rate = rows["step"].to_numpy(), rows["lr"].to_numpy()
    start = int(step[0])
    if start > 1 and warmup_steps is None:
        raise Refusal(
            f"curve '{shown(str(rows['curve'].iloc[0]))}' begins at step {start}: the rates before "
            "it are not in the table. Give warmup_steps, over which the rate rose from zero to "
            "that row's; 0 if there was no warmup."
        )
    if warmup_steps is not None and warmup_steps < 0:
        raise Refusal(f"warmup_steps = {warmup_steps} is negative. 0 is no warmup.")
    origin = 0 if start > 1 else start
    every = np.arange(origin, int(step[-1]) + 1)
    rates = np.interp(every, step, rate)
    rise = min(warmup_steps or 0, start - origin)
    if rise:
        rates[:rise] = rate[0] * every[:rise] / rise
    return Schedule(rates, origin)


def after_warmup(rows: pd.DataFrame, warmup_steps: int | None) -> NDArray[np.bool_]:
    """Which rows have a loss and come after the first rise of the rate, the warmup.

    The law holds after the warmup (the authors fit it from there), and training starts at step 1.
    """
    found = rows["loss"].notna().to_numpy(copy=True)
    for places, each in by_curve(rows):
        rates, origin = schedule_of(each, warmup_steps)
        level = np.append(np.diff(rates) <= 0, True)
        found[places] &= (each["step"] >= origin + np.argmax(level)) & (each["step"] > 0)
    return found


def by_curve(rows: pd.DataFrame) -> Iterator[tuple[Index, pd.DataFrame]]:
    """The positions of each curve's rows, and the rows."""
    codes = pd.factorize(rows["curve"])[0]
    for code in range(codes.max(initial=-1) + 1):
        places = np.flatnonzero(codes == code)
        yield places, rows.iloc[places]


def read(table: pd.DataFrame) -> pd.DataFrame:
    """Columns curve, step, lr and loss of a table of curves; the loss is NaN where there is none.

    Raises Refusal for missing columns, cells that are no numbers, and steps that do not rise.
    """
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise Refusal(
            f"the table has no column {missing[0]!r}; it has {listing(table.columns)}. "
            f"A table of curves has the columns {', '.join(COLUMNS)}."
        )
    rows = table[list(COLUMNS)]
    known = rows["loss"].notna()
    rows = rows.assign(loss=rows["loss"].where(known, 1.0))
    plain = standardise(rows, require=["step", "lr", "loss"], signed=["step", "lr"])
    plain["loss"] = plain["loss"].where(known)
    step, rate = plain["step"], plain["lr"]
    for column, bad, remedy in [
        ("curve", plain["curve"].isna(), "Name the run that each row belongs to."),
        ("lr", rate < 0, "Give the learning rate of that step."),
        ("step", (step < 0) | (step % 1 != 0), "Count optimiser steps, from the run's first."),
        ("step", step > MAX_STEPS, f"A curve has at most {MAX_STEPS:,} steps."),
    ]:
        if bad.any():
            at = int(np.argmax(bad))
            value = plain[column].iloc[at]
            raise Refusal(f"{column} = {value} in {row_called(plain, at)}. {remedy}")
    for _, each in by_curve(plain):
        name = shown(str(each["curve"].iloc[0]))
        after = each["step"].diff().le(0)
        if after.any():
            raise Refusal(
                f"curve {name!r}: step {each['step'][after].iloc[0]:g} does not come after the row "
                "before it. Sort the rows by step, and give each training a name of its own."
            )
        if not each["lr"].max() > 0:
            raise Refusal(f"curve {name!r}: lr is 0 throughout. Give the rates it had.")
    return plain.reset_index(drop=True)
