"""The shapes that can be built, each with the tokens a budget buys it: which is best, which nearly.

6ND leaves attention out and counts a lookup. Counted exactly, a shape costs c FLOPs a token and a
budget C buys it C/c tokens; the optimum is then a choice among shapes, not a point on a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from analysis.fitting.source import Source
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.recommend.by_law import answer, law_for
from analysis.recommend.question import FlopCount, Question
from analysis.recommend.recommendation import (
    BY_IN_WORDS,
    AnswerIntervals,
    By,
    Recommendation,
    Shape,
)
from analysis.recommend.warnings import warnings_of_both
from analysis.text import human, scientific, text_table
from scaling.store.records import Refusal

NEARLY = 0.02  # of the loss: shapes shown with the best


@dataclass(frozen=True)
class Built:
    """A shape and what it costs."""

    params: float  # in the law's convention
    flops_per_token: float  # forward and backward, counted exactly
    shape: Shape

    def tokens(self, flops: float, count: FlopCount) -> float:
        """What the budget buys."""
        each = self.flops_per_token if count == "exact" else FLOPS_PER_PARAM_TOKEN * self.params
        return flops / each


@dataclass(frozen=True)
class Candidate:
    """A shape that a budget could train."""

    built: Built
    tokens: float
    loss: float
    excess: float  # beyond the best shape's, as a share of the loss

    @property
    def exact_flops(self) -> float:
        """What the run costs, counted exactly."""
        return self.built.flops_per_token * self.tokens


@dataclass(frozen=True)
class Offered:
    """The shapes near the optimum of one budget, smallest first."""

    flops: float
    count: FlopCount  # what the budget counts
    by: By  # where N* is from; what a shape is off the best is by it too
    candidates: tuple[Candidate, ...]

    def json(self) -> list[dict[str, Any]]:
        """Plain values of every shape."""
        return [
            {
                **each.built.shape,
                "params": each.built.params,
                "tokens": each.tokens,
                "flops_per_token": each.built.flops_per_token,
                "exact_flops": each.exact_flops,
                "loss": each.loss,
                "excess_loss": each.excess,
            }
            for each in self.candidates
        ]

    def text(self) -> str:
        """A table of the shapes within 2% of the best loss; at most nine, nearest to the best.

        The losses are the law's. What a shape is off the best is theirs by whom N* is from, so the
        two columns are headed by whom they are.
        """
        near = sorted((e for e in self.candidates if e.excess <= NEARLY), key=lambda e: e.excess)
        rows = [
            (
                str(each.built.shape["shape"]),
                human(each.built.params),
                human(each.tokens),
                scientific(each.exact_flops),
                f"{each.loss:.4f}",
                "best" if each.excess == 0 else f"{each.excess:.2%}",
            )
            for each in sorted(near[:9], key=lambda e: e.built.params)
        ]
        heads = ("loss", "above best")
        if self.by != "law":
            heads = ("loss by the law", "above best by the runs")
        header = (str(near[0].built.shape["dimensions"]), "params", "tokens", "exact FLOPs", *heads)
        counted = "counted exactly" if self.count == "exact" else "at 6ND"
        ranked = "" if self.by == "law" else f", ranked by {BY_IN_WORDS[self.by]}"
        title = f"{scientific(self.flops)} FLOPs {counted}: shapes of the ladder{ranked}"
        return f"{title}\n{text_table(header, rows)}"


def shapes_for(
    source: Source, smooth: Recommendation, shapes: Sequence[Built], count: FlopCount
) -> Offered:
    """Every shape with its tokens and loss for the budget of `smooth`, the answer under 6ND.

    The best has the least loss by the law. Where the runs had a say in the answer, that loss is the
    law's least at the 6ND that the budget buys of a shape, times what the shape is off the bottom
    of the runs' valley, moved to the answer. Raises Refusal if there is no shape, and if a budget
    is not all that is asked.
    """
    question, flops = smooth.question, smooth.question.budget
    if flops is None:
        raise Refusal(f"{question}: shapes divide a budget. Give --flops alone.")
    if not shapes:
        raise Refusal("no shape of the ladder is near. Give a --study that builds such sizes.")
    rows = sorted(shapes, key=lambda each: each.params)
    params = np.array([each.params for each in rows])
    tokens = np.array([each.tokens(flops, count) for each in rows])
    law = law_for(source, question)
    losses = law.predict(source.coefficients, {"params": params, "tokens": tokens})
    worse = losses
    if smooth.by != "law" and smooth.valley is not None:
        valley = smooth.valley.through(smooth.params, flops)
        bought = FLOPS_PER_PARAM_TOKEN * params * tokens
        least = [compute_optimal(law, source.coefficients, float(c)).loss for c in bought]
        off = [1 + valley.excess(n, c) for n, c in zip(params, bought, strict=True)]
        worse = np.array(least) * off
    excess = worse / worse.min() - 1
    found = map(Candidate, rows, *(each.tolist() for each in (tokens, losses, excess)))
    return Offered(flops, count, smooth.by, tuple(found))


def answer_exactly(
    source: Source, smooth: Recommendation, offered: Offered, *, level: float | None = None
) -> Recommendation:
    """The best of the shapes for a budget counted exactly: its N, the tokens C/c and the loss.

    `smooth` is the answer under 6ND. Raises Refusal as `answer` does, and where the best shape is
    the smallest or largest of those offered, so that a better may lie outside.
    """
    question, found = smooth.question, offered.candidates
    place = int(np.argmin([each.excess for each in found]))
    if place in (0, len(found) - 1):
        end = "smallest" if place == 0 else "largest"
        raise Refusal(
            f"{question}, counted exactly: the best shape, {human(found[place].built.params)} "
            f"parameters, is the {end} of the {len(found)} offered. Give a --study whose ladder "
            "has shapes on either side."
        )
    best = found[place]
    run = Question(
        params=best.built.params, tokens=best.tokens, unique_tokens=question.unique_tokens
    )
    exact = answer(source, run, level=level, by=smooth.by)
    return replace(
        exact,
        question=question,
        flops=smooth.flops,
        params_exponent=smooth.params_exponent,
        interval=_moved(exact.interval, smooth, best),
        shape=best.built.shape,
        warnings=(*exact.warnings, *warnings_of_both(smooth)),
        others=smooth.others,
        chosen=smooth.chosen,
    )


def _moved(
    interval: AnswerIntervals | None, smooth: Recommendation, best: Candidate
) -> AnswerIntervals | None:
    """The loss's interval at the shape, and N*'s under 6ND moved in ratio to it: as wide, since c
    varies slowly with N. The draws' own best shapes would give ends in steps of the ladder.
    """
    if interval is None or smooth.interval is None:
        return None
    n, d = best.built.params / smooth.params, best.tokens / smooth.tokens
    return replace(
        interval,
        flops=smooth.interval.flops,
        params=smooth.interval.params.times(n),
        tokens=smooth.interval.tokens.times(d),
        tokens_per_param=smooth.interval.tokens_per_param.times(d / n),
        params_exponent=smooth.interval.params_exponent,
    )
