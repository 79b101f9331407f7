"""The law's answer to a question: the run, its intervals and its warnings.

Intervals come from the fit's own draws; a published law has none, so none is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.allocation.power_law import local_exponent
from analysis.array import Array
from analysis.fitting.fit import Fit
from analysis.fitting.functionals import Quantity, draws_of, values_over_draws
from analysis.fitting.source import Source, level_of, refuse_failed
from analysis.fitting.status import interpolates
from analysis.forecast.ensemble import ensemble_of
from analysis.forecast.predict import Prediction, predictions
from analysis.forecast.scatter import run_spans, scale_of
from analysis.forecast.warnings import (
    basis_warnings,
    distance,
    floor_warnings,
    range_warnings,
    repeat_warnings,
    source_warnings,
)
from analysis.interval import Interval, central, percentiles
from analysis.laws.inverse import cheapest, solve
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN, Optimum, require_params_and_tokens
from analysis.laws.repeated import limit, worth_of_last_token
from analysis.recommend.question import Question
from analysis.recommend.recommendation import AnswerIntervals, Build, By, Recommendation
from analysis.recommend.warnings import Lost, distance_warnings, lost_warnings
from analysis.text import decimal, human, scientific
from scaling.store.records import Refusal

# Factor of compute over which the local exponent is taken; its error is of the square of its
# logarithm (0 for power laws).
EXPONENT_OVER = math.exp(0.1)


class NoOptimum(Refusal):
    """The law has no answer to the question."""


def answer(
    source: Source,
    question: Question,
    *,
    level: float | None = None,
    build: Build | None = None,
    by: By = "law",
) -> Recommendation:
    """The run that meets `question` (see `solve`), with intervals at `level` (by default the
    fit's) and warnings.

    `build` maps N to the nearest buildable shape, attached as it comes. `by` "runs" says that the
    N and D asked are the runs' own best: nothing then costs less by the law. Raises Refusal for a
    failed fit, a law not of params and tokens, a budget below every run of the fit, and a
    question the law has no answer to (a loss below its floor).
    """
    law = law_for(source, question)
    level = level_of(source, level)
    _refuse_below_data(source, question)
    best = solved(source, law, question)
    # What is given is given: not its logarithm and back.
    params = float(best.params) if question.params is None else question.params
    tokens = float(best.tokens) if question.tokens is None else question.tokens
    loss = float(best.loss)
    run = _forecast(source, question, params, tokens, level)
    flops = FLOPS_PER_PARAM_TOKEN * params * tokens
    cheap = cheapest(law, source.coefficients, loss)
    least = float(FLOPS_PER_PARAM_TOKEN * cheap.params * cheap.tokens)
    drawn = _draws(source, law, question, best, level)
    beyond = decades_beyond_data(source, flops)
    return Recommendation(
        question=question,
        flops=flops if question.flops is None else question.flops,
        params=params,
        tokens=tokens,
        loss=loss if run is None else run.loss,
        law_loss=loss,
        compute_ratio=max(1.0, flops / least) if least > 0 and by == "law" else 1.0,
        params_exponent=float(local_exponent(law, source.coefficients, flops, EXPONENT_OVER)),
        interval=None if drawn is None else _of_run(drawn.interval, run),
        decades_beyond_data=beyond,
        worth_of_last_token=worth_of_last_token(law, source.coefficients, tokens),
        shape=None if build is None else build(params),
        warnings=(
            *source_warnings(source),
            *repeat_warnings(law, tokens, lambda other: _in_words(source, other, question)),
            *([] if drawn is None else lost_warnings(drawn.lost, level, question.loss is not None)),
            *distance_warnings(beyond, by),
            *range_warnings(source, {"params": params, "tokens": tokens}),
            *floor_warnings(source, loss, level),
            *([] if drawn is None else basis_warnings(source, drawn.quantity, "the answer")),
        ),
        by=by,
    )


def _in_words(source: Source, law: Law, question: Question) -> str:
    """The answer of a law of other constants, in a few words."""
    best = solve(law, source.coefficients, question)
    if not bool(best.interior):
        return "no answer"
    n, d, loss = float(best.params), float(best.tokens), float(best.loss)
    return f"N = {human(n)}, D = {human(d)} and a loss of {decimal(loss)}"


def decades_beyond_data(source: Source, flops: float) -> float | None:
    """log10 of `flops` over the largest C = 6ND fitted; 0 inside the data, None if not known."""
    if not isinstance(source, Fit) or source.data.flops_max is None:
        return None
    return max(0.0, math.log10(flops / source.data.flops_max))


def _forecast(
    source: Source, question: Question, params: float, tokens: float, level: float
) -> Prediction | None:
    """The loss that the answer's run is forecast to reach, as `scaling predict` has it; None where
    the law forecasts alone, or the loss is what was asked."""
    if question.loss is not None or question.unique_tokens is not None:
        return None
    if not isinstance(source, Fit) or ensemble_of(source) is None:
        return None
    [found] = predictions(
        source, pd.DataFrame({"params": [params], "tokens": [tokens]}), level=level
    )
    return found


def _of_run(interval: AnswerIntervals, run: Prediction | None) -> AnswerIntervals:
    """With the interval of the run's loss as it is forecast."""
    return interval if run is None else replace(interval, loss=run.interval)


# --- intervals --------------------------------------------------------------------------------


class _Columns(NamedTuple):
    """What refits answer, on scales on which that varies evenly: a row a refit, (refits, 1)."""

    log_params: Array
    log_tokens: Array
    log_ratio: Array  # of tokens to params
    curve_loss: Array  # at the run that answers, on the scale of `scale_of`
    params_exponent: Array


class _Draws(NamedTuple):
    """The answers of a fit's draws."""

    interval: AnswerIntervals
    lost: Lost
    quantity: Quantity  # coefficients to `_Columns` side by side


def _draws(
    source: Source, law: Law, question: Question, best: Optimum, level: float
) -> _Draws | None:
    """What the draws answer around the estimate's own `best`. None without draws, and where the
    law passes through the mean of every point, so that its error is not known."""
    if not isinstance(source, Fit) or source.draws.empty or interpolates(source):
        return None
    quantity = _quantity(source, law, question, best)
    values = np.split(values_over_draws(source, quantity), len(_Columns._fields), axis=1)
    own = solve(law, draws_of(source), question)
    lost = Lost(int((~own.interior).sum()), len(source.draws))
    # Where many draws never reach the loss, it may need an infinite run.
    endless = question.loss is not None and lost.matter(level)
    interval = _intervals(source, question, best, _Columns(*values), level, endless)
    return _Draws(interval, lost, quantity)


def _quantity(source: Fit, law: Law, question: Question, best: Optimum) -> Quantity:
    """What coefficients answer, a column of `_Columns` each.

    N and D are each draw's own answer. The loss is each draw's at the run that answers, as
    `forecast.predict` has it: nobody will train the draw's own best run.
    """
    flops = float(FLOPS_PER_PARAM_TOKEN * best.params * best.tokens)
    run = {"params": best.params, "tokens": best.tokens}
    to_scale, _ = scale_of(source)

    def answered(coefficients: Mapping[str, Array]) -> Array:
        own = solve(law, coefficients, question)
        # A loss that a draw never reaches would need an infinite run.
        missing = ~own.interior & (question.loss is not None)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_n = np.where(missing, np.inf, np.log(own.params))
            log_d = np.where(missing, np.inf, np.log(own.tokens))
            ratio = np.where(missing, np.nan, np.log(own.tokens / own.params))
        loss = own.loss if question.loss is not None else law.predict(coefficients, run)
        exponent = local_exponent(law, coefficients, flops, EXPONENT_OVER)
        return np.concatenate(_Columns(log_n, log_d, ratio, to_scale(loss), exponent), axis=1)

    return answered


def _intervals(
    source: Fit, question: Question, best: Optimum, columns: _Columns, level: float, endless: bool
) -> AnswerIntervals:
    """The central intervals at `level`; what was given has no width."""
    most = math.inf if question.flops is None else question.flops / FLOPS_PER_PARAM_TOKEN

    def within(logs: Array, given: float | None, bottom: float, top: float) -> Interval:
        if given is not None:
            return Interval(given, given)
        low, high = (min(max(float(np.exp(x)), bottom), top) for x in central(logs, level))
        return Interval(low, math.inf if endless else high)

    log_flops = math.log(FLOPS_PER_PARAM_TOKEN) + columns.log_params + columns.log_tokens
    _, back = scale_of(source)
    low, high = (back(end) for end in percentiles(columns.curve_loss, level))
    curve_loss = Interval(low.item(), high.item())
    loss: Interval | None = curve_loss
    if question.loss is None:
        run = {"params": best.params, "tokens": best.tokens}
        far = distance(source, {**run, "flops": FLOPS_PER_PARAM_TOKEN * best.params * best.tokens})
        [loss] = run_spans(source, best.loss.reshape(1), low, high, far, level)
    return AnswerIntervals(
        level=level,
        flops=within(log_flops, question.flops, 0.0, math.inf),
        # Of a whole run: draws that few clusters spread out know no bounds.
        params=within(columns.log_params, question.params, 1.0, most),
        tokens=within(columns.log_tokens, question.tokens, 1.0, most),
        loss=loss,
        curve_loss=curve_loss,
        tokens_per_param=within(columns.log_ratio, None, 1 / most, most),
        params_exponent=central(columns.params_exponent, level),
    )


# --- refusals ---------------------------------------------------------------------------------


def law_for(source: Source, question: Question) -> Law:
    """The source's law, with the data limited where the question limits it.

    Raises Refusal for a failed fit and a law that cannot trade parameters against tokens.
    """
    unique = question.unique_tokens
    law = source.law if unique is None else limit(source.law, unique)
    require_params_and_tokens(law)
    refuse_failed(source)
    return law


def _refuse_below_data(source: Source, question: Question) -> None:
    if question.flops is None or not isinstance(source, Fit):
        return
    params, tokens = source.data.params, source.data.tokens
    least = FLOPS_PER_PARAM_TOKEN * params.low * tokens.low if params and tokens else 0.0
    if question.flops < least * (1 - 1e-9):
        raise Refusal(
            f"flops = {scientific(question.flops)} is below every run of the fit (the smallest N "
            f"and the smallest D make {scientific(least)}), where its law was never fitted.",
            "Give a larger budget.",
        )


def solved(source: Source, law: Law, question: Question) -> Optimum:
    """The run that meets `question` by `law`, which is `law_for`'s. Raises NoOptimum, saying why
    there is none and what to ask instead."""
    best = solve(law, source.coefficients, question)
    if not best.interior:
        raise _no_optimum(source, question, best)
    return best


def _no_optimum(source: Source, question: Question, best: Optimum) -> NoOptimum:
    law, loss = source.law, question.loss
    floor = sum(source.coefficients[name] for name in law.floors)
    if loss is None:
        return NoOptimum(
            f"{question}: {law.name} with these coefficients has no optimum with more than one "
            "parameter and one token.",
            "Give more, or another law.",
        )
    if loss <= floor:
        return NoOptimum(
            f"loss = {loss:g} is not above the floor {' + '.join(law.floors)} = "
            f"{decimal(floor)} of {law.name}: no amount of compute reaches it.",
            "Give a larger loss.",
        )
    if np.isfinite(best.params) and np.isfinite(best.tokens):
        return NoOptimum(
            f"{question}: by {law.name} a run of less than one parameter or one token has that "
            "loss.",
            "Give a smaller loss.",
        )
    limits = [name for name in ("params", "tokens", "unique_tokens") if getattr(question, name)]
    few = f" with these {' and '.join(limits)}" if limits else ""
    more = f"more {' or '.join(limits)}, or " if limits else ""
    return NoOptimum(
        f"{question}: by {law.name} no run{few} reaches that loss.", f"Give {more}a larger loss."
    )
