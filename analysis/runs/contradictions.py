"""What the columns of a table say that its other columns contradict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.runs.columns import candidates
from analysis.runs.limits import shown
from analysis.runs.numbers import Unreadable, read
from analysis.runs.rows import row_called
from analysis.runs.vocabulary import is_number

# Counts of compute in use differ by less: attention, embeddings, 6 or 8 a parameter and token.
MOST_APART = 2.0
ALIKE = 1.1  # of 6ND and a budget that was cut by it: whole batches and the head's share


def contradictions(table: pd.DataFrame) -> list[str]:
    """A sentence for every declaration that arithmetic on the usable rows contradicts."""
    if not {"params", "tokens"} <= set(table.columns) or table.empty:
        return []
    numeric = pd.api.types.is_numeric_dtype
    if not (numeric(table["params"]) and numeric(table["tokens"])):
        return []
    names = [str(name) for name in table.columns]
    declared = [*candidates("flops", names), *candidates("budget_flops", names)]
    counted = 6.0 * table["params"] * table["tokens"]
    said = [_compute(table, name, counted) for name in dict.fromkeys(declared)]
    return [*filter(None, said), *_unique(table)]


def _compute(table: pd.DataFrame, name: str, counted: pd.Series) -> str:
    try:
        declared = read(table[name], table.attrs.get("decimal")).numbers
    except Unreadable:
        return ""
    with np.errstate(all="ignore"):
        ratio = (counted / declared).where((declared > 0) & (counted > 0))
    apart = np.nan_to_num(np.abs(np.log(ratio.to_numpy(float))))
    count = int((apart > np.log(MOST_APART)).sum())
    if not count:
        return ""
    at = int(np.argmax(apart))
    agreeing = _agreeing(table, declared)
    remedy = f"--flops-column {shown(name)} takes D = C / (6 N) from it"
    if agreeing is not None:
        remedy = f"{shown(agreeing)} agrees with it: --tokens-column {shown(agreeing)}"
    return (
        f"6 N D is not {shown(name)} in {count} of {len(table)} rows, by a factor of up to "
        f"{np.exp(apart[at]):.3g} ({row_called(table, at)}: {counted.iloc[at]:.3g} and "
        f"{declared.iloc[at]:.3g}). If {shown(name)} is right, N*, D* and the exponents are "
        f"wrong; {remedy}"
    )


def _agreeing(table: pd.DataFrame, declared: pd.Series) -> str | None:
    """Another column of tokens by which 6·N·D is what was declared."""
    for name in map(str, table.columns):
        if name == "tokens" or "tokens" not in name or not is_number(table[name]):
            continue
        with np.errstate(all="ignore"):
            apart = np.abs(np.log(6.0 * table["params"] * table[name] / declared))
        if (apart <= np.log(ALIKE)).all():
            return name
    return None


def _unique(table: pd.DataFrame) -> list[str]:
    if "unique_tokens" not in table or not pd.api.types.is_numeric_dtype(table["unique_tokens"]):
        return []
    above = table["unique_tokens"] > table["tokens"]
    if not above.any():
        return []
    at = int(np.argmax(above.to_numpy()))
    return [
        f"unique_tokens is above tokens in {int(above.sum())} of {len(table)} rows "
        f"({row_called(table, at)}), where no run has seen so many: tokens are used"
    ]
