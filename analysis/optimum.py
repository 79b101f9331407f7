"""Where a law puts its optimum.

Closed form for laws that rise and fall with a·N^-p + b·D^-q; for any other law a
bounded scalar minimisation over ln N. Both are vectorised over coefficient draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.expression import Array, Expr
from analysis.laws import LAWS, Law
from analysis.units import scientific
from scaling.store.records import Refusal

Coefficients: TypeAlias = Mapping[str, Any]  # floats, or arrays over draws

FLOPS_PER_PARAM_TOKEN = 6.0  # C = 6ND: 2 forward, 4 backward (Kaplan et al. 2020, section 2.1)
LEAST = 1.001  # parameters or tokens: less is the bound of the search, one, but for rounding


@dataclass(frozen=True)
class Optimum:
    """The best split of a budget: an entry a draw, 0-d arrays for one set of coefficients."""

    params: Array
    tokens: Array
    loss: Array
    interior: NDArray[np.bool_]  # False: at one parameter or one token, or without a loss


def compute_optimal(law: Law, coefficients: Coefficients, flops: float) -> Optimum:
    """N*, D* and loss that minimise `law` subject to C = 6ND, N ≥ 1 and D ≥ 1.

    `flops` is C in FLOPs; coefficients may be arrays over draws. Closed form where it exists
    (Hoffmann et al. 2022, eq. 4), else numeric. Raises Refusal for a law that does not
    predict from params and tokens alone.
    """
    require_params_and_tokens(law)
    form = power_sum(law, coefficients)
    if form is not None:
        return _closed_form(law, form, coefficients, flops)
    return numeric_optimal(law, coefficients, flops)


def why_not_interior(best: Optimum, flops: float) -> str:
    """What stands against one optimum that is not interior, as a clause of a sentence."""
    for name, word, value in (("N*", "parameter", best.params), ("D*", "token", best.tokens)):
        if value <= LEAST:
            return f"its {name} at C = {scientific(flops)} is one {word} or less"
    return f"it gives no finite loss at its optimum for C = {scientific(flops)}"


def require_params_and_tokens(law: Law) -> None:
    """Refuse a law that cannot trade parameters against tokens."""
    if law.target != "loss":
        raise Refusal(f"law = {law.name} predicts {law.target}, not a loss. Use e.g. chinchilla.")
    if set(law.features) == {"params", "tokens", "unique_tokens"}:
        raise Refusal(
            f"law = {law.name} needs to know how many different tokens exist: give --unique-tokens."
        )
    if set(law.features) != {"params", "tokens"}:
        raise Refusal(
            f"law = {law.name} predicts from {', '.join(law.features)}, so it cannot divide a "
            "compute budget between params and tokens. Use a law of both, e.g. chinchilla."
        )


# --- closed form ------------------------------------------------------------------------------


@dataclass(frozen=True)
class PowerSum:
    """A law as floor + (a·N^-p + b·D^-q)^outer; factors as logarithms. Entries may be arrays."""

    floor: Any
    log_a: Any
    p: Any
    log_b: Any
    q: Any
    outer: Any = 1.0


def _chinchilla(c: Coefficients) -> PowerSum:
    return PowerSum(c["E"], np.log(c["A"]), c["alpha"], np.log(c["B"]), c["beta"])


def _tied(c: Coefficients) -> PowerSum:
    return PowerSum(c["E"], np.log(c["A"]), c["alpha"], np.log(c["B"]), c["alpha"])


def _coupled(c: Coefficients) -> PowerSum:
    log_a, log_b = np.log(c["A"]) / c["beta"], np.log(c["B"]) / c["beta"]
    return PowerSum(c["E"], log_a, c["alpha"] / c["beta"], log_b, 1.0, c["beta"])


def _kaplan(c: Coefficients) -> PowerSum:
    ratio = c["alpha_N"] / c["alpha_D"]
    return PowerSum(0.0, ratio * np.log(c["N_c"]), ratio, np.log(c["D_c"]), 1.0, c["alpha_D"])


def _overtraining(c: Coefficients) -> PowerSum:
    # (D/N)^eta / (6ND)^eta = 6^-eta·N^(-2·eta), and the other way round for D.
    shift = c["eta"] * np.log(FLOPS_PER_PARAM_TOKEN)
    return PowerSum(
        c["E"], np.log(c["a"]) - shift, 2 * c["eta"], np.log(c["b"]) - shift, 2 * c["eta"]
    )


# The key is what the formula says, in whatever order: a law of another name finds its closed form,
# and one that merely shares the name does not.
_POWER_SUMS: Mapping[Expr, Callable[[Coefficients], PowerSum]] = {
    LAWS["chinchilla"].form: _chinchilla,
    LAWS["chinchilla_tied"].form: _tied,
    LAWS["chinchilla_coupled"].form: _coupled,
    LAWS["kaplan_nd"].form: _kaplan,
    LAWS["overtraining"].form: _overtraining,
}


def power_sum(law: Law, coefficients: Coefficients) -> PowerSum | None:
    """The law's closed form, or None where it has none here."""
    made = _POWER_SUMS.get(law.form)
    with np.errstate(divide="ignore", invalid="ignore"):
        return None if made is None else made(coefficients)


