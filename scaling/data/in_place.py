"""A corpus of token files, used where they lie: what is made of it is an index.

    <fingerprint>/info.json
                  place.json             which index is read: the same tokens may be elsewhere too
                  <index>/files.json     the files, with their sizes
                          digests        of their chunks, 32 bytes each
                          train.*        the segments of the stream (scaling/data/streams.py)
                          holdout.*      those of what is held out, one a document

Both streams are what copying would have given: documents without those held out, in the order of
the files, each with an end token after it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from scaling.data.chunks import DIGEST
from scaling.data.columns import Column
from scaling.data.corpus import PLACE, CorpusInfo
from scaling.data.documents import KEY, REMEMBERED, Changed, as_remembered, key_of, lots_of
from scaling.data.indexing import Ends, Indexed, index_files, read_part, stamps_of
from scaling.data.making import Making
from scaling.data.processes import Processes
from scaling.data.progress import Watch
from scaling.data.reading import WHOLE, Divided, Reading, digested
from scaling.data.repeats import repeats
from scaling.data.sources import Source
from scaling.data.split import Index, cut, refuse_crumbs, shared_cuts
from scaling.data.tokens import TokenFile, mapped, no_end
from scaling.store.checksums import CHECKSUMS, checksums, files_in
from scaling.store.paths import cache_refused
from scaling.store.records import fingerprint, sealed, write_json
from scaling.study import DataSection

_DIGEST = np.dtype([("sha256", "u1", DIGEST)])
_ROWS = 1 << 22  # pieces looked at at once


@dataclass(frozen=True)
class TokenIndex(Index):
    """What one reading of a source of tokens leaves behind; arrays have an entry a piece."""

    files: tuple[TokenFile, ...]
    digests: Column  # of the chunks of all files
    starts: np.ndarray  # int64: the first token, with the files put one after another
    followed: np.ndarray  # bool: an end token follows in the file


@dataclass(frozen=True)
class _Found:
    """All that the parts of all files hold."""

    digests: Column
    documents: Column  # REMEMBERED
    starts: Column
    followed: Column


def read_tokens(
    sources: Sequence[Source],
    section: DataSection,
    fraction: float,
    made: Making,
    processes: Processes,
    watch: Watch,
) -> list[Divided]:
    """As `reading.read_first`, of sources of tokens: their files are read once, in any order.

    Raises Refusal as `index_files` does.
    """
    assert section.vocab_size is not None and isinstance(section.end_token, int)
    ends = Ends(section.vocab_size, section.end_token)
    readings, wholes = [], []
    for source in sources:
        seen = [stamps_of(file) for file in source.tokens]
        indexed = index_files(source.tokens, ends, made, processes, watch, source.name)
        found = _found(indexed, ends, made)
        reading = _reading(source, found, section.drop_duplicates)
        if [stamps_of(file) for file in source.tokens] != seen:
            raise Changed
        readings.append(reading)
        wholes.append(_whole(reading, found, fraction, made))
        refuse_crumbs(source.name, wholes[-1], fraction)
    divided = []
    for reading, whole in zip(readings, wholes, strict=True):
        index = _cut(replace(whole, shared=shared_cuts(whole, wholes)), made)
        divided.append(Divided(reading, index, np.array([], np.int64)))
    return divided


def _found(indexed: Sequence[Indexed], ends: Ends, made: Making) -> _Found:
    """What all parts of all files hold. Raises Refusal for a file in which no document ends."""
    found = _Found(
        *(Column(kind, made.file) for kind in (_DIGEST, REMEMBERED, np.int64, bool)),
    )
    base = 0
    for each in indexed:
        ended = 0
        for number in range(each.parts):
            part = read_part(each, number)
            documents = np.zeros(len(part.sizes), REMEMBERED)
            documents["key"], documents["size"] = part.keys, part.sizes
            found.digests.add(np.ascontiguousarray(part.digests).view(_DIGEST)[:, 0])
            found.documents.add(documents)
            found.starts.add(part.starts + base)
            found.followed.add(part.followed)
            ended += int(part.ends)
        if not ended and each.file.index is None:
            raise no_end(each.file.path, ends.end_token)
        base += each.file.tokens
    return found


def _reading(source: Source, found: _Found, drop_repeats: bool) -> Reading:
    documents = found.documents.array
    again = repeats(documents["key"])
    if drop_repeats:
        documents["out"] = again
    return Reading(
        source=source,
        parts=(),
        documents=found.documents,
        ends=np.array([], np.int64),
        digest=_digest(source, documents),
        repeated=int(again.sum()),
        repeated_size=int(documents["size"][again].sum()),
    )


def _digest(source: Source, documents: np.ndarray) -> str:
    """The name of the documents that are not left out, as that of text: see `reading.WHOLE`."""
    digest = hashlib.sha256()
    blocks = [documents[first : first + _ROWS] for first in range(0, len(documents), _ROWS)]
    if sum(int(some["size"][~some["out"]].sum()) for some in blocks) <= WHOLE:
        for _ in digested(as_remembered(source.read(), documents), digest):
            pass
    else:
        for some in blocks:
            digest.update(some["key"][~some["out"]].tobytes())
    return digest.hexdigest()


def _whole(reading: Reading, found: _Found, fraction: float, made: Making) -> TokenIndex:
    """The index of whole documents."""
    lots, sizes, starts, followed = _columns(made)
    documents = found.documents.array
    for first in range(0, len(documents), _ROWS):
        part = slice(first, first + _ROWS)
        some = documents[part]
        kept = ~some["out"]
        lots.add(lots_of(some["key"][kept]))
        sizes.add(some["size"][kept])
        starts.add(found.starts.array[part][kept])
        followed.add(found.followed.array[part][kept])
    return TokenIndex(
        digest=reading.digest,
        longest=fraction * int(sizes.array.sum()),
        shared={},
        lots=lots.array,
        sizes=sizes.array,
        files=reading.source.tokens,
        digests=found.digests,
        starts=starts.array,
        followed=followed.array,
    )


def _columns(made: Making) -> tuple[Column, Column, Column, Column]:
    """Those of lots, sizes, starts and whether an end token follows."""
    lots, sizes, starts, followed = (
        Column(kind, made.file) for kind in (np.float64, np.int64, np.int64, bool)
    )
    return lots, sizes, starts, followed


def _cut(whole: TokenIndex, made: Making) -> TokenIndex:
    """The index with large documents in pieces, as `split.pieces` cuts them."""
    most = {
        at: whole.shared.get(float(whole.lots[at]), whole.longest)
        for at in np.flatnonzero(
            whole.sizes > min([whole.longest, *whole.shared.values()])
        ).tolist()
    }
    large = [at for at, longest in most.items() if whole.sizes[at] > longest]
    if not large:
        return whole
    lots, sizes, starts, followed = columns = _columns(made)
    done = 0
    for at in [*large, len(whole.sizes)]:
        for low in range(done, at, _ROWS):
            part = slice(low, min(low + _ROWS, at))
            lots.add(whole.lots[part])
            sizes.add(whole.sizes[part])
            starts.add(whole.starts[part])
            followed.add(whole.followed[part])
        done = at + 1
        if at < len(whole.sizes):
            document = _content(whole.files, int(whole.starts[at]), int(whole.sizes[at]))
            pieces = list(cut(document, most[at], max(1, int(most[at] / 4))))
            length = np.array([len(piece) for piece in pieces])
            keys = np.frombuffer(b"".join(map(key_of, pieces)), np.uint8).reshape(-1, KEY)
            lots.add(lots_of(keys))
            sizes.add(length)
            starts.add(int(whole.starts[at]) + np.cumsum(length) - length)
            followed.add(np.append(np.zeros(len(pieces) - 1, bool), whole.followed[at]))
    lots_, sizes_, starts_, followed_ = (column.array for column in columns)
    return replace(whole, lots=lots_, sizes=sizes_, starts=starts_, followed=followed_)


def _content(files: Sequence[TokenFile], start: int, size: int) -> np.ndarray:
    """The tokens of a document, mapped: it may be as large as all of them."""
    for file in files:
        if start < file.tokens:
            return mapped(file)[start : start + size]
        start -= file.tokens
    raise AssertionError("no file has it")


# --- the folder ---


def place(
    folder: Path, index: TokenIndex, held: np.ndarray, info: CorpusInfo, made: Making
) -> None:
    """Write an index into a corpus's folder, and name it as the one to read.

    `info` lacks only the numbers of tokens. Raises Refusal where that cannot be written.
    """
    files = [{**_plain(file), "bytes": file.bytes} for file in index.files]
    digests = index.digests.array.view(np.ndarray)
    named = hashlib.sha256(digests.view(np.uint8).data).hexdigest()
    key = fingerprint({"files": files, "digests": named})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = made.file()
        temporary.mkdir()
        try:
            write_json(temporary / "files.json", {"files": files})
            with (temporary / "digests").open("wb") as noted:
                digests.tofile(noted)
                _synced(noted)
            train = _write_segments(temporary, "train", index, lambda part: ~held[part], _merged)
            holdout = _write_segments(temporary, "holdout", index, lambda part: held[part], _each)
            write_json(temporary / CHECKSUMS, {"files": checksums(files_in(temporary))})
            try:
                temporary.rename(folder / key)
            except OSError:
                if not (folder / key).is_dir():  # else it was made before, or just now: same bytes
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        write_json(folder / PLACE, {"index": key})
        done = replace(info, train_tokens=train, holdout_tokens=holdout)
        write_json(folder / "info.json", sealed(asdict(done)))
    except OSError as error:
        raise cache_refused(folder, error) from error


@dataclass(frozen=True)
class _Run:
    """Pieces that make one segment each, or follow one another in one."""

    place: np.ndarray
    tokens: np.ndarray  # in the stream
    inserted: np.ndarray


def _each(starts: np.ndarray, sizes: np.ndarray, followed: np.ndarray, file: np.ndarray) -> _Run:
    return _Run(starts, sizes + 1, ~followed)


def _merged(starts: np.ndarray, sizes: np.ndarray, followed: np.ndarray, file: np.ndarray) -> _Run:
    """Segments that go on while the files do."""
    stops = starts + sizes + 1
    goes_on = followed[:-1] & (stops[:-1] == starts[1:]) & (file[:-1] == file[1:])
    first = np.flatnonzero(np.append(True, ~goes_on))
    last = np.append(first[1:], len(starts)) - 1
    return _Run(starts[first], stops[last] - starts[first], ~followed[last])


def _write_segments(
    folder: Path,
    name: str,
    index: TokenIndex,
    mine: Callable[[slice], np.ndarray],
    joined: Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], _Run],
) -> int:
    """Write the segments of the pieces that are `mine`; returns how many tokens they have."""
    base = np.cumsum([file.tokens for file in index.files])
    tokens = 0
    with (
        (folder / f"{name}.first").open("wb") as first,
        (folder / f"{name}.place").open("wb") as where,
        (folder / f"{name}.inserted").open("wb") as inserted,
    ):
        for low in range(0, len(index.sizes), _ROWS):
            part = slice(low, low + _ROWS)
            own = mine(part)
            if not own.any():
                continue
            starts = index.starts[part][own]
            file = np.searchsorted(base, starts, side="right")
            run = joined(starts, index.sizes[part][own], index.followed[part][own], file)
            first.write((tokens + np.cumsum(run.tokens) - run.tokens).astype("<i8").data)
            where.write(run.place.astype("<i8").data)
            inserted.write(run.inserted.data)
            tokens += int(run.tokens.sum())
        first.write(np.array([tokens], "<i8").data)
        for written in (first, where, inserted):
            _synced(written)
    return tokens


def _synced(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _plain(file: TokenFile) -> dict[str, str | int]:
    return {
        "path": str(file.path),
        "dtype": file.dtype,
        "offset": file.offset,
        "tokens": file.tokens,
    }
