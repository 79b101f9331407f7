"""How to spend a compute budget: the N*, D* and loss a fitted or published law asks for.

Intervals come from the fit's own draws; a published law has none, so none is given.
What the numbers are worth (distance beyond the data, a floor that reaches the
prediction, a weakly identified fit) is said in warnings beside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from analysis.derived import percentiles, values_over_draws
from analysis.expression import Array
from analysis.fit import Fit, Status
from analysis.laws import Law
from analysis.optimum import Optimum, compute_optimal, require_params_and_tokens
from analysis.published import Published
from analysis.units import Span, decimal, human, scientific, with_interval
from scaling.records import Refusal

Source: TypeAlias = Fit | Published
Shape: TypeAlias = Mapping[str, Any]  # plain values only: analysis knows no model classes

EXPONENT_STEP = 0.05  # in ln C; the local exponent's error is of its square (0 for power laws)
FEW_DRAWS = 100  # fewer give no stable 5% and 95% points


@dataclass(frozen=True)
class Interval:
    """Percentiles of the draws: `level` of them lie inside each (low, high)."""

    level: float
    params: Span
    tokens: Span
    loss: Span
    tokens_per_param: Span
    params_exponent: Span


@dataclass(frozen=True)
class Recommendation:
    """The compute-optimal run for one budget, under C = 6ND with the law's own N."""

    flops: float  # C
    params: float  # N*
    tokens: float  # D*
    loss: float  # nats/token, at N*, D*
    params_exponent: float  # a in N* ∝ C^a near this budget; D* ∝ C^(1 - a)
    interval: Interval | None  # None: the source has no draws
    decades_beyond_data: float | None  # log10(C / largest C fitted), 0 inside; None: unknown
    shape: Shape | None  # nearest buildable, as `build` gave it
    warnings: tuple[str, ...]

    @property
    def tokens_per_param(self) -> float:
        return self.tokens / self.params

    @property
    def tokens_exponent(self) -> float:
        return 1.0 - self.params_exponent


def recommend(
    source: Source,
    flops: Sequence[float],
    *,
    level: float = 0.9,
    build: Callable[[float], Shape] | None = None,
) -> list[Recommendation]:
    """The compute-optimal N*, D* and loss for each budget in `flops`, in the order given.

    Closed form for Chinchilla's and Kaplan's L(N, D) (Hoffmann et al. 2022, eq. 4), numeric for
    other laws of params and tokens. `level` is the interval's; `build` maps N* to the nearest
    buildable shape, attached as it comes. Raises Refusal for a failed fit, a law without both
    features, a budget that is not positive and finite, or one the law has no optimum for.
    """
    require_usable(source)
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. Give e.g. 0.9.")
    if len(flops) == 0:
        raise Refusal("flops is empty: there is no budget to divide. Give one, e.g. --flops 1e21.")
    return [_one(source, float(budget), level, build) for budget in flops]


def require_usable(source: Source) -> None:
    """Refuse a failed fit and a law that cannot trade parameters against tokens."""
    require_params_and_tokens(source.law)
    if isinstance(source, Fit) and source.status is Status.FAILED:
        raise Refusal(
            f"the fit of {source.law.name} has status = failed ({source.reason}), so its "
            "coefficients recommend nothing. Fit again with more or better runs."
        )


def _one(
    source: Source, flops: float, level: float, build: Callable[[float], Shape] | None
) -> Recommendation:
    if not (math.isfinite(flops) and flops > 0):
        raise Refusal(f"flops = {flops:g} is not a budget: give a positive finite number of FLOPs.")
    best, exponent = _with_exponent(source.law, source.coefficients, flops)
    if not bool(best.interior):
        raise Refusal(
            f"flops = {scientific(flops)}: {source.law.name} with these coefficients has no "
            f"optimum between 1 parameter and 1 token (N* = {float(best.params):.3g}, D* = "
            f"{float(best.tokens):.3g}). Give a larger budget or another law."
        )
    interval, lost = interval_of(source, flops, level)
    beyond = decades_beyond_data(source, flops)
    loss = float(best.loss)
    warnings = [
        *source_warnings(source),
        *_draw_warnings(source, lost, level),
        *_distance_warnings(beyond),
        *_floor_warnings(source, loss, level),
    ]
    return Recommendation(
        flops=flops,
        params=float(best.params),
        tokens=float(best.tokens),
        loss=loss,
        params_exponent=float(exponent),
        interval=interval,
        decades_beyond_data=beyond,
        shape=None if build is None else build(float(best.params)),
        warnings=tuple(warnings),
    )


