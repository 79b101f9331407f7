"""The shapes that can be built, each with the tokens a budget buys it: which is best, which nearly.

6ND leaves attention out and counts a lookup. Counted exactly, a shape costs c FLOPs a token and a
budget C buys it C/c tokens; the optimum is then a choice among shapes, not a point on a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np

from analysis.answer import By, Interval, Recommendation, Shape, answer, law_for
from analysis.caution import Source
from analysis.decide import WAYS, between
from analysis.optimum import FLOPS_PER_PARAM_TOKEN, compute_optimal
from analysis.solve import Ask
from analysis.units import Span, human, scientific
from analysis.valley import Valley
from scaling.store.records import Refusal

FlopCount: TypeAlias = Literal["6nd", "exact"]

NEARLY = 0.02  # of the loss: shapes shown beside the best


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
class Choice:
    """A shape at a budget."""

    built: Built
    tokens: float
    loss: float
    excess: float  # beyond the best shape's, as a share of the loss

    @property
    def exact_flops(self) -> float:
        """What the run costs, counted exactly."""
        return self.built.flops_per_token * self.tokens


def choices(
    source: Source,
    ask: Ask,
    shapes: Sequence[Built],
    count: FlopCount,
    valley: Valley | None = None,
) -> list[Choice]:
    """Every shape with its tokens and loss for the budget of `ask` in `count`, smallest first.

    The best has the least loss by the law. With a `valley` that loss is the law's least at the
    6ND that the budget buys of a shape, times what the shape is off the valley's bottom there.
    Raises Refusal if there is no shape, and if a budget is not all that is asked.
    """
    if set(ask.given) != {"flops"} or ask.flops is None:
        raise Refusal(f"{ask}: shapes divide a budget. Give --flops alone.")
    if not shapes:
        raise Refusal("no shape of the ladder is near. Give a --study that builds such sizes.")
    flops = ask.flops
    rows = sorted(shapes, key=lambda each: each.params)
    params = np.array([each.params for each in rows])
    tokens = np.array([each.tokens(flops, count) for each in rows])
    law = law_for(source, ask)
    losses = law.predict(source.coefficients, {"params": params, "tokens": tokens})
    worse = losses
    if valley is not None:
        bought = FLOPS_PER_PARAM_TOKEN * params * tokens
        least = [compute_optimal(law, source.coefficients, float(c)).loss for c in bought]
        off = [1 + valley.excess(n, c) for n, c in zip(params, bought, strict=True)]
        worse = np.array(least) * off
    excess = worse / worse.min() - 1
    return [
        Choice(each, float(d), float(loss), float(more))
        for each, d, loss, more in zip(rows, tokens, losses, excess, strict=True)
    ]


def answer_exactly(
    source: Source, smooth: Recommendation, found: Sequence[Choice], *, level: float | None = None
) -> Recommendation:
    """The best of the choices for a budget counted exactly: its N, the tokens C/c and the loss.

    `smooth` is the answer under 6ND. Raises Refusal as `answer` does, and where the best shape is
    the smallest or largest of those offered, so that a better may lie outside.
    """
    ask = smooth.ask
    place = int(np.argmin([each.excess for each in found]))
    if place in (0, len(found) - 1):
        end = "smallest" if place == 0 else "largest"
        raise Refusal(
            f"{ask}, counted exactly: the best shape, {human(found[place].built.params)} "
            f"parameters, is the {end} of the {len(found)} offered. Give a --study whose ladder "
            "has shapes on either side."
        )
    best = found[place]
    run = Ask(params=best.built.params, tokens=best.tokens, unique_tokens=ask.unique_tokens)
    told = answer(source, run, level=level, by=smooth.by)
    return replace(
        told,
        ask=ask,
        flops=smooth.flops,
        params_exponent=smooth.params_exponent,
        interval=_moved(told.interval, smooth, best),
        shape=best.built.shape,
        warnings=(*told.warnings, *between(smooth)),
        others=smooth.others,
        chosen=smooth.chosen,
    )


def _moved(interval: Interval | None, smooth: Recommendation, best: Choice) -> Interval | None:
    """The loss's interval at the shape, and N*'s under 6ND moved in ratio to it: as wide, since c
    varies slowly with N. The draws' own best shapes would give ends in steps of the ladder.
    """
    if interval is None or smooth.interval is None:
        return None
    n, d = best.built.params / smooth.params, best.tokens / smooth.tokens

    def by(span: Span, ratio: float) -> Span:
        return span[0] * ratio, span[1] * ratio

    return replace(
        interval,
        flops=smooth.interval.flops,
        params=by(smooth.interval.params, n),
        tokens=by(smooth.interval.tokens, d),
        tokens_per_param=by(smooth.interval.tokens_per_param, d / n),
        params_exponent=smooth.interval.params_exponent,
    )


# --- out --------------------------------------------------------------------------------------


def to_json(found: Sequence[Choice]) -> list[dict[str, Any]]:
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
        for each in found
    ]


def to_text(flops: float, found: Sequence[Choice], count: FlopCount, by: By = "law") -> str:
    """A table of the shapes within 2% of the best loss; at most nine, nearest to the best.

    The losses are the law's. What a shape is off the best is theirs by whom N* is from, so the two
    columns are headed by whom they are.
    """
    near = sorted((e for e in found if e.excess <= NEARLY), key=lambda e: e.excess)[:9]
    near.sort(key=lambda e: e.built.params)
    heads = ("loss", "above best")
    if by != "law":
        heads = ("loss by the law", "above best by the runs")
    rows = [(str(near[0].built.shape["dimensions"]), "params", "tokens", "exact FLOPs", *heads)]
    for each in near:
        rows.append(
            (
                str(each.built.shape["shape"]),
                human(each.built.params),
                human(each.tokens),
                scientific(each.exact_flops),
                f"{each.loss:.4f}",
                "best" if each.excess == 0 else f"{each.excess:.2%}",
            )
        )
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    told = "counted exactly" if count == "exact" else "at 6ND"
    ranked = "" if by == "law" else f", ranked by {WAYS[by]}"
    return "\n".join([f"{scientific(flops)} FLOPs {told}: shapes of the ladder{ranked}", *lines])
