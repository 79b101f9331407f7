"""Paths are of this machine: an address such as s3://bucket/runs would be a folder named `s3:`."""

from __future__ import annotations

import os
from pathlib import Path

from scaling.remedies import cannot_write
from scaling.store.clouds import is_address
from scaling.store.records import Refusal


def refuse_address(given_as: str, path: str) -> None:
    """Raise Refusal for an address in place of a path, naming where it was given."""
    if not is_address(path):
        return
    remedy = (
        "Give the path without file://"
        if path.lower().startswith("file:")
        else "Give a path; `scaling sync` brings results here"
    )
    raise Refusal(f"{given_as} {path!r}: only a file or folder of this machine can be. {remedy}.")


def cache_folder() -> Path:
    """Where tokenised corpora and compiled programs are kept between runs.

    `SCALING_CACHE` if set, else ~/.cache/scaling-laws. Raises Refusal for an address, for a path
    that is another folder from every working directory, and where there is no home folder.
    """
    given = os.environ.get("SCALING_CACHE") or "~/.cache/scaling-laws"  # an empty one is none
    refuse_address("SCALING_CACHE", given)
    try:
        folder = Path(given).expanduser()
    except RuntimeError:  # a container's user of no name
        raise Refusal(
            f"the cache {given}: there is no home folder (HOME is "
            f"{os.environ.get('HOME', 'not set')}). Set SCALING_CACHE to a folder."
        ) from None
    if not folder.is_absolute():
        name = "SCALING_CACHE" if os.environ.get("SCALING_CACHE") else "HOME"
        raise Refusal(
            f"{name} = {os.environ[name]!r} puts the cache at {str(folder)!r}, another folder from "
            "every working directory. Give the whole path, from / on."
        )
    return folder


def cache_refused(path: Path, error: OSError) -> Refusal:
    """The refusal of a cache that cannot be written, naming what sets where it is."""
    home = os.environ.get("HOME", "not set")
    of = "" if os.environ.get("SCALING_CACHE") else f", below HOME = {home}"
    elsewhere = "set SCALING_CACHE to a folder that can be written"
    return Refusal(cannot_write(f"the token cache {path}{of}", error, elsewhere))
