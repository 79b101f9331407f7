"""Simulated studies of one plan, each with the interval it would report, against the truth."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.figures.style import FAINT, INK, OTHERS, OWN, figure, log_axis, set_caption
from analysis.simulation import Key, Simulation
from analysis.units import scientific
from scaling.store.records import Refusal

LABELS = {
    "params_exponent": "a in N* ∝ Cᵃ",
    "params": "N* (parameters)",
    "loss": "loss (nats/token)",
}


def simulated_studies(simulation: Simulation) -> Figure:
    """A row of panels a budget: exponent, N* and loss; a study an interval, sorted by estimate.

    Raises Refusal without a budget or where no study has an interval.
    """
    budgets = simulation.flops
    if not any(simulation.summary(Key("params", budget)).intervals for budget in budgets):
        raise Refusal("no study gives an interval at a budget, so there is nothing to draw.")
    with figure(9.0, 2.9 * len(budgets) + 0.5) as made:
        grid = made.subplots(len(budgets), len(LABELS), squeeze=False)
        for panels, budget in zip(grid, budgets, strict=True):
            for axes, (name, label) in zip(panels, LABELS.items(), strict=True):
                _panel(axes, simulation, Key(name, budget), label)
            panels[0].set_title(f"C = {scientific(budget)} FLOPs (6ND)")
        fitted = f", fitted by {simulation.law.name}" if simulation.misspecified else ""
        set_caption(
            made,
            f"{simulation.repeats} simulated studies: a point each, its {simulation.level:.0%} "
            "interval, orange where that misses the truth (the line). Truth: "
            f"{simulation.truth.law.name} ({simulation.truth.name}){fitted}; "
            f"N = {simulation.truth.params_convention}; noise {simulation.noise.shared:.2%} of a "
            f"trunk, {simulation.noise.own:.2%} of a run.",
        )
    return made


def _panel(axes: Axes, simulation: Simulation, key: Key, label: str) -> None:
    values = simulation.studies[key]
    values = values[np.isfinite(values).all(axis=1)]
    values = values[np.argsort(values[:, 0])]
    truth = simulation.truths[key]
    place = np.arange(len(values))
    missed = (values[:, 1] > truth) | (values[:, 2] < truth)
    for which, colour in ((~missed, OWN), (missed, OTHERS[0])):
        some = values[which]
        axes.vlines(place[which], some[:, 1], some[:, 2], color=colour, alpha=0.45, linewidth=0.9)
        axes.plot(place[which], some[:, 0], ".", color=colour, markersize=2.5)
    axes.axhline(truth, color=INK, linewidth=1.1)
    if key.name == "params":
        log_axis(axes.yaxis, label, "count")
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
        axes.set_ylabel(label)
    share = f"{1 - missed.mean():.0%} hold the truth" if len(values) else "no intervals"
    axes.set_xlabel(f"studies ({share})", color=FAINT)
    axes.set_xticks([])
