"""Whether a design, the features of the runs alone, determines the coefficients of a law."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from analysis.array import Array
from analysis.laws.law import Law
from analysis.laws.published import published
from analysis.runs.messages import listed
from analysis.solver.newton import Mask
from analysis.solver.objective import Objective, objective
from analysis.solver.power_sum import model
from analysis.solver.priors import Fixed
from analysis.solver.problem import Data, jacobian, predictions, to_theta
from analysis.solver.search import grid_starts
from scaling.store.records import Refusal

RAY_WIDTH = 0.05  # e-folds; whole batches move a point off its ray by a percent or two
# Of J with columns of unit size, smallest against largest singular value: 1e-15 where a direction
# is open, 7e-5 and more for twenty laws on sound designs (both measured).
DEFICIENT = 3e-7
INERT = 1e-13  # a log-prediction that moves less per unit of a coefficient is rounding
# Of J's entries. An open direction is wrong by this over the next singular value (Wedin 1972): a
# coefficient with a share below that takes no part in it.
ROUNDING = 1e-13
TYPICAL = published("besiroglu-2024")  # whose exponents a design is judged by
STARTS = 8  # values of the coefficients at which a design is tried: at some, terms vanish
POINTS = 64  # of a design of every combination


class Design(NamedTuple):
    """How well the rows could determine the coefficients, whatever their losses are."""

    condition: float  # of JᵀJ of log-predictions in centred coordinates, along what is not held
    open: tuple[str, ...]  # coefficients that can move together and change no prediction


def design_at(law: Law, data: Data, theta: Array, held: Mask, known: Mask) -> Design:
    """How well the rows of `data` determine the coefficients around θ.

    `held` coefficients cannot move, nor can `known` ones (held, or under a prior).
    Which are open is the same wherever along the open direction θ lies, since a search stops
    anywhere there: a coefficient counts by whether it moves, not by how much.
    """
    matrix = _information(law, data, theta, held)
    if not np.isfinite(matrix).all():
        return Design(float("inf"), ())
    condition = 1.0 if held.all() else float(np.linalg.cond(matrix))
    return Design(condition, _open(law, data, theta, known).names)


class _Open(NamedTuple):
    names: tuple[str, ...]  # coefficients that can move together and change no prediction
    rank: int  # how many combinations of the others the rows determine


def _open(law: Law, data: Data, theta: Array, known: Mask) -> _Open:
    free = [name for name, k in zip(law.coefficients, known, strict=True) if not k]
    columns = jacobian(law, data, theta)[:, ~known]
    size = np.linalg.norm(columns, axis=0)
    # Unit columns, so that units do not count; what moves no prediction at all stays at zero.
    moves = size > INERT * np.sqrt(data.n)
    columns = np.where(moves, columns / np.where(moves, size, 1.0), 0.0)
    _, values, vectors = np.linalg.svd(np.linalg.qr(columns, mode="r"))
    deficient = values <= DEFICIENT * values.max(initial=0.0)
    share = np.linalg.norm(vectors[deficient], axis=0)
    noise = 0.0 if deficient.all() else ROUNDING / values[~deficient].min()
    names = tuple(n for n, s in zip(free, share, strict=True) if s > noise)
    return _Open(names, int(np.sum(~deficient)))


def _information(law: Law, data: Data, theta: Array, held: Mask) -> Array:
    """JᵀJ of log-predictions at θ: on rows without residuals, the Hessian of log-L2.

    In centred coordinates whatever is held, along the directions that leave the held ones where
    they are: so condition numbers compare, and to hold a coefficient never raises them.
    """
    predicted = predictions(law, data, theta)
    if not (np.isfinite(predicted).all() and (predicted > 0).all()):
        return np.full((len(theta), len(theta)), np.inf)
    with np.errstate(all="ignore"):
        exact = model(law, Data(data.features, predicted), objective("log_l2"))
        local = exact.local(exact.enter(theta[None]), np.ones((1, data.n)), False)
    along = np.linalg.qr(exact.enter(np.eye(len(theta)))[~held].T).Q
    return np.asarray(along.T @ local.hessian[0] @ along)


def condition_number(params: Array, tokens: Array) -> float:
    """How well runs at these (N, D) could determine the coefficients of the Chinchilla law.

    The condition number of JᵀJ for (log E, log A, log B, α, β) in centred log-features at the
    `typical` coefficients: a property of the design alone, whatever its scale. About 1e3 for a
    grid; 1e8 and more, as for one ray D = kN, cannot be fitted, nor can one distinct N or D.
    Raises Refusal for numbers that are not positive and finite.
    """
    n, d = np.asarray(params, dtype=float), np.asarray(tokens, dtype=float)
    for name, values in (("params", n), ("tokens", d)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise Refusal(f"{name} must be positive and finite; got {values.min():g}.")
    theta = to_theta(TYPICAL.law, typical(n, d))
    none = np.zeros(len(theta), dtype=bool)
    data = Data({"N": n, "D": d}, np.ones(len(n)))
    return float(np.linalg.cond(_information(TYPICAL.law, data, theta, none)))


def typical(params: Array, tokens: Array) -> dict[str, float]:
    """Coefficients of a Chinchilla law whose three terms are equal at the centre of a design, with
    published exponents."""
    alpha, beta = (TYPICAL.coefficients[name] for name in ("alpha", "beta"))
    a, b = (float(np.exp(e * np.log(x).mean())) for e, x in ((alpha, params), (beta, tokens)))
    return {"E": 1.0, "A": a, "alpha": alpha, "B": b, "beta": beta}


def refuse_line(features: dict[str, Array]) -> None:
    """Raises Refusal if a feature has one value, or all points lie on one power-law line."""
    found = [_one_value(name, features[name], "its exponent") for name in _single(features)]
    if found := found or _line(features):
        raise Refusal(" ".join(found))


def obstacles(law: Law, data: Data, goal: Objective, held: Fixed, known: Mask) -> list[str]:
    """Why no number of runs like these can determine the law's coefficients, each with what would.

    `known` coefficients (held, or under a prior) need no runs. A feature of one value is in the
    way where several values would determine more combinations of the others: not the unique
    tokens of `data_constrained`, say, of which the runs vary the share that they see.
    """
    columns = {s.column: data.features[name] for name, s in law.symbols.items() if s.feature}
    single = _single(columns)
    found = []
    if single:
        starts = grid_starts(law, data, np.ones(data.n), goal, held.mask, held.theta)[:STARTS]
        here = _most(law, _scattered(law, data, ""), starts, known)
        for column in single:
            more = _most(law, _scattered(law, data, column), starts, known)
            if more.rank > here.rank:
                undetermined = [name for name in here.names if name not in more.names]
                found.append(_one_value(column, columns[column], listed(undetermined)))
    return found or _line({c: values for c, values in columns.items() if c not in single})


def _most(law: Law, data: Data, starts: Array, known: Mask) -> _Open:
    """What the rows leave open at that one of several θ where they determine most."""
    return max((_open(law, data, theta, known) for theta in starts), key=lambda found: found.rank)


def _scattered(law: Law, data: Data, varied: str) -> Data:
    """Points all over the range of each feature, so that no coefficient is open because rows are
    few; the column `varied` has more than its one value in them."""
    rng = np.random.default_rng(0)
    features = {}
    for letter, values in data.features.items():
        low, high = np.log(values.min()), np.log(values.max())
        if law.symbols[letter].column == varied:
            low, high = low - 1.0, high + 1.0
        features[letter] = np.exp(rng.uniform(low, high, POINTS))
    return Data(features, np.ones(POINTS))


def _single(features: Mapping[str, Array]) -> list[str]:
    return [name for name, values in features.items() if np.ptp(np.log(values)) < 1e-6]


def _one_value(name: str, values: Array, undetermined: str) -> str:
    return (
        f"{name} has one distinct value ({values[0]:g}), so that these runs cannot determine "
        f"{undetermined}. Give runs at two or more {name}."
    )


def _line(features: Mapping[str, Array]) -> list[str]:
    """That all points lie on one power-law line, or surface of more features."""
    if len(features) < 2:
        return []
    logs = {name: np.log(values) for name, values in features.items()}
    centred = np.stack([log - log.mean() for log in logs.values()], axis=1)
    decomposition = np.linalg.svd(centred / np.sqrt(len(centred)), full_matrices=False)
    if decomposition.S[-1] >= RAY_WIDTH:
        return []
    names = list(features)
    normal = decomposition.Vh[-1]
    if len(names) > 2:
        return [
            f"all runs lie on one power-law surface of {listed(names)}, which cannot separate the "
            f"exponents. Add runs in which one of them differs and the others do not."
        ]
    slope = -normal[0] / normal[1] if normal[1] else np.inf
    k = np.exp(np.mean(logs[names[1]] - slope * logs[names[0]]))
    power = "" if abs(slope - 1) < 0.02 else f"^{slope:.2f}"
    example = ", e.g. 10, 20 and 40 tokens per parameter" * (set(names) == {"params", "tokens"})
    return [
        f"all runs lie on one ray, {names[1]} = {k:.3g}·{names[0]}{power}, which cannot separate "
        f"the exponents. Add runs at other ratios of {names[1]} to {names[0]}{example}."
    ]
