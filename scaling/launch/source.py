"""Which program trains: a digest of its source, so that none is changed under a grid unnoticed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from models.architecture import code_of

ROOT = Path(__file__).parents[2]
PACKAGES = ("models", "scaling")  # what decides the numbers of a run
KINDS = (".py", ".toml")  # the program, and the tables that it reads


def source_digest(architectures: Iterable[str] = ()) -> str:
    """The SHA-256, in hexadecimal, of the source of models/ and scaling/ as it lies on disk now.

    Of the architectures named, those of other packages are taken in, with the modules of theirs
    that they import.
    """
    digest = hashlib.sha256()
    files = (file for package in PACKAGES for file in (ROOT / package).rglob("*"))
    for file in sorted(file for file in files if file.suffix in KINDS):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(ROOT).as_posix()} {content}\n".encode())
    for name in sorted({*architectures}):
        digest.update(f"architecture {name} {code_of(name)}\n".encode())
    return digest.hexdigest()
