"""The figures of a study: what was trained, what was fitted, and what follows from it.

Each is a matplotlib Figure outside pyplot's state, put together from panel functions, which also
draw into axes of one's own; `save` writes it as PNG and SVG. Importing this module loads matplotlib
and seaborn (a second): import it only where something is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.figures.fitted import loss_figure, residuals_figure
from analysis.figures.frontier import frontier, frontier_figure, loss_by_compute
from analysis.figures.isoflop import optima_figures
from analysis.figures.landscape import landscape
from analysis.figures.recommended import recommended
from analysis.figures.repeats import repeats
from analysis.figures.style import alone, save
from analysis.figures.sweep import sweep_figure
from analysis.figures.training import training
from analysis.fitting.fit import Fit
from analysis.fitting.source import Source
from analysis.recommend.by_law import NoOptimum
from analysis.recommend.landmarks import landmarks
from analysis.recommend.recommendation import Recommendation
from analysis.runs.sweep import Sweep


def draw(
    folder: Path,
    fit: Fit,
    runs: pd.DataFrame | None = None,
    steps: pd.DataFrame | None = None,
    *,
    swept: Sweep | None = None,
    params_column: str = "params_total",
) -> list[Path]:
    """Write every figure that the inputs allow into `folder`; returns the files' paths.

    A law of other features than params and tokens, or of another target than the loss, gets the
    residuals, and one of repeated data what repeating costs. Training curves need `steps`, and
    `runs` for each run's size; `swept` is the sweep whose best rows were fitted. Raises Refusal for
    a failed fit and if a file cannot be written.
    """
    figures = {"residuals": residuals_figure(fit)}
    if {"params", "tokens"} == set(fit.law.features) and fit.law.target == "loss":
        figures["loss"] = loss_figure(fit)
        with suppress(NoOptimum):  # a law without one has no frontier
            found = recommended(fit)
            figures["loss_by_compute"] = alone(loss_by_compute, found)
            figures["frontier"] = frontier_figure(found)
        figures |= optima_figures(fit)
    if {"params", "tokens", "unique_tokens"} == set(fit.law.features):
        figures["repeats"] = alone(repeats, fit)
    if runs is not None and steps is not None:
        figures["training"] = alone(training, runs, steps, params_column=params_column)
    if swept is not None:
        figures["sweep"] = sweep_figure(swept, fit.data.params_column, fit.data.loss_unit)
    return _saved(figures, folder)


def draw_recommended(folder: Path, source: Source, asked: Sequence[Recommendation]) -> list[Path]:
    """Write the figures that show what was `asked` of `source`: loss_by_compute, frontier,
    tokens_per_param and landscape; returns the files' paths.

    Raises Refusal as `recommended` does, and if a file cannot be written.
    """
    found, known = recommended(source, asked), landmarks()
    figures = {
        "loss_by_compute": alone(loss_by_compute, found),
        "frontier": frontier_figure(found, landmarks=known),
        "tokens_per_param": alone(frontier, found, "tokens_per_param", landmarks=known),
        "landscape": alone(landscape, found, landmarks=known, size=(7.8, 6.8)),
    }
    return _saved(figures, folder)


def _saved(figures: dict[str, Figure], folder: Path) -> list[Path]:
    return [path for name, made in figures.items() for path in save(made, folder / name)]
