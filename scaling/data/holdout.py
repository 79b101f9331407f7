"""The held-out loss: fixed windows of held-out documents, and what a model loses on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from scaling.data.corpus import Corpus
from scaling.records import Refusal


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
