"""Loss against a swept setting at each N and D, and where its optimum lies as N grows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.expression import Array
from analysis.figures.fitted import LABELS
from analysis.figures.style import (
    FAINT,
    Palette,
    figure,
    legend_above,
    levels,
    log_axis,
    set_caption,
)
from analysis.runs.sweep import Best, Sweep
from analysis.units import count_of, decimal, human

APART = 0.035  # of an e-fold of N: what the bars of two D stand apart


class _Look(NamedTuple):
    line: Any
    marker: str


# As many as a legend can name; the longer dashes of the second four tell them from the first.
LOOKS = (
    _Look("-", "o"), _Look("--", "s"), _Look(":", "^"), _Look("-.", "D"),
    _Look((0, (8, 2)), "v"), _Look((0, (8, 2, 2, 2)), "P"), _Look((0, (4, 1, 1, 1, 1, 1)), "X"),
    _Look((0, (1, 4)), "<"),
)  # fmt: skip


@dataclass(frozen=True)
class _Data:
    """How cells are told apart beside N: by D, or by D/N where that has fewer values."""

    values: Array
    of: Callable[[Best], float]
    named: Callable[[float], str]

    def index(self, cell: Best) -> int:
        return int(np.abs(np.log(self.values / self.of(cell))).argmin())

    def look(self, cell: Best) -> _Look:
        return LOOKS[self.index(cell)] if self.few else LOOKS[0]

    @property
    def few(self) -> bool:
        return len(self.values) <= len(LOOKS)

    def across(self, cell: Best) -> float:
        """Where a cell stands along N: side by side, since the intervals of one size overlap."""
        aside = self.index(cell) - (len(self.values) - 1) / 2 if self.few else 0.0
        return cell.params * math.exp(APART * aside)


def sweep_curves(
    swept: Sweep, params_column: str = "params", loss_unit: str = "nats/token"
) -> Figure:
    """Left: loss at each value tried, a curve an N and D. Right: the best value against N.

    Colours are N, line styles and markers D (or D/N). Bars are intervals of the optimum. A best
    that is an end of its sweep is hollow.
    """
    palette = Palette([each.params for each in swept.cells])
    data = _data(swept)
    name = swept.column.replace("_", " ")
    with figure(9.6, 5.2, f"Sweep of the {name}") as made:
        left, right = made.subplots(1, 2)
        for each in swept.cells:
            colour, look = palette(each.params), data.look(each)
            across = data.across(each)
            mark: dict[str, Any] = {
                "linestyle": "",
                "marker": look.marker,
                "markerfacecolor": "white" if each.optimum is None else colour,
                "markeredgecolor": colour,
                "zorder": 4,
            }
            left.plot(each.tried, each.losses, linestyle=look.line, marker=".", color=colour)
            left.plot(each.value, each.loss, markersize=7, **mark)
            if each.interval is not None:
                right.plot([across] * 2, list(each.interval), color=colour, linewidth=1.2)
            right.plot(across, _best(each), markersize=5.5, **mark)
        for index in range(len(data.values) if data.few else 0):
            own = [each for each in swept.cells if data.index(each) == index]
            right.plot(
                [data.across(each) for each in own], [_best(each) for each in own],
                color=FAINT, linewidth=0.9, linestyle=LOOKS[index].line, zorder=2,
            )  # fmt: skip
        log_axis(left.xaxis, f"{name} tried", "flops")
        log_axis(left.yaxis, f"loss, {loss_unit}", "loss")
        log_axis(right.xaxis, LABELS["params"], "count")
        log_axis(right.yaxis, f"best {name} at each N and D", "flops")
        palette.key(made, left, "N", LABELS["params"])
        if data.few and len(data.values) > 1:
            legend_above(right, [_entry(data, k) for k in range(len(data.values))])
        set_caption(made, _caption(swept, params_column, data))
    return made


def _data(swept: Sweep) -> _Data:
    tokens = levels([each.tokens for each in swept.cells])
    ratios = levels([each.tokens / each.params for each in swept.cells])
    if len(ratios) < len(tokens):
        return _Data(ratios, lambda each: each.tokens / each.params, lambda v: f"D/N = {v:.3g}")
    return _Data(tokens, lambda each: each.tokens, lambda v: f"D = {human(v)}")


def _best(each: Best) -> float:
    return each.value if each.optimum is None else each.optimum


def _entry(data: _Data, index: int) -> Line2D:
    look = LOOKS[index]
    return Line2D(
        [], [], color=FAINT, linestyle=look.line, marker=look.marker, markersize=4.5,
        label=data.named(float(data.values[index])),
    )  # fmt: skip


def _caption(swept: Sweep, params_column: str, data: _Data) -> str:
    text = f"{len(swept.cells)} (N, D), N = {count_of(params_column)}"
    if not data.few:
        ends = " to ".join(data.named(float(data.values[at])) for at in (0, -1))
        text += f", {len(data.values)} values of {ends}, drawn alike"
    text += ". Large marks: the best tried (left), the bottom of a curve through its neighbours "
    text += "(right"
    if data.few and len(data.values) > 1:
        text += ", side by side at each N"
    text += ")"
    if swept.noise is not None:
        text += f" with its {100 * swept.level:.0f}% interval for a noise of "
        text += f"{decimal(swept.noise, (0.9 * swept.noise, 1.1 * swept.noise))} in the loss"
    hollow = len(swept.bounds)
    if hollow:
        text += f". Hollow: {hollow} at an end of the sweep, where the best is only a bound"
    return text + "."
