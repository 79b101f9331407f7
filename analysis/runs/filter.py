"""Rows of a run table that meet conditions given as words. Nothing is evaluated."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from analysis.runs.load import listing
from scaling.records import Refusal

CONDITION = re.compile(r"\s*(?P<column>[^<>=!]+?)\s*(?P<op>>=|<=|==|!=|>|<)\s*(?P<literal>.+?)\s*")
_SUFFIX = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def where(table: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """Rows that meet every condition `column operator literal`, such as `tokens>=5e8`.

    A literal is a number (K, M, B, T for powers of a thousand), true, false, or text, which
    compares by == and != only. Nothing is evaluated. Raises Refusal for a condition that
    cannot be read and when no row is left.
    """
    for condition in conditions:
        found = CONDITION.fullmatch(condition)
        if found is None:
            raise Refusal(
                f"--where {condition!r} is not `column operator literal`. "
                "Example: --where 'tokens>=5e8'; operators: >= <= == != > <."
            )
        column, op, literal = found["column"], found["op"], found["literal"]
        if column not in table:
            raise Refusal(
                f"--where {condition!r}: no column {column!r}; there are {listing(table.columns)}."
            )
        rows = table[_holds(table[column], op, literal, condition)]
        if rows.empty:
            raise Refusal(f"--where {condition!r} leaves none of {len(table)} rows. Loosen it.")
        table = rows
    return table


def _holds(values: pd.Series, op: str, literal: str, condition: str) -> pd.Series:
    number = as_number(literal)
    right: float | str | bool
    if pd.api.types.is_bool_dtype(values):
        if literal.lower() not in ("true", "false") or op not in ("==", "!="):
            raise Refusal(f"--where {condition!r}: {values.name} is true or false; use == or !=.")
        right = literal.lower() == "true"
    elif pd.api.types.is_numeric_dtype(values):
        if number is None:
            raise Refusal(f"--where {condition!r}: {literal!r} is not a number.")
        right = number
    else:
        if op not in ("==", "!="):
            raise Refusal(f"--where {condition!r}: {values.name} is text; use == or !=.")
        quoted = len(literal) > 1 and literal[0] == literal[-1] and literal[0] in "'\""
        right = literal[1:-1] if quoted else literal
    comparison = {
        ">=": values.ge, "<=": values.le, "==": values.eq,
        "!=": values.ne, ">": values.gt, "<": values.lt,
    }[op]  # fmt: skip
    return comparison(right)


def as_number(text: str) -> float | None:
    scale = _SUFFIX.get(text[-1:].upper(), 1.0)
    try:
        return float(text[:-1] if scale != 1.0 else text) * scale
    except ValueError:
        return None