def _with_exponent(
    law: Law, coefficients: Mapping[str, Any], flops: float
) -> tuple[Optimum, Array]:
    """The optimum and d ln N* / d ln C there."""
    above = compute_optimal(law, coefficients, flops * math.exp(EXPONENT_STEP)).params
    below = compute_optimal(law, coefficients, flops * math.exp(-EXPONENT_STEP)).params
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.log(above / below) / (2 * EXPONENT_STEP)
    return compute_optimal(law, coefficients, flops), exponent


# --- intervals --------------------------------------------------------------------------------


def interval_of(source: Source, flops: float, level: float) -> tuple[Interval | None, float]:
    """Intervals of the optimum, and the share of draws whose optimum is at a bound."""
    if not isinstance(source, Fit) or source.draws.empty:
        return None, 0.0

    def optimum(coefficients: Mapping[str, Array]) -> Array:
        best, exponent = _with_exponent(source.law, coefficients, flops)
        columns = [np.log(best.params), np.log(best.tokens), np.log(best.loss), exponent]
        columns += [np.log(best.tokens / best.params), np.where(best.interior, 0.0, 1.0)]
        return np.concatenate(columns, axis=1)

    values = values_over_draws(source, optimum)
    low, high = percentiles(values, level)
    params, tokens, loss, ratio = (
        (float(np.exp(low[k])), float(np.exp(high[k]))) for k in (0, 1, 2, 4)
    )
    exponent = (float(low[3]), float(high[3]))
    interval = Interval(level, params, tokens, loss, ratio, exponent)
    return interval, float(np.mean(values[:, 5]))


def decades_beyond_data(source: Source, flops: float) -> float | None:
    """log10 of `flops` over the largest C = 6ND fitted; 0 inside the data, None if not known."""
    if not isinstance(source, Fit) or source.data.flops_max is None:
        return None
    return max(0.0, math.log10(flops / source.data.flops_max))


# --- warnings ---------------------------------------------------------------------------------


def source_warnings(source: Source) -> list[str]:
    """What the source itself says against its coefficients."""
    if not isinstance(source, Fit) or source.status is Status.CONVERGED:
        return []
    said = {
        Status.WEAKLY_IDENTIFIED: "weakly identified: other coefficients fit these runs as well, "
        "and recommend differently",
        Status.AT_BOUND: "at a bound of its coefficients: the optimum rests on that bound",
    }[source.status]
    return [f"The fit is {said} ({source.reason})."]


def _draw_warnings(source: Source, lost: float, level: float) -> list[str]:
    if not isinstance(source, Fit):
        return []
    count = len(source.draws)
    if count == 0:
        return ["No interval: the fit has no draws. Fit with --bootstrap 4000."]
    if lost > (1 - level) / 2:
        return [
            f"{100 * lost:.2g}% of the {count} draws have no optimum at this budget (all N and no "
            "D, or the reverse): an end of the interval is only the bound of the search."
        ]
    if count < FEW_DRAWS:
        return [f"The interval rests on {count} draws only; fit with --bootstrap 4000."]
    return []


def _distance_warnings(decades: float | None) -> list[str]:
    if decades is None or decades < 0.05:
        return []
    factor = 10**decades
    times = human(factor, (0.9 * factor, 1.1 * factor))
    beyond = f"{decades:.1f} decades ({times}× the compute of the largest run fitted)"
    if decades <= 1:
        return [f"{beyond} beyond the data."]
    if decades <= 2:
        return [
            f"{beyond} beyond the data: the interval covers noise in the runs, not error in "
            "the law's form. Compare laws before relying on it."
        ]
    if decades <= 4:
        return [
            f"Far extrapolation, {beyond} beyond the data: a small error in the law's form grows "
            "past the interval at this distance. Train a run in between first."
        ]
    return [
        f"Not evidence, {beyond} beyond the data: no published scaling law has been checked over "
        "such a distance. Read it as a direction, not as a plan."
    ]


