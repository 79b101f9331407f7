"""Text to tokens: bytes, a byte-level BPE trained on the training documents, or a tokenizer.json.

The `tokenizers` library does the work; what it made is kept as a file whose hash is part of the
corpus's fingerprint.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from scaling.data import tokens
from scaling.data.documents import Document
from scaling.data.progress import Step, Watch, counted, unwatched
from scaling.data.split import cut
from scaling.given import read_file
from scaling.quantity import parse_count
from scaling.remedies import remedy
from scaling.store.records import Refusal, fingerprint, read_json, read_sealed, sealed, write_json
from scaling.study import DataSection

BYTE_VOCAB = 256  # the byte tokeniser; NUL, which text does not contain, ends a document
MAX_BYTES = 256 << 20  # of a tokenizer.json; the largest published have 40 MB
MAX_VOCAB = 10**9  # a thousand times the largest in use
# Numbers that a vocabulary may have: so many times its tokens, and some kept for later ones.
MOST_GAPS, RESERVED = 2, 1024
END_OF_TEXT = "<|endoftext|>"
# What published tokenisers call it: GPT-2 and Pythia, Llama 1 and 2, Llama 3, Gemma.
END_TOKENS = (END_OF_TEXT, "</s>", "<|end_of_text|>", "<eos>")
# The library's working memory is some hundred times the text it encodes at once, so a longer
# document is encoded in parts that end at a line's end where possible.
LONGEST_TEXT = 1 << 20
BATCH = 4 << 20  # bytes encoded at once


class Tokenizer(Protocol):
    """Turns documents into tokens, an end token after each."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end(self) -> int:
        """The token that ends a document."""

    @property
    def end_text(self) -> str | None:
        """The text of that token, if it has one."""

    @property
    def identity(self) -> Any:
        """What of it determines the tokens, as plain values."""

    @property
    def file(self) -> bytes | None:
        """Its tokenizer.json, if it has one."""

    def encode(self, documents: Iterable[Document]) -> Iterator[np.ndarray]:
        """The tokens of each document."""


@dataclass(frozen=True)
class Bytes:
    """Every byte is a token."""

    vocab_size: int = BYTE_VOCAB
    end: int = 0
    end_text: None = None
    identity: str = "bytes"
    file: None = None

    def encode(self, documents: Iterable[Document]) -> Iterator[np.ndarray]:
        for document in documents:
            assert isinstance(document, bytes)
            yield np.frombuffer(document + b"\0", np.uint8)


@dataclass(frozen=True)
class Ready:
    """The documents are tokens already."""

    vocab_size: int
    end: int
    end_text: None = None
    file: None = None

    @property
    def identity(self) -> dict[str, int]:
        return {"vocab_size": self.vocab_size, "end_token": self.end}

    def encode(self, documents: Iterable[Document]) -> Iterator[np.ndarray]:
        dtype = np.min_scalar_type(self.vocab_size - 1)
        for document in documents:
            assert isinstance(document, np.ndarray)
            yield np.append(document, self.end).astype(dtype)


