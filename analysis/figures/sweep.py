"""Loss against a swept setting at each N and D, and where its optimum lies as N grows."""

from __future__ import annotations

from typing import Literal

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.fitted import LABELS
from analysis.figures.style import FAINT, Palette, figure, levels, log_axis, set_caption
from analysis.runs.sweep import Sweep
from analysis.units import count_of, decimal, human

STYLES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")


def sweep_curves(
    swept: Sweep, params_column: str = "params", loss_unit: str = "nats/token"
) -> Figure:
    """Left: loss at each value tried, a curve an N and D. Right: the best value against N.

    Bars are intervals of the optimum. A best that is an end of its sweep is hollow.
    """
    sizes = [each.params for each in swept.cells]
    palette = Palette(sizes)
    budgets = levels([each.tokens for each in swept.cells])
    name = swept.column.replace("_", " ")
    with figure(9.6, 5.2, f"Sweep of the {name}") as made:
        left, right = made.subplots(1, 2)
        for each in swept.cells:
            colour = palette(each.params)
            budget = int(abs(budgets - each.tokens).argmin())
            style = STYLES[budget % len(STYLES)]
            best = each.value if each.optimum is None else each.optimum
            mark = {
                "linestyle": "",
                "marker": "D",
                "markerfacecolor": "white" if each.optimum is None else colour,
                "markeredgecolor": colour,
                "zorder": 4,
            }
            left.plot(each.tried, each.losses, style, marker=".", color=colour)
            left.plot(each.value, each.loss, markersize=7, **mark)
            if each.interval is not None:
                right.plot([each.params] * 2, list(each.interval), color=colour, linewidth=1.2)
            right.plot(each.params, best, markersize=5.5, **mark)
        log_axis(left.xaxis, name, "flops")
        log_axis(left.yaxis, f"loss, {loss_unit}", "loss")
        log_axis(right.xaxis, LABELS["params"], "count")
        log_axis(right.yaxis, f"best {name}", "flops")
        left.set_title("Loss at each value tried")
        right.set_title("The best value at each size")
        several = [
            Line2D([], [], color=FAINT, linestyle=STYLES[k % len(STYLES)], label=f"D = {human(d)}")
            for k, d in enumerate(map(float, budgets))
        ]
        palette.key(made, left, "N", LABELS["params"], also=several if len(several) > 1 else ())
        set_caption(made, _caption(swept, params_column))
    return made


def _caption(swept: Sweep, params_column: str) -> str:
    text = f"{len(swept.cells)} (N, D), N = {count_of(params_column)}. Diamonds: the best tried "
    text += "(left), the bottom of a curve through its neighbours (right)"
    if swept.noise is not None:
        text += f" with its {100 * swept.level:.0f}% interval for a noise of "
        text += f"{decimal(swept.noise, (0.9 * swept.noise, 1.1 * swept.noise))} in the loss"
    hollow = len(swept.bounds)
    if hollow:
        text += f". Hollow: {hollow} at an end of the sweep, where the best is only a bound"
    return text + "."
