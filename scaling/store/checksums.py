"""Files as they were written: size and SHA-256 are noted with them, and compared when they count.

A bit that flipped on a disk often still decodes, to another number; only what was noted tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaling.store.records import Refusal, opened

CHECKSUMS = "checksums.json"  # in a checkpoint: size and SHA-256 of each of its files


class Damaged(Refusal):
    """Something is not as it was written."""


def checksums(files: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 of each file, by its name."""
    return {
        name: {"bytes": file.stat().st_size, "sha256": _sha256(file)}
        for name, file in sorted(files.items())
    }


def verify(what: str, files: Mapping[str, Path], noted: Any, read: bool = True) -> None:
    """Raise Damaged, naming `what` and the file, unless the files are those that were noted.

    Only `files` are opened, whatever names are noted; without `read`, their sizes alone are
    compared.
    """
    try:
        wanted = {name: (noted[name]["bytes"], noted[name]["sha256"]) for name in noted}
    except (KeyError, TypeError) as error:
        raise Damaged(f"{what}: its checksums cannot be read ({error})") from error
    for name, (size, sha256) in wanted.items():
        try:
            if name not in files or not files[name].exists():
                raise Damaged(f"{what}: {name} is missing")
            if not files[name].is_file():
                raise Damaged(f"{what}: {name} is no file, but a folder, a pipe or a device")
            if (found := files[name].stat().st_size) != size:
                raise Damaged(f"{what}: {name} has {found} of {size} bytes")
            if read and _sha256(files[name]) != sha256:
                raise Damaged(f"{what}: {name} has changed since it was written")
        except OSError as error:
            raise Damaged(f"{what}: {error}") from error


def files_in(folder: Path) -> dict[str, Path]:
    """All files of a folder and those in it, by their path from there."""
    return {
        file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()
    }


def _sha256(file: Path) -> str:
    with opened(file) as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
