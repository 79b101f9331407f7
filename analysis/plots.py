"""The figures of a study: what was trained, what was fitted, and what follows from it.

Each is a matplotlib Figure outside pyplot's state; `save` writes it as PNG and SVG.
Importing this module loads matplotlib (half a second): import it only where something is drawn.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from analysis.figures.fitted import loss_curves, residuals
from analysis.figures.frontier import frontier, tokens_per_param
from analysis.figures.isoflop import optima_figures
from analysis.figures.landscape import landscape
from analysis.figures.repeats import repeat_curves
from analysis.figures.style import save
from analysis.figures.training import training_curves
from analysis.fit import Fit
from analysis.runs.table import usable
from scaling.records import Refusal

__all__ = [
    "draw",
    "frontier",
    "landscape",
    "loss_curves",
    "optima_figures",
    "repeat_curves",
    "residuals",
    "save",
    "tokens_per_param",
    "training_curves",
    "with_runs",
]


def draw(
    folder: Path,
    fit: Fit,
    runs: pd.DataFrame | None = None,
    steps: pd.DataFrame | None = None,
    *,
    params_column: str = "params_total",
) -> list[Path]:
    """Write every figure that the inputs allow into `folder`; returns the files' paths.

    `runs` is a run table as `read_runs` gives it; a fit loaded from a file takes its points from
    there. A law of other features than params and tokens gets the residuals, and one of repeated
    data what repeating costs; without `steps` there are no training curves. Raises Refusal if a
    file cannot be written.
    """
    if fit.table.empty and runs is not None:
        fit = with_runs(fit, runs)
    figures = {"residuals": residuals(fit)}
    if {"params", "tokens"} == set(fit.law.features):
        figures |= {"loss": loss_curves(fit), "frontier": frontier(fit)}
        figures |= optima_figures(fit)
    if {"params", "tokens", "unique_tokens"} == set(fit.law.features):
        figures["repeats"] = repeat_curves(fit)
    if runs is not None and steps is not None:
        figures["training"] = training_curves(runs, steps, params_column=params_column)
    return [path for name, made in figures.items() for path in save(made, folder / name)]


def with_runs(fit: Fit, runs: pd.DataFrame) -> Fit:
    """A fit loaded from a file together with the runs to draw it against.

    The file says how many runs were fitted, not which: where some were left out by --where, all
    completed ones are drawn and `data.n` in the caption stays the number fitted. Raises Refusal
    if the table lacks the column the fit counted its parameters in.
    """
    rows = usable(runs).rows
    column = fit.data.params_column
    if "params" in fit.law.features and column not in rows:
        raise Refusal(
            f"the fit counted N in {column}, which the run table does not have. "
            "Draw it against the table it was fitted on."
        )
    columns = {"params": rows[column]} if column in rows else {}
    rows = rows.assign(**columns)
    if {"params", "tokens"} <= set(rows.columns):
        rows["flops"] = 6.0 * rows["params"] * rows["tokens"]  # as a fit defines it
    needed = [*fit.law.features, fit.law.target]
    return replace(fit, table=rows.astype(dict.fromkeys(needed, "float64")))
