"""The three files of a saved fit: JSON, and its draws and its rows as Parquet.

The JSON names its two parts by the SHA-256 of their bytes, holds that of its own content, and is
replaced last. So a kill, a damaged file or two writers at once never mix two fits: one whole fit is
read, or none.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pandas as pd

from analysis.arguments import as_path
from analysis.fitting.fit import Fit
from analysis.fitting.json import from_json, to_json
from analysis.laws.catalogue import law as law_named
from analysis.laws.law import Law
from analysis.runs.files.limits import MAX_BYTES
from analysis.runs.files.load import load
from analysis.runs.messages import shown
from analysis.runs.replicates import settings
from scaling.remedies import cannot_read
from scaling.store.records import (
    MAX_JSON,
    Refusal,
    check_seal,
    json_bytes,
    read_json,
    sealed,
    write_bytes,
    write_json,
)

COUNTS = ("params", "tokens", "unique_tokens")
GROUPS = ("trunk_id", "budget_flops", "variant")  # columns that say which rows belong together
PARTS = ("draws", "rows")
FORMAT = 1  # raised when a key changes its meaning; files without one are of format 1
TRIES = 3  # at the parts of a fit that stays the same
DIGITS = 12  # of a part's SHA-256 in its name; all 64 are in the JSON


def save_fit(fit: Fit, path: Path | str, also: Mapping[str, Any] | None = None) -> None:
    """Write the fit as JSON at `path`, and its draws and fitted rows as Parquet in the same folder.

    `also`: what was read off the same rows, kept under its own keys; `load_fit` passes it over.
    A fit that was there is replaced as a whole, and its parts go unless another JSON file of the
    folder names them. Raises Refusal where it cannot be written; what was there is then intact.
    """
    path = Path(path)
    refuse_name(path)
    save({**to_json(fit), **(also or {})}, {"draws": fit.draws, "rows": _rows(fit)}, path)


def save(value: Mapping[str, Any], parts: Mapping[str, pd.DataFrame], path: Path) -> None:
    """Write a fit that is plain values and two tables."""
    data = {part: parts[part].to_parquet(index=False) for part in PARTS}
    digests = {part: hashlib.sha256(data[part]).hexdigest() for part in PARTS}
    names = {part: f"{path.stem}.{part}-{digests[part][:DIGITS]}.parquet" for part in PARTS}
    with _alone(path) as alone:
        before = _names(path)
        for part in PARTS:
            write_bytes(path.with_name(names[part]), data[part])
        write_json(path, sealed({"format": FORMAT, **value, **names, "digests": digests}))
        if alone:
            _forget(path, before, {*names.values()})


def load_fit(path: Path | str, law: Law | None = None) -> Fit:
    """The fit saved at `path`, with the columns of its rows that the law uses.

    `law` is needed for one that `catalogue.law` does not find by name. Raises Refusal for a
    file that is no fit or has changed since it was written, for a fit that failed, and for a law
    other than the one that was fitted.
    """
    path = as_path("path", path, "Give the path of the JSON file that `scaling fit` wrote.")
    try:
        value, draws, rows = _saved(path)
        fitted = _fitted_law(path, str(value["law"]), str(value["formula"]), law)
        return from_json(value, fitted, draws, rows, source=str(path))
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise _no_fit(path, f"{type(error).__name__}: {error}") from error


def fit_path(runs: Path, law: str, loss_set: str | None = None) -> Path:
    """Where the fit of a results folder or of a run table is kept, and the one on a validation set.

    A law over columns may name some that no file name can hold.
    """
    name = re.sub(r"[^\w:,=+-]+", "_", law)
    if loss_set is not None:
        name += f".{loss_set}"
    if runs.is_dir():
        return runs / "fits" / f"{name}.json"
    return runs.with_name(f"{runs.stem}.{name}.json")


def law_in(path: Path) -> str | None:
    """The name of the law of a fit, which may have been damaged since; None for another file."""
    try:
        value = read_json(path)
        return str(value["law"]) if "coefficients" in value else None
    except (Refusal, LookupError, TypeError):
        return None


def said_by(path: Path) -> dict[str, Any]:
    """What the JSON of a fit says, without the names and digests of the files beside it.

    Raises Refusal as `read_json`.
    """
    apart = (*PARTS, "digests", "sha256")
    return {name: value for name, value in read_json(path).items() if name not in apart}


def refuse_name(path: Path) -> None:
    """Raises Refusal unless a fit may have this name: others are taken for run tables."""
    if path.suffix != ".json":
        raise Refusal(f"{path} is no name for a fit. Give one that ends in .json.")


def refuse_unwritable(path: Path, remedy: str) -> None:
    """Raises Refusal, with the remedy, if no file can be written at `path`, before work is lost."""
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    trial = folder / f".{path.name}.{uuid4().hex}"
    try:
        if path.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise Refusal(f"cannot write {path}: {error.strerror or error}. {remedy}") from error


# --- out --------------------------------------------------------------------------------------


def _rows(fit: Fit) -> pd.DataFrame:
    """The columns of its rows that answers need, or that they are refused for because they differ
    among runs of equal N and D."""
    several = [each.column for each in settings(fit.table)]
    weights = [] if fit.settings.weights is None else [fit.settings.weights]
    kept = dict.fromkeys([*fit.law.features, *COUNTS, *GROUPS, fit.law.target, *weights, *several])
    rows = fit.table[[column for column in kept if column in fit.table]]
    texts = {  # of cells of several kinds, which no Parquet column holds
        column: rows[column].map(str, na_action="ignore")
        for column in several
        if rows[column].dtype == object
    }
    rows = rows.assign(**texts)
    if "unique_tokens" in rows:  # of a law that does not ask for it: as it was read, text and all
        numbers = pd.to_numeric(rows["unique_tokens"], errors="coerce")
        rows = rows.assign(unique_tokens=numbers)
    rows.attrs.clear()  # where they were read from is no part of them
    return rows


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Holds the lock of the fit, so that one writer at a time replaces it. Yields False on a file
    system without locks, where no earlier file may be deleted.

    The lock's file is deleted at the end: a writer that waited for a deleted one takes a new one.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            held = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(held, fcntl.LOCK_EX)
                locked = True
            except OSError:
                locked = False
            with suppress(FileNotFoundError):
                if not locked or os.path.samestat(os.fstat(held), lock.stat()):
                    break
            os.close(held)
    except OSError as error:
        raise Refusal(
            f"cannot write {path}: {error.strerror or error}. Choose another folder."
        ) from error
    try:
        yield locked
    finally:
        if locked:
            lock.unlink(missing_ok=True)
        os.close(held)


def _names(path: Path) -> set[str]:
    """The parts that the fit at `path` names, also where an earlier version wrote it."""
    try:
        value = read_json(path)
        return {Path(value[part]).name for part in PARTS}
    except (Refusal, LookupError, TypeError):
        return set()


def _forget(path: Path, before: set[str], written: set[str]) -> None:
    """Delete parts of this path's fits, `before` among them, that no JSON in the folder names.

    Those just `written` stay. Unfinished files that a killed writer left are deleted too, since the
    lock says that nobody else is writing.
    """
    stem, temporary = re.escape(path.stem), r"\.[0-9a-f]{32}"
    part = rf"{stem}\.({'|'.join(PARTS)})-[0-9a-f]{{{DIGITS}}}\.parquet"
    ours = re.compile(rf"{part}|\.({part}|{stem}\.json){temporary}")
    earlier = {name for name in before if re.fullmatch(rf"{stem}\.\w+\.parquet", name)}
    with suppress(OSError):  # a file that cannot be read stays, which does no harm
        files = list(path.parent.iterdir())
        loose = [
            each for each in files
            if (ours.fullmatch(each.name) or each.name in earlier) and each.name not in written
        ]  # fmt: skip
        for each in files if loose else []:
            if each.suffix == ".json" and each.is_file() and each.stat().st_size <= MAX_JSON:
                text = each.read_bytes()
                loose = [one for one in loose if not _named(one.name, text)]
        for one in loose:
            one.unlink()


def _named(name: str, text: bytes) -> bool:
    """Whether the text of a JSON file names the file, as we write names or as others may."""
    written = (json.dumps(name, ensure_ascii=ascii)[1:-1] for ascii in (True, False))
    return any(os.fsencode(each) in text for each in written)


# --- in ---------------------------------------------------------------------------------------


class _Saved(NamedTuple):
    """The three files of a fit, each as it was written."""

    value: dict[str, Any]
    draws: pd.DataFrame
    rows: pd.DataFrame


def _saved(path: Path) -> _Saved:
    """Raises Refusal unless the three files are there and are as they were written."""
    value, unchanged = _value(path), 0
    while True:
        try:
            return _Saved(value, *(_part(path, value, part) for part in PARTS))
        except Refusal:
            before, value = value, _value(path)
            # Not another fit, whose parts these were not; nor the same one, written anew meanwhile.
            unchanged = unchanged + 1 if value == before else 0
            if unchanged == TRIES:
                raise


def _value(path: Path) -> dict[str, Any]:
    """What the JSON holds, which is what was written."""
    read_json(path)  # refuses what is missing, no file, huge or no JSON
    text = path.read_bytes()
    value = json.loads(text)
    fields = {"law", "formula", *PARTS}
    if not isinstance(value, dict) or not fields <= set(value):
        raise _no_fit(path, f"it needs {', '.join(sorted(fields))}")
    if value.get("format", FORMAT) != FORMAT:
        raise Refusal(
            f"{path} is of format {shown(str(value['format']))}, which another version of this "
            f"program wrote; this one reads format {FORMAT}. Update the program, or fit again."
        )
    if "digests" not in value:
        # Nothing shows whether its three files are of one fit, and some were not.
        raise Refusal(
            f"{path} was written by an earlier version, whose three files cannot be checked "
            f"against one another. Fit again: scaling fit RUNS --law {value['law']}"
        )
    try:
        if value.get("sha256") is None:
            raise ValueError("it has no sha256")
        check_seal(value)
        # Digits beyond those of a number, and letters in another case, change no value.
        if json_bytes(value) != text.replace(b"\r\n", b"\n"):
            raise ValueError("it has changed since it was written")
    except (TypeError, ValueError, RecursionError) as error:
        raise Refusal(
            f"{path} is not as `scaling fit` wrote it ({error}). Restore it, or fit again."
        ) from error
    return value


def _part(path: Path, value: Mapping[str, Any], part: str) -> pd.DataFrame:
    """A table that the fit at `path` names, always from the folder of the fit."""
    name = str(value[part])
    found = path.with_name(Path(name).name)
    if not found.is_file():
        raise Refusal(
            f"{path} names {name!r}, which is not in its folder. Keep the three files together, or "
            "fit again."
        )
    try:
        with found.open("rb") as file:
            digest = hashlib.sha256(file.read(MAX_BYTES + 1)).hexdigest()
    except OSError as error:
        raise Refusal(cannot_read(found, error)) from error
    if digest != value["digests"][part]:
        raise Refusal(f"{found} has changed since {path} was written. Restore it, or fit again.")
    return load(found)


def _no_fit(path: Path, why: str) -> Refusal:
    return Refusal(f"{path} is not a fit ({why}). Give the JSON file that `scaling fit` wrote.")


def _fitted_law(path: Path, name: str, formula: str, given: Law | None) -> Law:
    """The law that was fitted, `given` or found by name; Refusal where it is not to be had."""
    law = given
    if law is None:
        try:
            law = law_named(name)
        except Refusal as refusal:
            raise Refusal(
                f"{path} is a fit of {formula}, a law that does not ship. Install the package "
                f"that declares it, or in Python give it: load_fit(path, law). ({refusal})"
            ) from refusal
    # A formula of another time or hand would predict other losses from these coefficients.
    if law.formula != formula:
        raise Refusal(
            f"{path} is a fit of {name}, {formula}; the law given reads {law.formula}. Fit again, "
            "or give the law that was fitted."
        )
    return law
