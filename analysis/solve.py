"""Where a law meets what is asked of it.

One condition (a budget, a loss, a size, an amount of data) leaves a freedom, which the cheapest
or the best run fills; two conditions leave none. Everything is vectorised over draws of the
coefficients; closed form where the law has one, else numeric.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.expression import Array
from analysis.laws import Law
from analysis.optimum import (
    FLOPS_PER_PARAM_TOKEN,
    OFFSETS,
    SLOPE,
    Coefficients,
    Optimum,
    PowerSum,
    compute_optimal,
    minimise,
    power_sum,
    require_params_and_tokens,
)
from analysis.units import human, scientific
from scaling.store.records import Refusal

FLOPS_PER_PARAM_SERVED = 2.0  # a forward pass: 2N a token (Sardana et al. 2024, section 2)
LOG_FAR = 70.0  # N and D are sought between 1 and e^70 = 2.5e30


@dataclass(frozen=True)
class Ask:
    """What is known about the run: one or two of a budget, a loss, a size and tokens.

    With `loss` alone, `served` tokens over the model's life are paid for too, at 2N FLOPs each.
    `unique_tokens` makes tokens beyond it repeats.
    """

    flops: float | None = None  # C = 6ND, training
    loss: float | None = None  # nats/token
    params: float | None = None
    tokens: float | None = None
    served: float = 0.0  # tokens read and written in use
    unique_tokens: float | None = None  # different tokens that exist; None: always enough

    def __post_init__(self) -> None:
        given = self.given
        for name, value in given.items():
            if not (math.isfinite(value) and value > 0):
                raise Refusal(f"{name} = {value:g} is not possible: give a positive finite number.")
        if not 1 <= len(given) <= 2:
            raise Refusal(
                f"{' and '.join(given) or 'nothing'} is given: ask for one or two of flops, loss, "
                "params and tokens."
            )
        if set(given) == {"flops", "loss"}:
            raise Refusal(
                "flops and loss are both given: one follows from the other. Give the budget, or "
                "the loss to reach."
            )
        if not (math.isfinite(self.served) and self.served >= 0):
            raise Refusal(f"served = {self.served:g} is not a number of tokens.")
        if self.unique_tokens is not None and not 0 < self.unique_tokens < math.inf:
            raise Refusal(
                f"unique_tokens = {self.unique_tokens:g} is not possible: give a positive finite "
                "number, or leave it out where data never repeats."
            )
        if self.served and set(given) != {"loss"}:
            raise Refusal("served tokens change the choice for a target loss: give loss alone.")

    @property
    def given(self) -> dict[str, float]:
        """The conditions by name."""
        values = {n: getattr(self, n) for n in ("flops", "loss", "params", "tokens")}
        return {name: value for name, value in values.items() if value is not None}

    def __str__(self) -> str:
        write = {"flops": scientific, "loss": "{:g}".format, "params": human, "tokens": human}
        units = {"flops": " FLOPs", "loss": "", "params": " parameters", "tokens": " tokens"}
        parts = [
            ("loss " if name == "loss" else "") + write[name](value) + units[name]
            for name, value in self.given.items()
        ]
        if self.served:
            parts.append(f"{human(self.served)} tokens served")
        if self.unique_tokens is not None:
            parts.append(f"{human(self.unique_tokens)} unique tokens")
        return ", ".join(parts)


def solve(law: Law, coefficients: Coefficients, ask: Ask) -> Optimum:
    """The run that meets `ask`, for coefficients that are numbers or columns of draws (n, 1).

    Where several do: the lowest loss at a budget, the fewest FLOPs (training and serving) for a
    loss, the budget at which a size or an amount of data is compute-optimal. `interior` is False
    where there is no such run. Raises Refusal for a law not of params and tokens alone.
    """
    require_params_and_tokens(law)
    names = set(ask.given)
    if names == {"flops"}:
        assert ask.flops is not None
        return compute_optimal(law, coefficients, ask.flops)
    if names == {"loss"}:
        assert ask.loss is not None
        return cheapest(law, coefficients, ask.loss, ask.served)
    if names == {"params"} or names == {"tokens"}:
        return _optimal_at(law, coefficients, ask)
    return _determined(law, coefficients, ask)


def cheapest(law: Law, coefficients: Coefficients, loss: float, served: float = 0.0) -> Optimum:
    """Least 6ND + 2N·served among runs that reach `loss` (Sardana et al. 2024, eq. 2)."""
    form = power_sum(law, coefficients)
    if form is not None and served == 0:
        # The sum l - floor divides as q : p between the two terms.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            log_rest = np.log(np.asarray(loss - form.floor)) / form.outer
            log_n = (form.log_a - log_rest + np.log((form.p + form.q) / form.q)) / form.p
            log_d = (form.log_b - log_rest + np.log((form.p + form.q) / form.p)) / form.q
            return _point(law, coefficients, log_n, log_d)
    shape = np.broadcast_shapes(*(np.shape(value) for value in coefficients.values()))
    rows = int(np.prod(shape))
    columns = _columns(coefficients, shape)

    def cost(log_n: Array) -> Array:  # ln of FLOPs
        log_d = _log_tokens(law, columns, log_n, loss)
        with np.errstate(over="ignore", invalid="ignore"):
            training = math.log(FLOPS_PER_PARAM_TOKEN) + log_n + log_d
            if not served:
                return training
            serving = math.log(FLOPS_PER_PARAM_SERVED * served) + log_n
            return np.asarray(np.logaddexp(training, serving))

    log_n = minimise(cost, np.zeros(rows), np.full(rows, LOG_FAR))[:, None]
    log_d = _log_tokens(law, columns, log_n, loss)
    return _point(law, coefficients, log_n.reshape(shape), log_d.reshape(shape))


def _optimal_at(law: Law, coefficients: Coefficients, ask: Ask) -> Optimum:
    """The point of the compute-optimal frontier with this N, or with this D."""
    form = power_sum(law, coefficients)
    if form is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            odds = np.log(form.q) + form.log_b - np.log(form.p) - form.log_a
            if ask.params is not None:
                log_n = np.log(ask.params) + 0 * odds
                return _point(law, coefficients, log_n, (odds + form.p * log_n) / form.q)
            assert ask.tokens is not None
            log_d = np.log(ask.tokens) + 0 * odds
            return _point(law, coefficients, (form.q * log_d - odds) / form.p, log_d)
    shape = np.broadcast_shapes(*(np.shape(value) for value in coefficients.values()))
    columns = _columns(coefficients, shape)
    known = np.full((int(np.prod(shape)), 1), np.log(ask.params or ask.tokens or np.nan))

    def balance(free: Array) -> Array:
        """dL/dlnN - dL/dlnD, or its negative: falls through zero where the free one is right."""
        log_n, log_d = (known, free) if ask.params is not None else (free, known)
        along_n = _loss(law, columns, log_n + OFFSETS, log_d) @ SLOPE
        along_d = _loss(law, columns, log_n, log_d + OFFSETS) @ SLOPE
        gap = (along_n - along_d)[:, None]
        return gap if ask.params is not None else -gap

    free = _bisect(balance, 0.0, known).reshape(shape)
    log_n, log_d = (
        (known.reshape(shape), free) if ask.params is not None else (free, known.reshape(shape))
    )
    return _point(law, coefficients, log_n, log_d)


def _loss(law: Law, columns: Coefficients, log_n: Array, log_d: Array) -> Array:
    return law.predict(columns, {"params": np.exp(log_n), "tokens": np.exp(log_d)})


def _determined(law: Law, coefficients: Coefficients, ask: Ask) -> Optimum:
    """Two conditions: nothing is left to choose."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in coefficients.values()))
    log_n = np.full(shape, np.nan if ask.params is None else np.log(ask.params))
    log_d = np.full(shape, np.nan if ask.tokens is None else np.log(ask.tokens))
    if ask.flops is not None:
        log_product = np.log(ask.flops / FLOPS_PER_PARAM_TOKEN)
        log_n, log_d = (
            (log_product - log_d, log_d) if ask.params is None else (log_n, log_product - log_n)
        )
    elif ask.loss is not None:
        columns = _columns(coefficients, shape)
        if ask.params is not None:
            log_d = _log_tokens(law, columns, log_n.reshape(-1, 1), ask.loss).reshape(shape)
        else:
            log_n = _log_params(law, columns, log_d.reshape(-1, 1), ask.loss).reshape(shape)
    return _point(law, coefficients, log_n, log_d)


