"""The same runs under each way of counting parameters.

The convention alone moves the allocation exponent by 0.13 (Porian et al. 2024, arXiv:2406.19146)
to 0.33 (`nanochat`'s optima), so whoever compares exponents must say which N they count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.allocation.power_law import OVER, local_exponent
from analysis.fitting.fit import Fit, fit
from analysis.laws.law import Law
from analysis.laws.optimum import compute_optimal
from analysis.runs.messages import name_of
from scaling.store.records import Refusal

COLUMNS = ("params_total", "params_non_embedding", "params_matmul", "params_active")


@dataclass(frozen=True)
class Convention:
    """One law under one count of parameters."""

    column: str
    fit: Fit
    params_exponent: float | None  # a in N* ∝ C^a at the runs' largest C; null without an optimum


def counts(table: pd.DataFrame) -> list[str]:
    """The counts of parameters that a run table has, of equal ones the first.

    Raises Refusal if fewer than two.
    """
    columns: list[str] = []
    for column in COLUMNS:
        if column in table and not any(table[column].equals(table[other]) for other in columns):
            columns.append(column)
    if len(columns) < 2:
        raise Refusal(
            f"--params-column all needs two or more of {', '.join(COLUMNS)}; "
            f"{name_of(table)} has {', '.join(columns) or 'none'}. Name the one column that "
            "holds N."
        )
    return columns


def by_convention(
    law: Law, tables: Mapping[str, pd.DataFrame], **settings: Any
) -> list[Convention]:
    """The law fitted to the same runs read under each count, by its column; without intervals."""
    found = []
    for column, table in tables.items():
        fitted = fit(law, table, **{**settings, "bootstrap": 0, "checks": False})
        found.append(Convention(column, fitted, _exponent(fitted)))
    return found


def spread(found: list[Convention]) -> Mapping[str, float]:
    """Largest minus smallest value of each coefficient, and of `params_exponent` if known."""
    values = pd.DataFrame(
        [{**c.fit.coefficients, "params_exponent": c.params_exponent} for c in found], dtype=float
    )
    return dict((values.max() - values.min()).dropna())


def _exponent(fitted: Fit) -> float | None:
    """The local exponent around the largest run; None where the law has no optimum there."""
    law, coefficients, flops = fitted.law, fitted.coefficients, fitted.data.flops_max
    if {"params", "tokens"} != set(law.features) or flops is None:
        return None
    ends = (flops * OVER**by for by in (-0.5, 0.5))
    if not all(compute_optimal(law, coefficients, end).interior for end in ends):
        return None
    return float(local_exponent(law, coefficients, flops, OVER))
