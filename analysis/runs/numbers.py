"""Cells as numbers, as people write them: 125M, 1.3 B, 2e9, 1_000, 1,000 and, elsewhere, 3,14.

A comma is a decimal mark in half of the world and parts thousands in the other. Which it is, is
decided by all cells of a column, else by the other columns of the file; never cell by cell.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[Any]
Mark = Literal[".", ","]  # what stands before the fraction

SUFFIXES = {
    **{"k": 1e3, "thousand": 1e3, "thousands": 1e3},
    **{"m": 1e6, "mn": 1e6, "million": 1e6, "millions": 1e6},
    **{"b": 1e9, "bn": 1e9, "billion": 1e9, "billions": 1e9},
    **{"t": 1e12, "trillion": 1e12, "trillions": 1e12},
}
_WORDS = "|".join(sorted(SUFFIXES, key=len, reverse=True))
_SPACE = "[ \xa0\u202f]*"
_ENDS = {
    size: f"(?:{'|'.join(word for word, each in SUFFIXES.items() if each == size)})$"
    for size in dict.fromkeys(SUFFIXES.values())
}
_BY = "_'’ \xa0\u202f"  # part thousands wherever the comma is


def _pattern(mark: Mark) -> str:
    """Without what RE2 has not, which matches whole columns."""
    by = f"{_BY}." if mark == "," else f"{_BY},"
    parted = "|".join(f"(?:[{each}][0-9]{{3}})+" for each in by)
    whole = rf"(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{parted}))"
    return (
        rf"(?:[+-]?(?:{whole}(?:[{mark}][0-9]*)?|[{mark}][0-9]+)(?:e[+-]?[0-9]{{1,4}})?"
        rf"{_SPACE}(?:{_WORDS})?)"
    )


_PATTERNS: dict[Mark, str] = {".": _pattern("."), ",": _pattern(",")}


class Unreadable(ValueError):
    """Why a column holds no numbers, to be said after its name."""


class Ambiguous(Unreadable):
    """A column that reads with commas as decimal marks and without."""

    def __init__(self, cell: str, point: float, comma: float) -> None:
        self.cell, self.readings = cell, (point, comma)
        super().__init__(
            f"has {cell!r}, which may be {plain(point)} or {plain(comma)}, and no cell tells "
            f"whether the comma is a decimal mark. Write it as {plain(point)} or as "
            f"{plain(comma)}, and the others likewise."
        )


@dataclass(frozen=True)
class Numbers:
    """A column as float64; NaN for a cell that is empty or no number."""

    numbers: pd.Series
    suffixed: pd.Series  # cells that say their own unit, such as 57M


def number(text: str) -> float | None:
    """The number that a word such as 1e21, 125M or 5,000,000 writes; None for anything else."""
    value = float(_parsed(_texts(pd.Series([text])), ".")[0])
    return None if math.isnan(value) else value


def plain(value: float) -> str:
    """All digits of a number: 2e9, 1234, 1.234."""
    text = f"{value:.15g}"
    if len(text) > 6:
        exponent = np.format_float_scientific(value, trim="-", exp_digits=1).replace("e+", "e")
        text = exponent if len(exponent) < len(text) else text
    return text


def read(cells: pd.Series, mark: Mark | None = None) -> Numbers:
    """The cells of a column as numbers. `mark` is the file's, for a column that does not tell.

    Raises Unreadable for a column of another type and, as Ambiguous, for one of two readings.
    """
    types = pd.api.types
    if types.is_bool_dtype(cells):
        raise Unreadable("holds true and false, not numbers")
    text = types.is_object_dtype(cells) or types.is_string_dtype(cells)
    text = text or isinstance(cells.dtype, pd.CategoricalDtype)
    real = types.is_numeric_dtype(cells) and not types.is_complex_dtype(cells)
    if not (real or text or isinstance(cells.dtype, pd.ArrowDtype)):
        raise Unreadable(f"holds {cells.dtype}, not numbers")
    values = _plain_numbers(cells).to_numpy(copy=True)
    suffixed = np.zeros(len(cells), dtype=bool)
    if text:
        filled = cells.notna().to_numpy()
        which = filled if mark == "," else filled & np.isnan(values)
        words = _texts(cells[which])
        if mark == "," or _separated(words).any():
            which, words = filled, _texts(cells[filled])
            mark = _decided(words, mark)
        values[which] = _parsed(words, mark or ".")
        suffixed[which] = words.str.contains(f"[0-9.,]{_SPACE}(?:{_WORDS})$", regex=True)
    index = cells.index
    return Numbers(pd.Series(values, index=index), pd.Series(suffixed, index=index))


def mark_of(table: pd.DataFrame) -> Mark | None:
    """The decimal mark of a file, if a column of text tells it and none the other."""
    told: set[Mark] = set()
    for words in _numberlike(table):
        if _separated(words).any() and len(fits := _marks(words)) == 1:
            told |= fits
    return told.pop() if len(told) == 1 else None


def ambiguous(table: pd.DataFrame) -> bool:
    """Whether some column reads with commas as decimal marks and as parts of thousands."""
    return any(_separated(words).any() and len(_marks(words)) == 2 for words in _numberlike(table))


def _numberlike(table: pd.DataFrame) -> Iterator[pd.Series]:
    """Columns of text that begin with a number, as `_texts`."""
    for _, cells in table.items():
        if pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells):
            first = [text_of(cell).strip().lower() for cell in cells.dropna().head(3)]
            if any(re.fullmatch(each, word) for each in _PATTERNS.values() for word in first):
                yield _texts(cells.dropna())


def _marks(words: pd.Series) -> set[Mark]:
    """The decimal marks with which every word that is a number with either reads as one."""
    fits: dict[Mark, Array] = {mark: _is(words, _PATTERNS[mark]) for mark in _PATTERNS}
    either = fits["."] | fits[","]
    return {mark for mark in fits if either.any() and fits[mark][either].all()}


def _separated(words: pd.Series) -> Array:
    """Numbers that are written with a comma, or with points as what part thousands."""
    unclear = words.str.contains(r",|\..*\.", regex=True).to_numpy(dtype=bool, copy=True)
    unclear[unclear] &= _is(words[unclear], _PATTERNS["."]) | _is(words[unclear], _PATTERNS[","])
    return unclear


def _decided(words: pd.Series, mark: Mark | None) -> Mark:
    fits = _marks(words)
    if len(fits) == 1:
        return fits.pop()
    if mark is not None or not fits:  # no reading fits all: those that are none are named
        return mark or "."
    example = words[_separated(words)].head(1)
    readings = [float(_parsed(example, each)[0]) for each in (".", ",")]
    raise Ambiguous(str(example.iloc[0]), *readings)


def _parsed(words: pd.Series, mark: Mark) -> Array:
    """The numbers that words write with this decimal mark; NaN for the others."""
    number = _is(words, _PATTERNS[mark])
    digits = words[number]
    scale = np.ones(len(digits))
    for size, suffix in _ENDS.items():
        scale[digits.str.contains(suffix, regex=True).to_numpy(dtype=bool)] = size
    digits = digits.str.replace(f"{_SPACE}(?:{_WORDS})$", "", regex=True)
    digits = digits.str.replace(f"[{_BY}{'.' if mark == ',' else ','}]", "", regex=True)
    digits = digits.str.replace(",", ".", regex=False)
    values = np.full(len(words), np.nan)
    values[number] = pd.to_numeric(digits, errors="coerce").to_numpy(dtype=float) * scale
    return values


def _is(words: pd.Series, pattern: str) -> Array:
    return words.str.fullmatch(pattern).to_numpy(dtype=bool)


def _plain_numbers(cells: pd.Series) -> pd.Series:
    try:
        return pd.to_numeric(cells, errors="coerce").astype(float)
    except (OverflowError, TypeError):  # integers beyond 1.8e308, or lists, among the cells
        return cells.map(_float).astype(float)


def _float(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def _texts(cells: pd.Series) -> pd.Series:
    """Cells without a missing one as words in lower case."""
    if not isinstance(cells.dtype, pd.StringDtype):
        cells = cells.astype(object).map(text_of).astype("str")
    return cells.str.strip().str.lower().reset_index(drop=True)


def text_of(cell: object) -> str:
    """A cell in words."""
    try:
        return str(cell).encode(errors="replace").decode()  # JSON may hold halves of letters
    except ValueError:  # an integer of more than 4,300 digits
        return "an integer of thousands of digits"
