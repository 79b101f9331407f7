"""What the number of a metric means: its worst and best value, and what guessing scores.

A metric is two numbers, what is worst and what is best; everything else follows from them. This
is the one list of metrics known by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from analysis.runs.columns import candidates
from scaling.store.records import Refusal, did_you_mean

# What a guess scores: "choice" somewhere above the worst, and how much is not in the score;
# "written" the worst; "unknown" whatever the scores say.
Guessing = Literal["choice", "written", "unknown"]
# What one question adds: "right" 0 or 1, "share" anything between worst and best.
Question = Literal["right", "share"]
Part = Literal["token", "answer"]


@dataclass(frozen=True)
class Metric:
    """What a number of this metric means."""

    name: str
    worst: float  # accuracy 0, Brier score 1, log-probability -inf, cross-entropy inf
    best: float
    guessing: Guessing = "unknown"
    question: Question = "share"
    probability_of: Part | None = None  # its mean is a (log-)probability of a token or an answer

    def __post_init__(self) -> None:
        if math.isnan(self.worst) or math.isnan(self.best) or self.worst == self.best:
            raise Refusal(
                f"metric {self.name!r}: worst {self.worst:g} and best {self.best:g} must be two "
                "different numbers, e.g. 0 and 1 for an accuracy"
            )

    @property
    def higher_is_better(self) -> bool:
        return self.best > self.worst

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.worst) and math.isfinite(self.best)

    @property
    def range(self) -> tuple[float, float]:
        return min(self.worst, self.best), max(self.worst, self.best)


METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        # An answer chosen from a few.
        Metric("acc", 0.0, 1.0, "choice", "right"),
        Metric("acc_norm", 0.0, 1.0, "choice", "right"),
        Metric("accuracy", 0.0, 1.0, "choice", "right"),
        Metric("choice_accuracy", 0.0, 1.0, "choice", "right"),
        Metric("mc", 0.0, 1.0, "choice", "right"),
        Metric("multiple_choice_grade", 0.0, 1.0, "choice", "right"),
        # An answer written out.
        Metric("exact_match", 0.0, 1.0, "written", "right"),
        Metric("final_match", 0.0, 1.0, "written", "right"),
        Metric("pass_at_k", 0.0, 1.0, "written"),
        Metric("f1", 0.0, 1.0, "written"),
        Metric("rouge", 0.0, 1.0, "written"),
        Metric("bleu", 0.0, 100.0, "written"),
        # Parts and probabilities of an answer.
        Metric("token_accuracy", 0.0, 1.0, probability_of="token"),
        Metric("token_probability", 0.0, 1.0, probability_of="token"),
        Metric("token_logprob", -math.inf, 0.0, probability_of="token"),
        Metric("answer_probability", 0.0, 1.0, probability_of="answer"),
        Metric("answer_logprob", -math.inf, 0.0, probability_of="answer"),
        Metric("log_prob", -math.inf, 0.0),
        Metric("log_likelihood", -math.inf, 0.0),
        Metric("score", 0.0, 1.0),
        # Less is better.
        Metric("error", 1.0, 0.0, question="right"),
        # The sum over choices of squared errors lies in 0..2; the mean over two of them in 0..1.
        Metric("brier", 2.0, 0.0),
        Metric("edit_distance", 1.0, 0.0),  # by the longer text, as the trainer's evaluations do
        Metric("normalized_edit_distance", 1.0, 0.0),
        Metric("loss", math.inf, 0.0),
        Metric("cross_entropy", math.inf, 0.0),
        Metric("bits_per_byte", math.inf, 0.0),
        Metric("ppl", math.inf, 1.0),
        Metric("perplexity", math.inf, 1.0),
    )
}
# Other spellings of the names above, as patterns.
PASS_AT = r"pass(?:@|_?at_?)(\d+)"
SPELLINGS: Mapping[str, str] = {
    PASS_AT: "pass_at_k",
    r"em": "exact_match",
    r"rouge_?(\d|l|lsum)": "rouge",
    r"bleu_?\d": "bleu",
    r"token_prob": "token_probability",
    r"loss@\d+": "loss",
    r"log_?probability|logprob": "log_prob",
}


def usual(name: str) -> str:
    """The name in METRICS that `name` is a spelling of, whatever its case; else itself.

    What stands after a comma, as in "acc,none", names a filter of answers and no other metric.
    """
    plain = _plain(name)
    return next((known for way, known in SPELLINGS.items() if re.fullmatch(way, plain)), plain)


def falls(scale: str) -> bool:
    """Whether less of a column is better, by its name: a loss of any name, a perplexity, an error.

    Such a scale is read downwards.
    """
    known = METRICS.get(usual(scale))
    return bool(candidates("loss", [scale])) if known is None else not known.higher_is_better


def attempts_of(name: str) -> int | None:
    """k of a metric called pass@k, in any spelling; None for another metric."""
    found = re.fullmatch(PASS_AT, _plain(name))
    return int(found[1]) if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.partition(",")[0].strip().lower())


def metric(name: str, span: tuple[float, float] | None = None) -> Metric:
    """The metric of that name; `span` is its worst and best value, in that order, if given.

    Raises Refusal for one whose range is neither known nor given.
    """
    known = METRICS.get(usual(name))
    if span is not None:
        worst, best = span
        return replace(known or Metric(name, worst, best), name=name, worst=worst, best=best)
    if known is None:
        raise Refusal(
            f"--metric {name!r} is none whose worst and best value are known. Give them with "
            f"--range WORST,BEST, e.g. --range 0,1. Known are {', '.join(METRICS)}."
            + did_you_mean(usual(name), METRICS)
        )
    return replace(known, name=name)