def _floor_warnings(source: Source, loss: float, level: float) -> list[str]:
    if not isinstance(source, Fit) or source.draws.empty or "E" not in source.coefficients:
        return []
    low, high = (float(end) for end in percentiles(source.draws["E"].to_numpy(), level))
    if high < loss:
        return []
    return [
        f"THE FLOOR IS NOT KNOWN WELL ENOUGH: the {100 * level:.0f}% interval of E, "
        f"{decimal(low, (low, high))} … {decimal(high, (low, high))}, reaches the predicted loss "
        f"{decimal(loss, (low, high))}, so the data allow that more compute buys nothing. "
        "Add runs at larger budgets."
    ]


# --- out --------------------------------------------------------------------------------------


def to_json(source: Source, recommendations: Sequence[Recommendation]) -> dict[str, Any]:
    """The plain values that `scaling recommend --json` writes."""
    return {
        "law": source.law.name,
        "source": source.name if isinstance(source, Published) else "fit",
        "params_convention": convention(source),
        "flop_count": "6nd",
        "recommendations": [_entry(each) for each in recommendations],
    }


def convention(source: Source) -> str:
    """Which parameters the source's N counts."""
    return source.params_convention if isinstance(source, Published) else source.data.params_column


def _entry(each: Recommendation) -> dict[str, Any]:
    interval = each.interval
    spans = interval and {
        "level": interval.level,
        "params": list(interval.params),
        "tokens": list(interval.tokens),
        "loss": list(interval.loss),
        "tokens_per_param": list(interval.tokens_per_param),
        "params_exponent": list(interval.params_exponent),
        "tokens_exponent": [1 - end for end in reversed(interval.params_exponent)],
    }
    return {
        "flops": each.flops,
        "params": each.params,
        "tokens": each.tokens,
        "loss": each.loss,
        "tokens_per_param": each.tokens_per_param,
        "params_exponent": each.params_exponent,
        "tokens_exponent": each.tokens_exponent,
        "interval": spans,
        "decades_beyond_data": each.decades_beyond_data,
        "shape": None if each.shape is None else dict(each.shape),
        "warnings": list(each.warnings),
    }


HEADINGS = ("FLOPs", "params N*", "tokens D*", "loss", "tokens/param", "beyond data")


def to_text(source: Source, recommendations: Sequence[Recommendation]) -> str:
    """A table for the terminal: one row a budget, intervals in brackets, then the warnings."""
    rows = [HEADINGS, *(_row(each) for each in recommendations)]
    widths = [max(len(row[k]) for row in rows) for k in range(len(HEADINGS))]
    table = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    said = [
        f"{scientific(each.flops)}: {text}" for each in recommendations for text in each.warnings
    ]
    return "\n".join([_title(source, recommendations), "", *table, *([""] if said else []), *said])


def _title(source: Source, recommendations: Sequence[Recommendation]) -> str:
    interval = recommendations[0].interval
    if isinstance(source, Published):
        name, worth = f"{source.name} ({source.source})", "published coefficients, no intervals"
    else:
        name = f"{source.law.name} on {source.data.n} runs"
        worth = (
            "no intervals"
            if interval is None
            else f"[{100 * interval.level:.0f}% intervals] from {len(source.draws)} draws"
        )
    first = recommendations[0]
    span = None if interval is None else interval.params_exponent
    exponents = f"N* ∝ C^{_exponent(first.params_exponent, span)}" + (
        "" if span is None else f" [{span[0]:.2f} … {span[1]:.2f}]"
    )
    exponents += f", D* ∝ C^{_exponent(first.tokens_exponent, span)}"
    return f"{name}, C = 6ND, N = {convention(source)}; {worth}\n{exponents}"


def _exponent(value: float, span: Span | None) -> str:
    return f"{value:.3f}" if span is None or span[1] - span[0] < 0.02 else f"{value:.2f}"


def _row(each: Recommendation) -> tuple[str, ...]:
    def cell(write: Callable[[float, Span | None], str], name: str) -> str:
        span = None if each.interval is None else getattr(each.interval, name)
        return with_interval(write, getattr(each, name), span)

    beyond = each.decades_beyond_data
    return (
        scientific(each.flops),
        cell(human, "params"),
        cell(human, "tokens"),
        cell(decimal, "loss"),
        cell(human, "tokens_per_param"),
        "unknown" if beyond is None else "inside" if beyond < 0.05 else f"{beyond:.1f} decades",
    )
