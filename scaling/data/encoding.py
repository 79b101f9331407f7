"""The tokens of a source, made part by part and put one after another as the parts are done.

A part that is done is a file for each side, with a note beside it that says what these hold; so is
what has been put together. Whoever goes on after a kill checks both, and makes only the rest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

from pydantic import TypeAdapter

from scaling.data.columns import Column, Rows, all_rows, rows_at
from scaling.data.processes import Processes
from scaling.data.progress import Count
from scaling.data.reading import Divided, Known, Watched, known_from, ranges
from scaling.data.tokenizer import TOKENIZER, Tokenizer, tokenizer_from, tokenizer_plain
from scaling.store.failpoint import failpoint
from scaling.store.records import (
    Refusal,
    read_json,
    read_sealed,
    sealed,
    write_bytes,
    write_json,
)

SIDES = ("train", "holdout")
CORPUS = "corpus"  # the folder of what is published in the end
PARTS = "parts"  # the folder of parts that are done
JOINED = "joined.json"  # how many parts have been put together
_BYTES = 16 << 20  # copied or hashed at once


@dataclass(frozen=True)
class Side:
    """The tokens of a part that are trained on, or those that are held out."""

    tokens: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Encoded:
    """The tokens of a part."""

    train: Side
    holdout: Side

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.train, self.holdout

    @property
    def tokens(self) -> int:
        return self.train.tokens + self.holdout.tokens


@dataclass(frozen=True)
class Encode:
    """To make the tokens of a part."""

    known: Known
    held: Rows  # bool, whether each piece is held out
    tokenizer: Tokenizer
    into: Path  # the beginning of the names of its files
    watched: Watched = iter
    name: str = "encode"

    def plain(self) -> dict[str, Any]:
        return {
            **self.known.plain(),
            "held": self.held.plain(),
            "tokenizer": tokenizer_plain(self.tokenizer, self.into.parents[1] / CORPUS),
            "into": str(self.into),
        }

    def do(self) -> dict[str, Any]:
        """Write the files and then the note, each whole or not at all."""
        own = uuid4().hex
        files = [_side(self.into, side) for side in SIDES]
        temporary = [file.with_name(f".{file.name}.{own}") for file in files]
        digests, tokens = [hashlib.sha256(), hashlib.sha256()], [0, 0]
        pieces = self.known.pieces(self.watched)
        with temporary[0].open("xb") as train, temporary[1].open("xb") as holdout:
            encoded = zip(self.tokenizer.encode(pieces), self.held.array.tolist(), strict=True)
            for found, is_out in encoded:
                (holdout if is_out else train).write(found.data)
                digests[is_out].update(found.data)
                tokens[is_out] += len(found)
            sizes = [_settled(train), _settled(holdout)]
        sides = [
            Side(n, size, digest.hexdigest())
            for n, size, digest in zip(tokens, sizes, digests, strict=True)
        ]
        for source, file in zip(temporary, files, strict=True):
            source.replace(file)
        done = asdict(Encoded(*sides))
        write_json(_note(self.into), sealed(done))
        return done

    def answer(self, came_out: Any) -> Encoded:
        return _ENCODED.validate_python(came_out)


_ENCODED = TypeAdapter(Encoded)


def encode_from(plain: Mapping[str, Any]) -> Encode:
    """The task that another process wrote as plain values."""
    return Encode(
        known_from(plain),
        all_rows(rows_at(bool, plain["held"])),
        tokenizer_from(plain["tokenizer"]),
        Path(plain["into"]),
    )


def encode(
    divided: Divided,
    held: Column,
    tokenizer: Tokenizer,
    folder: Path,
    processes: Processes,
    count: Count,
) -> Iterator[Encoded]:
    """Write `corpus/train.bin` and `corpus/holdout.bin` in a folder, part after part of a source.

    What the folder has already is checked and kept. Raises Refusal as reading does, and Changed for
    documents that are not those read first.
    """
    for name in (CORPUS, PARTS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    if tokenizer.file is not None:
        write_bytes(folder / CORPUS / TOKENIZER, tokenizer.file)
    tasks = [
        Encode(known, Rows(held, first, last), tokenizer, folder / PARTS / f"{number:09d}")
        for number, (known, (first, last)) in enumerate(
            zip(divided.known(), ranges(divided.ends), strict=True)
        )
    ]
    done = [_read_note(task.into) for task in tasks]
    joined = _joined(folder, done)
    for number in range(joined, len(tasks)):
        if not _is_whole(tasks[number].into, done[number]):
            done[number] = None
    count.keep(sum(task.known.size for task, known in zip(tasks, done, strict=True) if known))
    made = _made(
        [task for task, known in zip(tasks, done, strict=True) if not known], processes, count
    )
    for number, (task, encoded) in enumerate(zip(tasks, done, strict=True)):
        if encoded is None:
            encoded = next(made)
            failpoint("part-encoded")
        if number >= joined:
            _join(folder, number, task.into)
        yield encoded


def _made(tasks: Sequence[Encode], processes: Processes, count: Count) -> Iterator[Encoded]:
    """The parts that are still to be made, each when it is."""
    many = processes.number > 1 and all(task.known.part.spans for task in tasks)
    if many and tasks:
        for column in (tasks[0].known.rows.column, tasks[0].held.column):
            column.file()  # here, before threads ask for it
    if not many:
        for task in tasks:
            here = replace(task, watched=count.over)
            encoded = here.answer(here.do())
            count.add(0, encoded.tokens)
            yield encoded
        return
    for task, encoded in zip(tasks, processes.map(tasks), strict=True):
        count.add(task.known.size, encoded.tokens)
        yield encoded


# --- files ---


def _side(into: Path, side: str) -> Path:
    return into.with_name(f"{into.name}.{side}")


def _note(into: Path) -> Path:
    return into.with_name(f"{into.name}.json")


def _read_note(into: Path) -> Encoded | None:
    with suppress(Refusal, ValueError):
        return _ENCODED.validate_python(read_sealed(_note(into)))
    return None


def _settled(file: BinaryIO) -> int:
    """The bytes of a file, which are on the disk now."""
    file.flush()
    os.fsync(file.fileno())
    return file.tell()


def _is_whole(into: Path, encoded: Encoded | None) -> bool:
    """Whether the files of a part are what its note says."""
    if encoded is None:
        return False
    for name, side in zip(SIDES, encoded.sides, strict=True):
        try:
            with _side(into, name).open("rb") as file:
                if not _has(file, side) or file.read(1):
                    return False
        except OSError:
            return False
    return True


def _has(file: BinaryIO, side: Side) -> bool:
    """Whether a file goes on with those tokens."""
    digest, left = hashlib.sha256(), side.bytes
    while left and (some := file.read(min(left, _BYTES))):
        digest.update(some)
        left -= len(some)
    return not left and digest.hexdigest() == side.sha256


def _joined(folder: Path, encoded: Sequence[Encoded | None]) -> int:
    """How many parts are together in a folder, which has nothing beyond them afterwards."""
    noted = 0
    with suppress(Refusal, KeyError, TypeError):
        noted = min(len(encoded), int(read_json(folder / JOINED)["parts"]))
    together = 0
    with ExitStack() as files, suppress(FileNotFoundError):
        both = [
            files.enter_context((folder / CORPUS / f"{name}.bin").open("r+b")) for name in SIDES
        ]
        ends = [0, 0]
        for part in encoded[:noted]:
            if part is None or not all(map(_has, both, part.sides)):
                break
            ends = [file.tell() for file in both]
            together += 1
        for file, end in zip(both, ends, strict=True):
            file.truncate(end)
    return together


def _join(folder: Path, number: int, into: Path) -> None:
    """Put a part after those before it."""
    for name in SIDES:
        part, whole = _side(into, name), folder / CORPUS / f"{name}.bin"
        if not number:
            part.replace(whole)
            continue
        with part.open("rb") as source, whole.open("ab") as target:
            shutil.copyfileobj(source, target, _BYTES)
            _settled(target)
    failpoint("part-appended")
    write_json(folder / JOINED, {"parts": number + 1})
    failpoint("part-joined")
    for name in SIDES:
        _side(into, name).unlink(missing_ok=True)
