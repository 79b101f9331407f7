"""One question put to a fit or a published law, answered with its interval and its warnings.

Intervals come from the fit's own draws; a published law has none, so none is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from analysis.caution import (
    By,
    Lost,
    Source,
    basis_warnings,
    distance,
    distance_warnings,
    floor_warnings,
    level_of,
    lost_warnings,
    range_warnings,
    refuse_failed,
    repeat_warnings,
    source_warnings,
)
from analysis.derived import Quantity, draws_of, percentiles, values_over_draws
from analysis.expression import Array
from analysis.fit import Fit
from analysis.judgement import interpolates
from analysis.laws import Law
from analysis.limited import Limited, limit
from analysis.optimum import (
    FLOPS_PER_PARAM_TOKEN,
    Optimum,
    compute_optimal,
    require_params_and_tokens,
)
from analysis.scatter import run_spans, scale_of
from analysis.solve import FLOPS_PER_PARAM_SERVED, Ask, cheapest, solve
from analysis.units import Span, decimal, human, scientific
from analysis.valley import Valley
from scaling.store.records import Refusal

Shape: TypeAlias = Mapping[str, Any]  # plain values only: analysis knows no model classes

EXPONENT_STEP = 0.05  # in ln C; the local exponent's error is of its square (0 for power laws)


class NoOptimum(Refusal):
    """The law has no answer to the question."""


@dataclass(frozen=True)
class Interval:
    """The central interval of each number that holds a share `level` of the draws' answers."""

    level: float
    flops: Span
    params: Span
    tokens: Span
    loss: Span  # of the curve, at the run that answers
    run_loss: Span | None  # where that run's loss should fall (see `forecast`); as given if given
    tokens_per_param: Span
    params_exponent: Span


@dataclass(frozen=True)
class Chosen:
    """Who answers, and why."""

    by: By
    valley: Valley | None  # None: the runs show none, or are not asked
    reason: str  # "" where there was nothing to choose
    law_weight: float = 0.0  # of the law's ln N* where both answer


@dataclass(frozen=True)
class Recommendation:
    """The run that answers a question, under C = 6ND with the law's own N."""

    ask: Ask
    flops: float  # C, training
    params: float  # N
    tokens: float  # D
    loss: float  # nats/token
    compute_ratio: float  # C over the least C for this loss; 1 for a compute-optimal run
    params_exponent: float  # a in N* ∝ C^a near this budget; D* ∝ C^(1 - a)
    interval: Interval | None  # None: the source has no draws
    decades_beyond_data: float | None  # log10(C / largest C fitted), 0 inside; None: unknown
    worth_of_last_token: float  # as a share of a fresh one; below 1 where data repeats
    shape: Shape | None  # nearest buildable, as `build` gave it
    warnings: tuple[str, ...]
    by: By = "law"
    others: tuple[Recommendation, ...] = ()  # what each other way answers alone
    chosen: Chosen | None = None  # why `by` answers; None: nobody chose

    @property
    def tokens_per_param(self) -> float:
        return self.tokens / self.params

    @property
    def tokens_exponent(self) -> float:
        return 1.0 - self.params_exponent

    @property
    def epochs(self) -> float:
        """Passes over the unique tokens; at most one where they are never short."""
        return 1.0 if self.ask.unique_tokens is None else self.tokens / self.ask.unique_tokens

    @property
    def total_flops(self) -> float:
        """Training and serving."""
        return self.flops + FLOPS_PER_PARAM_SERVED * self.params * self.ask.served


