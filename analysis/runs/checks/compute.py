"""Whether declared FLOPs and unique tokens agree with the params and tokens of the runs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import numpy as np
import pandas as pd

from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.columns.kinds import is_number
from analysis.runs.columns.names import candidates
from analysis.runs.columns.numbers import Unreadable, read
from analysis.runs.columns.units import unit_of
from analysis.runs.messages import row_called, shown

# The counts of compute in use differ by a smaller factor: with or without attention and embeddings,
# 6 or 8 per parameter and token.
MOST_APART = 2.0
LEAST = 1e9  # FLOPs; a column with fewer holds dollars, hours or another unit
ALIKE = 1.1  # a factor between 6ND and the budget it was made for: whole batches, the head's share


def declared_flops(table: pd.DataFrame, unit: float | None = None) -> dict[str, pd.Series]:
    """By name, the columns of a run's FLOPs or of its budget, in FLOPs.

    `unit` is the user's for the column of FLOPs; without it a column's name may give the unit.
    """
    names = [str(name) for name in table.columns]
    units = {name: unit_of(name) for name in candidates("budget_flops", names)}
    units |= {name: unit or unit_of(name) for name in candidates("flops", names)}
    found = {}
    for name, scale in units.items():
        with suppress(Unreadable):
            found[name] = read(table[name], table.attrs.get("decimal")).times(scale)
    return {name: flops for name, flops in found.items() if flops.min() >= LEAST}


def contradictions(table: pd.DataFrame, declared: Mapping[str, pd.Series]) -> list[str]:
    """A sentence for every column that arithmetic on the rows contradicts.

    `declared` are FLOPs by column, from `declared_flops`.
    """
    if table.empty or not all(
        each in table and is_number(table[each]) for each in ("params", "tokens")
    ):
        return []
    counted = FLOPS_PER_PARAM_TOKEN * table["params"] * table["tokens"]
    found = [_contradiction(table, name, counted, each) for name, each in declared.items()]
    return [*filter(None, found)]


def _contradiction(table: pd.DataFrame, name: str, counted: pd.Series, declared: pd.Series) -> str:
    """That 6·N·D is not what a column declares, and what to do; "" where it is."""
    with np.errstate(all="ignore"):
        ratio = (counted / declared).where((declared > 0) & (counted > 0))
    apart = np.nan_to_num(np.abs(np.log(ratio.to_numpy(float))))
    count = int((apart > np.log(MOST_APART)).sum())
    if not count:
        return ""
    at = int(np.argmax(apart))
    remedy = f"--flops-column {shown(name)} takes D = C / (6 N) from it"
    if agreeing := _agreeing(table, declared):
        remedy = f"{shown(agreeing)} agrees with it: --tokens-column {shown(agreeing)}"
    return (
        f"6 N D is not {shown(name)} in {count} of {len(table)} rows, by a factor of up to "
        f"{np.exp(apart[at]):.3g} ({row_called(table, at)}: {counted.iloc[at]:.3g} and "
        f"{declared.iloc[at]:.3g}). If {shown(name)} is right, N*, D* and the exponents are "
        f"wrong; {remedy}"
    )


def _agreeing(table: pd.DataFrame, declared: pd.Series) -> str:
    """Another column of tokens with which 6·N·D is what was declared; "" without one."""
    for name in map(str, table.columns):
        if name != "tokens" and "tokens" in name and is_number(table[name]):
            ratio = FLOPS_PER_PARAM_TOKEN * table["params"] * table[name] / declared
            if ratio.between(1 / ALIKE, ALIKE).all():
                return name
    return ""


def at_most_tokens(table: pd.DataFrame, ends: pd.Series) -> list[str]:
    """Lower `unique_tokens` to `tokens` in place: no run sees more different tokens than it trains
    on. Returns a sentence about the rows of `ends` where they were above."""
    if not all(each in table and is_number(table[each]) for each in ("unique_tokens", "tokens")):
        return []
    above = table["unique_tokens"] > table["tokens"]
    if not above.any():
        return []
    table["unique_tokens"] = table["unique_tokens"].mask(above, table["tokens"])
    if not (count := int((above & ends).sum())):
        return []
    at = int(np.argmax((above & ends).to_numpy()))
    return [
        f"unique_tokens is above tokens in {count} of {int(ends.sum())} rows "
        f"({row_called(table, at)}), but no run sees more than its tokens: these are used"
    ]
