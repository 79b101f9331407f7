"""Numbers as people in this field write them."""

from __future__ import annotations

import re

_SUFFIX = {"": 1.0, "k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
# Beyond these nothing is meant, and arithmetic would overflow: all computers together do some 1e22
# FLOPs a second. Those of analysis/arguments.py, to which no room of both leads.
LEAST, MOST = 1e-30, 1e33
_LONGEST = 100  # characters; matching takes their square
_QUANTITY = re.compile(r"(-?[0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kMBT]?)")


def parse_quantity(text: str | float | int) -> float:
    """A positive number from 1e21, 300B, 1.3M, "25k". Raises ValueError for anything else, which
    says whether it is no number, or none that is positive and finite, or one too large or small."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise ValueError(f"{text!r} is not a number")
    if isinstance(text, str):
        if len(text) > _LONGEST:
            raise ValueError(f"{text[:20]!r}… is not a number such as 1e21, 300B, 1.3M or 25k")
        match = _QUANTITY.fullmatch(text.strip())
        if not match:
            raise ValueError(f"{text!r} is not a number such as 1e21, 300B, 1.3M or 25k")
        value = float(match[1]) * _SUFFIX[match[2]]
    else:
        try:
            value = float(text)
        except OverflowError:  # an integer beyond float64
            value = float("inf")
    if not 0 < value < float("inf"):
        raise ValueError(f"{text!r} must be a positive, finite number")
    if not LEAST <= value <= MOST:
        raise ValueError(f"{text!r} is beyond {LEAST:g} to {MOST:g}, where nothing is meant")
    return value


def parse_count(value: object) -> object:
    """A whole number from "25k" or "2B"; what is no text is left as it is, for its own check.

    Raises ValueError for a text that is no whole number.
    """
    if not isinstance(value, str):
        return value
    number = parse_quantity(value)
    if number != int(number):
        raise ValueError(f"{value!r} is {number:g}, which is no whole number")
    return int(number)
