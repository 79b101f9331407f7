"""`--where`: rows of a run table that meet conditions such as `tokens>=5e8`. No code is run."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.runs.columns import numbers
from analysis.runs.messages import listing, shown
from scaling.store.records import Refusal, did_you_mean

CONDITION = re.compile(
    r"\s*(?P<column>[^<>=!]+?)\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<literal>[^<>=!\s].*?)\s*"
)
OPERATORS: dict[str, Callable[..., Any]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq,
    "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
EMPTY = ("''", '""', "nan", "NaN")  # literals for an empty cell


def meets(
    table: pd.DataFrame,
    conditions: Sequence[str],
    quantities: Mapping[str, pd.Series] | None = None,
) -> pd.Series:
    """Which rows meet every condition `column operator literal`, such as `tokens>=5e8`.

    A literal is a number (K, M, B, T for powers of a thousand), true, false, text, which compares
    by == and != only, or '' or nan for an empty cell. A cell that is empty or text is not above,
    below or equal to any number. Cells are those of `quantities` where it has the column. Raises
    Refusal for a condition that cannot be read and where no row is left.
    """
    kept = pd.Series(True, index=table.index)
    known = quantities or {}
    for condition in conditions:
        found = CONDITION.fullmatch(condition)
        if found is None:
            raise Refusal(
                f"--where {condition!r} is not `column operator value`. "
                "Example: --where 'tokens>=5e8'; operators: >= <= == != > <."
            )
        column, op, literal = found["column"], found["op"], found["literal"]
        if column not in table and column not in known:
            raise Refusal(
                f"--where {condition!r}: no column {column!r}; there are {listing(table.columns)}."
                + did_you_mean(column, map(shown, map(str, table.columns)))
            )
        before = int(kept.sum())
        try:
            kept &= _holds(
                table[column] if column in table else known[column], known.get(column),
                op, literal, table.attrs.get("decimal"),
            )  # fmt: skip
        except numbers.Unreadable as error:
            raise Refusal(f"--where {condition!r}: {column} {error}.") from None
        if not kept.any():
            raise Refusal(f"--where {condition!r} leaves none of {before} rows. Loosen it.")
    return kept


def _holds(
    cells: pd.Series, known: pd.Series | None, op: str, literal: str, mark: numbers.Mark | None
) -> pd.Series:
    """Which cells compare so with the literal. Raises Unreadable where they cannot be compared."""
    compared, equality = OPERATORS[op], op in ("==", "!=")
    if literal in EMPTY and equality:
        return compared(cells.isna() | cells.astype(str).str.strip().eq(""), True)
    if pd.api.types.is_bool_dtype(cells):
        if literal.lower() not in ("true", "false") or not equality:
            raise numbers.Unreadable("is true or false; use == or !=")
        return compared(cells, literal.lower() == "true")
    number, real = numbers.number(literal), pd.api.types.is_numeric_dtype(cells)
    if number is not None and (real or not equality or known is not None):
        values = numbers.read(cells, mark).numbers if known is None else known
        if values.isna().all():
            raise numbers.Unreadable("is text; use == or !=")
        return compared(values, number)
    if real:
        raise numbers.Unreadable(
            f"has numbers, and {literal!r} is not a number such as 5e8 or 300M"
        )
    if not equality:
        raise numbers.Unreadable("is text; use == or !=")
    quoted = len(literal) > 1 and literal[0] == literal[-1] and literal[0] in "'\""
    return compared(cells, literal[1:-1] if quoted else literal)