def answer(
    source: Source,
    ask: Ask,
    *,
    level: float | None = None,
    build: Callable[[float], Shape | None] | None = None,
    by: By = "law",
) -> Recommendation:
    """The run that meets `ask` (see `solve`), with a `level` interval (the fit's) and warnings.

    `build` maps N to the nearest buildable shape, attached as it comes. `by` "runs" says that the
    N and D asked are the runs' own best: nothing then costs less by the law. Raises Refusal for a
    failed fit, a law not of params and tokens, a budget below every run of the fit, and a
    question the law has no answer to (a loss below its floor).
    """
    law = law_for(source, ask)
    level = level_of(source, level)
    _refuse_below_data(source, ask)
    best = solve(law, source.coefficients, ask)
    if not bool(best.interior):
        raise NoOptimum(_why_none(source, ask, best))
    # What is given is given: not its logarithm and back.
    params = float(best.params) if ask.params is None else ask.params
    tokens = float(best.tokens) if ask.tokens is None else ask.tokens
    loss = float(best.loss)
    flops = FLOPS_PER_PARAM_TOKEN * params * tokens
    cheap = cheapest(law, source.coefficients, loss)
    least = float(FLOPS_PER_PARAM_TOKEN * cheap.params * cheap.tokens)
    interval, lost = interval_of(source, ask, level)
    beyond = decades_beyond_data(source, flops)
    return Recommendation(
        ask=ask,
        flops=flops if ask.flops is None else ask.flops,
        params=params,
        tokens=tokens,
        loss=loss,
        compute_ratio=max(1.0, flops / least) if least > 0 and by == "law" else 1.0,
        params_exponent=float(_exponent(law, source.coefficients, flops)),
        interval=interval,
        decades_beyond_data=beyond,
        worth_of_last_token=law.worth_of_last_token(source.coefficients, tokens)
        if isinstance(law, Limited)
        else 1.0,
        shape=None if build is None else build(params),
        warnings=(
            *source_warnings(source),
            *repeat_warnings(law, tokens, lambda other: _told(source, other, ask)),
            *lost_warnings(lost, level, ask.loss is not None),
            *distance_warnings(beyond, by),
            *range_warnings(source, {"params": params, "tokens": tokens}),
            *floor_warnings(source, loss, level),
            *(
                basis_warnings(source, _answered(source, ask), "the answer")
                if isinstance(source, Fit) and interval is not None
                else ()
            ),
        ),
        by=by,
    )


def _told(source: Source, law: Law, ask: Ask) -> str:
    """The answer with a law of other constants, in a few words."""
    best = solve(law, source.coefficients, ask)
    if not bool(best.interior):
        return "no answer"
    n, d, loss = float(best.params), float(best.tokens), float(best.loss)
    return f"N = {human(n)}, D = {human(d)} and a loss of {decimal(loss)}"


class _Answers(NamedTuple):
    """What refits answer, on scales on which that varies evenly: a row a refit, (refits, 1)."""

    log_params: Array
    log_tokens: Array
    log_ratio: Array  # of tokens to params
    loss: Array  # on the scale of `scale_of`
    params_exponent: Array


def interval_of(source: Source, ask: Ask, level: float) -> tuple[Interval | None, Lost]:
    """Intervals of the answer, and the refits that have no answer. None without draws, and where
    the law passes through the mean of every point, so that nothing says what it is off by.

    N and D are each draw's own answer. The loss is each draw's at the run that answers, as
    `forecast.predict` has it: nobody will train the draw's own best run.
    """
    if not isinstance(source, Fit) or source.draws.empty or interpolates(source):
        return None, Lost(0, 0)
    law = law_for(source, ask)
    point = solve(law, source.coefficients, ask)
    flops = float(FLOPS_PER_PARAM_TOKEN * point.params * point.tokens)
    at = {"params": point.params, "tokens": point.tokens}
    _, back = scale_of(source)
    answered = _answered(source, ask)
    drawn = _Answers(*np.split(values_over_draws(source, answered), len(_Answers._fields), axis=1))
    log_flops = math.log(FLOPS_PER_PARAM_TOKEN) + drawn.log_params + drawn.log_tokens
    lost = _lost(source, law, ask)
    endless = ask.loss is not None and lost.told(level)
    most = math.inf if ask.flops is None else ask.flops / FLOPS_PER_PARAM_TOKEN

    def within(logs: Array, least: float, most: float) -> Span:
        low, high = (float(np.exp(end[0])) for end in percentiles(logs, level))
        return min(max(low, least), most), math.inf if endless else min(max(high, least), most)

    def size(logs: Array, given: float | None) -> Span:
        # Of a whole run: draws that few clusters spread out know no bounds.
        return within(logs, 1.0, most) if given is None else (given, given)

    low, high = percentiles(drawn.loss, level)
    loss = (float(back(low)[0]), float(back(high)[0]))
    run: Span | None = loss
    if ask.loss is None:
        far = distance(source, {**at, "flops": flops})
        [run] = run_spans(source, np.array([float(point.loss)]), back(low), back(high), far, level)
    low, high = percentiles(drawn.params_exponent, level)
    interval = Interval(
        level=level,
        flops=within(log_flops, 0.0, math.inf) if ask.flops is None else (ask.flops, ask.flops),
        params=size(drawn.log_params, ask.params),
        tokens=size(drawn.log_tokens, ask.tokens),
        loss=loss,
        run_loss=run,
        tokens_per_param=within(drawn.log_ratio, 1 / most if most < math.inf else 0.0, most),
        params_exponent=(float(low[0]), float(high[0])),
    )
    return interval, lost


