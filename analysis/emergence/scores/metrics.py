"""The metrics known by name: worst and best value, and what is known of the chance level.

Everything about a metric follows from its worst and its best value. This is the only list of
metrics.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from analysis.runs.columns.names import candidates
from scaling.store.records import Refusal, did_you_mean

# The score of a guess: "choice" is above the worst, by an amount that the score does not show;
# "written" is the worst; "unknown" is fitted to the scores.
Guessing = Literal["choice", "written", "unknown"]
# The score of one question: "right" is 0 or 1, "share" anything between worst and best.
Question = Literal["right", "share"]
Part = Literal["token", "answer"]


@dataclass(frozen=True)
class Metric:
    """The meaning of a metric's numbers."""

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
        """Whether a larger number is better."""
        return self.best > self.worst

    @property
    def bounded(self) -> bool:
        """Whether worst and best are finite."""
        return math.isfinite(self.worst) and math.isfinite(self.best)

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number."""
        return min(self.worst, self.best), max(self.worst, self.best)


METRICS: Mapping[str, Metric] = {
    each.name: each
    for each in (
        # The answer is one of several choices.
        Metric("acc", 0.0, 1.0, "choice", "right"),
        Metric("acc_norm", 0.0, 1.0, "choice", "right"),
        Metric("accuracy", 0.0, 1.0, "choice", "right"),
        Metric("choice_accuracy", 0.0, 1.0, "choice", "right"),
        Metric("mc", 0.0, 1.0, "choice", "right"),
        Metric("multiple_choice_grade", 0.0, 1.0, "choice", "right"),
        # The answer is free-form.
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
        # Lower is better.
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


def canonical(name: str) -> str:
    """The name in METRICS of which `name` is a spelling, in any case; else the name itself.

    The part after a comma, as in "acc,none", names a filter of answers and not another metric.
    """
    plain = _plain(name)
    return next((known for way, known in SPELLINGS.items() if re.fullmatch(way, plain)), plain)


def lower_is_better(scale: str) -> bool:
    """Whether less of a column is better, by its name: a loss of any name, a perplexity, an error.

    Progress goes down such a scale.
    """
    known = METRICS.get(canonical(scale))
    return bool(candidates("loss", [scale])) if known is None else not known.higher_is_better


def samples_of(name: str) -> int | None:
    """k of a metric called pass@k, in any spelling; None for another metric."""
    found = re.fullmatch(PASS_AT, _plain(name))
    return int(found[1]) if found else None


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.partition(",")[0].strip().lower())


def metric(name: str, span: tuple[float, float] | None = None) -> Metric:
    """The metric of that name; `span` is its worst and best value, in that order, if given.

    Raises Refusal for one whose range is neither known nor given.
    """
    known = METRICS.get(canonical(name))
    if span is not None:
        worst, best = span
        return replace(known or Metric(name, worst, best), name=name, worst=worst, best=best)
    if known is None:
        raise Refusal(
            f"--metric {name!r}: its worst and best value are not known. Give them with "
            f"--range WORST,BEST, e.g. --range 0,1. Known are {', '.join(METRICS)}."
            + did_you_mean(canonical(name), METRICS)
        )
    return replace(known, name=name)
