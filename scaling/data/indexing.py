"""What one reading of token files leaves behind: the digests of their chunks, and their documents.

Made once, a part of a file at a time, by several processes; parts that are done are kept, so that
whoever is killed goes on where it was. A file that is written to is another file, and is read anew.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scaling.data import megatron
from scaling.data.chunks import DIGEST, digests, is_settled, stamp
from scaling.data.documents import KEY, SALT
from scaling.data.making import Making
from scaling.data.processes import Processes
from scaling.data.progress import Count, Watch
from scaling.data.tokens import TokenFile, read_open, refuse_beyond
from scaling.remedies import cannot_read, is_damage
from scaling.store.failpoint import failpoint
from scaling.store.leftovers import sweep
from scaling.store.paths import cache_refused
from scaling.store.records import Refusal, fingerprint, replacing

FORMAT = 1  # raised when a part changes its meaning
PART = 1 << 26  # bytes that are read at once, a multiple of CHUNK: about 300 MB of memory a process


@dataclass(frozen=True)
class Ends:
    """What of a study says where documents end, and what a token may be."""

    vocab_size: int
    end_token: int


@dataclass(frozen=True)
class Part:
    """What was found in the bytes of a part; documents belong to the part that they begin in."""

    digests: np.ndarray  # uint8, (chunks, DIGEST)
    starts: np.ndarray  # int64, (documents,): the first token, in the file
    sizes: np.ndarray  # int64: tokens without the end token, at least one
    followed: np.ndarray  # bool: an end token follows
    keys: np.ndarray  # uint8, (documents, KEY): the hash of each one's content
    ends: np.ndarray  # int64, (): end tokens in this part


@dataclass(frozen=True)
class Indexed:
    """A file, and the folder where its parts are."""

    file: TokenFile
    folder: Path

    @property
    def parts(self) -> int:
        return -(-self.file.bytes // PART)

    def part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def index_files(
    files: Sequence[TokenFile],
    ends: Ends,
    made: Making,
    processes: Processes,
    watch: Watch,
    name: str,
) -> list[Indexed]:
    """Read what the cache has no parts of; returns where parts are.

    Raises Refusal for a token beyond the vocabulary, an index that does not fit its file, and a
    file that changes while it is read.
    """
    found = [_opened(file, ends, made) for file in files]
    missing = [
        MakePart(each, number, ends)
        for each in found
        for number in range(each.parts)
        if not each.part(number).exists()
    ]
    for each in {task.indexed.file: task.indexed for task in missing}.values():
        if each.file.index is not None:
            megatron.Index(each.file.index).check()
    total = sum(file.tokens for file in files)
    count = Count(f"indexing {name}", total, watch)
    count.keep(total - sum(task.tokens for task in missing))
    for task, _ in zip(missing, processes.map(missing), strict=True):
        failpoint("part-indexed")
        count.add(task.tokens)
    return found


def _opened(file: TokenFile, ends: Ends, made: Making) -> Indexed:
    """The folder for the parts of a file as it is now.

    It is one that nobody finds again where a later write to the file might leave no trace.
    """
    now, seen, indices = time.time_ns(), stamps_of(file), made.cache / "indexed"
    known = {"format": FORMAT, "part": PART, **_plain(file), **asdict(ends), "stamps": seen}
    kept = all(is_settled(each, now) for each in seen)
    folder = (indices if kept else made.folder) / fingerprint(known)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep(folder)
    except OSError as error:
        raise cache_refused(folder, error) from error
    return Indexed(file, folder)


def stamps_of(file: TokenFile) -> list[tuple[int, ...]]:
    """What changes when a file, or its index, is written. Raises Refusal if one is gone."""
    paths = [file.path, *([] if file.index is None else [file.index])]
    try:
        return [stamp(path.stat()) for path in paths]
    except OSError as error:
        raise Refusal(f"[data] source: {cannot_read(file.path, error)}") from error


def read_part(indexed: Indexed, number: int) -> Part:
    """A part that is done. Raises Refusal, and forgets it, if it cannot be read."""
    path = indexed.part(number)
    try:
        with np.load(path, allow_pickle=False) as found:
            return Part(**{name: found[name] for name in Part.__dataclass_fields__})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise Refusal(f"[data] source: {cannot_read(path, error)}") from error
        path.unlink(missing_ok=True)
        raise Refusal(
            f"[data] source: the cached index {path} cannot be read ({error}), and is deleted. Run "
            "again: it is made anew."
        ) from error


def _range(file: TokenFile, part: int) -> tuple[int, int]:
    """The first token of a part, and the one after its last."""
    width = file.kind.itemsize
    first, last = (
        min(max(0, byte - file.offset) // width, file.tokens)
        for byte in (part * PART, (part + 1) * PART)
    )
    return first, last


# --- one part ---


@dataclass(frozen=True)
class MakePart:
    """To read a part of a file, and keep what was found."""

    indexed: Indexed
    number: int
    ends: Ends
    name: str = "index"

    @property
    def tokens(self) -> int:
        first, last = _range(self.indexed.file, self.number)
        return last - first

    def plain(self) -> dict[str, Any]:
        return {
            "file": _plain(self.indexed.file),
            "folder": str(self.indexed.folder),
            "number": self.number,
            "ends": asdict(self.ends),
        }

    def do(self) -> None:
        file, path = self.indexed.file, self.indexed.part(self.number)
        try:
            with file.path.open("rb", buffering=0) as content:
                found = _found(content.fileno(), file, self.number, self.ends)
        except OSError as error:
            raise Refusal(f"[data] source: {cannot_read(file.path, error)}") from error
        try:
            with replacing(path) as content:
                np.savez(content, allow_pickle=False, **vars(found))
        except OSError as error:
            raise cache_refused(path, error) from error

    def answer(self, came_out: None) -> None:
        """Nothing: the part is on the disk."""


def make_part_from(plain: Mapping[str, Any]) -> MakePart:
    """The task that another process wrote as plain values."""
    index = plain["file"]["index"]
    file = TokenFile(
        **{
            **plain["file"],
            "path": Path(plain["file"]["path"]),
            "index": None if index is None else Path(index),
        }
    )
    return MakePart(Indexed(file, Path(plain["folder"])), plain["number"], Ends(**plain["ends"]))


def _plain(file: TokenFile) -> dict[str, Any]:
    index = None if file.index is None else str(file.index)
    return {**asdict(file), "path": str(file.path), "index": index}


def _found(opened: int, file: TokenFile, number: int, ends: Ends) -> Part:
    first, last = _range(file, number)
    header = os.pread(opened, file.offset, 0) if number == 0 else b""
    tokens = read_open(opened, file, first, last)
    raw = header + tokens.tobytes() if header else tokens.view(np.uint8).data
    refuse_beyond(file.path, tokens, first, ends.vocab_size)
    at_ends = first + np.flatnonzero(tokens == ends.end_token)
    if file.index is not None:
        starts, stops = _by_index(megatron.Index(file.index), first, last)
    else:
        starts, stops = _by_ends(opened, file, first, last, at_ends, ends.end_token)
    # Megatron's documents may hold their end token, as --append-eod makes them.
    followed = _has_end(opened, file, stops, tokens, first, ends.end_token)
    if file.index is not None:
        stops = stops - followed
    some = stops > starts
    starts, stops, followed = starts[some], stops[some], followed[some]
    keys = _keys(opened, file, starts, stops, tokens, first)
    made = np.frombuffer(digests(raw), np.uint8).reshape(-1, DIGEST)
    return Part(made, starts, stops - starts, followed, keys, np.array(len(at_ends)))


def _by_index(index: megatron.Index, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the documents that begin here do, and where each ends."""
    bounds = index.starts(first, last)
    return bounds[:-1], bounds[1:]


