"""Budgets that a table names, against the compute 6·N·D of its own rows."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.expression import Array
from analysis.runs.vocabulary import is_number

NAMES = ("budget_flops", "flops_budget", "flop_budget", "compute_budget", "isoflop_budget")
# Exact counts of compute differ from 6ND by less, but for models of a few thousand parameters.
APART = 2.0
ALIKE = 1.1  # of 6ND within a budget, where tokens are what the budget was cut by


def contradicted(rows: pd.DataFrame) -> list[str]:
    """A warning where 6·N·D is not the budget that a column names, with a column that would be."""
    name = next((each for each in NAMES if each in rows and is_number(rows[each])), None)
    if name is None or not {"params", "tokens"} <= set(rows):
        return []
    budget = rows[name].to_numpy(dtype=float)
    named = np.isfinite(budget) & (budget > 0)
    if not named.any():
        return []
    budget, params = budget[named], rows["params"].to_numpy(dtype=float)[named]
    ratio = 6 * params * rows["tokens"].to_numpy(dtype=float)[named] / budget
    if _spread(ratio) <= APART and 1 / APART <= np.median(ratio) <= APART:
        return []
    others = [
        column for column in map(str, rows.columns)
        if "tokens" in column and column != "tokens" and is_number(rows[column])
        and _equal(6 * params * rows[column].to_numpy(dtype=float)[named] / budget)
    ]  # fmt: skip
    remedy = "Name the column of the tokens that each run was trained on with --tokens-column"
    if others:
        remedy = f"By {others[0]} they agree: --tokens-column {others[0]}"
    return [
        f"6ND is {ratio.min():.2g} to {ratio.max():.2g} times {name}: the tokens (or the params) "
        "of these rows are not those of the runs, and N*, D* and exponents from them are wrong. "
        f"{remedy}"
    ]


def _spread(ratio: Array) -> float:
    return float(ratio.max() / ratio.min())


def _equal(ratio: Array) -> bool:
    good = bool(np.isfinite(ratio).all() and (ratio > 0).all())
    return good and _spread(ratio) <= ALIKE and 1 / ALIKE <= float(np.median(ratio)) <= ALIKE
