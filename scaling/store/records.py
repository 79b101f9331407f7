"""What a grid leaves on disk: identities, atomic writes, and the records and steps of a run.

Everything here is plain JSON or Parquet, replaced atomically, and readable without jax.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args
from uuid import uuid4

import pandas as pd

RunKind = Literal["full", "trunk", "cooldown"]
Status = Literal["planned", "running", "completed", "diverged", "failed"]

RUN_ID = re.compile(r"[0-9a-f]{12}")
MOST_MEANT = 5  # names that a question lists; a word that begins more says too little
MAX_JSON = 64 << 20  # bytes; a fit has thousands, a run of a thousand sessions a million


class Refusal(Exception):
    """Input we will not work with. The message names the field, the value and the remedy."""


def nearest_names(given: str, known: Iterable[str]) -> list[str]:
    """The known names that were probably meant: those that begin so, else the nearest one."""
    by_lower = {name.lower(): name for name in known}
    longer = [name for lower, name in by_lower.items() if lower.startswith(given.lower())]
    if len(given) > 1 and 1 <= len(longer) <= MOST_MEANT:
        return longer
    return [by_lower[near] for near in difflib.get_close_matches(given.lower(), by_lower, n=1)]


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """ " Did you mean x?" for a name near to known ones, to end a message; empty if none is."""
    near = nearest_names(given, known)
    if not near:
        return ""
    *others, last = near
    return f" Did you mean {', '.join(others)}{' or ' if others else ''}{last}?"


# --- identity ---------------------------------------------------------------------------------


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, shortest exact floats.

    Raises TypeError or ValueError for anything without a stable serialisation
    (sets, objects, NaN, non-string keys), so that an identity can never depend on chance.
    """
    _check_stable(value)
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _check_stable(value: Any) -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"no stable serialisation: key {key!r} is not a string")
            _check_stable(item)
    elif isinstance(value, list | tuple):
        for item in value:
            _check_stable(item)
    elif value is not None and not isinstance(value, str | bool | int | float):
        raise TypeError(f"no stable serialisation for {type(value).__name__}: {value!r}")


