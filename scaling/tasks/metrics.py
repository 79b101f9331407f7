"""Several metrics of the same answers, so that what a metric makes can be told from the model.

Exact match needs every token right and so may jump where each token's probability rises smoothly;
the metrics beside it do not (Schaeffer et al. 2023, arXiv:2304.15004). All are functions of what
one model said about one item; values of a task are their means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaling.store.records import Refusal


@dataclass(frozen=True)
class Answered:
    """What a model says to one item."""

    hits: np.ndarray  # bool: where the likeliest token is that of the answer, its end included
    logprobs: np.ndarray  # of the answer's tokens, each after the true ones before it, nats
    answer: str = ""
    choice_logprobs: np.ndarray | None = None  # of every choice, nats
    right_choice: int = 0  # the place of the answer among them
    generated: str | None = None  # decoded greedily up to the end of an answer
    samples: tuple[str, ...] = ()  # decoded at a temperature


@dataclass(frozen=True)
class Score:
    """The mean of a metric over items."""

    metric: str
    value: float
    stderr: float | None  # of the mean, items taken as independent; null with fewer than 2
    n: int
    chance: float | None = None  # what guessing gives; null where unknown


def metrics_of(answered: Answered, final: str = "") -> dict[str, float]:
    """Every metric that applies to one item.

    `final` is what stands before the part of the answer that counts, for answers with steps.
    """
    found = {
        "exact_match": exact_match(answered.hits),
        "token_accuracy": token_accuracy(answered.hits),
        "answer_logprob": float(answered.logprobs.sum()),
        "token_logprob": float(answered.logprobs.mean()),
    }
    if answered.choice_logprobs is not None:
        found["choice_accuracy"] = choice_accuracy(answered.choice_logprobs, answered.right_choice)
        found["brier"] = brier(answered.choice_logprobs, answered.right_choice)
    if answered.generated is not None:
        found["edit_distance"] = edit_distance(answered.generated, answered.answer)
        if final:
            given, right = (
                text.rpartition(final)[2] for text in (answered.generated, answered.answer)
            )
            found["final_match"] = float(given == right)
    if answered.samples:
        n = len(answered.samples)
        right_ones = sum(text == answered.answer for text in answered.samples)
        for k in powers_of_two(n):
            found[f"pass@{k}"] = pass_at_k(n, right_ones, k)
    return found


def exact_match(hits: np.ndarray) -> float:
    """1 if greedy decoding gives the answer's tokens and then ends, else 0.

    No decoding is needed: it gives them exactly if, after each true beginning of the answer, the
    likeliest token is the true next one. The same text in other tokens than it is trained in
    counts 0 here; edit_distance, final_match and pass@k are of text. Bytes have no others.
    """
    return float(hits.all())


def token_accuracy(hits: np.ndarray) -> float:
    """The share of the answer's tokens, without its end, that are the likeliest in their place."""
    return float(hits[:-1].mean())


def edit_distance(given: str, right: str) -> float:
    """Insertions, deletions and substitutions from one text to the other (Levenshtein 1966), as a
    share of the longer one's length, in [0, 1]. Lower is better; 0 is an exact match."""
    previous = list(range(len(right) + 1))
    for row, letter in enumerate(given, start=1):
        current = [row]
        for column, other in enumerate(right, start=1):
            replaced = previous[column - 1] + (letter != other)
            current.append(min(replaced, previous[column] + 1, current[-1] + 1))
        previous = current
    return previous[-1] / max(len(given), len(right), 1)


def choice_accuracy(logprobs: np.ndarray, right: int) -> float:
    """1 if the likeliest choice is right; the part of it where several are equally likely."""
    best = logprobs == logprobs.max()
    return float(best[right] / best.sum())


def brier(logprobs: np.ndarray, right: int) -> float:
    """The squared distance between the choices' probabilities, made to sum to 1, and the truth, in
    [0, 2] (Brier 1950, eq. 2). Lower is better."""
    weights = np.exp(logprobs - logprobs.max())
    truth = np.arange(len(logprobs)) == right
    return float(((weights / weights.sum() - truth) ** 2).sum())


def pass_at_k(n: int, right: int, k: int) -> float:
    """The chance that one of k samples is right, without bias, from `right` of n samples
    (Chen et al. 2021, arXiv:2107.03374, eq. 1). Raises Refusal unless 1 <= k <= n."""
    if not 1 <= k <= n:
        raise Refusal(f"pass@{k} of {n} samples: k must be from 1 to {n}. Draw more samples.")
    return 1 - math.comb(n - right, k) / math.comb(n, k)


def powers_of_two(n: int) -> tuple[int, ...]:
    """1, 2, 4 … up to n."""
    return tuple(1 << place for place in range(n.bit_length()))


def chance_of(
    metric: str, guess: float | None, choices: int = 0, final: float | None = None
) -> float | None:
    """What guessing gives: `guess` is the chance that an even guess of the answer is right,
    `final` that its final part is.

    Of k guesses one is right with 1 - (1 - guess)^k. For the choices' metrics it follows from
    their number; null where unknown.
    """
    if choices and metric == "choice_accuracy":
        return 1 / choices
    if choices and metric == "brier":
        return 1 - 1 / choices  # of even probabilities
    if metric == "final_match":
        return final
    name, _, k = metric.partition("@")
    if guess is None or name not in ("exact_match", "pass"):
        return None
    return guess if k in ("", "1") else 1 - (1 - guess) ** int(k)


def summarise(
    items: Sequence[dict[str, float]], chances: Sequence[dict[str, float | None]]
) -> list[Score]:
    """The mean of each metric over items, and of what guessing gives."""
    scores = []
    for metric in items[0]:
        values = np.array([item[metric] for item in items])
        n = len(values)
        stderr = float(values.std(ddof=1) / math.sqrt(n)) if n > 1 else None
        guesses = [chance.get(metric) for chance in chances]
        known = [guess for guess in guesses if guess is not None]
        chance = float(np.mean(known)) if len(known) == n else None
        scores.append(Score(metric, float(values.mean()), stderr, n, chance))
    return scores
