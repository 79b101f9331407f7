"""The figures of a study: what was trained, what was fitted, and what follows from it.

Each is a matplotlib Figure outside pyplot's state; `save` writes it as PNG and SVG.
Importing this module loads matplotlib (half a second): import it only where something is drawn.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.figures.fitted import loss_curves, residuals
from analysis.figures.frontier import frontier
from analysis.figures.style import save
from analysis.figures.training import training_curves
from analysis.fit import Fit

__all__ = ["draw", "frontier", "loss_curves", "residuals", "save", "training_curves"]


def draw(
    folder: Path,
    fit: Fit,
    runs: pd.DataFrame | None = None,
    steps: pd.DataFrame | None = None,
    *,
    params_column: str = "params_total",
) -> list[Path]:
    """Write every figure that the inputs allow into `folder`; returns the files' paths.

    A law that does not predict from params and tokens gets the residuals only; without `steps`
    there are no training curves. Raises Refusal if a file cannot be written.
    """
    figures = {"residuals": residuals(fit)}
    if {"params", "tokens"} == set(fit.law.features):
        figures |= {"loss": loss_curves(fit), "frontier": frontier(fit)}
    if runs is not None and steps is not None:
        figures["training"] = training_curves(runs, steps, params_column=params_column)
    return [path for name, made in figures.items() for path in save(made, folder / name)]
