"""The steps of a run: a row a logged step, in segments while it trains, and its checkpoints.

Each file says of which run it is, in the column `run`.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.remedies import remedy
from scaling.store.checksums import CHECKSUMS, Damaged, files_in, verify
from scaling.store.records import Refusal, check_part, read_json, write_part, write_table
from scaling.store.run_record import run_of

STEP_COLUMNS = (
    "step",  # optimiser steps done, the trunk's included
    "tokens",  # trained on by then
    "flops",  # exact, by then
    "loss",  # training batch, nats/token
    "val_loss",  # held-out, nats/token; null where not evaluated
    "val_loss_stderr",
    "lr",
    "grad_norm",  # before clipping
    "tokens_per_s",  # without evaluations, checkpoints and compilation
    # Share of the devices' peak, by the full count of attention and by the causal one; null where
    # the peak is not known. With tokens_per_s they are the only columns taken from a clock.
    "mfu",
    "mfu_causal",
)
_ADDED = frozenset({"mfu_causal"})  # columns that files of earlier versions lack: null there
MAX_STEPS = 5_000_000  # of one run; the longest published have about one million
STEP = re.compile(r"0|[1-9][0-9]{0,15}")  # the name of a checkpoint


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps with a checkpoint in a run's `checkpoints` folder, ascending.

    One without checksums does not count: it was not finished, or made before there were any.
    """
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if STEP.fullmatch(entry.name) and (entry / CHECKSUMS).is_file()
    )


def verify_checkpoint(path: Path, run_id: str, read: bool = True) -> None:
    """Raise Damaged, naming the file, unless a checkpoint's files are those that were written.

    And unless they were written as this step of this run: another of the same shape would be read
    without a word. Without `read`, the sizes of the files alone are compared.
    """
    try:
        noted = read_json(path / CHECKSUMS)
        owner, step, files = noted["run_id"], noted["step"], noted["files"]
    except (Refusal, KeyError, TypeError) as error:
        raise Damaged(f"checkpoint {path}: {CHECKSUMS} cannot be read ({error})") from error
    if (owner, str(step)) != (run_id, path.name):
        raise Damaged(
            f"checkpoint {path} is step {str(step)[:20]} of run {str(owner)[:20]}, not step "
            f"{path.name} of run {run_id}"
        )
    verify(f"checkpoint {path}", checkpoint_files(path), files, read)


def checkpoint_files(path: Path) -> dict[str, Path]:
    """A checkpoint's files but the list of them, by their path in it."""
    files = files_in(path)
    files.pop(CHECKSUMS, None)
    return files


def read_steps(run: Path) -> pd.DataFrame:
    """The logged steps of a run in order: steps.parquet and any segments not yet merged."""
    files = [*run.glob("steps.parquet"), *_segments(run)]
    parts = [read_step_file(file) for file in files]
    parts = [part for part in parts if len(part)]
    if not parts:
        return pd.DataFrame({name: pd.Series(dtype=float) for name in STEP_COLUMNS})
    # A process killed between merging and deleting its segments leaves rows in both places.
    return pd.concat(parts).drop_duplicates("step", ignore_index=True)


def read_step_file(path: Path) -> pd.DataFrame:
    """The columns of a step and no others.

    Raises Refusal unless all are there, numbers, and of the run in whose folder they lie.
    """
    from pyarrow import ArrowException, types
    from pyarrow.parquet import ParquetFile

    try:
        check_part(path)
        with ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            if rows > MAX_STEPS:
                raise ValueError(f"{rows:,} rows; no run has more than {MAX_STEPS:,}")
            there = [name for name in STEP_COLUMNS if name in schema.names or name not in _ADDED]
            for name in there:
                kind = schema.field(name).type
                if not (types.is_float64(kind) or types.is_int64(kind) or types.is_null(kind)):
                    raise ValueError(f"{name} is of type {kind}")
            # Without what the file says of itself beyond its columns, which pandas would follow.
            table = file.read(there).replace_schema_metadata(None).to_pandas()
        if "run" in schema.names:  # else an earlier version wrote it
            _refuse_runs(path)
        if table["step"].dtype != "int64":
            raise ValueError("step is no whole number")
        table = table.reindex(columns=list(STEP_COLUMNS))
        return table.astype(dict.fromkeys(STEP_COLUMNS[1:], "float64"))
    except (OSError, ValueError, KeyError, NotImplementedError, ArrowException) as error:
        what = remedy(error, "Restore it, or delete the run's folder and run the study again.")
        raise Refusal(f"{path} cannot be read ({error}). {what}") from error


def _refuse_runs(path: Path) -> None:
    """As `refuse_other_runs`, of the column `run` of a file of steps."""
    from pyarrow import types
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path, read_dictionary=["run"]) as file:  # a text that rows share, once
        if not types.is_dictionary(kind := file.schema_arrow.field("run").type):
            raise ValueError(f"run is of type {kind}")
        refuse_other_runs(path, file.read(["run"])["run"].unique().to_pylist())


def refuse_other_runs(path: Path, found: Collection[Any]) -> None:
    """Raise ValueError if a table in a run's folder, or in a folder of its parts, has rows of
    another run.
    """
    place = path.parent.parent if path.parent.name in ("steps", "evals") else path.parent
    if others := {*found} - {run_of(place)}:
        raise ValueError(f"it is of run {str(min(others, key=str))[:20]}")


def write_segment(run: Path, rows: list[dict[str, Any]]) -> None:
    """Write consecutive step rows as one segment, before the checkpoint that ends them."""
    if rows:
        table = pd.DataFrame(rows, columns=list(STEP_COLUMNS))
        table = table.astype({name: "int64" if name == "step" else "float64" for name in table})
        write_part(run / "steps", rows[0]["step"], of_run(run, table))


def of_run(run: Path, steps: pd.DataFrame) -> pd.DataFrame:
    """The steps as a file has them, which says whose they are."""
    return steps.assign(run=run_of(run))


def forget_steps_after(run: Path, step: int) -> None:
    """Drop the rows past `step`: what a killed worker logged beyond its last checkpoint."""
    for segment in _segments(run):
        if int(segment.stem.partition("-")[0]) > step:
            segment.unlink()
    table = read_steps(run)
    if len(table) and table["step"].max() > step:
        merge_steps(run, table[table["step"] <= step])


def refuse_missing(rows: pd.DataFrame, first: int, last: int, evaluated: Collection[int]) -> None:
    """Raise Refusal unless every step after `first` up to `last` has its row, once and in order,
    and those that were `evaluated` their held-out loss.
    """
    logged, wanted = rows["step"].tolist(), list(range(first + 1, last + 1))
    judged = rows["step"][rows["val_loss"].notna()]
    lost = {*wanted}.difference(logged) or {*evaluated}.difference(judged)
    if lost or logged != wanted:
        which = f"{len(lost):,} of them, from {min(lost)} on, are gone" if lost else "not once each"
        raise Refusal(
            f"steps {first + 1} to {last} were logged, and {which}: files of this run were deleted "
            "or added while it trained. Run the study with --retry failed: it trains them again."
        )


def merge_steps(run: Path, table: pd.DataFrame | None = None) -> None:
    """Make steps.parquet the only file of steps."""
    steps = read_steps(run) if table is None else table
    write_table(run / "steps.parquet", of_run(run, steps))
    for segment in _segments(run):
        segment.unlink()


def _segments(run: Path) -> list[Path]:
    files = (run / "steps").glob("*.parquet")
    return sorted(file for file in files if _SEGMENT.fullmatch(file.name))


_SEGMENT = re.compile(r"[0-9]{9,16}(-[0-9a-f]+)?\.parquet")
