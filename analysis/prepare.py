"""The rows that a law is fitted to, as it needs them, and why it cannot be fitted to some."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.constraints import Fixed
from analysis.expression import Array
from analysis.identifiability import obstacles
from analysis.judgement import points
from analysis.laws import Law
from analysis.model import Data
from analysis.newton import Mask
from analysis.objective import Objective
from analysis.runs.table import standardise
from scaling.store.records import Refusal

SPARE_ROWS = 2  # rows beyond the coefficients; fewer leave no residual to judge by


def prepare(
    law: Law, table: pd.DataFrame, goal: Objective, held: Fixed, known: Mask
) -> pd.DataFrame:
    """The rows with the law's columns as floats; `flops` is always 6·N·D of this table's N.

    `held` coefficients are not fitted, and `known` ones (held, or under a prior) need no runs.
    Raises Refusal for rows that the law cannot be fitted to, with all that stands in the way.
    """
    counted = "params" in table or "params_total" in table
    derived = "flops" in law.features and counted and "tokens" in table
    derived = derived and law.target not in ("params", "tokens")  # there they are the answer
    needed = [c for c in law.features if not (c == "flops" and derived)]
    if derived:
        needed += ["params", "tokens"]
    rows = standardise(
        table,
        require=[*dict.fromkeys(needed), law.target],
        signed=() if goal.log else (law.target,),
    )
    if derived:
        rows["flops"] = 6 * rows["params"] * rows["tokens"]
    _refuse_sweep(law, rows)
    _refuse_constant(law, rows)
    if not held.mask.all():  # a law that is given whole is only set against the rows
        _refuse_few(law, rows, goal, held, known)
    return rows


def data_of(law: Law, rows: pd.DataFrame) -> Data:
    """The columns of prepared `rows` that the law is fitted to."""
    features = {n: rows[s.column].to_numpy() for n, s in law.symbols.items() if s.feature}
    return Data(features, rows[law.target].to_numpy())


def _refuse_few(law: Law, rows: pd.DataFrame, goal: Objective, held: Fixed, known: Mask) -> None:
    """Raises Refusal with all that stands in the way, first what no more of the same would mend."""
    found = obstacles(law, data_of(law, rows), goal, held, known)
    free = int((~held.mask).sum())
    need = f"{law.name} has {free} free coefficients and needs at least "
    count = points(law, rows)
    if len(rows) < free + SPARE_ROWS:
        found.append(
            f"{need}{free + SPARE_ROWS} usable runs; there are {len(rows)}. Train more"
            f"{' there' if found else ''}, or fit a law with fewer."
        )
    elif count < free:
        found.append(
            f"{need}as many distinct ({', '.join(law.features)}); the {len(rows)} runs lie at "
            f"{count}. Repeats tell the noise, not the law: train elsewhere, or fit a law with "
            "fewer."
        )
    if found:
        raise Refusal(" ".join(found))


def _refuse_constant(law: Law, rows: pd.DataFrame) -> None:
    """Raises Refusal for runs that all came to one value: any law without a slope passes there."""
    values = rows[law.target]
    if len(rows) > 1 and float(np.ptp(values)) <= 1e-9 * float(values.abs().max()):
        raise Refusal(
            f"{law.target} is {values.iloc[0]:.6g} in all {len(rows)} rows: it has one value, and "
            "there is nothing to fit. Give the column that the runs measured, or runs that differ."
        )


def _refuse_sweep(law: Law, rows: pd.DataFrame) -> None:
    """Raises Refusal for a law of optima on rows that are not: it would give the mean of the grid.

    Such a law says which rate, batch or size is best at a point; a row that is not the best of its
    point, by its loss, says nothing of that. Seeds may each have a best of their own.
    """
    if law.target == "loss" or "loss" not in rows:
        return
    also = ("seed",) if law.target in ("params", "tokens") else ("params", "tokens", "seed")
    point = [column for column in dict.fromkeys([*law.features, *also]) if column in rows]
    tried = rows.groupby(point, dropna=False)[law.target].nunique()
    if (tried > 1).any():
        first = tried[tried > 1].index[0]
        at = zip(point, first if isinstance(first, tuple) else (first,), strict=True)
        where = ", ".join(f"{column} = {value:.6g}" for column, value in at if column != "seed")
        raise Refusal(
            f"{law.name} is a law of the best {law.target}, and these rows are all that was tried: "
            f"{tried.max()} values of it at {where} ({(tried > 1).sum()} such points). Keep the "
            f"row of least loss at each: scaling fit RUNS --best-of {law.target}."
        )


def weights_of(rows: pd.DataFrame, column: str | None) -> Array:
    if column is None:
        return np.ones(len(rows))
    # standardise() refuses what is not positive and finite; the scale of weights is arbitrary.
    weight = standardise(rows, require=[column])[column].to_numpy()
    return np.asarray(weight / weight.mean())
