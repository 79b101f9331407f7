"""The held-out loss: fixed windows of held-out documents, and what a model loses on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from scaling.data.corpus import Corpus
from scaling.data.token_bytes import token_bytes
from scaling.store.records import Refusal

MOST_READ = 1 << 28  # tokens of a corpus that are read to say more about what is refused


@dataclass(frozen=True)
class HoldoutWindows:
    """The fixed windows every model of a study is judged on."""

    tokens: np.ndarray  # int32, shape (windows, sequence_length + 1)
    # int64, shape (windows, sequence_length): the document of each token but a window's first.
    document: np.ndarray
    bytes_per_token: float | None  # of the text of those; null where only tokens are known


@dataclass(frozen=True)
class Judged:
    """What the held-out loss of the runs of one sequence length, or that on a set, is over."""

    set: str | None  # the name of a validation set; null for the study's own text
    sequence_length: int
    documents: int  # of which at least one window is judged
    held_out: int  # documents
    short: int  # held-out documents shorter than a window, of which nothing is judged
    tokens: int  # predicted, and so averaged over
    held_out_tokens: int
    bytes: float | None  # of the text of those tokens, about; null where only tokens are known


def judged(corpus: Corpus, sequence_length: int, tokens: int) -> Judged:
    """What `holdout_windows` takes of a corpus. Raises Refusal as it does."""
    windows = holdout_windows(corpus, sequence_length, tokens)
    short = int((_lengths(corpus) <= sequence_length).sum())
    return _judged(None, corpus, sequence_length, windows, short)


def judged_set(name: str, text: Corpus, sequence_length: int, tokens: int) -> Judged:
    """What `packed_windows` takes of a validation set. Raises Refusal as it does."""
    windows = packed_windows(text, sequence_length, tokens)
    return _judged(name, text, sequence_length, windows, 0)


def _lengths(corpus: Corpus) -> np.ndarray:
    return np.concatenate([part.holdout.lengths for part in corpus.parts])


def _judged(
    name: str | None, corpus: Corpus, sequence_length: int, windows: HoldoutWindows, short: int
) -> Judged:
    lengths = _lengths(corpus)
    n, per_token = windows.document.size, windows.bytes_per_token
    return Judged(
        set=name,
        sequence_length=sequence_length,
        documents=len(np.unique(windows.document)),
        held_out=len(lengths),
        short=short,
        tokens=n,
        held_out_tokens=int(lengths.sum()),
        bytes=None if per_token is None else n * per_token,
    )


def holdout_windows(corpus: Corpus, sequence_length: int, tokens: int) -> HoldoutWindows:
    """About `tokens` held-out tokens, the same for every run.

    Windows start at each document's start and do not overlap; when there are more than asked
    for, every document keeps its share, evenly spaced, while there are tokens for all documents.
    Of several sources, each has as many windows as its weight, so the source that has the fewest
    for its weight may limit all. Raises Refusal if no document is long enough.
    """
    if not corpus.info.mixture:
        places = _places(corpus, sequence_length, tokens)
        # Many short documents, of one window each, can still be more than was asked for.
        most = max(1, tokens // sequence_length)
        if len(places) > 2 * most:
            places = _thinned(places, most)
        return _windows(corpus, sequence_length, places)
    every = [_places(part, sequence_length, tokens) for part in corpus.parts]
    per_block = corpus.info.per_block
    blocks = min(len(places) / each for places, each in zip(every, per_block, strict=True))
    blocks = min(blocks, tokens / sequence_length / sum(per_block))
    found, before = [], 0
    for part, places, each in zip(corpus.parts, every, per_block, strict=True):
        chosen = _thinned(places, max(1, int(blocks * each)))
        windows = _windows(part, sequence_length, chosen)
        found.append(replace(windows, document=windows.document + before))
        before += len(part.holdout)
    return HoldoutWindows(
        np.concatenate([windows.tokens for windows in found]),
        np.concatenate([windows.document for windows in found]),
        corpus.info.bytes_per_token,
    )


def _places(corpus: Corpus, sequence_length: int, tokens: int) -> np.ndarray:
    """(document, first token) of windows, about as many as `tokens` or one a document."""
    share = min(1.0, tokens / corpus.info.holdout_tokens)
    windows = (corpus.holdout.lengths - 1) // sequence_length  # that each document has
    if not windows.any():
        raise Refusal(_too_short(corpus, sequence_length))
    kept = np.maximum(1, np.rint(windows * share).astype(np.int64))
    # Of most documents the first alone, and then there may be millions.
    single = np.flatnonzero((windows > 0) & (kept == 1))
    places = [np.stack([single, np.zeros_like(single)], axis=1)]
    for number in np.flatnonzero((windows > 0) & (kept > 1)).tolist():
        chosen = np.unique(np.linspace(0, windows[number] - 1, kept[number]).astype(int))
        document = np.full(len(chosen), number)
        places.append(np.stack([document, chosen * sequence_length], axis=1))
    found = np.concatenate(places)
    return found[np.argsort(found[:, 0], kind="stable")]


def _too_short(corpus: Corpus, sequence_length: int) -> str:
    longest = int(corpus.holdout.lengths.max())
    fits = 1 << max(1, (longest - 1).bit_length() - 1)  # a power of two, with the token after it
    said = (
        f"[data] sequence_length = {sequence_length}: every held-out document of "
        f"{corpus.info.source!r} is shorter, the longest of {longest:,} tokens. "
    )
    said += f"Give sequence_length = {fits}" if longest > 2 else "Give longer texts"
    if len(corpus.train) <= MOST_READ:
        longer = _longer(corpus, sequence_length)
        if longer:
            said += f", or hold out more: {longer:,} of the documents to train on are long enough"
    return f"{said}."


def _longer(corpus: Corpus, sequence_length: int) -> int:
    """How many documents to train on are longer than a sequence."""
    ends = np.flatnonzero(corpus.train[:] == corpus.info.end_token)
    return int((np.diff(ends, prepend=-1) > sequence_length).sum())


def _thinned(places: np.ndarray, n: int) -> np.ndarray:
    return places[np.linspace(0, len(places) - 1, n).astype(int)]


def _windows(corpus: Corpus, sequence_length: int, places: np.ndarray) -> HoldoutWindows:
    number, first = places.T
    tokens = corpus.holdout.rows(number, first, sequence_length + 1)
    document = np.repeat(number[:, None], sequence_length, axis=1)
    return HoldoutWindows(tokens, document, corpus.info.bytes_per_token)


def packed_windows(corpus: Corpus, sequence_length: int, tokens: int) -> HoldoutWindows:
    """At most `tokens` held-out tokens (one window, if these are fewer), the same for every run.

    The documents of a source stand one after another, an end token after each, as those that are
    trained on do. Windows lie evenly over that stream from its first token to its last, and do not
    overlap. Of several sources, each has as many windows as its weight, so the source that has the
    fewest for its weight may limit all. Raises Refusal for a source that is shorter than a window.
    """
    streams = [part.holdout.stream for part in corpus.parts]
    for part, stream in zip(corpus.parts, streams, strict=True):
        if len(stream) <= sequence_length:
            raise Refusal(_too_little(part, sequence_length))
    per_block = corpus.info.per_block
    most = Fraction(max(1, tokens // sequence_length), sum(per_block))
    blocks = min(
        most,
        *(
            Fraction((len(stream) - 1) // sequence_length, each)
            for stream, each in zip(streams, per_block, strict=True)
        ),
    )
    found, size, before = [], 0.0, 0
    for part, each in zip(corpus.parts, per_block, strict=True):
        windows = _packed(part, sequence_length, max(1, math.floor(blocks * each)))
        found.append(replace(windows, document=windows.document + before))
        size += windows.document.size * (windows.bytes_per_token or math.nan)
        before += len(part.holdout)
    document = np.concatenate([windows.document for windows in found])
    return HoldoutWindows(
        np.concatenate([windows.tokens for windows in found]),
        document,
        None if math.isnan(size) else size / document.size,
    )


def _packed(part: Corpus, sequence_length: int, n: int) -> HoldoutWindows:
    """So many windows of a single source."""
    documents = part.holdout
    # The last begins where it ends with the stream; from one to the next is a window or more.
    last = len(documents.stream) - 1 - sequence_length
    first = np.arange(n) * last // max(1, n - 1)
    tokens = documents.stream.rows(first, sequence_length + 1)
    place = first[:, None] + np.arange(1, sequence_length + 1)
    document = np.searchsorted(documents.first, place, side="right") - 1
    each = token_bytes(part)
    return HoldoutWindows(
        tokens, document, None if each is None else float(each[tokens[:, 1:]].mean())
    )


def _too_little(part: Corpus, sequence_length: int) -> str:
    held = len(part.holdout.stream)
    fits = 1 << max(1, (held - 1).bit_length() - 1)  # a power of two, with the token after it
    return (
        f"[data] sequence_length = {sequence_length}: the held-out text of {part.info.source!r} is "
        f"{held:,} tokens in all, less than one window. "
        + (f"Give sequence_length = {fits} or more text" if held > 2 else "Give more text")
        + (", or a larger holdout_fraction." if part.info.train_tokens else ".")
    )


@dataclass(frozen=True)
class HoldoutLoss:
    """A mean loss over held-out documents."""

    loss: float  # nats/token
    stderr: float | None  # over documents; null with fewer than 2
    bits_per_byte: float | None  # null where bytes are not known


def summarise_holdout(losses: np.ndarray, windows: HoldoutWindows) -> HoldoutLoss:
    """Mean and standard error of per-token `losses`, shape (windows, sequence_length), nats."""
    mean, stderr = mean_over_documents(losses, windows.document)
    per_token = windows.bytes_per_token
    return HoldoutLoss(mean, stderr, None if per_token is None else mean / math.log(2) / per_token)


def mean_over_documents(values: np.ndarray, document: np.ndarray) -> tuple[float, float | None]:
    """The mean of values and its standard error, which is null with fewer than 2 documents.

    Tokens of a document are not independent, so the error is that of a ratio of document
    totals (Cochran 1977, eq. 6.13).
    """
    documents, at = np.unique(document.ravel(), return_inverse=True)
    total, count = np.bincount(at, weights=values.ravel()), np.bincount(at)
    mean = total.sum() / count.sum()
    K = len(documents)
    if K < 2:
        return float(mean), None
    residual = total - mean * count
    return float(mean), float(np.sqrt(K / (K - 1) * (residual**2).sum()) / count.sum())


def iterate_windows(windows: HoldoutWindows, batch: int) -> Iterator[np.ndarray]:
    """Batches of windows, all of one size (the last filled up with repeats of its first row)."""
    for start in range(0, len(windows.tokens), batch):
        part = windows.tokens[start : start + batch]
        if len(part) < batch:
            part = np.concatenate([part, np.repeat(part[:1], batch - len(part), axis=0)])
        yield part
