"""Whether a design, the features of the runs alone, can tell the coefficients of a law apart."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from analysis.evaluator import model
from analysis.expression import Array, derivative, evaluate, symbols
from analysis.laws import Law
from analysis.model import Data, to_coefficients
from analysis.newton import Mask
from analysis.objective import objective
from scaling.store.records import Refusal

RAY_WIDTH = 0.05  # e-folds; whole batches move a point off its ray by a percent or two
# Of J with columns of unit size, smallest against largest singular value: 1e-15 where a direction
# is open, 7e-5 and more for twenty laws on sound designs (both measured).
DEFICIENT = 3e-7
INERT = 1e-13  # a log-prediction that moves less per unit of a coefficient is rounding
# Of J's entries. An open direction is wrong by this over the next singular value (Wedin 1972): a
# coefficient with a share below that takes no part in it.
ROUNDING = 1e-13


class Design(NamedTuple):
    """How well the rows could tell the coefficients apart, whatever their losses."""

    condition: float  # of JᵀJ of log-predictions in the model's (centred) coordinates
    open: tuple[str, ...]  # coefficients that can move together and change no prediction


def design_at(law: Law, data: Data, theta: Array, held: Mask, known: Mask) -> Design:
    """How well the rows of `data` tell the coefficients apart around θ.

    `held` coefficients are no coordinates; `known` ones (held, or under a prior) cannot move.
    Which are open is the same wherever along the open direction θ lies, since a search stops
    anywhere there: a coefficient counts by whether it moves, not by how much.
    """
    matrix = _information(law, data, theta, centred=not held.any())
    if not np.isfinite(matrix).all():
        return Design(float("inf"), ())
    condition = 1.0 if held.all() else float(np.linalg.cond(matrix[~held][:, ~held]))
    free = [name for name, k in zip(law.coefficients, known, strict=True) if not k]
    columns = _jacobian(law, data, theta)[:, ~known]
    size = np.linalg.norm(columns, axis=0)
    # Unit columns, so that units do not count; what moves no prediction at all stays at zero.
    moves = size > INERT * np.sqrt(data.n)
    columns = np.where(moves, columns / np.where(moves, size, 1.0), 0.0)
    _, values, vectors = np.linalg.svd(np.linalg.qr(columns, mode="r"))
    deficient = values <= DEFICIENT * values.max(initial=0.0)
    share = np.linalg.norm(vectors[deficient], axis=0)
    noise = 0.0 if deficient.all() else ROUNDING / values[~deficient].min()
    return Design(condition, tuple(n for n, s in zip(free, share, strict=True) if s > noise))


def _jacobian(law: Law, data: Data, theta: Array) -> Array:
    """Of log-predictions at θ, a column a coefficient; each is exact to rounding of its own."""
    letters = {s.symbol.name: s for s in symbols(law.loss) if s.symbol}
    slopes = [derivative(law.loss, letters[name]) for name in law.coefficients]
    coefficients = to_coefficients(law, theta)
    values = {**data.features, **{k: np.asarray(v) for k, v in coefficients.items()}}
    with np.errstate(all="ignore"):
        predicted, *moved = evaluate([law.loss, *slopes], values)
        unit = [coefficients[n] if law.symbols[n].positive else 1.0 for n in law.coefficients]
        columns = [u * m / predicted * np.ones(data.n) for u, m in zip(unit, moved, strict=True)]
    return np.nan_to_num(np.stack(columns, axis=1), posinf=0.0, neginf=0.0)


def _information(law: Law, data: Data, theta: Array, centred: bool) -> Array:
    """JᵀJ of log-predictions at θ: on rows without residuals, the Hessian of log-L2."""
    letters = {n: data.features[n] for n, s in law.symbols.items() if s.feature}
    values = letters | {k: np.asarray(v) for k, v in to_coefficients(law, theta).items()}
    with np.errstate(all="ignore"):
        predicted = np.broadcast_to(evaluate([law.loss], values)[0], data.n)
        if not (np.isfinite(predicted).all() and (predicted > 0).all()):
            return np.full((len(theta), len(theta)), np.inf)
        exact = model(law, Data(letters, predicted), objective("log_l2"), centred=centred)
        local = exact.local(exact.enter(theta[None]), np.ones((1, data.n)), False)
    return local.hessian[0]


def condition_number(params: Array, tokens: Array) -> float:
    """How well runs at these (N, D) could tell the Chinchilla law's coefficients apart.

    The condition number of JᵀJ for (log E, log A, log B, α, β) in centred log-features, for a
    reference law whose three terms are equal at the centre and whose exponents are Besiroglu's
    (arXiv:2404.10102): a property of the design alone, whatever its scale. About 1e3 for a
    grid; 1e8 and more, as for one ray D = kN, cannot be fitted, nor can one distinct N or D.
    Raises Refusal for numbers that are not positive and finite.
    """
    n, d = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    for name, values in (("params", n), ("tokens", d)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise Refusal(f"{name} must be positive and finite; got {values.min():g}.")
    x, y = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()
    a, b = np.exp(-0.3478 * x), np.exp(-0.3658 * y)
    shares = np.stack([np.ones_like(a), a, b], axis=1) / (1 + a + b)[:, None]
    jacobian = np.column_stack([shares, -shares[:, 1] * x, -shares[:, 2] * y])
    return float(np.linalg.cond(jacobian.T @ jacobian))


def refuse_line(features: dict[str, Array]) -> None:
    """Raises Refusal if a feature has one value, or all points lie on one power-law line."""
    if found := obstacles(features):
        raise Refusal(" ".join(found))


def obstacles(features: dict[str, Array]) -> list[str]:
    """Why no number of runs like these can tell the exponents apart, each with what would."""
    logs = {name: np.log(values) for name, values in features.items()}
    single = [name for name, log in logs.items() if np.ptp(log) < 1e-6]
    if single or len(logs) < 2:
        return [
            f"{name} has one distinct value ({features[name][0]:g}); its exponent cannot be told. "
            f"Give runs at two or more {name}."
            for name in single
        ]
    centred = np.stack([log - log.mean() for log in logs.values()], axis=1)
    decomposition = np.linalg.svd(centred / np.sqrt(len(centred)), full_matrices=False)
    if decomposition.S[-1] >= RAY_WIDTH:
        return []
    names = list(features)
    normal = decomposition.Vh[-1]
    if len(names) == 2:
        slope = -normal[0] / normal[1] if normal[1] else np.inf
        k = np.exp(np.mean(logs[names[1]] - slope * logs[names[0]]))
        line = f"{names[1]} = {k:.3g}·{names[0]}" + (
            "" if abs(slope - 1) < 0.02 else f"^{slope:.2f}"
        )
    else:
        line = "one power-law surface of " + ", ".join(names)
    return [
        f"all runs lie on one ray, {line}, which cannot separate the exponents. "
        "Add runs with another ratio, e.g. 10, 20 and 40 tokens per parameter."
    ]
