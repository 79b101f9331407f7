"""Cells as numbers, as people write them: 125M, 1.3 B, 2e9, 1_000, 1,000 and, elsewhere, 3,14.

A comma is the decimal mark in half of the world and separates thousands in the other half. All
cells of a column together decide which it is, else the other columns of the file; never one cell.
Cells that are numbers already, as in JSON and spreadsheets, stay as they are and decide nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.columns.units import SUFFIXES, TRAINED
from analysis.runs.messages import plain, shown

Array = NDArray[Any]
Mark = Literal[".", ","]  # before the fraction

MOST_UNIT = 1e24  # yottaFLOPs
_WORDS = "|".join(sorted(SUFFIXES, key=len, reverse=True))
_SPACE = "[ \xa0\u202f]*"
_SUFFIX = f"{_SPACE}({_WORDS})$"
_BY = "_'’ \xa0\u202f"  # separate thousands, whichever mark is the decimal one


def _pattern(mark: Mark) -> str:
    """A regular expression within the limits of RE2, which matches whole columns."""
    by = f"{_BY}." if mark == "," else f"{_BY},"
    parted = "|".join(f"(?:[{each}][0-9]{{3}})+" for each in by)
    whole = rf"(?:[0-9]+|[1-9][0-9]{{0,2}}(?:{parted}))"
    return (
        rf"(?:[+-]?(?:{whole}(?:[{mark}][0-9]*)?|[{mark}][0-9]+)(?:e[+-]?[0-9]{{1,4}})?"
        rf"{_SPACE}(?:{_WORDS})?)"
    )


_PATTERNS: dict[Mark, str] = {".": _pattern("."), ",": _pattern(",")}


class Unreadable(ValueError):
    """Why a column cannot be read as numbers, as words that follow its name."""


class Ambiguous(Unreadable):
    """A column that can be read with commas as decimal marks and without, or that mixes both."""

    def __init__(self, cell: str, other: str = "") -> None:
        point, comma = (plain(float(_parsed(pd.Series([cell]), mark)[0])) for mark in _PATTERNS)
        why = "and no cell shows whether the comma is a decimal mark"
        if other:
            why = f"since {other!r} has a decimal comma"
        super().__init__(
            f"has {cell!r}, which may be {point} or {comma}, {why}. Write it as {point} or as "
            f"{comma}, and the other cells likewise."
        )


@dataclass(frozen=True)
class Numbers:
    """A column as float64; NaN for a cell that is empty or no number."""

    numbers: pd.Series
    suffixed: pd.Series  # true for cells with a unit of their own, such as 57M

    def times(self, unit: float) -> pd.Series:
        """The numbers in a unit that cells without a suffix are counted in."""
        return self.numbers.where(self.suffixed, self.numbers * unit)


def number(text: str) -> float | None:
    """The number that a word such as 1e21, 125M or 5,000,000 stands for; None for other words."""
    value = float(_parsed(_texts(pd.Series([text])), ".")[0])
    return None if math.isnan(value) else value


def unit_words(words: Iterable[str]) -> dict[str, float]:
    """`tokens=1e9` and `params=millions` as numbers. Raises ValueError with what is wrong."""
    units = {}
    for word in words:
        quantity, found, text = word.partition("=")
        value = SUFFIXES.get(text.strip().lower()) or number(text)
        quantity = quantity.strip()
        if not found or quantity not in ("params", "tokens", "flops"):
            raise ValueError(f"{word!r} is not params, tokens or flops = a unit, e.g. tokens=1e9")
        if value is None or not 1 / MOST_UNIT <= value <= MOST_UNIT:
            raise ValueError(
                f"{word!r}: {text!r} is no unit. Give a number such as 1e9, or thousands, "
                "millions, billions or trillions"
            )
        units[quantity] = value
    return units


def beyond(quantity: str, name: str, most: float, scale: float) -> str:
    """That a name's unit leads to `most`, where that is more than anyone has trained; else ""."""
    if not most > TRAINED.get(quantity, math.inf):
        return ""
    return (
        f"'{shown(name)}' reaches {plain(most / scale)}, which its name multiplies by "
        f"{plain(scale)}: {most:.3g} {quantity}, which nobody has trained"
    )


def read(cells: pd.Series, mark: Mark | None = None) -> Numbers:
    """The cells of a column as numbers. `mark` is used where the column does not show its own.

    Raises Unreadable for a column of another type, and Ambiguous for one with two readings.
    """
    types = pd.api.types
    if types.is_bool_dtype(cells):
        raise Unreadable("holds true and false, not numbers")
    text = types.is_object_dtype(cells) or types.is_string_dtype(cells)
    text = text or isinstance(cells.dtype, pd.CategoricalDtype)
    if isinstance(cells.dtype, pd.StringDtype) and not cells.is_unique:
        # Each word once: a file of some kilobytes may hold one twenty million times.
        place, different = pd.factorize(cells)  # -1 for a cell that is empty
        once = read(pd.Series(different), mark)
        numbers = np.append(once.numbers.to_numpy(), np.nan)[place]
        suffixes = np.append(once.suffixed.to_numpy(), False)[place]
        return Numbers(pd.Series(numbers, cells.index), pd.Series(suffixes, cells.index))
    real = types.is_numeric_dtype(cells) and not types.is_complex_dtype(cells)
    if not (real or text or isinstance(cells.dtype, pd.ArrowDtype)):
        raise Unreadable(f"holds {cells.dtype}, not numbers")
    values = _plain_numbers(cells).to_numpy(copy=True)
    suffixed = np.zeros(len(cells), dtype=bool)
    if text:
        filled = cells.notna().to_numpy() & ~_are_numbers(cells)
        which = filled if mark == "," else filled & np.isnan(values)
        words = _texts(cells[which])
        if mark == "," or _separated(words).any():
            which, words = filled, _texts(cells[filled])
            mark = _decided(words, mark)
        values[which] = _parsed(words, mark or ".")
        suffixed[which] = words.str.contains(f"[0-9.,]{_SPACE}(?:{_WORDS})$", regex=True)
    return Numbers(pd.Series(values, cells.index), pd.Series(suffixed, cells.index))


