"""Shards in object storage: listed by their address, and fetched once into the cache.

What is there is known by size and version (its e-tag), so that a corpus made of it is found again
without it, and a shard that was replaced is fetched anew; so is one that is not as it was fetched.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from scaling.data.documents import SourceMissing
from scaling.data.progress import Count, Watch
from scaling.data.shards import SHARDS, refuse_others
from scaling.store.checksums import checksums
from scaling.store.failpoint import failpoint
from scaling.store.leftovers import sweep
from scaling.store.objects import Missing, Stat, Store, Unreachable, open_store
from scaling.store.paths import cache_refused
from scaling.store.records import Refusal, fingerprint, read_sealed, sealed, write_json

FETCHED = "fetched"  # the folder of the cache that has them
# Names separated by slashes, none of which leads out of the folder.
_SAFE = re.compile(r"(?:(?!\.\.?(?:/|$))[^/\\\x00-\x1f\x7f]+(?:/(?!$)|$))+")
_GLOB = re.compile(r"[*?[]")


@dataclass(frozen=True)
class Objects:
    """Shards below an address, as they were listed."""

    address: str  # of the folder that they are in
    stats: tuple[Stat, ...]  # in the order of their names

    def identity(self) -> list[list[str | int]]:
        """What they are, as values of JSON."""
        return [[f"{self.address}/{s.key}", s.bytes, s.version] for s in self.stats]


def listed(address: str) -> Objects:
    """The shards that an address names: an object, a folder, or a glob.

    Raises SourceMissing where the server does not answer or there is none, Refusal for a folder
    with other files in it and as the server refuses.
    """
    folder, pattern = _parted(address)
    try:
        store = open_store(folder)
        found = _matching(store, pattern)
    except Unreachable as error:
        raise SourceMissing(f"[data] source = {address!r}: {error}") from error
    if not found:
        raise SourceMissing(
            f"[data] source = {address!r} names no object. Give a folder of shards, an object, or "
            "a glob such as 's3://bucket/text/*.parquet'."
        )
    if not pattern:
        refuse_others(address, [each.key for each in found])
    return Objects(folder, found)


def _parted(address: str) -> tuple[str, str]:
    """The folder of an address, and the pattern of what is meant below it; empty for all."""
    scheme, _, path = address.partition("://")
    parts = path.rstrip("/").split("/")
    first = next((i for i, part in enumerate(parts) if i and _GLOB.search(part)), len(parts))
    if first == len(parts) > 1 and parts[-1].endswith(SHARDS):
        first -= 1
    return f"{scheme}://{'/'.join(parts[:first])}", "/".join(parts[first:])


def _matching(store: Store, pattern: str) -> tuple[Stat, ...]:
    found = [
        each
        for each in store.list("")
        if not pattern or _matches(each.key.split("/"), pattern.split("/"))
    ]
    for each in found:
        if not _SAFE.fullmatch(each.key):
            raise Refusal(
                f"[data] source: {store.address} has {each.key!r}, which is no name of a file. "
                "Give a glob that does not match it."
            )
    return tuple(sorted(found, key=lambda each: PurePosixPath(each.key)))


def _matches(names: Sequence[str], patterns: Sequence[str]) -> bool:
    """Whether a key is what a glob means, as it does for files: `**` is any folders, or none."""
    if not patterns or not names:
        return not patterns and not names
    first, *rest = patterns
    if first == "**" and rest:
        hidden = names[0].startswith(".")
        return _matches(names, rest) or (not hidden and _matches(names[1:], patterns))
    if names[0].startswith(".") and not first.startswith("."):
        return False
    return fnmatchcase(names[0], first.replace("**", "*")) and _matches(names[1:], rest)


def fetched(name: str, objects: Objects, cache: Path, watch: Watch) -> list[Path]:
    """The files of the cache that hold these objects; those that are not there are fetched.

    Raises Refusal for an object that changes meanwhile.
    """
    store = open_store(objects.address)
    folder = cache / FETCHED / fingerprint({"address": objects.address})
    files = [folder / stat.key for stat in objects.stats]
    count = Count(f"fetching {name}", sum(each.bytes for each in objects.stats), watch)
    missing = []
    for stat, file in zip(objects.stats, files, strict=True):
        if _is_fetched(file, stat):
            count.keep(stat.bytes)
        else:
            missing.append(file)
            sweep(file.parent)
            _fetch(store, stat, file)
            count.add(stat.bytes)
    if missing:
        now = {each.key: each for each in store.list("")}
        for stat, file in zip(objects.stats, files, strict=True):
            if now.get(stat.key) != stat:  # what was fetched may be either, or of both
                _note(file).unlink(missing_ok=True)
                raise _changed(store, stat)
    return files


def _changed(store: Store, stat: Stat) -> Refusal:
    return Refusal(
        f"[data] source: {store.address}/{stat.key} changed while it was fetched. Run again when "
        "it is complete."
    )


def _note(file: Path) -> Path:
    return file.with_name(f".{file.name}.fetched.json")


def _is_fetched(file: Path, stat: Stat) -> bool:
    try:
        noted, found = read_sealed(_note(file)), checksums({"file": file})
        return noted == {"version": stat.version, **found} and found["file"]["bytes"] == stat.bytes
    except (Refusal, OSError):
        return False


def _fetch(store: Store, stat: Stat, file: Path) -> None:
    try:
        _note(file).unlink(missing_ok=True)
        store.download(stat.key, file)
        size = file.stat().st_size
    except Missing as error:
        raise _changed(store, stat) from error
    except OSError as error:
        raise cache_refused(file, error) from error
    if size != stat.bytes:
        raise _changed(store, stat)
    write_json(_note(file), sealed({"version": stat.version, **checksums({"file": file})}))
    failpoint("shard-fetched")