def _by_ends(
    opened: int, file: TokenFile, first: int, last: int, at_ends: np.ndarray, end: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `_by_index`, of documents that an end token divides, or the end of the file."""
    begins = first == 0 or read_open(opened, file, first - 1, first)[0] == end
    starts = np.concatenate([[first] if begins else [], at_ends + 1]).astype(np.int64)
    starts = starts[starts < last]  # the next part has those that begin with it
    stops = at_ends if begins else at_ends[1:]
    if len(starts) > len(stops):  # the last of them goes on beyond this part
        stops = np.append(stops, _next_end(opened, file, last, end))
    return starts, stops[: len(starts)]


def _next_end(opened: int, file: TokenFile, first: int, end: int) -> int:
    """The first end token from `first` on, or the end of the file."""
    step = PART // file.kind.itemsize
    for low in range(first, file.tokens, step):
        found = np.flatnonzero(read_open(opened, file, low, min(low + step, file.tokens)) == end)
        if len(found):
            return low + int(found[0])
    return file.tokens


def _has_end(
    opened: int, file: TokenFile, stops: np.ndarray, tokens: np.ndarray, first: int, end: int
) -> np.ndarray:
    """Of each document, whether an end token lies at its end: after it or, by an index, as last."""
    at = stops if file.index is None else stops - 1
    found = np.zeros(len(at), bool)
    here = (at >= first) & (at < first + len(tokens))
    found[here] = tokens[at[here] - first] == end
    for number in np.flatnonzero(~here & (at < file.tokens) & (at >= 0)).tolist():  # at most a few
        found[number] = read_open(opened, file, int(at[number]), int(at[number]) + 1)[0] == end
    return found


def _keys(
    opened: int,
    file: TokenFile,
    starts: np.ndarray,
    stops: np.ndarray,
    tokens: np.ndarray,
    first: int,
) -> np.ndarray:
    """As `documents.key_of`, of every document, with no object to keep for each."""
    content = memoryview(tokens.astype("<u4").view(np.uint8).data)
    last, found, salt = first + len(tokens), bytearray(), hashlib.sha256(SALT)
    for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
        key = salt.copy()
        key.update(content[4 * (start - first) : 4 * (min(stop, last) - first)])
        for low in range(last, stop, PART):
            key.update(read_open(opened, file, low, min(low + PART, stop)).astype("<u4").data)
        found += key.digest()
    return np.frombuffer(found, np.uint8).reshape(-1, KEY)