def mark_of(table: pd.DataFrame) -> Mark | None:
    """The decimal mark of a file, if some column of text shows it and none shows the other.

    Where none does, it is the comma in a file with semicolons between its cells: spreadsheets write
    these where the comma is the decimal mark.
    """
    separated = [words for words in _numberlike(table) if _separated(words).any()]
    fits = [_marks(words) for words in separated if not _mixed(words).any()]
    seen = {mark for marks in fits if len(marks) == 1 for mark in marks}
    if len(seen) == 1:
        return seen.pop()
    either = table.attrs.get("delimiter") == ";" and any(len(marks) == 2 for marks in fits)
    fractions = (table.select_dtypes("float") % 1 > 0).to_numpy().any()
    return "," if either and not fractions else None


def _numberlike(table: pd.DataFrame) -> Iterator[pd.Series]:
    """Columns of text that begin with a number, as `_texts`."""
    for _, cells in table.items():
        if pd.api.types.is_object_dtype(cells) or pd.api.types.is_string_dtype(cells):
            once = isinstance(cells.dtype, pd.StringDtype)
            cells = pd.Series(cells.unique()) if once else cells
            texts = cells[cells.notna().to_numpy() & ~_are_numbers(cells)]
            first = [text_of(cell).strip().lower() for cell in texts.head(3)]
            if any(re.fullmatch(each, word) for each in _PATTERNS.values() for word in first):
                yield _texts(texts)


def _are_numbers(cells: pd.Series) -> Array:
    if not pd.api.types.is_object_dtype(cells):
        return np.zeros(len(cells), dtype=bool)
    return cells.map(lambda cell: isinstance(cell, Real)).to_numpy(dtype=bool)


def _marks(words: pd.Series) -> set[Mark]:
    """The decimal marks with which every word that is a number with either reads as one."""
    fits: dict[Mark, Array] = {mark: _is(words, _PATTERNS[mark]) for mark in _PATTERNS}
    either = fits["."] | fits[","]
    return {mark for mark in fits if either.any() and fits[mark][either].all()}


def _separated(words: pd.Series) -> Array:
    """Which words are numbers with a comma, or with points that separate thousands."""
    unclear = words.str.contains(r",|\..*\.", regex=True).to_numpy(dtype=bool, copy=True)
    unclear[unclear] &= _is(words[unclear], _PATTERNS["."]) | _is(words[unclear], _PATTERNS[","])
    return unclear


def _mixed(words: pd.Series) -> Array:
    """Words such as 3.125 in a column where others, such as 4,21, have a decimal comma, and none,
    such as 1.000,5, shows that a point separates thousands."""
    if words.str.contains(r"\..*[.,]", regex=True).any() or _marks(words) != {","}:
        return np.zeros(len(words), dtype=bool)
    return words.str.contains(".", regex=False).to_numpy(dtype=bool) & _is(words, _PATTERNS[","])


def _decided(words: pd.Series, mark: Mark | None) -> Mark:
    fits = _marks(words)
    mixed = _mixed(words)
    if mixed.any() and mark is None:
        other = words[_is(words, _PATTERNS[","]) & ~_is(words, _PATTERNS["."])]
        raise Ambiguous(str(words[mixed].iloc[0]), str(other.iloc[0]))
    if len(fits) == 1:
        return fits.pop()
    if mark is not None or not fits:  # no reading fits all: the words that are none get named
        return mark or "."
    raise Ambiguous(str(words[_separated(words)].iloc[0]))


def _parsed(words: pd.Series, mark: Mark) -> Array:
    """The numbers that words stand for with this decimal mark; NaN for the others."""
    number = _is(words, _PATTERNS[mark])
    digits = words[number]
    scale = digits.str.extract(_SUFFIX, expand=False).map(SUFFIXES).fillna(1.0).to_numpy(float)
    digits = digits.str.replace(_SUFFIX, "", regex=True)
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
    """Cells, of which none is missing, as words in lower case."""
    if not isinstance(cells.dtype, pd.StringDtype):
        cells = cells.astype(object).map(text_of).astype("str")
    return cells.str.strip().str.lower().reset_index(drop=True)


def text_of(cell: object) -> str:
    """A cell as text that can be printed and saved."""
    try:
        return str(cell).encode(errors="replace").decode()  # JSON may contain half letters
    except ValueError:  # an integer of more than 4,300 digits
        return "an integer of thousands of digits"
