"""Numbers as people write them: 1.3B parameters, 26B tokens, 1e21 FLOPs.

The one place that decides digits. A number with an interval is printed to the digits that the
interval supports: two significant ones where its ends lie more than a factor of two apart, and at
least three where they lie closer. N and D next to their ratio have three at least, so that a reader
who multiplies or divides them is not misled. The ones are never cut (131B, 820k), no digit is
replaced by a zero, and numbers are always stored in full.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

from analysis.interval import Interval
from scaling.store.records import printable

SUFFIXES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
NARROW = 2.0  # high/low of an interval: closer ends differ in their third digit
COMPARED = 3  # digits of numbers that a reader divides by each other
WIDTH = 100  # of a paragraph, in characters
# Rows of a table that the terminal shows: several screens, and every study that is shipped.
MOST_ROWS = 200
LARGEST = 1e15  # beyond 999T the ones alone would be four digits


def human(value: float, span: Interval | None = None, least: int = 2) -> str:
    """A count such as N or D with a suffix: 1.3B, 26B, 820k; beyond 1e15 as 2.1e17.

    `span` is the interval that decides the digits; without one, three significant digits. `least`
    asks for more.
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    span = _wide(value, span)
    place = _place(value, span, max(3, least), least)
    rounded = abs(float(_powers(value, place)))
    if not 1e-2 <= rounded < LARGEST:
        return scientific(value, span, least)
    scale, suffix = next(((s, x) for s, x in SUFFIXES if rounded >= s), (1.0, ""))
    text = f"{value / scale:.{max(0, round(math.log10(scale)) - place)}f}"
    return (_trim(text) if span is None else text) + suffix


def scientific(value: float, span: Interval | None = None, least: int = 2) -> str:
    """A quantity such as FLOPs: 1e21, 5.76e23. Three significant digits without a `span`."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    span = _wide(value, span)
    text = _powers(value, _place(value, span, max(3, least), least))
    return _trim(text) if span is None else text


def decimal(value: float, span: Interval | None = None) -> str:
    """A plain number such as a loss or an exponent, four significant digits without a `span`.

    As a power of ten where the last digit would lie above the ones, and below a thousandth.
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    place = _place(value, _wide(value, span), 4)
    if place > 0 or abs(value) < 1e-3:
        return _powers(value, place)
    return f"{value:.{-place}f}"


def against(value: float, *limits: float) -> str:
    """Two significant digits, or as many more as show on which side of each limit it lies."""
    for digits in range(2, 16):
        text = f"{value:.{digits}g}"
        if all((float(text) < limit) == (value < limit) for limit in limits):
            return text
    return repr(value)


def factor(value: float) -> str:
    """How many times as much, to two digits: 0.92, 1.5, 140, 8.3k."""
    return human(value, Interval(0.5 * value, 2 * value))


def with_interval(
    write: Callable[[float, Interval | None], str], value: float, span: Interval | None
) -> str:
    """`value [low … high]` as `write` writes numbers; `value` alone without an interval."""
    return write(value, span) + ends(write, value, span)


def ends(
    write: Callable[[float, Interval | None], str], value: float, span: Interval | None
) -> str:
    """` [low … high]`, or nothing without an interval or where it is NaN."""
    span = _wide(value, span)
    unknown = span is None or math.isnan(span[0]) or math.isnan(span[1])
    return "" if span is None or unknown else f" [{write(span[0], span)} … {write(span[1], span)}]"


class Sizes(NamedTuple):
    """A run's N, D and D/N as they are printed side by side."""

    params: str
    tokens: str
    tokens_per_param: str


def sizes(
    params: float,
    tokens: float,
    of_params: Interval | None = None,
    of_tokens: Interval | None = None,
    of_ratio: Interval | None = None,
) -> Sizes:
    """N, D and D/N as they stand in one row: N and D to three digits, or to as many more as their
    intervals support; D/N, to the digits of its own or to two, is that of the N and D printed."""
    n, d = human(params, of_params, COMPARED), human(tokens, of_tokens, COMPARED)
    found = value_of(d) / value_of(n)
    return Sizes(n, d, human(found, of_ratio) if of_ratio else factor(found))


