"""The held-out loss: fixed windows over all held-out text, and what a model loses on them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from scaling.data.corpus import Corpus
from scaling.data.token_bytes import token_bytes
from scaling.store.records import Refusal


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
    documents: int  # of which at least one token is judged
    held_out: int  # documents
    tokens: int  # predicted, and so averaged over
    held_out_tokens: int
    bytes: float | None  # of the text of those tokens; null where only tokens are known


def judged(corpus: Corpus, sequence_length: int, tokens: int, name: str | None = None) -> Judged:
    """What `holdout_windows` takes of a corpus, or of the set of that name. Raises Refusal as it
    does."""
    windows = holdout_windows(corpus, sequence_length, tokens)
    n, per_token = windows.document.size, windows.bytes_per_token
    return Judged(
        set=name,
        sequence_length=sequence_length,
        documents=len(np.unique(windows.document)),
        held_out=sum(len(part.holdout) for part in corpus.parts),
        tokens=n,
        held_out_tokens=corpus.info.holdout_tokens,
        bytes=None if per_token is None else n * per_token,
    )


def holdout_windows(corpus: Corpus, sequence_length: int, tokens: int) -> HoldoutWindows:
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
