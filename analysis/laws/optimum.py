"""Where a law puts its optimum.

Closed form for any law that is written as a floor and a falling power of N and of D, whoever wrote
it; for other laws a bounded minimisation over ln N. Both are vectorised over coefficient draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from analysis.array import Array
from analysis.laws.formula import Expr, number
from analysis.laws.jets import evaluate
from analysis.laws.law import Law
from analysis.laws.scalar import argmin
from analysis.laws.structure import addends, affine, features, monomial
from analysis.text import scientific
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
    form = closed_form(law, coefficients)
    if form is None:
        return numeric_optimal(law, coefficients, flops)
    # d/dlnN of the sum at constant ND: p·a·N^-p = q·b·D^-q, linear in ln N.
    n, d = form.terms["params"], form.terms["tokens"]
    log_product = np.log(flops / FLOPS_PER_PARAM_TOKEN)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_n = (n.log_slope - d.log_slope + d.power * log_product) / (n.power + d.power)
    log_n = np.clip(log_n, 0.0, log_product)
    return at_logarithms(law, coefficients, log_n, log_product - log_n)


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


class Term(NamedTuple):
    """factor·x^-power: formulas of the coefficients, or their values, maybe arrays over draws."""

    log_factor: Any
    power: Any

    @property
    def log_slope(self) -> Any:
        """ln of −d/dlnx of the term at x = 1."""
        return np.log(self.power) + self.log_factor


class ClosedForm(NamedTuple):
    """floor + (a·N^-p + b·D^-q)^outer, with a term by the column of its feature."""

    floor: Any
    outer: Any
    terms: Mapping[str, Term]


def closed_form(law: Law, coefficients: Coefficients) -> ClosedForm | None:
    """The law as a floor and a falling power of N and of D; None where it is anything else."""
    read = _read(law)
    if read is None:
        return None
    floor, outer = (evaluate(part, coefficients) for part in (read.floor, read.outer))
    terms = {
        column: Term(*(evaluate(part, coefficients) for part in term))
        for column, term in read.terms.items()
    }
    if any(np.any(np.less(term.power, 0)) for term in terms.values()):
        return None
    return ClosedForm(floor, outer, terms)


def _read(law: Law) -> ClosedForm | None:
    """The closed form of any law that is written as one, in whatever order, as formulas."""
    terms = addends(law.loss)
    alone = [term for term in terms if not features(term)]
    falling = [term for term in terms if features(term)]
    outer = number(1.0)
    if len(falling) == 1 and falling[0].op == "pow" and not features(falling[0].args[1]):
        inside, outer = falling[0].args
        falling = addends(inside)
    found: dict[str, Term] = {}
    for product in map(monomial, falling):
        powers = {} if product is None else product.powers
        powers = {x: power for x, power in powers.items() if not _cancels(power)}
        if product is None or len(powers) != 1:
            return None
        ((letter, power),) = powers.items()
        found[law.symbols[letter].column] = Term(product.log_factor, -power)
    if len(falling) != 2 or set(found) != {"params", "tokens"}:
        return None
    return ClosedForm(sum(alone, number(0.0)), outer, found)


def _cancels(power: Expr) -> bool:
    """Whether a power is zero whatever the coefficients are, as of D in (D/N)^eta/(N·D)^eta."""
    parts = affine(power)
    return parts is not None and not any(parts.values())


# --- numeric ----------------------------------------------------------------------------------


def numeric_optimal(law: Law, coefficients: Coefficients, flops: float) -> Optimum:
    """The same optimum by minimisation over ln N, for any law of params and tokens."""
    shape, columns = columns_of(coefficients)
    log_product = np.log(flops / FLOPS_PER_PARAM_TOKEN)

    def loss(log_n: Array) -> Array:
        return loss_at(law, columns, log_n, log_product - log_n)

    rows = math.prod(shape)
    log_n = argmin(loss, np.zeros(rows), np.full(rows, log_product)).reshape(shape)
    return at_logarithms(law, coefficients, log_n, log_product - log_n)


def columns_of(coefficients: Coefficients) -> tuple[tuple[int, ...], dict[str, Array]]:
    """The common shape of the coefficients, and each as a column of draws."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in coefficients.values()))
    return shape, {
        name: np.broadcast_to(np.asarray(value, dtype=np.float64), shape).reshape(-1, 1)
        for name, value in coefficients.items()
    }


def loss_at(law: Law, coefficients: Coefficients, log_n: Array, log_d: Array) -> Array:
    """The loss of runs of which ln N and ln D are given."""
    with np.errstate(over="ignore"):
        return law.predict(coefficients, {"params": np.exp(log_n), "tokens": np.exp(log_d)})


def at_logarithms(law: Law, coefficients: Coefficients, log_n: Array, log_d: Array) -> Optimum:
    """The runs of which ln N and ln D are given; not interior where one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        params, tokens = np.exp(np.asarray(log_n)), np.exp(np.asarray(log_d))
    loss = loss_at(law, coefficients, log_n, log_d)
    interior = np.isfinite(params) & np.isfinite(tokens) & np.isfinite(loss)
    return Optimum(params, tokens, loss, interior & (params > LEAST) & (tokens > LEAST))