def fingerprint(identity: Mapping[str, Any]) -> str:
    """First 12 hex digits of the SHA-256 of the canonical JSON: a run's id."""
    return hashlib.sha256(canonical_json(dict(identity)).encode()).hexdigest()[:12]


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A record with the SHA-256 of all that it holds: `check_seal` finds a bit that changed."""
    value = _null_for_non_finite({**value, "sha256": None})
    return {**value, "sha256": _seal(value)}


def check_seal(value: Mapping[str, Any]) -> None:
    """Raise ValueError if a record was sealed and holds something else now."""
    if value.get("sha256") is not None and _seal(value) != value["sha256"]:
        raise ValueError("it has changed since it was written")


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json({**value, "sha256": None}).encode()).hexdigest()


# --- atomic files -----------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old file or the new one, never a part.

    Raises Refusal naming the file and the operating system's reason (disk full, read-only …);
    the old file is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Not mkstemp, whose files nobody else on a shared machine can read.
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")
        try:
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Refusal(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another "
            "folder; what was written before is intact."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as indented JSON; non-finite numbers become null."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The indented JSON text of a value; non-finite numbers become null."""
    return (json.dumps(_null_for_non_finite(value), indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises Refusal if it is missing, no file, huge or not JSON."""
    try:
        # Not blocking: a pipe would never end, and is found to be none of our files first.
        with open(path, "rb", opener=_unblocking) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > MAX_JSON:
                raise Refusal(f"{path} is no file of ours. Restore it or delete it.")
            return json.loads(file.read(MAX_JSON))
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path} is not valid JSON ({error}). Restore it or delete it.") from error


def _unblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Atomically write a table as Parquet or CSV, by the ending of `path`."""
    if path.suffix == ".csv":
        write_bytes(path, table.to_csv(index=False).encode())
    else:
        write_bytes(path, table.to_parquet(index=False))


UNREADABLE = ".unreadable"  # ends the name of what is damaged and set aside
# Hex digits of a file's SHA-256 in its name: a change that keeps 64 bits is none by chance.
_DIGITS = 16


def write_part(folder: Path, step: int, table: pd.DataFrame) -> None:
    """Atomically write a part of a run's records, named by its step and the start of its SHA-256.

    One file is then as it was written or is found not to be, without another beside it. It
    replaces what was written of that step before.
    """
    data = table.to_parquet(index=False)
    name = f"{step:09d}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}.parquet"
    write_bytes(folder / name, data)
    for other in folder.glob(f"{step:09d}-*.parquet"):
        if other.name != name:
            other.unlink()


def check_part(path: Path) -> None:
    """Raise ValueError unless a part is as it was written; those of earlier versions pass."""
    _, _, digest = path.stem.partition("-")
    if digest and hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] != digest:
        raise ValueError("it has changed since it was written")


# --- a run ------------------------------------------------------------------------------------

STEP_COLUMNS = (
    "step",  # optimiser steps done, the trunk's included
    "tokens",  # trained on by then
    "flops",  # exact, by then
    "loss",  # training batch, nats/token
    "val_loss",  # held-out, nats/token; null where not evaluated
    "val_loss_stderr",
    "lr",
    "grad_norm",  # before clipping
    "tokens_per_s",  # this column and the next are the only ones taken from a clock
    "mfu",  # null where the device's peak is not known
)
CHECKSUMS = "checksums.json"  # in a checkpoint: size and SHA-256 of each of its files
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


RESULT_COLUMNS = ("loss", "loss_stderr", "bits_per_byte", "train_loss", "tokens_per_s")

RUN_FIELDS = (
    "run_id",
    "trunk_id",  # the run whose trajectory it continues; its own id if none
    "run_kind",
    "study",
    "status",
    "reason",  # of a failure or divergence; null otherwise
    "config",  # everything that determines the result
    "counts",  # columns of the run table that follow from the configuration
    "provenance",  # where and with what it was trained, one entry a session
    "result",  # columns of the run table that training found; null before
)
TABLES = ("steps.parquet", "evals.parquet")  # of a run that completed
# Of a run that completed: what its tables were when it was published, and the seal of the record.
PUBLISHED_FIELDS = ("files", "sha256")
# The columns that every run's counts have, and numbers.
COUNTED = (
    *("seed", "n_layers", "d_model", "params_total", "params_non_embedding"),
    *("tokens", "steps", "flops_6nd", "learning_rate"),
)
MAX_COUNTS = 1000  # columns; a run of ours has 50
MAX_STEPS = 5_000_000  # of one run; the longest published have about one million


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
    """The columns of a step and no others. Raises Refusal unless all are there, and numbers."""
    from pyarrow import ArrowException, types
    from pyarrow.parquet import ParquetFile

    try:
        check_part(path)
        with ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            if rows > MAX_STEPS:
                raise ValueError(f"{rows:,} rows; no run has more than {MAX_STEPS:,}")
            for name in STEP_COLUMNS:
                kind = schema.field(name).type
                if not (types.is_float64(kind) or types.is_int64(kind) or types.is_null(kind)):
                    raise ValueError(f"{name} is of type {kind}")
            # Without what the file says of itself beyond its columns, which pandas would follow.
            table = file.read(list(STEP_COLUMNS)).replace_schema_metadata(None).to_pandas()
        if table["step"].dtype != "int64":
            raise ValueError("step is no whole number")
        return table.astype(dict.fromkeys(STEP_COLUMNS[1:], "float64"))
    except (OSError, ValueError, KeyError, NotImplementedError, ArrowException) as error:
        raise Refusal(
            f"{path} cannot be read ({error}). Restore it, or delete the run's folder "
            "and run the study again."
        ) from error


def write_segment(run: Path, rows: list[dict[str, Any]]) -> None:
    """Write consecutive step rows as one segment, before the checkpoint that ends them."""
    if rows:
        table = pd.DataFrame(rows, columns=list(STEP_COLUMNS))
        table = table.astype({name: "int64" if name == "step" else "float64" for name in table})
        write_part(run / "steps", rows[0]["step"], table)


def forget_steps_after(run: Path, step: int) -> None:
    """Drop the rows past `step`: what a killed worker logged beyond its last checkpoint."""
    for segment in _segments(run):
        if int(segment.stem.partition("-")[0]) > step:
            segment.unlink()
    table = read_steps(run)
    if len(table) and table["step"].max() > step:
        merge_steps(run, table[table["step"] <= step])


def merge_steps(run: Path, table: pd.DataFrame | None = None) -> None:
    """Make steps.parquet the only file of steps."""
    write_table(run / "steps.parquet", read_steps(run) if table is None else table)
    for segment in _segments(run):
        segment.unlink()


def _segments(run: Path) -> list[Path]:
    files = (run / "steps").glob("*.parquet")
    return sorted(file for file in files if _SEGMENT.fullmatch(file.name))


_SEGMENT = re.compile(r"[0-9]{9,16}(-[0-9a-f]+)?\.parquet")


def run_folders(results: Path) -> list[Path]:
    """The run folders of a study's results: those named by a run id that hold a run.json.

    Raises Refusal for one that is a link: what is written and deleted here belongs here.
    """
    runs = results / "runs"
    if not runs.is_dir():
        raise Refusal(
            f"{results} holds no runs. Give the folder that `scaling run` wrote, "
            "such as results/quickstart."
        )
    found = []
    with os.scandir(runs) as entries:
        for entry in entries:
            if RUN_ID.fullmatch(entry.name):
                if entry.is_symlink():
                    raise Refusal(
                        f"{runs / entry.name} is a link to another place. Put the run's folder "
                        "itself there, or remove it."
                    )
                if os.path.exists(os.path.join(entry.path, "run.json")):  # noqa: PTH110, PTH118
                    found.append(entry.name)
    return [runs / name for name in sorted(found)]


def read_run(run: Path) -> dict[str, Any]:
    """The run.json of a run's folder.

    Raises Refusal if a field is missing or of another kind, or the record of a run that completed
    is not as it was written.
    """
    record = read_json(run / "run.json")
    if wrong := _wrong(record, run):
        raise Refusal(
            f"{run / 'run.json'} is no run record: {wrong}. "
            "Restore it, or delete the run's folder and run the study again."
        )
    return dict(record)


def _wrong(record: Any, run: Path) -> str | None:
    """What of a run record is not as it must be; null if all is."""
    if not isinstance(record, dict) or not set(RUN_FIELDS) <= set(record):
        return f"it needs {', '.join(RUN_FIELDS)}"
    if unknown := sorted(set(record) - {*RUN_FIELDS, *PUBLISHED_FIELDS}):
        return f"{unknown[0][:40]!r} is none of its fields"
    try:
        check_seal(record)
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    for name in ("run_id", "trunk_id", "study"):
        if not isinstance(record[name], str):
            return f"{name} is no text"
    if not RUN_ID.fullmatch(record["trunk_id"]):
        return f"trunk_id = {record['trunk_id'][:40]!r} is no run id"
    if record["run_id"] != run.absolute().name:
        return f"run_id = {record['run_id'][:40]!r} is not the name of its folder"
    for name, choices in (("status", get_args(Status)), ("run_kind", get_args(RunKind))):
        if record[name] not in choices:
            return f"{name} is none of {', '.join(choices)}"
    if not isinstance(record["reason"], str | None):
        return "reason is no text"
    counts, result = record["counts"], record["result"]
    if not isinstance(counts, dict) or len(counts) > MAX_COUNTS:
        return "counts is no table of counts"
    if clash := {*RUN_FIELDS, *RESULT_COLUMNS} & set(counts):
        return f"counts has {', '.join(sorted(clash))}"
    for name, value in counts.items():
        if not isinstance(value, str | float | None) and not _is_whole(value):
            return f"counts: {name[:40]!r} is no text or number"
    for name in COUNTED:
        if not _is_number(counts.get(name)):
            return f"counts: {name} is no number"
    if result is not None and not isinstance(result, dict):
        return "result is no table"
    for name, value in (result or {}).items():
        if name not in RESULT_COLUMNS or not (value is None or _is_number(value)):
            return f"result: {name[:40]!r} is no column of a result, or no number"
    files = record.get("files")
    if files is not None and not (isinstance(files, dict) and set(files) <= set(TABLES)):
        return f"files is no table of {', '.join(TABLES)}"
    return None


def _is_whole(value: Any) -> bool:
    """Whether it fits a column of whole numbers, as true and false do."""
    return isinstance(value, int) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (
        _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
    )


def _null_for_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
