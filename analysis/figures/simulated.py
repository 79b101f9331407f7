"""Simulated studies of one plan, each with the interval it would report, against the truth."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.design.result import Key, Simulation
from analysis.figures import style
from analysis.text import scientific
from scaling.store.records import Refusal

LABELS = {
    "params_exponent": "a in N* ∝ Cᵃ",
    "params": "N* (parameters)",
    "loss": "loss (nats/token)",
}


def simulated_intervals(simulation: Simulation, key: Key, ax: Axes | None = None) -> Axes:
    """The interval that each simulated study reports of one number, sorted by estimate, and the
    truth as a line; returns the axes."""
    values = simulation.studies[key]
    values = values[np.isfinite(values).all(axis=1)]
    values = values[np.argsort(values[:, 0])]
    truth = simulation.truths[key]
    place = np.arange(len(values))
    missed = (values[:, 1] > truth) | (values[:, 2] < truth)
    share = f"{1 - missed.mean():.0%} hold the truth" if len(values) else "no intervals"
    said = style.counted(
        f"{simulation.repeats} simulated studies", simulation.truth.params_convention
    )
    with style.panel(ax, f"{LABELS[key.name]}: {share}", said) as axes:
        for which, colour in ((~missed, style.OWN), (missed, style.OTHERS[0])):
            some, at = values[which], place[which]
            axes.vlines(at, some[:, 1], some[:, 2], color=colour, alpha=0.45, linewidth=0.9)
            axes.plot(at, some[:, 0], ".", color=colour, markersize=2.5)
        axes.axhline(truth, color=style.INK, linewidth=1.1)
        if key.name == "params":
            style.log_axis(axes.yaxis, LABELS[key.name], "count")
        else:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
            axes.set_ylabel(LABELS[key.name])
        axes.set_xlabel(f"studies ({share})", color=style.FAINT)
        axes.set_xticks([])
        noise = simulation.noise
        fitted = f", fitted by {simulation.law.name}" if simulation.misspecified else ""
        style.note(
            axes,
            f"Bars: {simulation.level:.0%} intervals, orange where they miss the truth (the line). "
            f"Truth: {simulation.truth.law.name} ({simulation.truth.name}){fitted}; noise "
            f"{noise.shared:.2%} of a trunk, {noise.own:.2%} of a run.",
        )
    return axes


def simulated_studies(simulation: Simulation) -> Figure:
    """A row of panels per budget: exponent, N* and loss.

    Raises Refusal without a budget or where no study has an interval.
    """
    budgets = simulation.flops
    if not any(simulation.summary(Key("params", budget)).intervals for budget in budgets):
        raise Refusal("no study gives an interval at a budget, so there is nothing to draw.")
    with style.figure(9.0, 2.9 * len(budgets) + 0.7) as made:
        grid = made.subplots(len(budgets), len(LABELS), squeeze=False)
        for panels, budget in zip(grid, budgets, strict=True):
            for axes, name in zip(panels, LABELS, strict=True):
                simulated_intervals(simulation, Key(name, budget), axes)
            panels[0].set_title(f"C = {scientific(budget)} FLOPs (6ND)")
        style.finish(made, f"{simulation.repeats} simulated studies and the intervals they report")
    return made
