"""The first reading of sources: what is remembered of each document, and which are cut.

Parts of a source are read by several processes where there is much to read. What comes out is the
same however many there are, and however the documents are spread over files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from scaling.data.columns import Column, Rows, all_rows, rows_at
from scaling.data.documents import (
    REMEMBERED,
    ROWS,
    Document,
    as_remembered,
    lots_of,
    raw,
    remembered,
)
from scaling.data.making import Making, load, save, saved
from scaling.data.processes import Processes
from scaling.data.progress import Count, Watch
from scaling.data.repeats import repeats
from scaling.data.shards import Part, part_from
from scaling.data.sources import Source
from scaling.data.split import Index, pieces, refuse_crumbs, shared_cuts
from scaling.data.verified import stamps
from scaling.store.failpoint import failpoint
from scaling.store.records import fingerprint

# Content of no more bytes (tokens of a .bin) is named by all of it, document after document, which
# takes one process seconds. More is named by the keys of its documents, which many make.
WHOLE = 1 << 30
FIRST = 1 << 22  # documents that this process reads alone, at most

Watched = Callable[[Iterable[Document]], Iterable[Document]]


@dataclass(frozen=True)
class Known:
    """A part of a source, and what is known of it since its documents were read first."""

    part: Part
    rows: Rows  # REMEMBERED, its documents
    longest: float  # documents beyond this size are cut
    shared: Mapping[float, float]  # by lot, those cut beyond a smaller size

    @property
    def kept(self) -> np.ndarray:
        """What is remembered of its documents that are not left out."""
        documents = self.rows.array
        return documents[~documents["out"]]

    @property
    def size(self) -> int:
        """Bytes (tokens of a .bin) of its documents that are not left out."""
        return int(self.kept["size"].sum())

    @property
    def is_cut(self) -> bool:
        """Whether any of its documents is to be cut, or may be."""
        return bool(self.kept["size"].max(initial=0) > self.longest or self._shared())

    def read(self, watched: Watched) -> Iterator[Document]:
        """Its documents that are not left out; `watched` passes on what is read.

        Raises Changed if they are others now.
        """
        return as_remembered(watched(self.part.read()), self.rows.array)

    def pieces(self, watched: Watched) -> Iterator[Document]:
        """The same, large ones in pieces."""
        return pieces(self.read(watched), self.longest, self.shared)

    def plain(self) -> dict[str, Any]:
        """What another process must know of it, as values of JSON."""
        return {
            "part": self.part.plain(),
            "documents": self.rows.plain(),
            "longest": self.longest,
            "shared": self._shared(),
        }

    def _shared(self) -> list[tuple[float, float]]:
        if not self.shared:
            return []
        lots = set(lots_of(self.kept["key"]).tolist())
        return [(lot, size) for lot, size in self.shared.items() if lot in lots]


def known_from(plain: Mapping[str, Any]) -> Known:
    """The part that another process wrote as plain values."""
    rows = all_rows(rows_at(REMEMBERED, plain["documents"]))
    shared = dict(plain["shared"])
    return Known(part_from(plain["part"]), rows, plain["longest"], shared)


@dataclass(frozen=True)
class Reading:
    """A source as it was read first."""

    source: Source
    parts: tuple[Part, ...]
    documents: Column  # REMEMBERED
    ends: np.ndarray  # int64: of each part, the first document after it
    digest: str  # of the documents that are not left out
    repeated: int  # documents that are exact copies of one before them, left out or not
    repeated_size: int  # bytes; tokens of a .bin

    def known(self, longest: float, shared: Mapping[float, float]) -> Iterator[Known]:
        """Its parts, with what is known of them."""
        for part, (first, last) in zip(self.parts, ranges(self.ends), strict=True):
            yield Known(part, Rows(self.documents, first, last), longest, shared)


@dataclass(frozen=True)
class Divided:
    """A source in pieces, as they are held out or trained on."""

    reading: Reading
    index: Index
    ends: np.ndarray  # int64: of each part, the first piece after it

    def known(self) -> Iterator[Known]:
        """Its parts, with what is known of them."""
        return self.reading.known(self.index.longest, self.index.shared)


def ranges(ends: np.ndarray) -> Iterator[tuple[int, int]]:
    """Of each part, its first row and the first after it."""
    first = 0
    for last in ends.tolist():
        yield first, last
        first = last


def read_first(
    sources: Sequence[Source],
    fraction: float,
    drop_repeats: bool,
    made: Making,
    processes: Processes,
    watch: Watch,
) -> list[Divided]:
    """The sources as they are read first, in pieces of which `fraction` can be held out.

    A document larger than the held-out share could neither be held out nor left in without
    upsetting it, and a single file could not be split at all. With `drop_repeats`, of the same
    documents of a source only the first counts. Raises Refusal as reading does.
    """
    readings, wholes = [], []
    for source in sources:
        reading = _reading(source, drop_repeats, made, processes, watch)
        readings.append(reading)
        wholes.append(_whole(reading, fraction, made))
        refuse_crumbs(source.name, wholes[-1], fraction)
    return [
        _divided(reading, whole, shared_cuts(whole, wholes), made, processes)
        for reading, whole in zip(readings, wholes, strict=True)
    ]


def _reading(
    source: Source, drop_repeats: bool, made: Making, processes: Processes, watch: Watch
) -> Reading:
    doing = f"reading {source.name}"
    documents = Column(REMEMBERED, made.file)
    parts, ends, size, digest = [], [], 0, hashlib.sha256()
    later = iter(source.parts)
    count = Count(doing, None, watch)
    for part in later:
        for some in remembered(digested(count.over(part.read()), digest)):
            documents.add(some)
            size += int(some["size"].sum())
        parts.append(part)
        ends.append(documents.rows)
        if size > WHOLE or documents.rows > FIRST:
            break
    alone = len(parts)
    parts += later
    for some in _read_by_many(parts[alone:], doing, made, processes, watch):
        documents.add(some)
        ends.append(documents.rows)
    array = documents.array
    again = repeats(array["key"])
    if drop_repeats:
        array["out"] = again
    reading = Reading(
        source=source,
        parts=tuple(parts),
        documents=documents,
        ends=np.array(ends, np.int64),
        digest=digest.hexdigest(),
        repeated=int(again.sum()),
        repeated_size=int(array["size"][again].sum()),
    )
    if alone == len(parts) and size <= WHOLE and not (drop_repeats and reading.repeated):
        return reading
    return replace(reading, digest=_digest(reading, watch))


def digested(documents: Iterable[Document], digest: Any) -> Iterator[Document]:
    """The documents, each counted into `digest` as it passes."""
    for document in documents:
        content = raw(document)
        digest.update(len(content).to_bytes(8))
        digest.update(content)
        yield document


def _digest(reading: Reading, watch: Watch) -> str:
    """The name of the documents of a source that are not left out: see WHOLE."""
    digest, size = hashlib.sha256(), 0
    for known in reading.known(np.inf, {}):
        size += known.size
    if size > WHOLE:
        for known in reading.known(np.inf, {}):
            digest.update(known.kept["key"].tobytes())
        return digest.hexdigest()
    count = Count(f"reading {reading.source.name} again", size, watch)
    for known in reading.known(np.inf, {}):
        for _ in digested(count.over(known.read(iter)), digest):
            pass
    return digest.hexdigest()


def _whole(reading: Reading, fraction: float, made: Making) -> Index:
    """The index of whole documents."""
    lots, sizes = Column(np.float64, made.file), Column(np.int64, made.file)
    total = 0
    for kept in _kept(reading.documents.array):
        lots.add(lots_of(kept["key"]))
        sizes.add(kept["size"])
        total += int(kept["size"].sum())
    return Index(reading.digest, fraction * total, {}, lots.array, sizes.array)


def _kept(documents: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(documents), ROWS):
        some = documents[start : start + ROWS]
        yield some[~some["out"]]


def _divided(
    reading: Reading,
    whole: Index,
    shared: Mapping[float, float],
    made: Making,
    processes: Processes,
) -> Divided:
    """A source in pieces; a part is read again if one of its documents must be cut."""
    if not shared and whole.sizes.max(initial=0) <= whole.longest:
        kept = [len(known.kept) for known in reading.known(np.inf, {})]
        return Divided(reading, whole, np.cumsum(kept))
    every = list(reading.known(whole.longest, shared))
    cut = iter(_cut([known for known in every if known.is_cut], made, processes))
    lots, sizes, ends = Column(np.float64, made.file), Column(np.int64, made.file), []
    for known in every:
        for found in _kept(next(cut) if known.is_cut else known.rows.array):
            lots.add(lots_of(found["key"]))
            sizes.add(found["size"])
        ends.append(lots.rows)
    index = replace(whole, shared=shared, lots=lots.array, sizes=sizes.array)
    return Divided(reading, index, np.array(ends, np.int64))


# --- by several processes ---


@dataclass(frozen=True)
class Remember:
    """To read a part first, and keep what is remembered of it in a file."""

    part: Part
    folder: Path
    key: str
    name: str = "remember"

    def plain(self) -> dict[str, Any]:
        return {"part": self.part.plain(), "folder": str(self.folder), "key": self.key}

    def do(self) -> str:
        return str(save(self.folder, self.key, _joined(remembered(self.part.read()))))

    def answer(self, came_out: str) -> np.ndarray:
        return load(Path(came_out))


def remember_from(plain: Mapping[str, Any]) -> Remember:
    return Remember(part_from(plain["part"]), Path(plain["folder"]), plain["key"])


@dataclass(frozen=True)
class Cut:
    """To read a part again whose documents must be cut: what is remembered of the pieces."""

    known: Known
    folder: Path
    name: str = "cut"

    def plain(self) -> dict[str, Any]:
        return {**self.known.plain(), "folder": str(self.folder)}

    def do(self) -> str:
        return str(save(self.folder, uuid4().hex, self.pieces()))

    def answer(self, came_out: str) -> np.ndarray:
        return load(Path(came_out))

    def pieces(self) -> np.ndarray:
        return _joined(remembered(self.known.pieces(iter)))


def cut_from(plain: Mapping[str, Any]) -> Cut:
    return Cut(known_from(plain), Path(plain["folder"]))


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, REMEMBERED), *arrays])


def _read_by_many(
    parts: Sequence[Part], doing: str, made: Making, processes: Processes, watch: Watch
) -> Iterator[np.ndarray]:
    """What is remembered of each part, which a file keeps for whoever goes on with the work."""
    if not parts:
        return
    count = Count(doing, sum(part.size for part in parts), watch)
    folder, keys = made.folder, [_key(part) for part in parts]
    known = saved(folder)
    count.keep(sum(part.size for part, key in zip(parts, keys, strict=True) if key in known))
    todo = ((part, key) for part, key in zip(parts, keys, strict=True) if key not in known)
    found = processes.map(Remember(part, folder, key) for part, key in todo)
    for part, key in zip(parts, keys, strict=True):
        if key in known:
            yield load(known[key])
        else:
            yield next(found)
            failpoint("part-read")
            count.add(part.size)


def _key(part: Part) -> str:
    """What a part is, as long as its files do not change."""
    files = tuple(Path(span.file).absolute() for span in part.spans)
    return fingerprint({**part.plain(), "files": list(map(str, files)), "stamps": stamps(files)})


def _cut(every: Sequence[Known], made: Making, processes: Processes) -> Iterator[np.ndarray]:
    if processes.number == 1 or not all(known.part.spans for known in every):
        return (Cut(known, Path()).pieces() for known in every)
    for known in every[:1]:
        known.rows.column.file()  # here, before threads ask for it
    return processes.map(Cut(known, made.folder) for known in every)
