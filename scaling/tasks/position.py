"""How much a model makes of its context: the held-out loss by how many tokens stand before.

A model that learns in context loses less the more it has read (Kaplan et al. 2020,
arXiv:2001.08361, appendix D.5), and one number for it is how much less late than early (Olsson et
al. 2022, arXiv:2209.11895).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaling.data.holdout import HoldoutWindows, mean_over_documents
from scaling.store.records import Refusal

# Olsson et al. take the 50th and the 500th token of contexts of 512: past the first words, and
# near the end.
EARLY, LATE = 50 / 512, 500 / 512


@dataclass(frozen=True)
class InContext:
    """A mean over held-out windows, nats/token."""

    metric: str
    value: float
    stderr: float | None  # over documents; null with fewer than 2
    n: int  # windows


def loss_by_position(losses: np.ndarray, windows: HoldoutWindows) -> list[InContext]:
    """The loss of tokens with 1, 2, 4, 8 … tokens before them in their window, `loss@1` and on.

    `losses` are those of the windows' tokens after the first, (windows, T).
    """
    T = losses.shape[1]
    return [
        _mean(f"loss@{context}", losses[:, context - 1], windows.document[:, context - 1])
        for context in (1 << power for power in range(T.bit_length()))
    ]


def icl_score(
    losses: np.ndarray, windows: HoldoutWindows, early: float = EARLY, late: float = LATE
) -> InContext:
    """The in-context learning score: the loss late in a window minus that early in it.

    Below 0 where context helps. `early` and `late` are parts of the window; the loss of a token
    is taken where so much of the window stands before it, in whole tokens, at least one.
    Raises Refusal for parts in another order, or of one place.
    """
    T = losses.shape[1]
    first, last = (max(1, round(part * T)) for part in (early, late))
    if not 0 <= early < late <= 1 or first == last:
        raise Refusal(
            f"in-context learning score from {early:g} to {late:g} of {T} tokens: give two places "
            "of a window, the early one first."
        )
    score = losses[:, last - 1] - losses[:, first - 1]
    return _mean("icl_score", score, windows.document[:, last - 1])


def _mean(metric: str, values: np.ndarray, document: np.ndarray) -> InContext:
    # Windows of a document (of a difference, that of its late token) are alike, so the error is
    # over documents, as the held-out loss's is.
    return InContext(metric, *mean_over_documents(values, document), len(values))
