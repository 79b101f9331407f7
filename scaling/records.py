"""What a grid leaves on disk: file formats, atomic writes and the run table.

The run table is the contract between training and analysis. Everything here is
plain JSON or Parquet, replaced atomically, and readable without jax.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pandas as pd

RunKind = Literal["full", "trunk", "cooldown"]
Status = Literal["planned", "running", "completed", "diverged", "failed"]

RUN_ID = re.compile(r"[0-9a-f]{12}")


class Refusal(Exception):
    """Input we will not work with. The message names the field, the value and the remedy."""


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


# --- atomic files -----------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old file or the new one, never a part.

    Raises Refusal naming the file and the operating system's reason (disk full, read-only …);
    the old file is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise Refusal(
            f"cannot write {path}: {error.strerror or error}. Free space or choose another "
            "folder with --results; what was written before is intact."
        ) from error


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as indented JSON; non-finite numbers become null."""
    text = json.dumps(_null_for_non_finite(value), indent=1, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_json(path: Path) -> Any:
    """The value in a JSON file. Raises Refusal if it is missing or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise Refusal(f"cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise Refusal(f"{path} is not valid JSON ({error}). Restore it or delete it.") from error


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Atomically write a table as Parquet or CSV, by the ending of `path`."""
    if path.suffix == ".csv":
        write_bytes(path, table.to_csv(index=False).encode())
    else:
        write_bytes(path, table.to_parquet(index=False))


def _null_for_non_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null_for_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null_for_non_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
