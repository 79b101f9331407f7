"""Arguments of the wrong kind, refused in words: which one, what was given, and what to give."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.array import Array
from scaling.store.records import Refusal

# Sizes of numbers beyond which no measurement lies, and products and powers overflow.
LEAST, MOST = 1e-30, 1e33
MOST_TIMES = 100_000  # that anything is drawn or simulated; thousands settle an interval
LONGEST = 60  # characters of a text that a message repeats
AS_NUMBER = "Write it as a number, without quotes or letters (1e9, not '1B')."


def described(value: object) -> str:
    """What `value` is, in a few words: short values as Python writes them, others by their type."""
    if isinstance(value, pd.DataFrame):
        return f"a table of {len(value)} row{'s' * (len(value) != 1)}"
    if isinstance(value, str | Path):
        text = str(value)
        return repr(text if len(text) <= LONGEST else text[:LONGEST] + "…")
    if value is None or isinstance(value, Real):
        return str(value)
    return f"an object of type {type(value).__name__}"


def wrong_kind(name: str, value: object, wanted: str, remedy: str) -> Refusal:
    """The refusal of the argument `name`, which is not what is `wanted`."""
    return Refusal(f"{name} is {described(value)}, not {wanted}.", remedy)


def as_table(name: str, value: object) -> pd.DataFrame:
    """`value`, which is the argument `name`. Raises Refusal unless it is a DataFrame."""
    if isinstance(value, pd.DataFrame):
        return value
    file = isinstance(value, str | Path) and bool(Path(value).suffix)
    path = str(value) if file else "my_runs.csv"
    raise wrong_kind(name, value, "a table of runs", f"Give a DataFrame, e.g. read_runs({path!r}).")


def as_path(name: str, value: object, remedy: str) -> Path:
    """`value` as a path. Raises Refusal with the remedy unless it is a path or text."""
    if isinstance(value, str | Path):
        return Path(value)
    raise wrong_kind(name, value, "a path", remedy)


def as_names(name: str, values: Sequence[str]) -> tuple[str, ...]:
    """`values` as a tuple. Raises Refusal for one text, which Python takes letter by letter."""
    if isinstance(values, str):
        raise wrong_kind(name, values, "a list", f"Give a list: [{values!r}].")
    return tuple(values)


def as_mapping(name: str, value: Any, example: str) -> dict[str, Any]:
    """`value` as a dictionary, empty for None. Raises Refusal with an example for what is none."""
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    raise wrong_kind(name, value, "a dictionary", f"Give e.g. {example}.")


def as_number(name: str, value: object) -> float:
    """`value` as a float. Raises Refusal for what is no number, text included."""
    if isinstance(value, Real):
        return float(value)
    raise wrong_kind(name, value, "a number", AS_NUMBER)


def usable(values: Any, positive: bool = True) -> Any:
    """Which numbers are finite, of a size that is meant and, if asked, positive."""
    size = values if positive else abs(values)
    return ((size >= LEAST) | ((values == 0) & (not positive))) & (size <= MOST)


def refuse_times(name: str, value: int, usual: int) -> None:
    """Raises Refusal for more repetitions than any answer needs, which would take days."""
    if as_number(name, value) > MOST_TIMES:
        raise Refusal(f"{name} = {value} is above {MOST_TIMES:,}. Give fewer; {usual:,} are usual.")


def refuse_seed(seed: int) -> None:
    """Raises Refusal for a seed that no generator takes."""
    if as_number("seed", seed) < 0:
        raise Refusal(f"seed = {seed} is negative. Give 0, or a larger whole number.")


def as_numbers(name: str, values: Any) -> Array:
    """One number or several as an array, (n,). Raises Refusal naming the first that is none."""
    try:
        return np.atleast_1d(np.asarray(values, dtype=float))
    except (TypeError, ValueError):
        several = isinstance(values, list | tuple | np.ndarray | pd.Series)
        given = list(values) if several else [values]
        bad = next((each for each in given if not _reads_as_number(each)), values)
        raise wrong_kind(name, bad, "a number", AS_NUMBER) from None


def _reads_as_number(value: Any) -> bool:
    try:
        return not math.isnan(float(value))
    except (TypeError, ValueError):
        return False
