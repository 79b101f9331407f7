"""The exponent of N* under each procedure, and how far each lies from the base's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.allocation.procedures import UNPAIRED, Exponent, Procedures
from analysis.figures import style
from analysis.interval import Interval

_Of: TypeAlias = Callable[[Exponent], tuple[float | None, Interval | None]]

APART = 0.55  # of the room of a procedure, over which its readings are spread
MARKS: Mapping[str, str] = {"law": "o", "parabola": "s", "akima": "D"}


def procedures_figure(found: Procedures) -> Figure:
    """Exponents on the left, differences from the base on the right, a row each procedure.

    Colours are counts of N, markers approaches. What was refused has no mark; a value without an
    interval no bar.
    """
    names = [*dict.fromkeys(each.procedure for each in found.exponents)]
    with style.figure(11.0, 1.6 + 0.62 * len(names)) as made:
        left, right = made.subplots(1, 2, sharey=True)
        title = f"a in N* ∝ C^a under {len(names)} procedures"
        with style.panel(left, title, f"{len(names)} procedures.") as axes:
            _marks(axes, found, names, lambda each: (each.exponent, each.interval))
            axes.set_yticks(range(len(names)), names)
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.set_xlabel("exponent a of N*")
            style.legend(axes, _legend(found))
            style.note(axes, f"Bars: {found.level:.0%} intervals.")
        with style.panel(right, "") as axes:
            others = [name for name in names if name != found.base]
            shown = [each for each in found.exponents if each.procedure in others]
            _marks(
                axes, Procedures(found.base, found.level, tuple(shown)), names,
                lambda each: (each.difference, each.difference_interval),
            )  # fmt: skip
            axes.axvline(0.0, color=style.FAINT, linewidth=0.9, zorder=1)
            axes.set_xlabel("difference from the base")
            paired = not any(each.reason == UNPAIRED for each in found.exponents)
            how = "runs are paired with its by size and seed" if paired else "no bar: not its seeds"
            style.note(axes, f"Base: {found.base}; {how}.")
        style.finish(made)
    return made


def _colours(found: Procedures) -> dict[str, str]:
    counts = dict.fromkeys(each.count for each in found.exponents)
    return dict(zip(counts, style.QUALITATIVE, strict=False))


def _marks(axes: Axes, found: Procedures, names: list[str], of: _Of) -> None:
    """A mark for each reading, those of one procedure below each other."""
    colours = _colours(found)
    kinds = [*dict.fromkeys((each.count, each.approach) for each in found.exponents)]
    places = dict(zip(kinds, np.linspace(-0.5, 0.5, len(kinds)) * APART, strict=True))
    for each in found.exponents:
        value, span = of(each)
        if value is None:
            continue
        at = names.index(each.procedure) + places[each.count, each.approach]
        colour = colours[each.count]
        if span is not None:
            axes.plot([*span], [at] * 2, color=colour, linewidth=1.3, zorder=3)
        axes.plot(value, at, MARKS[each.approach], color=colour, markersize=4.5, zorder=4)


def _legend(found: Procedures) -> list[Line2D]:
    by_count = [
        Line2D([], [], color=colour, linewidth=2.5, label=count)
        for count, colour in _colours(found).items()
    ]
    approaches = dict.fromkeys(each.approach for each in found.exponents)
    return by_count + [
        Line2D([], [], linestyle="", color=style.INK, marker=MARKS[each], label=each)
        for each in approaches
    ]
