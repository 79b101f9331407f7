"""The documents of a source, one after another, never all in memory."""

from __future__ import annotations

import codecs
import glob
import gzip
import hashlib
import io
import json
import lzma
import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

from scaling.data import hub, packages, tokens
from scaling.data.documents import Document, SourceMissing, utf8
from scaling.store.records import Refusal, read_json
from scaling.study import DataSection, SourceSection
from scaling.study_errors import source_missing

CORPORA = Path(__file__).with_name("corpora")
HUB = "hf:"  # what the name of a Hugging Face data set begins with
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
CHUNK = 1 << 20  # bytes looked at once


@dataclass(frozen=True)
class Source:
    """Where documents come from; `read` starts from the first each time."""

    name: str
    read: Callable[[], Iterator[Document]]
    files: tuple[Path, ...] | None  # all that is read; null where another library sees to that
    tokens: bool = False  # they are tokens already


def sections_of(section: DataSection) -> tuple[SourceSection, ...]:
    """The sources of a study, of which `source` alone is one. Raises Refusal for both or none."""
    if missing := source_missing(vars(section)):
        raise Refusal("\n".join(missing))
    if section.source is None:
        return section.sources
    return (SourceSection(source=section.source, weight=1.0),)


def open_sources(section: DataSection) -> list[Source]:
    """The sources of a study, found but not read.

    Raises SourceMissing for one that is not on this machine, Refusal for settings that do not
    fit the kind of file.
    """
    found = [_open(each, section) for each in sections_of(section)]
    if len({source.tokens for source in found}) > 1:
        raise Refusal(
            "[data] sources mixes text and .bin files of tokens. Tokenise the text into a .bin "
            "too, or give text alone."
        )
    if found[0].tokens:
        tokens.check(section)
    elif section.token_dtype is not None:
        raise Refusal(
            f"[data] token_dtype = {section.token_dtype!r} is for .bin files of tokens; "
            f"{found[0].name!r} is text. Remove it."
        )
    return found


def what_is_missing(section: DataSection) -> str:
    """What to do about a source that is not on this machine; empty if all are here."""
    try:
        open_sources(section)
    except SourceMissing as error:
        return str(error)
    return ""


def most_tokens(section: DataSection) -> list[int | None]:
    """Of each source, the most tokens it can have by the sizes of its files: one a byte.

    Null where these do not tell: for compressed files, a tokeniser of the user's, which may make
    several tokens of a byte, and what is not here or another library reads.
    """
    known = section.tokenizer == "bytes" or section.tokenizer.startswith("bpe:")
    return [_most_tokens(each, section) if known else None for each in sections_of(section)]


def _most_tokens(each: SourceSection, section: DataSection) -> int | None:
    if each.source == "sotu":
        manifest = read_json(CORPORA / "sotu.json")
        size, documents = manifest["bytes"], manifest["documents"]
    elif each.source.startswith(HUB):
        return None
    elif each.source.startswith(packages.PACKAGES):
        try:
            sizes = packages.find(each.source).sizes()
        except Refusal:  # said where it is read
            return None
        size, documents = sum(sizes), len(sizes)
    else:
        try:
            files = _open(each, section).files or ()
            size, documents = sum(file.stat().st_size for file in files), len(files)
        except (Refusal, OSError):  # said where it is read
            return None
        if any(file.suffix in (".gz", ".zst") for file in files):
            return None
    width = {"uint16": 2, "uint32": 4}.get(section.token_dtype or "", 1)
    # A token ends each file, and each piece of a large document; all but the last piece are at
    # least about an eighth of the smallest source's held-out share (`split.cut`).
    ends = documents + len(sections_of(section)) * math.ceil(16 / section.holdout_fraction)
    return size // width + ends if size else None