def quotient(one: str, other: str) -> str:
    """The factor between two printed numbers, as a reader finds it who divides them.

    Of `COMPARED` digits each, for else it may say less of what is more.
    """
    return factor(value_of(one) / value_of(other))


def value_of(text: str) -> float:
    """The number that `human`, `scientific` or `decimal` printed."""
    scale = next((scale for scale, suffix in SUFFIXES if text.endswith(suffix)), None)
    return float(text) if scale is None else float(text[:-1]) * scale


def counted(number: int, thing: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def count_of(convention: str) -> str:
    """What N counts, to be said after `N =`; a column of that same name is called a column."""
    return "column N" if convention == "N" else convention


def duration(seconds: float) -> str:
    """Seconds as 45 s, 3.2 min, 5.1 h, 12 days or 830 years; `under a second` below one."""
    if 0 < seconds < 1:
        return "under a second"
    for size, unit in ((365.25 * 86400, "years"), (86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{_three(seconds / size)} {unit}"
    return f"{seconds:.0f} s"


def bytes_text(size: float) -> str:
    """Bytes as 62 kB, 450 MB, 12.3 GB or 1,500 GB, three digits of them."""
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB")) if size >= s), (1e3, "kB"))
    return f"{_three(size / scale)} {unit}"


def text_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], more: str = "--json FILE"
) -> str:
    """Left-aligned columns, each as wide as its widest cell.

    Of very many rows the middle is left out, and `more` says what has them all.
    """
    cut = max(0, len(rows) - MOST_ROWS)
    first = (len(rows) - cut) // 2 if cut else len(rows)
    shown = [
        [printable(cell) for cell in row] for row in (header, *rows[:first], *rows[first + cut :])
    ]
    widths = [max(map(len, cells)) for cells in zip(*shown, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
    if cut:
        lines.insert(1 + first, f"… {cut:,} more of {len(rows):,} rows; {more} has them all")
    return "\n".join(lines)


def paragraph(text: str) -> str:
    """`text` in lines of at most WIDTH characters, those after the first indented by two."""
    return textwrap.fill(text, WIDTH, subsequent_indent="  ")


def _three(value: float) -> str:
    """Three significant digits, or all before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def dollars(amount: float) -> str:
    """Money as $0.31, $12.3 or $4.5M; `under $0.01` below a cent."""
    if amount < 0.01:
        return "under $0.01"
    return f"${amount:.2f}" if amount < 1 else f"${human(amount)}"


def _place(value: float, span: Interval | None, without: int, least: int = 2) -> int:
    """Power of ten of the last digit to print: `without` significant digits where no interval says
    how many, else at least `least`.

    Of a narrow interval its unit is at most half the half-width, so that it still carries
    information.
    """
    if span is None:
        return _leading(value, without) - without + 1
    if not all(math.isfinite(end) for end in span) or not _narrow(span):
        return _leading(value, least) - least + 1
    supported = _leading(span[1] / 4 - span[0] / 4)
    # One place for the number and both its ends.
    return min(supported, _leading(min(map(abs, (value, *span)))) - max(3, least) + 1)


def _wide(value: float, span: Interval | None) -> Interval | None:
    """The interval, or None where it has no width, as that of a given value."""
    return None if span is None or span[1] - span[0] <= 1e-9 * abs(value) else span


def _narrow(span: Interval) -> bool:
    """Whether the ends lie within a factor of two."""
    near, far = sorted(map(abs, span))
    return span[0] * span[1] > 0 and far <= NARROW * near


def _leading(value: float, digits: int | None = None) -> int:
    """Power of ten of the first digit, of the value rounded to so many `digits` if given."""
    if digits is None:
        return math.floor(math.log10(abs(value)))
    return int(f"{value:.{digits - 1}e}".split("e")[1])


def _powers(value: float, place: int) -> str:
    digits = max(0, _leading(value) - place)
    rounded = float(f"{value:.{digits}e}")
    if _leading(rounded) > _leading(value):  # 9.996 became 10.00
        digits = max(0, _leading(rounded) - place)
    mantissa, exponent = f"{rounded:.{digits}e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _trim(text: str) -> str:
    # Without an interval trailing zeros would claim a precision nobody has stated.
    mantissa, e, exponent = text.partition("e")
    if "." in mantissa:
        mantissa = mantissa.rstrip("0").rstrip(".")
    return mantissa + e + exponent
