"""Files of documents, and the spans of them that one process can read by itself.

A span is a range of lines, some row groups of a Parquet file, or a whole file. The documents of all
spans, one after another, are those of the files, whoever reads which.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

from scaling.data.documents import Document, utf8
from scaling.data.tokens import ENDINGS as TOKENS
from scaling.remedies import cannot_read, is_damage
from scaling.store.records import Refusal

# `.json.gz` as C4 and Dolma name their JSON lines.
JSON_LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
PARQUET = (".parquet",)
SHARDS = (".txt", *JSON_LINES, *PARQUET, *TOKENS)  # what a folder may hold
PACKED = (".gz", ".zst")
CHUNK = 1 << 20  # bytes looked at once
PART = 64 << 20  # bytes that one process reads at once, about; seconds of work
# Bytes, of any JSON lines: ten Bibles are no document, and a few bytes of .gz may inflate to it.
# One of as many is read in 2.5 s and .7 GB at worst, and refused in .6 s and .2 GB (measured).
LONGEST_LINE = 64 << 20
ROWS = 1024  # of a Parquet file, decoded at once
# Text is compressed ten times; a file that holds so much more, and this much, is none.
MOST_TIMES = 200
UNDOUBTED = 256 << 20  # bytes


@dataclass(frozen=True)
class Span:
    """A part of a file: bytes in which its lines begin, or its row groups."""

    file: str
    first: int
    last: int  # the first that is no longer in it
    size: int  # bytes, as they are stored


@dataclass(frozen=True)
class Part:
    """Documents of a source that one process reads by itself, from the first each time."""

    read: Callable[[], Iterator[Document]]
    spans: tuple[Span, ...] = ()  # where they lie; empty where only this process can read them
    field: str = ""  # of JSON lines and Parquet

    @property
    def size(self) -> int:
        """Bytes of its files, as they are stored; 0 where that is not known."""
        return sum(span.size for span in self.spans)

    def plain(self) -> dict[str, Any]:
        """What another process must know to read it, as values of JSON."""
        return {"spans": [asdict(span) for span in self.spans], "field": self.field}


def part_of(spans: Iterable[Span], field: str) -> Part:
    """Spans as one part."""
    spans = tuple(spans)
    return Part(partial(read, spans, field), spans, field)


def part_from(plain: Mapping[str, Any]) -> Part:
    """The part that another process wrote as plain values."""
    return part_of((Span(**span) for span in plain["spans"]), plain["field"])


def refuse_others(source: str, names: Iterable[str]) -> None:
    """Raises Refusal unless all files of a folder are shards by their names."""
    others = [name for name in names if not name.endswith(SHARDS)]
    if others:
        more = f" and {len(others) - 1:,} more" if len(others) > 1 else ""
        raise Refusal(
            f"[data] source = {source!r} has {others[0]!r}{more}, which is none of "
            f"{', '.join(SHARDS)}. Move it away, or give a glob such as "
            f"'{source.rstrip('/')}/**/*.parquet'."
        )


def spans_of(file: Path, field: str) -> Iterator[Span]:
    """The spans of a file, of about PART bytes where it can be entered in its middle.

    Raises Refusal for a file that cannot be read, or a Parquet file without that column.
    """
    try:
        size = file.stat().st_size
    except OSError as error:
        raise Refusal(f"[data] source: {cannot_read(file, error)}") from error
    if file.name.endswith(PARQUET):
        yield from _row_groups(file, field)
    elif file.name.endswith(JSON_LINES) and not file.name.endswith(PACKED):
        for first in range(0, size, PART):
            last = min(size, first + PART)
            yield Span(str(file), first, last, last - first)
    else:
        yield Span(str(file), 0, size, size)


def together(spans: Iterable[Span]) -> Iterator[tuple[Span, ...]]:
    """The spans in groups of about PART bytes, in their order."""
    group: list[Span] = []
    size = 0
    for span in spans:
        if group and size + span.size > PART:
            yield tuple(group)
            group, size = [], 0
        group.append(span)
        size += span.size
    if group:
        yield tuple(group)


def read(spans: Iterable[Span], field: str) -> Iterator[bytes]:
    """The texts of spans. Raises Refusal for what is no text, damaged, or blown up."""
    for span in spans:
        file, size = Path(span.file), 0
        most = _most_text(file)
        for text in _texts(file, field, span):
            if (size := size + len(text)) > most:
                raise _blown_up(file, size)
            yield text


def _texts(file: Path, field: str, span: Span) -> Iterator[bytes]:
    if file.name.endswith(PARQUET):
        return _parquet(file, field, span)
    if file.name.endswith(JSON_LINES):
        return _json_lines(file, field, span)
    return _text(file)


def _most_text(file: Path) -> int:
    """The most bytes of text that a file of its size can have been meant to hold."""
    try:
        return max(UNDOUBTED, MOST_TIMES * file.stat().st_size)
    except OSError as error:
        raise Refusal(f"[data] source: {cannot_read(file, error)}") from error


def _blown_up(file: Path, size: int) -> Refusal:
    return Refusal(
        f"[data] source: {file} has {file.stat().st_size:,} bytes and holds {size:,} bytes of "
        f"text or more, over {MOST_TIMES} times as many. It repeats itself: remove it, or divide "
        "it and store it uncompressed."
    )


def divided(raw: bytes) -> Iterator[bytes]:
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
        raise Refusal(f"[data] source: {cannot_read(path, error)}") from error
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
    yield from divided(raw)


# --- JSON lines ---


def _json_lines(path: Path, field: str, span: Span) -> Iterator[bytes]:
    """The texts of one JSON object a line, compressed or not; empty lines are passed."""
    number = 0  # of the line, in the span
    try:
        with _decompressed(path) as lines:
            packed, at = path.name.endswith(PACKED), span.first
            if at:
                lines.seek(at - 1)
                at += len(lines.readline()) - 1  # of the line that began before
            while packed or at < span.last:
                line = lines.readline(LONGEST_LINE)
                if not line:
                    break
                at, number = at + len(line), number + 1
                if len(line) == LONGEST_LINE:
                    raise Refusal(
                        f"[data] source: {path} has a line of {LONGEST_LINE:,} bytes "
                        "or more. Divide it, one document a line."
                    )
                if not line.isspace():
                    yield from divided(_text_of(line, field, path, span, number))
    # A truncated file; zlib's error and gzip's EOFError are no OSErrors.
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise Refusal(f"[data] source: {cannot_read(path, error)}") from error
        raise Refusal(
            f"[data] source: cannot read {path} beyond line {_lines_before(span) + number}: "
            f"{error}. Copy it again."
        ) from error


def _decompressed(path: Path) -> IO[bytes] | gzip.GzipFile:
    if path.suffix == ".gz":
        return gzip.open(path)
    if path.suffix == ".zst":
        import pyarrow as pa

        stream = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
        return io.BufferedReader(stream, CHUNK)
    return path.open("rb")


def _text_of(line: bytes, field: str, path: Path, span: Span, number: int) -> bytes:
    """The text of a line. Raises Refusal saying which line, counted only then."""
    try:
        return _parsed(line, field, "")
    except Refusal:
        return _parsed(line, field, f"{path}, line {_lines_before(span) + number}")


def _lines_before(span: Span) -> int:
    """Lines of a file that begin before a span."""
    before, left, ended = 0, span.first, True
    with Path(span.file).open("rb") as file:
        while left and (chunk := file.read(min(CHUNK, left))):
            before, left = before + chunk.count(b"\n"), left - len(chunk)
            ended = chunk.endswith(b"\n")
    return before if ended else before + 1


def _parsed(line: bytes, field: str, where: str) -> bytes:
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


# --- Parquet ---


def _row_groups(path: Path, field: str) -> Iterator[Span]:
    """The spans of a Parquet file, of one row group or several small ones."""
    with _parquet_file(path) as file:
        _refuse_column(path, file.schema_arrow, field)
        meta = file.metadata
        # Columns of columns are counted too.
        column = [meta.schema.column(i).path for i in range(meta.num_columns)].index(field)
        first = size = 0
        most = _most_text(path)
        for group in range(meta.num_row_groups):
            stored = max(0, meta.row_group(group).column(column).total_uncompressed_size)
            if stored > most:
                raise _blown_up(path, stored)
            size += stored
            if size >= PART or group + 1 == meta.num_row_groups:
                yield Span(str(path), first, group + 1, size)
                first, size = group + 1, 0


def _refuse_column(path: Path, schema: Any, field: str) -> None:
    """Raises Refusal unless one column has that name, and strings in it."""
    import pyarrow as pa

    if schema.names.count(field) != 1:
        wrong = f"has {', '.join(schema.names) or 'no columns'}"
    else:
        kind = schema.field(field).type
        of = kind.value_type if pa.types.is_dictionary(kind) else kind
        if pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of):
            return
        wrong = f"has {kind} there, not strings"
    raise Refusal(
        f"[data] text_field = {field!r}: {path} {wrong}. Name the column that holds the text."
    )


def _parquet(path: Path, field: str, span: Span) -> Iterator[bytes]:
    """The texts of a column of strings. Raises Refusal for a null, which is no text."""
    import pyarrow as pa

    # As a dictionary where it is one: each text once, however often it is there.
    with _parquet_file(path, [field]) as file:
        for group in range(span.first, span.last):
            row = 0
            with _damage(path, f"row group {group}"):
                batches = file.iter_batches(ROWS, row_groups=[group], columns=[field])
            while True:
                with _damage(path, f"row group {group}, row {row}"):
                    if (batch := next(batches, None)) is None:
                        break
                    texts = batch.column(0)
                    known = texts.dictionary.cast(pa.large_string())
                    known.validate(full=True)  # of UTF-8, which no reader has to check
                    texts.validate(full=True)  # of which text each row is
                if texts.null_count:
                    null = row + texts.is_null().to_pylist().index(True)
                    raise Refusal(
                        f"[data] text_field = {field!r}: {path}, row {null} of row group {group} "
                        "is null. Remove it, or give it an empty text."
                    )
                row += len(texts)
                known = known.cast(pa.large_binary())
                for at in texts.indices.to_pylist():
                    yield from divided(known[at].as_py())


def _parquet_file(path: Path, dictionaries: Sequence[str] = ()) -> Any:
    import pyarrow.parquet as pq

    with _damage(path, "its footer"):
        # A column's pages are read as they are needed, not all of a row group at once.
        return pq.ParquetFile(path, buffer_size=CHUNK, read_dictionary=[*dictionaries])


@contextmanager
def _damage(path: Path, at: str) -> Iterator[None]:
    """Turns what pyarrow raises for a damaged file into a Refusal that says where."""
    import pyarrow as pa

    try:
        yield
    # Of a damaged file pyarrow also raises errors of Python's own.
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, OSError) and not is_damage(error):
            raise Refusal(f"[data] source: {cannot_read(path, error)}") from error
        said = (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")
        raise Refusal(
            f"[data] source: cannot read {path}, {at}: {said}. It is no Parquet file, or was cut "
            "short: copy it again."
        ) from error