class Json:
    """A tokenizer.json, without what it adds, cuts off or fills up around a text."""

    def __init__(self, file: bytes, end_token: str | None, name: str) -> None:
        with _by_library(f"[data] tokenizer = {name!r} is not a tokenizer.json"):
            self._tokenizer = plain_tokenizer(file.decode())
        self.file, self.name = file, name
        self.vocab_size = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        if not 0 < self.vocab_size < MAX_VOCAB:
            raise Refusal(
                f"[data] tokenizer = {name!r} has token ids below {self.vocab_size:,}. Give one "
                f"of some tokens, and of fewer than {MAX_VOCAB:,}."
            )
        if self.vocab_size > MOST_GAPS * (tokens := self._tokenizer.get_vocab_size()) + RESERVED:
            last = self._tokenizer.id_to_token(self.vocab_size - 1)
            raise Refusal(
                f"[data] tokenizer = {name!r} has {tokens:,} tokens, and {last!r} of them is "
                f"number {self.vocab_size - 1:,}: a model would have a row for every number up to "
                "it. Number them from 0 on."
            )
        self.end = self._end(end_token, name)

    @property
    def end_text(self) -> str:
        return str(self._tokenizer.id_to_token(self.end))

    def _end(self, given: str | None, name: str) -> int:
        names = END_TOKENS if given is None else (given,)
        found = (self._tokenizer.token_to_id(each) for each in names)
        end = next((token for token in found if token is not None), None)
        if end is None:
            sought = f"none of {', '.join(names)}" if given is None else f"no token {given!r}"
            raise Refusal(
                f"[data] tokenizer = {name!r} has {sought}. Name the token that ends a document "
                "by end_token."
            )
        return int(end)

    @functools.cached_property
    def unknown(self) -> int | None:
        """The token that stands for any text without one of its own, if it has such a token."""
        model = json.loads(self.file)["model"]
        if model.get("unk_token") is None:
            return model.get("unk_id")
        return self._tokenizer.token_to_id(model["unk_token"])

    def with_places(self, texts: Sequence[str]) -> Iterator[list[tuple[int, tuple[int, int]]]]:
        """The tokens of each text, and which of its characters each stands for."""
        with _by_library(f"[data] tokenizer = {self.name!r} cannot encode the text"):
            every = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        return (list(zip(each.ids, each.offsets, strict=True)) for each in every)

    @property
    def identity(self) -> dict[str, str | int]:
        return {"sha256": hashlib.sha256(self.file).hexdigest(), "end_token": self.end}

    def encode(self, documents: Iterable[Document]) -> Iterator[np.ndarray]:
        dtype = np.min_scalar_type(self.vocab_size - 1)
        for batch in _batches(documents):
            texts = [text for parts in batch for text in parts]
            with _by_library(f"[data] tokenizer = {self.name!r} cannot encode the text"):
                every = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            encoded = iter(every)
            for parts in batch:
                ids = [np.array(next(encoded).ids, dtype) for _ in parts]
                yield np.concatenate([*ids, np.array([self.end], dtype)])


