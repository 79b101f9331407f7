"""The run that meets what is asked of a law: a budget, a loss, a size or an amount of data.

One condition leaves a freedom, which the cheapest or the best run fills; two conditions leave none.
Everything is vectorised over draws of the coefficients; closed form where the law has one, else
numeric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from analysis.array import Array
from analysis.laws.law import Law
from analysis.laws.optimum import (
    FLOPS_PER_PARAM_TOKEN,
    Coefficients,
    Optimum,
    at_logarithms,
    closed_form,
    columns_of,
    compute_optimal,
    loss_at,
    require_params_and_tokens,
)
from analysis.laws.scalar import argmin, root, slope

if TYPE_CHECKING:
    from analysis.recommend.question import Question

FLOPS_PER_PARAM_SERVED = 2.0  # a forward pass: 2N a token (Sardana et al. 2024, section 2)
LOG_FAR = 70.0  # N and D are sought between 1 and e^70 = 2.5e30


def solve(law: Law, coefficients: Coefficients, ask: Question) -> Optimum:
    """The run that meets `ask`, for coefficients that are numbers or columns of draws (n, 1).

    Where several do: the lowest loss at a budget, the fewest FLOPs (training and serving) for a
    loss, the budget at which a size or an amount of data is compute-optimal. `interior` is False
    where there is no such run. Raises Refusal for a law not of params and tokens alone.
    """
    require_params_and_tokens(law)
    if len(ask.given) == 2:
        return _determined(law, coefficients, ask.given)
    ((known, value),) = ask.given.items()
    if known == "flops":
        return compute_optimal(law, coefficients, value)
    if known == "loss":
        return cheapest(law, coefficients, value, ask.served)
    return _optimal_at(law, coefficients, known, value)


def cheapest(law: Law, coefficients: Coefficients, loss: float, served: float = 0.0) -> Optimum:
    """Least 6ND + 2N·served among runs that reach `loss` (Sardana et al. 2024, eq. 2)."""
    form = closed_form(law, coefficients)
    if form is not None and served == 0:
        # Of the sum that gives the loss, the terms take shares as q : p.
        n, d = form.terms["params"], form.terms["tokens"]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            log_sum = np.log(np.asarray(loss - form.floor)) / form.outer
            both = n.power + d.power
            log_n = (n.log_factor - log_sum + np.log(both / d.power)) / n.power
            log_d = (d.log_factor - log_sum + np.log(both / n.power)) / d.power
        return at_logarithms(law, coefficients, log_n, log_d)
    shape, columns = columns_of(coefficients)

    def cost(log_n: Array) -> Array:  # ln of FLOPs
        log_d = _other(law, columns, "params", log_n, loss)
        with np.errstate(over="ignore", invalid="ignore"):
            training = math.log(FLOPS_PER_PARAM_TOKEN) + log_n + log_d
            if not served:
                return training
            serving = math.log(FLOPS_PER_PARAM_SERVED * served) + log_n
            return np.asarray(np.logaddexp(training, serving))

    rows = math.prod(shape)
    log_n = argmin(cost, np.zeros(rows), np.full(rows, LOG_FAR))[:, None]
    log_d = _other(law, columns, "params", log_n, loss)
    return at_logarithms(law, coefficients, log_n.reshape(shape), log_d.reshape(shape))


def _optimal_at(law: Law, coefficients: Coefficients, known: str, value: float) -> Optimum:
    """The point of the compute-optimal frontier with this N, or with this D."""
    form = closed_form(law, coefficients)
    shape, columns = columns_of(coefficients)
    log_known = np.full((math.prod(shape), 1), math.log(value))

    def balance(free: Array) -> Array:
        """The slope of the loss in the known one less that in the free one: falls through zero."""
        of_known = slope(lambda moved: _loss(law, columns, known, moved, free), log_known)
        return of_known - slope(lambda moved: _loss(law, columns, known, log_known, moved), free)

    if form is None:
        other = _root(balance, log_known).reshape(shape)
    else:
        held, free = form.terms[known], form.terms[_OTHER[known]]
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = free.log_slope - held.log_slope
            other = (gap + held.power * math.log(value)) / free.power
    return at_logarithms(law, coefficients, *_n_and_d(known, log_known.reshape(shape), other))


def _determined(law: Law, coefficients: Coefficients, given: Mapping[str, float]) -> Optimum:
    """Two conditions: nothing is left to choose."""
    shape, columns = columns_of(coefficients)
    known = "params" if "params" in given else "tokens"
    log_known = np.full(shape, math.log(given[known]))
    if "flops" in given:
        other = math.log(given["flops"] / FLOPS_PER_PARAM_TOKEN) - log_known
    elif "loss" in given:
        other = _other(law, columns, known, log_known.reshape(-1, 1), given["loss"]).reshape(shape)
    else:
        other = np.full(shape, math.log(given[_OTHER[known]]))
    return at_logarithms(law, coefficients, *_n_and_d(known, log_known, other))


# --- of N and D, the one that is known and the other ---------------------------------------------

_OTHER = {"params": "tokens", "tokens": "params"}


def _other(law: Law, columns: Coefficients, known: str, log_known: Array, loss: float) -> Array:
    """ln of the other at which the known one reaches `loss`; inf where no amount of it does."""
    form = closed_form(law, columns)
    if form is None:
        return _root(lambda free: _loss(law, columns, known, log_known, free) - loss, log_known)
    held, free = form.terms[known], form.terms[_OTHER[known]]
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.power(loss - form.floor, 1 / np.asarray(form.outer))  # NaN below the floor
        rest = total - np.exp(held.log_factor - held.power * log_known)
        return np.where(rest > 0, (free.log_factor - np.log(rest)) / free.power, np.inf)


def _n_and_d(known: str, log_known: Array, other: Array) -> tuple[Array, Array]:
    return (log_known, other) if known == "params" else (other, log_known)


def _loss(law: Law, columns: Coefficients, known: str, log_known: Array, other: Array) -> Array:
    return loss_at(law, columns, *_n_and_d(known, log_known, other))


def _root(falling: Callable[[Array], Array], like: Array) -> Array:
    """The logarithm at which a falling function is zero; inf where none below e^70 is."""
    return root(falling, np.zeros_like(like), np.full_like(like, LOG_FAR))
