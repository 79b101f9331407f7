"""Files of tokens as others write them, found by their headers: what each holds, and where.

Raw little-endian tokens (nanoGPT), llm.c and modded-nanogpt shards, and Megatron's `.bin` with its
`.idx` beside it.

A stream of raw tokens without one that ends a document is refused. Cut into blocks it could be held
out only in parts of documents whose other parts are trained on.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from scaling.data import megatron
from scaling.data.finding import listed
from scaling.remedies import cannot_read, remedy
from scaling.store.objects import is_address
from scaling.store.records import Refusal
from scaling.study import DataSection

ENDINGS = (".bin", ".idx")  # of the names of token files
CHUNK = 1 << 24  # tokens looked at once


@dataclass(frozen=True)
class TokenFile:
    """A file of tokens, little-endian, one after another."""

    path: Path  # absolute
    dtype: str  # "uint16" or "uint32"
    offset: int  # bytes before the first token
    tokens: int
    index: Path | None = None  # Megatron's, which says where documents end; null: an end token does

    @property
    def kind(self) -> np.dtype[np.generic]:
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def bytes(self) -> int:
        return self.offset + self.tokens * self.kind.itemsize


@dataclass(frozen=True)
class Header:
    """What a file begins with that says what its tokens are."""

    name: str
    magic: int  # its first number of 32 bits
    version: int  # its second; the third is the number of tokens
    dtype: str


# Of write_datafile in llm.c's dev/data/data_common.py, whose 256 numbers of 32 bits modded-nanogpt
# took over.
HEADERS = (
    Header("llm.c and modded-nanogpt (GPT-2 tokens)", 20240520, 1, "uint16"),
    Header("llm.c (Llama 3 tokens)", 20240801, 7, "uint32"),
)
HEADER_BYTES = 1024
NUMPY = b"\x93NUMPY"


def are_named(section: DataSection) -> bool:
    """Whether the sources of a study are token files: it says so, or all that are here are."""
    if section.token_dtype is not None:
        return True
    names = [section.source] if section.source is not None else [s.source for s in section.sources]
    return all(_is_named(str(name)) for name in names)


def _is_named(name: str) -> bool:
    if is_address(name):
        return name.endswith(ENDINGS)
    if (folder := Path(name)).is_dir():
        return any(folder.glob(f"*{ENDINGS[0]}"))
    found = listed(name).paths
    return bool(found) and all(path.name.endswith(ENDINGS) for path in found)


def check(section: DataSection, files: Sequence[TokenFile | None] = (None,)) -> None:
    """Raises Refusal, a line a field, unless the study says what the tokens are.

    Files with a header say themselves how wide theirs are; null stands for one that is not here.
    """
    wanted = {
        "vocab_size": "the number of different tokens, such as 50257",
        "end_token": "the token that ends a document, such as 50256",
    }
    if None in files and section.token_dtype is None:
        wanted = {"token_dtype": '"uint16" or "uint32"', **wanted}
    wrong = [
        f"[data] {name} is missing, which a .bin source needs. Give {allowed}."
        for name, allowed in wanted.items()
        if getattr(section, name) is None
    ]
    end, size = section.end_token, section.vocab_size
    if isinstance(end, str):
        wrong.append(
            f"[data] end_token = {end!r}: a .bin source has numbers, not text. "
            f"Give {wanted['end_token']}."
        )
    elif end is not None and size is not None and end >= size:
        wrong.append(
            f"[data] end_token = {end} is not below vocab_size = {size}. Correct one of them."
        )
    if section.tokenizer != "bytes":
        wrong.append(
            f"[data] tokenizer = {section.tokenizer!r} has no use for a .bin source, which is "
            "tokenised already. Remove it."
        )
    if wrong:
        raise Refusal(wrong)


def token_files(paths: Sequence[Path], section: DataSection) -> tuple[TokenFile, ...]:
    """What lies in `.bin` files, in their order; of Megatron's, `.idx` files may be among `paths`.

    Raises Refusal for a file that is empty, cut short, of another type than the study says or of
    an unknown format, and, as `check`, for a study that does not say what the tokens are.
    """
    bins = [path for path in paths if path.suffix != ".idx"]
    for path in paths:
        if path.suffix == ".idx" and path.with_suffix(".bin") not in bins:
            raise Refusal(
                f"[data] source: {path} has no {path.with_suffix('.bin').name} beside it in the "
                "source. Name both, or the .bin alone."
            )
    headed = [_headed(path) for path in bins]
    check(section, headed)
    files = tuple(
        _raw(path, section) if found is None else found
        for path, found in zip(bins, headed, strict=True)
    )
    for file in files:
        if section.token_dtype not in (None, file.dtype):
            raise Refusal(
                f"[data] token_dtype = {section.token_dtype!r}: the header of {file.path} says "
                f"{file.dtype}. Remove token_dtype."
            )
    return files


def _headed(path: Path) -> TokenFile | None:
    """What a file's header, or the index beside it, says of it; null where there is neither."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            begins = file.read(HEADER_BYTES)
    except OSError as error:
        raise Refusal(f"[data] source: {cannot_read(path, error)}") from error
    if not size:
        raise Refusal(f"[data] source: {path} is empty. Copy it again, or remove it.")
    if begins.startswith(NUMPY):
        raise Refusal(
            f"[data] source: {path} begins with the header of numpy.save, whose first number "
            f"would be read as token {int.from_bytes(begins[:2], 'little')} at position 0. Write "
            "its array with tofile() instead, and name the new file."
        )
    index = path.with_suffix(".idx")
    if index.exists():
        found = megatron.read_header(index)
        _refuse_size(path, size, found.tokens * np.dtype(found.dtype).itemsize, str(index))
        return TokenFile(path.absolute(), found.dtype, 0, found.tokens, index.absolute())
    for header in HEADERS:
        if begins.startswith(header.magic.to_bytes(4, "little")):
            return _after(header, path, size, begins)
    return None