@contextmanager
def _by_library(fault: str) -> Iterator[None]:
    """Turns what the tokenizers library raises, which is nothing narrow, into a Refusal."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # where Rust panics it is not even an Exception
        raise Refusal(
            f"{fault} ({error}). Give one that the tokenizers library can read, with a token for "
            "every text."
        ) from error


def plain_tokenizer(content: str) -> Any:
    """The tokenizer of a tokenizer.json, without what it cuts off or fills up."""
    tokenizer = library().Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # So that a text which spells a special token does not contain it.
    tokenizer.encode_special_tokens = True
    return tokenizer


def make_tokenizer(
    section: DataSection,
    training: Callable[[], Iterator[Document]],
    size: int,
    content: Any,
    cache: Path,
    watch: Watch = unwatched,
) -> Tokenizer:
    """The tokeniser of a study.

    `training` reads the training documents, of `size` bytes in all, on which a BPE is trained
    unless `cache` has the one trained on the same `content`. Raises Refusal for a tokeniser that
    cannot be read or made.
    """
    refuse_vocab_size(section)
    if tokens.are_named(section):
        assert section.vocab_size is not None and isinstance(section.end_token, int)
        return Ready(section.vocab_size, section.end_token)
    name = section.tokenizer
    vocab_size = bpe_size(section)
    if section.end_token is not None and (name == "bytes" or vocab_size is not None):
        raise Refusal(
            f"[data] end_token = {section.end_token!r} has no use with tokenizer = {name!r}, "
            "which has its own. Remove it."
        )
    if name == "bytes":
        return Bytes()
    if vocab_size is None:
        return _given(section)
    key = fingerprint({"bpe": vocab_size, "content": content})
    file = cache / "tokenizers" / f"{key}.json"
    made = _read_bpe(file)
    if made is None:

        def watched() -> Iterator[Document]:
            yield from counted(training(), f"counting words for {name}", size, watch)
            watch(Step(f"learning the {vocab_size:,} tokens of {name}", 0, None))

        made = train_bpe(watched(), vocab_size)
        write_json(file, sealed({"tokenizer": made.decode()}))
    return Json(made, END_OF_TEXT, name)


def _read_bpe(file: Path) -> bytes | None:
    """The tokeniser in a file of the cache; null if it is not as it was written.

    That of an earlier version, which has no seal, is taken as it is: another one would make
    another corpus, and so other runs.
    """
    with suppress(Refusal, KeyError, TypeError):
        if "model" in read_json(file):
            return file.read_bytes()
        return str(read_sealed(file)["tokenizer"]).encode()
    return None


TOKENIZER = "tokenizer.json"  # in the folder of a corpus


def tokenizer_plain(tokenizer: Tokenizer, folder: Path) -> dict[str, Any]:
    """What another process must know of it, as values of JSON; its file lies in `folder`."""
    assert not isinstance(tokenizer, Ready)  # which is read in place
    file = None if tokenizer.file is None else str(folder / TOKENIZER)
    return {"file": file, "end_token": tokenizer.end_text}


def tokenizer_from(plain: Mapping[str, Any]) -> Tokenizer:
    """The tokeniser that another process wrote as plain values."""
    return Bytes() if plain["file"] is None else _read_json(plain["file"], plain["end_token"])


@functools.lru_cache(1)
def _read_json(file: str, end_token: str) -> Json:
    return Json(Path(file).read_bytes(), end_token, file)


def vocabulary(section: DataSection) -> int:
    """The size of the vocabulary, from the study alone. Raises Refusal where it does not say."""
    refuse_vocab_size(section)
    if tokens.are_named(section):
        tokens.check(section, ())
    if section.vocab_size is not None:
        return section.vocab_size
    if section.tokenizer == "bytes":
        return BYTE_VOCAB
    return bpe_size(section) or _given(section).vocab_size


def refuse_vocab_size(section: DataSection) -> None:
    """Raises Refusal for a vocab_size that the tokeniser contradicts."""
    if section.vocab_size is None or tokens.are_named(section):
        return
    own = BYTE_VOCAB if section.tokenizer == "bytes" else bpe_size(section)
    if own is None and Path(section.tokenizer).exists():
        own = _given(section).vocab_size
    if own not in (None, section.vocab_size):
        raise Refusal(
            f"[data] vocab_size = {section.vocab_size}, but tokenizer = {section.tokenizer!r} has "
            f"{own}. Remove vocab_size, or give token_dtype if the source is tokens in a .bin."
        )


def bpe_size(section: DataSection) -> int | None:
    """V of "bpe:V"; null for another tokeniser. Raises Refusal for a V that cannot be."""
    if not section.tokenizer.startswith("bpe:"):
        return None
    with suppress(ValueError):
        size = parse_count(section.tokenizer.removeprefix("bpe:"))
        if isinstance(size, int) and BYTE_VOCAB < size < MAX_VOCAB:
            return size
    raise Refusal(
        f"[data] tokenizer = {section.tokenizer!r}: give the size of the vocabulary, above "
        f"{BYTE_VOCAB}, such as 'bpe:4096' or 'bpe:8k'."
    )


def _given(section: DataSection) -> Json:
    name, end = section.tokenizer, section.end_token
    if isinstance(end, int):
        raise Refusal(
            f"[data] end_token = {end}: give the text of the token, such as '{END_OF_TEXT}'."
        )
    try:
        file = read_file(Path(name), MAX_BYTES)
    except (OSError, ValueError) as error:  # ValueError: NUL in the name
        reason = getattr(error, "strerror", None) or error
        what = remedy(error, "Give 'bytes', 'bpe:4096' or the path of a tokenizer.json.")
        raise Refusal(f"[data] tokenizer = {name!r}: cannot read it ({reason}). {what}") from error
    return Json(file, end, name)


def train_bpe(documents: Iterable[Document], vocab_size: int) -> bytes:
    """The tokenizer.json of a byte-level BPE: GPT-2's pre-tokenisation, all bytes, one end token.

    Depends on the documents alone, not on their order or the number of threads. Raises Refusal
    when they do not yield so many tokens.
    """
    bpe = library().Tokenizer(library().models.BPE())
    bpe.pre_tokenizer = library().pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = library().decoders.ByteLevel()
    trainer = library().trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=library().pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = ([text for parts in batch for text in parts] for batch in _batches(documents))
    bpe.train_from_iterator(texts, trainer)
    if (found := bpe.get_vocab_size()) < vocab_size:
        raise Refusal(
            f"[data] tokenizer = 'bpe:{vocab_size}': the training text yields only {found} tokens. "
            f"Give 'bpe:{found}' or less, or more text."
        )
    return bpe.to_str().encode()


def library() -> Any:
    """The tokenizers library, imported where it is used: it takes a tenth of a second."""
    # Unset, the library prints a warning in every process started after it used its threads.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import tokenizers

    return tokenizers


def _batches(documents: Iterable[Document]) -> Iterator[list[list[str]]]:
    """The texts of documents, each in its parts, some megabytes at a time."""
    batch: list[list[str]] = []
    size = 0
    for document in documents:
        assert isinstance(document, bytes)
        parts = cut(document, LONGEST_TEXT, LONGEST_TEXT)
        batch.append([part.decode() for part in parts if isinstance(part, bytes)])
        size += len(document)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
