"""The documents of a source, one after another, never all in memory."""

from __future__ import annotations

import hashlib
import lzma
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from scaling.data import hub, packages, tokens
from scaling.data.buckets import Objects, fetched
from scaling.data.buckets import listed as listed_there
from scaling.data.documents import Document, SourceMissing
from scaling.data.finding import Identity, Listing, each_once, identity, listed
from scaling.data.progress import Watch
from scaling.data.shards import (
    JSON_LINES,
    PACKED,
    PARQUET,
    TOKENS,
    Part,
    divided,
    part_of,
    read,
    refuse_others,
    spans_of,
    together,
)
from scaling.data.tokens import TokenFile, token_files
from scaling.store.objects import is_address
from scaling.store.records import Refusal, read_json
from scaling.study import DataSection, SourceSection
from scaling.study_errors import source_missing

CORPORA = Path(__file__).with_name("corpora")
HUB = "hf:"  # what the name of a Hugging Face data set begins with


@dataclass(frozen=True)
class Source:
    """Where documents come from; `read` starts from the first each time."""

    name: str
    read: Callable[[], Iterator[Document]]
    files: tuple[Path, ...] | None  # all that is read; null where another library sees to that
    tokens: tuple[TokenFile, ...] = ()  # its files, where they are tokens already
    field: str | None = None  # what shards have their text in; null for what is no shards
    again: int = 0  # names that were passed over, since they lead to files that are read
    objects: Objects | None = None  # in object storage; null for what is here
    here: Callable[[Path, Watch], Source] | None = None  # once `objects` are fetched to a cache

    @property
    def is_tokens(self) -> bool:
        """Whether its files are tokens already, here or in object storage."""
        if self.objects is None:
            return bool(self.tokens)
        return all(each.key.endswith(TOKENS) for each in self.objects.stats)

    @property
    def parts(self) -> Iterator[Part]:
        """The source in parts, whose documents one after another are its own.

        Raises Refusal as reading does. Nothing is read but the footers of Parquet files.
        """
        if self.field is None or self.files is None:
            yield Part(self.read)
            return
        field = self.field
        for spans in together(span for file in self.files for span in spans_of(file, field)):
            yield part_of(spans, field)


def sections_of(section: DataSection) -> tuple[SourceSection, ...]:
    """The sources of a study, of which `source` alone is one. Raises Refusal for both or none."""
    if missing := source_missing(vars(section)):
        raise Refusal(missing)
    if section.source is None:
        return section.sources
    return (SourceSection(source=section.source, weight=1.0),)


def open_sources(section: DataSection) -> list[Source]:
    """The sources of a study, found but not read.

    Raises SourceMissing for one that is not on this machine, Refusal for settings that do not
    fit the kind of file.
    """
    found = [_open(each, section) for each in sections_of(section)]
    _refuse_in_two(found)
    if len({source.is_tokens for source in found}) > 1:
        raise Refusal(
            "[data] sources mixes text and .bin files of tokens. Tokenise the text into a .bin "
            "too, or give text alone."
        )
    if found[0].is_tokens:
        tokens.check(section, ())
    elif section.token_dtype is not None:
        raise Refusal(
            f"[data] token_dtype = {section.token_dtype!r} is for .bin files of tokens; "
            f"{found[0].name!r} is text. Remove it."
        )
    return found


def _refuse_in_two(sources: Sequence[Source]) -> None:
    """Raises Refusal for a file that is of two sources: its text would count as unique twice.

    Another field of it is another text. Packages are of as many lists as name them.
    """
    first: dict[tuple[Identity, str], Source] = {}
    files = [each for each in sources if not each.name.startswith(packages.PACKAGES)]
    for source in files if len(files) > 1 else ():
        for file in source.files or ():
            field = (source.field or "") if file.name.endswith((*JSON_LINES, *PARQUET)) else ""
            other = first.setdefault((identity(file), field), source)
            if other.name != source.name:
                raise Refusal(
                    f"[data] sources: {file} is of both {other.name!r} and {source.name!r}, and "
                    "its text would count as unique twice. Narrow one of them."
                )


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
            opened = _open(each, section)
            files = opened.files or ()
            size, documents = sum(file.stat().st_size for file in files), len(files)
            if opened.tokens:
                size, documents = tokens.most_tokens(opened.tokens), 0
        except (Refusal, OSError):  # said where it is read
            return None
        if any(file.name.endswith((*PACKED, *PARQUET)) for file in files):
            return None
    # A token ends each file, and each piece of a large document; all but the last piece are at
    # least about an eighth of the smallest source's held-out share (`split.cut`).
    ends = documents + len(sections_of(section)) * math.ceil(16 / section.holdout_fraction)
    return size + ends if size else None


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
        return Source(name, lambda: (part for text in rows() for part in divided(text)), None)
    if name.startswith(packages.PACKAGES):
        found = packages.find(name)
        return Source(
            name,
            lambda: (part for text in found.documents() for part in divided(text)),
            found.files,
        )
    if is_address(name):
        objects = listed_there(name)

        def here(cache: Path, watch: Watch) -> Source:
            return _of_files(name, fetched(name, objects, cache, watch), field, section)

        return Source(name, _not_here, (), objects=objects, here=here)
    listing = _files(name)
    return replace(_of_files(name, listing.paths, field, section), again=listing.again)


def _files(name: str) -> Listing:
    """The files of a folder or a glob, in the order of their names, each once.

    Raises SourceMissing where there is none, Refusal for what is no file, or none of a folder's.
    """
    found = listed(name)
    if (folder := Path(name)).is_dir():
        refuse_others(name, [str(path.relative_to(folder)) for path in found.paths])
    if not found.paths:
        raise SourceMissing(
            f"[data] source = {name!r} names no file. Give 'sotu', a file of text, JSON lines or "
            "tokens (.bin), a glob such as 'corpus/**/*.txt', 'packages:LIST' or 'hf:NAME'."
        )
    return each_once(name, found)


def _of_files(name: str, paths: list[Path], field: str, section: DataSection) -> Source:
    ready = {path.name.endswith(TOKENS) for path in paths}
    if len(ready) > 1:
        raise Refusal(
            f"[data] source = {name!r} matches .bin files of tokens and others. Narrow it."
        )
    if ready == {True}:
        given = token_files(paths, section)
        every = tuple(path for file in given for path in (file.path, file.index) if path)
        return Source(name, partial(tokens.documents, given, section), every, tokens=given)

    def texts() -> Iterator[bytes]:
        return read((span for path in paths for span in spans_of(path, field)), field)

    return Source(name, texts, tuple(paths), field=field)


def _not_here() -> Iterator[Document]:
    raise AssertionError("it is fetched before it is read")


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