def _open(each: SourceSection, section: DataSection) -> Source:
    name, field = each.source, each.text_field or section.text_field
    if name == "sotu":
        return Source(name, _sotu, (CORPORA / "sotu.json", CORPORA / "sotu.txt.xz"))
    if name.startswith(HUB):
        rows = hub.texts(
            name.removeprefix(HUB),
            each.subset or section.subset,
            each.split or section.split,
            field,
        )
        return Source(name, lambda: (part for text in rows() for part in _divided(text)), None)
    if name.startswith(packages.PACKAGES):
        found = packages.find(name)
        return Source(
            name,
            lambda: (part for text in found.documents() for part in _divided(text)),
            found.files,
        )
    # Path.glob takes no absolute patterns.
    files = [Path(file) for file in glob.glob(name, recursive=True)]  # noqa: PTH207
    paths = sorted(path for path in files if path.is_file())
    if not paths:
        raise SourceMissing(
            f"[data] source = {name!r} names no file. Give 'sotu', a file of text, JSON lines or "
            "tokens (.bin), a glob such as 'corpus/**/*.txt', 'packages:LIST' or 'hf:NAME'."
        )
    ready = {path.name.endswith(".bin") for path in paths}
    if len(ready) > 1:
        raise Refusal(
            f"[data] source = {name!r} matches .bin files of tokens and others. Narrow it."
        )
    if ready == {True}:
        return Source(name, partial(tokens.documents, paths, section), tuple(paths), tokens=True)
    return Source(name, partial(_texts, paths, field), tuple(paths))


def _texts(paths: list[Path], field: str) -> Iterator[bytes]:
    for path in paths:
        yield from _json_lines(path, field) if path.name.endswith(JSON_LINES) else _text(path)


def _sotu() -> Iterator[bytes]:
    """The embedded corpus. Raises Refusal if its checksum is wrong."""
    manifest = read_json(CORPORA / "sotu.json")
    packed = (CORPORA / "sotu.txt.xz").read_bytes()
    if hashlib.sha256(packed).hexdigest() != manifest["sha256_xz"]:
        raise Refusal(
            f"[data] source = 'sotu': {CORPORA / 'sotu.txt.xz'} does not match its SHA-256. "
            f"Reinstall, or rebuild it with `{manifest['rebuild']}`."
        )
    yield from lzma.decompress(packed).split(b"\0")


def _divided(raw: bytes) -> Iterator[bytes]:
    """The texts between NUL bytes, those of white space alone left out."""
    start = 0
    while start >= 0:
        end = raw.find(b"\0", start)
        part = raw[start:] if end < 0 else raw[start:end]
        if part and not part.isspace():
            yield part
        start = end + 1 or -1


def _text(path: Path) -> Iterator[bytes]:
    """A text file: one document, unless NUL bytes divide it into several."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise Refusal(f"[data] source: cannot read {path}: {error.strerror}.") from error
    start = 0
    while start < len(raw):  # in chunks, since a str can take four times the bytes
        chunk = raw[start : start + CHUNK]
        try:
            start += codecs.utf_8_decode(chunk, "strict", start + CHUNK >= len(raw))[1]
        except UnicodeDecodeError as error:
            raise Refusal(
                f"[data] source: {path} is not UTF-8 text (byte {start + error.start}). "
                "Convert it first."
            ) from error
    yield from _divided(raw)


def _json_lines(path: Path, field: str) -> Iterator[bytes]:
    """The texts of a file of one JSON object a line, compressed or not; empty lines are passed."""
    number = 0
    try:
        with _decompressed(path) as lines:
            for number, line in enumerate(lines, start=1):
                if not line.isspace():
                    yield from _divided(_text_of(line, field, f"{path}, line {number}"))
    # A truncated file; zlib's error and gzip's EOFError are no OSErrors.
    except (OSError, EOFError, zlib.error) as error:
        raise Refusal(
            f"[data] source: cannot read {path} beyond line {number}: {error}. Copy it again."
        ) from error


def _decompressed(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        import pyarrow as pa

        stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return io.BufferedReader(stream, CHUNK)
    return path.open("rb")


def _text_of(line: bytes, field: str, where: str) -> bytes:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Refusal(
            f"[data] source: {where} is not valid JSON ({error}). Correct or remove it."
        ) from error
    if not isinstance(row, dict) or field not in row:
        has = f"has {', '.join(map(repr, row))}" if isinstance(row, dict) else "is no object"
        raise Refusal(
            f"[data] text_field = {field!r}: {where} {has or 'is empty'}. "
            "Name the field that holds the text."
        )
    return utf8(row[field], field, where)