# --- inverses ---------------------------------------------------------------------------------


def _log_tokens(law: Law, columns: Coefficients, log_n: Array, loss: float) -> Array:
    """ln D at which N parameters reach `loss`; inf where no number of tokens does."""
    form = power_sum(law, columns)
    if form is not None:
        own = np.exp(form.log_a - form.p * log_n)
        return _inverse(_sum_at(form, loss) - own, form.log_b, form.q)
    return _bisect(lambda log_d: _loss(law, columns, log_n, log_d), loss, log_n)


def _log_params(law: Law, columns: Coefficients, log_d: Array, loss: float) -> Array:
    """ln N at which D tokens reach `loss`; inf where no size does."""
    form = power_sum(law, columns)
    if form is not None:
        own = np.exp(form.log_b - form.q * log_d)
        return _inverse(_sum_at(form, loss) - own, form.log_a, form.p)
    return _bisect(lambda log_n: _loss(law, columns, log_n, log_d), loss, log_d)


def _sum_at(form: PowerSum, loss: Any) -> Array:
    """a·N^-p + b·D^-q where the law gives `loss`; NaN below its floor."""
    with np.errstate(invalid="ignore"):
        return np.asarray(np.power(loss - form.floor, 1 / np.asarray(form.outer)))


def _inverse(rest: Array, log_factor: Array, power: Array) -> Array:
    """ln x of factor·x^-power = rest; inf where rest is not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rest > 0, (log_factor - np.log(rest)) / power, np.inf)


def _bisect(falling: Callable[[Array], Array], target: float, like: Array) -> Array:
    """Where a falling function of a logarithm meets `target`; inf where it stays above."""
    low, high = np.zeros_like(like), np.full_like(like, LOG_FAR)
    unreachable = ~(falling(high) < target)
    for _ in range(56):  # 70 nats to 1e-15
        middle = (low + high) / 2
        above = falling(middle) > target
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.where(unreachable, np.inf, (low + high) / 2)


def _columns(coefficients: Coefficients, shape: tuple[int, ...]) -> dict[str, Array]:
    return {
        name: np.broadcast_to(np.asarray(value, dtype=np.float64), shape).reshape(-1, 1)
        for name, value in coefficients.items()
    }


def _point(law: Law, coefficients: Coefficients, log_n: Array, log_d: Array) -> Optimum:
    with np.errstate(over="ignore", invalid="ignore"):
        params, tokens = np.exp(np.asarray(log_n)), np.exp(np.asarray(log_d))
    loss = np.asarray(law.predict(coefficients, {"params": params, "tokens": tokens}))
    found = np.isfinite(params) & np.isfinite(tokens) & np.isfinite(loss)
    return Optimum(params, tokens, loss, found & (params > 1) & (tokens > 1))
