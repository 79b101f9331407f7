"""Paths are of this machine: an address such as s3://bucket/runs would be a folder named `s3:`."""

from __future__ import annotations

import os
import re
from pathlib import Path

from scaling.store.records import Refusal

# A scheme as in RFC 3986, section 3.1, of two letters or more: one is a drive.
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://.*", re.DOTALL)


def refuse_address(given_as: str, path: str) -> None:
    """Raise Refusal for an address in place of a path, naming where it was given."""
    found = _ADDRESS.fullmatch(path)
    if found is None:
        return
    remedy = (
        "Give the path without file://"
        if found["scheme"].lower() == "file"
        else "Give a folder here, which may be a mounted one, and copy it there afterwards"
    )
    raise Refusal(
        f"{given_as} {path!r}: only files and folders of this machine can be read and written so "
        f"far. {remedy}."
    )


def cache_folder() -> Path:
    """Where tokenised corpora and compiled programs are kept between runs.

    `SCALING_CACHE` if set, else ~/.cache/scaling-laws. Raises Refusal for an address.
    """
    refuse_address("SCALING_CACHE", os.environ.get("SCALING_CACHE", ""))
    return Path(os.environ.get("SCALING_CACHE", "~/.cache/scaling-laws")).expanduser()
