"""What every record shares: refusals, identities, seals and files that are replaced whole.

Everything is plain JSON or Parquet, and readable without jax.
"""

from __future__ import annotations

import difflib
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import uuid4

from scaling.remedies import cannot_read, cannot_write

if TYPE_CHECKING:
    import pandas as pd

RUN_ID = re.compile(r"[0-9a-f]{12}")  # a fingerprint, and so the name of a run
LONGEST = 3000  # characters of a line of a refusal
MOST_MEANT = 5  # names that a question lists; a word that begins more says too little
MADE_BY = "scaling-laws"  # what a file of ours that has no name of its own says of itself
# Of the records of a results folder: plan, runs, claims, publications. Those of 2 are read: their
# plans may name no corpora, and their claims and publications say no format. Before, none did.
FORMAT = 3
OLDEST_FORMAT = 2
MAX_JSON = 64 << 20  # bytes; a fit has thousands, a run of a thousand sessions a million
MAX_TABLE = 8 << 30  # bytes; the steps of five million take half a gigabyte
RESTORE = "Restore it or delete it."
# Where no file of ours is; deleting a device would help nobody.
_GIVE_OURS = "Give a file that this program wrote."


class Refusal(Exception):
    """Input we will not work with. The message names the field, the value and the remedy.

    A text is one line, and printable, whatever names it repeats; several are given as several. Give
    `remedy` apart from the `cause` where somebody quotes the cause alone.
    """

    def __init__(self, cause: str | Sequence[str], remedy: str = "") -> None:
        lines = [_cut(printable(each)) for each in ([cause] if isinstance(cause, str) else cause)]
        self.cause, self.remedy = "\n".join(lines), printable(remedy)
        self.lines = (*lines[:-1], f"{lines[-1]} {self.remedy}".rstrip())
        super().__init__("\n".join(self.lines))


def _cut(line: str) -> str:
    """A line that names something of thousands of characters, without its middle."""
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 500]} … {line[-490:]}"


def printable(text: str) -> str:
    """`text` with what moves the cursor, colours, hides or reverses written out, such as \\x1b.

    Names, reasons and logs come from files, and a terminal obeys what it is sent.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


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
    return _canonical(value)


def _canonical(value: Any) -> str:
    """As `canonical_json`, of what came from JSON and is known to be stable."""
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
    _check_stable(value)
    return {**value, "sha256": _seal(value)}


def check_seal(value: Mapping[str, Any]) -> None:
    """Raise ValueError if a record, as a JSON file holds it, was sealed and is another one now."""
    if value.get("sha256") is not None and _seal(value) != value["sha256"]:
        raise ValueError("it has changed since it was written")


def _seal(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical({**value, "sha256": None}).encode()).hexdigest()


# --- atomic files -----------------------------------------------------------------------------


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader sees the old file or the new one, never a part.

    Raises Refusal naming the file and the operating system's reason (disk full, read-only …);
    the old file is then untouched.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data)
    except (OSError, ValueError) as error:  # ValueError: a path that names no file, such as "."
        said = cannot_write(path, error)
        raise Refusal(f"{said} What was written before is intact.") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, which replaces it at the end. Raises OSError.

    It is locked before anything is in it: one that holds something and is not, a killed writer left
    (scaling/store/leftovers.py).
    """
    # Not mkstemp, whose files nobody else on a shared machine can read.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            hold(file)
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def hold(file: BinaryIO) -> None:
    """Hold a file as long as it is open, where its file system has locks."""
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


def write_json(path: Path, value: Any) -> None:
    """Atomically write `value` as indented JSON; non-finite numbers become null."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The indented JSON text of a value; non-finite numbers become null."""
    return (json.dumps(_null_for_non_finite(value), indent=1, allow_nan=False) + "\n").encode()


def read_json(path: Path, largest: int | None = None) -> Any:
    """The value in a JSON file. Raises Refusal as `read_bytes` does, and if it is not JSON."""
    try:
        return json.loads(read_bytes(path, largest))
    except (ValueError, RecursionError) as error:
        raise Refusal(f"{path} is not valid JSON ({error}).", RESTORE) from error


