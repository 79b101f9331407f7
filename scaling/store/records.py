"""What every record shares: refusals, identities, seals and files that are replaced whole.

Everything is plain JSON or Parquet, and readable without jax.
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
from typing import Any
from uuid import uuid4

import pandas as pd

RUN_ID = re.compile(r"[0-9a-f]{12}")  # a fingerprint, and so the name of a run
MOST_MEANT = 5  # names that a question lists; a word that begins more says too little
FORMAT = 2  # of plan.json and of run.json; those of before had none
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


def read_json(path: Path, largest: int | None = None) -> Any:
    """The value in a JSON file.

    Raises Refusal if it is missing, no file, larger than so many bytes (64 MiB if not given) or
    not JSON.
    """
    largest = MAX_JSON if largest is None else largest
    try:
        # Not blocking: a pipe would never end, and is found to be none of our files first.
        with open(path, "rb", opener=_unblocking) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_size > largest:
                raise Refusal(f"{path} is no file of ours. Restore it or delete it.")
            return json.loads(file.read(largest))
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
    """Write a part of a run's records as `write_numbered` does, by its step."""
    write_numbered(folder, step, ".parquet", table.to_parquet(index=False))


def write_numbered(folder: Path, number: int, ending: str, data: bytes) -> None:
    """Atomically write a file that is named by a number and the start of its SHA-256.

    One file is then as it was written or is found not to be, without another file. It
    replaces what was written of that number before. Raises Refusal as `write_bytes` does.
    """
    name = f"{number:09d}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}{ending}"
    write_bytes(folder / name, data)
    for other in folder.glob(f"{number:09d}-*{ending}"):
        if other.name != name:
            other.unlink(missing_ok=True)


def check_part(path: Path) -> None:
    """Raise ValueError unless a part is as it was written; those of earlier versions pass."""
    _, _, digest = path.stem.partition("-")
    if digest and hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] != digest:
        raise ValueError("it has changed since it was written")


def _null_for_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def refuse_newer(results: Path) -> None:
    """Raise Refusal for a results folder whose plan a newer version of this program wrote.

    Of the plan only the beginning is read, which says its format.
    """
    try:
        with (results / "plan.json").open("rb") as file:
            found = re.search(rb'"format":\s*([0-9]{1,9})\b', file.read(200))
    except OSError:  # no plan: an older folder, or none of ours
        return
    if found and int(found[1]) > FORMAT:
        raise Refusal(
            f"{results} is of format {int(found[1])}, which a newer version of this program wrote; "
            f"this one works with format {FORMAT}. Update the program, or give its run table by "
            "name. Nothing was changed."
        )