def _closed_form(law: Law, form: PowerSum, coefficients: Coefficients, flops: float) -> Optimum:
    # d/dlnN of the sum at constant ND: p·a·N^-p = q·b·D^-q, linear in ln N.
    log_product = np.log(flops / FLOPS_PER_PARAM_TOKEN)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        numerator = np.log(form.p) + form.log_a - np.log(form.q) - form.log_b
        log_n = (numerator + form.q * log_product) / (form.p + form.q)
    return _at(law, coefficients, np.clip(log_n, 0.0, log_product), flops)


# --- numeric ----------------------------------------------------------------------------------


def numeric_optimal(law: Law, coefficients: Coefficients, flops: float) -> Optimum:
    """The same optimum by minimisation over ln N, for any law of params and tokens."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in coefficients.values()))
    columns = {
        name: np.broadcast_to(np.asarray(value, dtype=np.float64), shape).reshape(-1, 1)
        for name, value in coefficients.items()
    }
    product = flops / FLOPS_PER_PARAM_TOKEN

    def loss(log_n: Array) -> Array:
        params = np.exp(log_n)
        return law.predict(columns, {"params": params, "tokens": product / params})

    rows = int(np.prod(shape))
    log_n = minimise(loss, np.zeros(rows), np.full(rows, np.log(product)))
    return _at(law, coefficients, log_n.reshape(shape), flops)


def minimise(function: Callable[[Array], Array], low: Array, high: Array) -> Array:
    """argmin of `function` on [low, high], one problem a row; an end where it falls towards it.

    `function` maps points (rows, k) to values (rows, k). A grid is narrowed around its least
    value (no assumption of a single valley), then the derivative's root is polished: comparing
    values alone cannot see closer to a minimum than the square root of the rounding error.
    """
    cells = 64
    fractions = np.linspace(0.0, 1.0, cells + 1)
    rows = np.arange(len(low))
    a, b = low, high
    for _ in range(4):  # each is 32 times finer: 50 nats of ln N to 5e-5
        grid = a[:, None] + (b - a)[:, None] * fractions
        values = function(grid)
        best = np.argmin(np.where(np.isfinite(values), values, np.inf), axis=1)
        a, b = grid[rows, np.maximum(best - 1, 0)], grid[rows, np.minimum(best + 1, cells)]
    return np.clip(_polish(function, (a + b) / 2), low, high)


# Sixth-order differences at a wide step: truncation and rounding are both below 1e-10 for
# anything that varies as smoothly as a power law does in logarithms.
STEP = 0.05
OFFSETS = STEP * np.arange(-3, 4)
SLOPE = np.array([-1, 9, -45, 0, 45, -9, 1]) / (60 * STEP)
CURVATURE = np.array([2, -27, 270, -490, 270, -27, 2]) / (180 * STEP**2)


def _polish(function: Callable[[Array], Array], start: Array) -> Array:
    # Newton on the slope. A step that does not lower the value (a kink, e.g. where data starts
    # to repeat) is not taken.
    x = start
    for _ in range(4):
        values = function(x[:, None] + OFFSETS)
        with np.errstate(divide="ignore", invalid="ignore"):
            slope, curvature = values @ SLOPE, values @ CURVATURE
            move = np.where(curvature > 0, -slope / curvature, 0.0)
        x = x + np.clip(np.nan_to_num(move), -STEP, STEP)
    both = function(np.stack([start, x], axis=1))
    rounding = 1e-14 * np.abs(both[:, 0])
    return np.where(both[:, 1] <= both[:, 0] + rounding, x, start)


def _at(law: Law, coefficients: Coefficients, log_n: Array, flops: float) -> Optimum:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        params = np.exp(log_n)
        tokens = flops / FLOPS_PER_PARAM_TOKEN / params
        loss = np.asarray(law.predict(coefficients, {"params": params, "tokens": tokens}))
    interior = np.isfinite(loss) & (params > LEAST) & (tokens > LEAST)
    return Optimum(params, tokens, loss, interior)