def read_sealed(path: Path) -> dict[str, Any]:
    """A sealed record in a JSON file, without its seal.

    Raises Refusal as `read_json` does, and if it has no seal or is not as it was written.
    """
    value = read_json(path)
    try:
        check_seal(value)
        if value.pop("sha256", None) is None:
            raise ValueError("it has no sha256")
    except (AttributeError, TypeError, ValueError, RecursionError) as error:
        raise Refusal(f"{path} is not as it was written ({error}).", RESTORE) from error
    return dict(value)


def read_bytes(path: Path, largest: int | None = None) -> bytes:
    """What a file of ours holds.

    Raises Refusal if it is missing, no file, or larger than so many bytes (64 MiB if not given).
    """
    largest = MAX_JSON if largest is None else largest
    try:
        with opened(path) as file:
            if (size := os.fstat(file.fileno()).st_size) <= largest:
                return file.read(size)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError | NotADirectoryError)
        otherwise = "" if missing else _GIVE_OURS
        raise Refusal(cannot_read(path, error, otherwise)) from error
    raise Refusal(
        f"{path} has {size:,} bytes, more than any file of ours of its kind ({largest:,}).",
        _GIVE_OURS,
    )


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A regular file, to be read. Raises OSError, for a folder, a pipe and a device too."""
    # Not blocking: a pipe would never end, and is found to be none of our files first.
    with open(path, "rb", opener=unblocking) as file:
        refuse_irregular(os.fstat(file.fileno()))
        yield file


def refuse_irregular(found: os.stat_result) -> os.stat_result:
    """Raise OSError for what is no regular file; reading it may never end."""
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file, but a folder, a pipe or a device")
    return found


def unblocking(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Atomically write a table as Parquet or CSV, by the ending of `path`."""
    write_bytes(path, table_bytes(path.name, table))


def table_bytes(name: str, table: pd.DataFrame) -> bytes:
    """A table as Parquet or CSV, by the ending of its file's name."""
    return table.to_csv(index=False).encode() if name.endswith(".csv") else _parquet(table)


_MARK = b"scaling-laws table sha256 "  # begins the seal of a table
_SHA256 = 64  # hex digits


def _parquet(table: pd.DataFrame) -> bytes:
    """A table as Parquet with a seal: the SHA-256 of the other bytes, in front of the footer.

    Whoever reads Parquet goes from its end to its columns, and never comes by. Metadata would be
    handed on to tables that others make of this one.
    """
    data: bytes = table.to_parquet(index=False)
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    seal = _MARK + hashlib.sha256(data).hexdigest().encode()
    return data[:footer] + seal + data[footer:]


def check_table(data: bytes) -> None:
    """Raise ValueError unless Parquet is as we wrote it; without a seal, it is another's."""
    if (at := data.rfind(_MARK)) >= 0:
        first, end = at + len(_MARK), at + len(_MARK) + _SHA256
        if hashlib.sha256(data[:at] + data[end:]).hexdigest().encode() != data[first:end]:
            raise ValueError("it has changed since it was written")


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
    """Raise ValueError unless a table is as it was written, by its name or by its seal; and
    Refusal as `read_bytes`.

    Those of earlier versions pass.
    """
    _, _, digest = path.stem.partition("-")
    data = read_bytes(path, MAX_TABLE)
    if digest and hashlib.sha256(data).hexdigest()[:_DIGITS] != digest:
        raise ValueError("it has changed since it was written")
    check_table(data)


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
        with opened(results / "plan.json") as file:
            found = re.search(rb'"format":\s*([0-9]{1,9})\b', file.read(200))
    except OSError:  # no plan: an older folder, or none of ours; whoever needs it says so
        return
    if found and int(found[1]) > FORMAT:
        raise Refusal(
            f"{results} is of format {int(found[1])}, which a newer version of this program wrote; "
            f"this one works with format {FORMAT}. Update the program, or give its run table by "
            "name. Nothing was changed."
        )
