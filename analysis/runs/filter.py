"""Rows of a run table that meet conditions given as words. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.runs import numbers
from analysis.runs.limits import listing, shown
from scaling.store.records import Refusal, did_you_mean

CONDITION = re.compile(r"\s*(?P<column>[^<>=!]+?)\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<literal>.+?)\s*")
EMPTY = ("''", '""', "nan", "NaN")  # literals that mean a cell without a value


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Rows that meet every condition `column operator literal`, such as `tokens>=5e8`.

    A literal is a number (K, M, B, T for powers of a thousand), true, false, text, which
    compares by == and != only, or '' or nan for an empty cell. A cell that is empty or text is not
    above, below or equal to any number. Nothing is evaluated. Raises Refusal for a condition that
    cannot be read and when no row is left.
    """
    return table[meets(table, conditions)]


def meets(
    table: pd.DataFrame,
    conditions: Sequence[str],
    quantities: Mapping[str, pd.Series] | None = None,
) -> pd.Series:
    """Which rows meet every condition of `where`; numbers of `quantities` come before the table's.

    Raises Refusal as `where` does.
    """
    kept = pd.Series(True, index=table.index)
    for condition in conditions:
        found = CONDITION.fullmatch(condition)
        if found is None:
            raise Refusal(
                f"--where {condition!r} is not `column operator literal`. "
                "Example: --where 'tokens>=5e8'; operators: >= <= == != > <."
            )
        column, op, literal = found["column"], found["op"], found["literal"]
        known = quantities or {}
        if column not in table and column not in known:
            raise Refusal(
                f"--where {condition!r}: no column {column!r}; there are {listing(table.columns)}."
                + did_you_mean(column, map(shown, map(str, table.columns)))
            )
        raw = table[column] if column in table else known[column]
        before = int(kept.sum())
        kept &= _holds(raw, known.get(column), op, literal, condition, table.attrs.get("decimal"))
        if not kept.any():
            raise Refusal(f"--where {condition!r} leaves none of {before} rows. Loosen it.")
    return kept


def _holds(
    cells: pd.Series, known: pd.Series | None, op: str, literal: str, condition: str,
    decimal: numbers.Mark | None,
) -> pd.Series:  # fmt: skip
    name = cells.name
    number = numbers.number(literal)
    if literal in EMPTY and op in ("==", "!="):
        empty = cells.isna() | cells.astype(str).str.strip().eq("")
        return empty if op == "==" else ~empty
    if pd.api.types.is_bool_dtype(cells):
        if literal.lower() not in ("true", "false") or op not in ("==", "!="):
            raise Refusal(f"--where {condition!r}: {name} is true or false; use == or !=.")
        return _compared(cells, op, literal.lower() == "true")
    real = pd.api.types.is_numeric_dtype(cells)
    if number is not None and (real or op not in ("==", "!=") or known is not None):
        try:
            values = numbers.read(cells, decimal).numbers if known is None else known
        except numbers.Unreadable as error:
            raise Refusal(f"--where {condition!r}: {name} {error}.") from None
        if values.isna().all():
            raise Refusal(f"--where {condition!r}: {name} is text; use == or !=.")
        return _compared(values, op, number)
    if real:
        raise Refusal(f"--where {condition!r}: {literal!r} is not a number.")
    if op not in ("==", "!="):
        raise Refusal(f"--where {condition!r}: {name} is text; use == or !=.")
    quoted = len(literal) > 1 and literal[0] == literal[-1] and literal[0] in "'\""
    return _compared(cells, op, literal[1:-1] if quoted else literal)


def _compared(values: pd.Series, op: str, right: float | str | bool) -> pd.Series:
    comparison = {
        ">=": values.ge, "<=": values.le, "==": values.eq,
        "!=": values.ne, ">": values.gt, "<": values.lt,
    }[op]  # fmt: skip
    return comparison(right)