def _after(header: Header, path: Path, size: int, begins: bytes) -> TokenFile:
    """The tokens after a header of 256 numbers."""
    if len(begins) < HEADER_BYTES:
        _refuse_size(path, size, HEADER_BYTES, "its header")
    _, version, tokens = np.frombuffer(begins, "<i4", 3).tolist()
    if version != header.version:
        raise Refusal(
            f"[data] source: {path} has version {version} of the header of {header.name}, and "
            f"version {header.version} is known. Write its tokens without a header, and give "
            "token_dtype."
        )
    width = np.dtype(header.dtype).itemsize
    if tokens <= 0:
        raise Refusal(
            f"[data] source: the header of {path} says that it has {tokens} tokens. Write it again."
        )
    _refuse_size(path, size, HEADER_BYTES + tokens * width, "its header")
    return TokenFile(path.absolute(), header.dtype, HEADER_BYTES, tokens)


def _refuse_size(path: Path, found: int, expected: int, by: str) -> None:
    if found != expected:
        how = "it is cut short" if found < expected else "it is longer than that"
        raise Refusal(
            f"[data] source: {path} has {found} bytes, and {by} says {expected}: {how}. "
            "Copy it again."
        )


def _raw(path: Path, section: DataSection) -> TokenFile:
    """A file that is nothing but tokens, of the study's type."""
    assert section.token_dtype is not None
    size, width = path.stat().st_size, np.dtype(section.token_dtype).itemsize
    if size % width:
        raise Refusal(
            f"[data] source: {path} has {size} bytes, no whole number of {section.token_dtype} "
            "tokens. Correct token_dtype, or copy the file again."
        )
    return TokenFile(path.absolute(), section.token_dtype, 0, size // width)


def most_tokens(files: Sequence[TokenFile]) -> int:
    """The most tokens that a stream of these can have before documents are cut: an end each."""
    return sum(
        file.tokens + (1 if file.index is None else megatron.read_header(file.index).documents)
        for file in files
    )


def documents(files: Sequence[TokenFile], section: DataSection) -> Iterator[np.ndarray]:
    """The documents of files without their end tokens, none empty; views of the mapped files.

    A file's end also ends a document. Raises Refusal for a token beyond the vocabulary, and a file
    in which no document ends.
    """
    assert section.vocab_size is not None and isinstance(section.end_token, int)
    for file in files:
        stream = mapped(file)
        for start, stop in _bounds(file, stream, section.vocab_size, section.end_token):
            if stop > start:
                yield stream[start:stop]


def _bounds(
    file: TokenFile, stream: np.ndarray, vocab_size: int, end_token: int
) -> Iterator[tuple[int, int]]:
    """Where each document begins and ends, without its end token."""
    if file.index is not None:
        index = megatron.Index(file.index)
        index.check()
        for first in range(0, file.tokens, CHUNK):
            refuse_beyond(file.path, stream[first : first + CHUNK], first, vocab_size)
            bounds = index.starts(first, min(first + CHUNK, file.tokens)).tolist()
            for start, stop in pairwise(bounds):
                yield start, stop - (stop > start and int(stream[stop - 1]) == end_token)
        return
    start, ended = 0, False
    for first in range(0, len(stream), CHUNK):
        chunk = stream[first : first + CHUNK]
        refuse_beyond(file.path, chunk, first, vocab_size)
        for end in (first + np.flatnonzero(chunk == end_token)).tolist():
            ended = True
            yield start, end
            start = end + 1
    if not ended:
        raise no_end(file.path, end_token)
    yield start, len(stream)


def refuse_beyond(path: Path, found: np.ndarray, first: int, vocab_size: int) -> None:
    """Raise Refusal if one of the tokens from position `first` is beyond the vocabulary."""
    if len(found) and found.max() >= vocab_size:
        at = int(np.argmax(found >= vocab_size))
        raise Refusal(
            f"[data] source: {path} has token {found[at]} at position {first + at:,}, but "
            f"vocab_size = {vocab_size}. Correct vocab_size or token_dtype, or remove the file's "
            "header if it has one."
        )


def no_end(path: Path, end_token: int) -> Refusal:
    """What is wrong with a file in which no document ends."""
    return Refusal(
        f"[data] end_token = {end_token} does not occur in {path}, so that no whole document can "
        "be held out. Name the token that ends a document, or tokenise again with one."
    )


def mapped(file: TokenFile) -> np.ndarray:
    """All tokens of a file, memory-mapped. Raises Refusal where they are not there any more."""
    try:
        found = np.memmap(file.path, file.kind, "r", file.offset, (file.tokens,))
    except (OSError, ValueError) as error:
        said = f"cannot read {file.path}: {error}. {remedy(error)}".rstrip()
        raise Refusal(f"[data] source: {said}") from error
    return found.view(np.ndarray)


def read_open(opened: int, file: TokenFile, first: int, last: int) -> np.ndarray:
    """The tokens of an open file from `first` to `last` (excluded), not checked.

    Raises Refusal where they are not there any more.
    """
    width = file.kind.itemsize
    begin, size = file.offset + first * width, (last - first) * width
    content = os.pread(opened, size, begin)
    while 0 < len(content) < size and (
        more := os.pread(opened, size - len(content), begin + len(content))
    ):
        content += more  # Linux gives 2 GiB at most at once
    if len(content) != size:
        raise Refusal(
            f"[data] source: {file.path} became shorter while it was read: {begin + len(content)} "
            f"of {file.bytes} bytes. Run again when it is complete."
        )
    return np.frombuffer(content, file.kind)