def _answered(source: Fit, ask: Ask) -> Quantity:
    """What coefficients answer, a column of `_Answers` each."""
    law = law_for(source, ask)
    point = solve(law, source.coefficients, ask)
    flops = float(FLOPS_PER_PARAM_TOKEN * point.params * point.tokens)
    at = {"params": point.params, "tokens": point.tokens}
    to, _ = scale_of(source)

    def answered(coefficients: Mapping[str, Array]) -> Array:
        best = solve(law, coefficients, ask)
        # A loss that a draw never reaches would need an infinite run.
        missing = ~best.interior & (ask.loss is not None)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_n, log_d = (
                np.where(missing, np.inf, np.log(each)) for each in (best.params, best.tokens)
            )
            ratio = np.where(missing, np.nan, np.log(best.tokens / best.params))
        loss = best.loss if ask.loss is not None else law.predict(coefficients, at)
        exponent = _exponent(law, coefficients, flops)
        return np.concatenate(_Answers(log_n, log_d, ratio, to(loss), exponent), axis=1)

    return answered


def _lost(source: Fit, law: Law, ask: Ask) -> Lost:
    """Of the draws, which are refits."""
    best = solve(law, draws_of(source), ask)
    return Lost(int((~best.interior).sum()), len(source.draws))


def decades_beyond_data(source: Source, flops: float) -> float | None:
    """log10 of `flops` over the largest C = 6ND fitted; 0 inside the data, None if not known."""
    if not isinstance(source, Fit) or source.data.flops_max is None:
        return None
    return max(0.0, math.log10(flops / source.data.flops_max))


def _exponent(law: Law, coefficients: Mapping[str, Any], flops: float) -> Array:
    """d ln N* / d ln C at a budget."""
    above = compute_optimal(law, coefficients, flops * math.exp(EXPONENT_STEP)).params
    below = compute_optimal(law, coefficients, flops * math.exp(-EXPONENT_STEP)).params
    return np.asarray(np.log(above / below) / (2 * EXPONENT_STEP))


# --- refusals ---------------------------------------------------------------------------------


def law_for(source: Source, ask: Ask) -> Law:
    """The source's law, with the data limited where the question limits it.

    Raises Refusal for a failed fit and a law that cannot trade parameters against tokens.
    """
    law = source.law if ask.unique_tokens is None else limit(source.law, ask.unique_tokens)
    require_params_and_tokens(law)
    refuse_failed(source)
    return law


def _refuse_below_data(source: Source, ask: Ask) -> None:
    if ask.flops is None or not isinstance(source, Fit):
        return
    if source.data.params is None or source.data.tokens is None:
        return
    least = FLOPS_PER_PARAM_TOKEN * source.data.params.low * source.data.tokens.low
    if ask.flops < least * (1 - 1e-9):
        raise Refusal(
            f"flops = {scientific(ask.flops)} is below every run of the fit (the smallest N and "
            f"the smallest D make {scientific(least)}), where its law was never seen. Give a "
            "larger budget."
        )


def _why_none(source: Source, ask: Ask, best: Optimum) -> str:
    """Why there is no run for `ask`, of which `solve` found `best`, and what to ask instead."""
    law = source.law
    floor = sum(source.coefficients[name] for name in law.floors)
    if ask.loss is not None and ask.loss <= floor:
        return (
            f"loss = {ask.loss:g} is not above the floor {' + '.join(law.floors)} = "
            f"{decimal(floor)} of {law.name}: no amount of compute reaches it. Give a larger loss."
        )
    if ask.loss is not None and not (np.isfinite(best.params) and np.isfinite(best.tokens)):
        limits = [name for name in ("params", "tokens", "unique_tokens") if getattr(ask, name)]
        few = f" with these {' and '.join(limits)}" if limits else ""
        more = f"more {' or '.join(limits)}, or " if limits else ""
        return f"{ask}: by {law.name} no run{few} reaches that loss. Give {more}a larger loss."
    if ask.loss is not None:
        return (
            f"{ask}: by {law.name} a run of less than one parameter or one token has that loss. "
            "Give a smaller loss."
        )
    return (
        f"{ask}: {law.name} with these coefficients has no optimum with more than one "
        "parameter and one token. Give more, or another law."
    )
