"""Loss against compute while training: every run, coloured by size, and the least so far."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.expression import Array
from analysis.figures.style import INK, Palette, figure_of, log_axis, panel, set_caption
from analysis.units import count_of
from scaling.store.records import Refusal

SMOOTHING = 1.1  # the training loss is smoothed over steps within this factor of the compute
ENVELOPE = "#c4c4c4"


def training_curves(
    runs: pd.DataFrame,
    steps: pd.DataFrame,
    *,
    params_column: str = "params_total",
    ax: Axes | None = None,
) -> Figure:
    """Loss (nats/token) against cumulative exact FLOPs for every run in `steps`.

    Lines are the training loss, lightly smoothed; points the validation loss, larger where a
    run ends (a trunk does not: its learning rate has not decayed); the grey line is the least
    smoothed training loss that any run had reached by that compute.
    `runs` gives each run's size by `run_id`. Raises Refusal when nothing can be drawn.
    """
    for name, table, columns in (
        ("run", runs, ("run_id", params_column)),
        ("steps", steps, ("run_id", "flops", "loss")),
    ):
        missing = [column for column in columns if column not in table]
        if missing:
            raise Refusal(
                f"the {name} table has no column {missing[0]}. Draw from a folder of `scaling run`."
            )
    sizes = runs.drop_duplicates("run_id").set_index("run_id")[params_column]
    curves = {
        run: rows.sort_values("flops")
        for run, rows in steps[np.isfinite(steps["loss"])].groupby("run_id", sort=True)
        if run in sizes.index and len(rows) > 1
    }
    if not curves:
        raise Refusal("steps hold no run of the run table with two finite losses. Train first.")
    palette = Palette(sizes.loc[list(curves)])
    trunks = set(runs.loc[runs["run_kind"] == "trunk", "run_id"]) if "run_kind" in runs else set()
    validated: list[Array] = []
    smoothed: list[tuple[Array, Array]] = []
    with panel(ax, 7.5, 5.4, f"Loss while training: {len(set(curves) - trunks)} runs") as axes:
        for run, rows in curves.items():
            colour = palette(float(sizes.loc[run]))
            flops = rows["flops"].to_numpy(dtype=np.float64)
            loss = _smooth(flops, rows["loss"].to_numpy(dtype=np.float64))
            smoothed.append((flops, loss))
            axes.plot(flops, loss, color=colour, linewidth=1.0, alpha=0.8, gid=f"run-{run}")
            if "val_loss" in rows:
                seen = rows[np.isfinite(rows["val_loss"])]
                validated.append(seen["val_loss"].to_numpy(dtype=np.float64))
                decayed = (seen["flops"] >= flops[-1]) & (run not in trunks)
                area = np.where(decayed, 26.0, 9.0)
                axes.scatter(
                    seen["flops"],
                    seen["val_loss"],
                    s=area,
                    color=[colour],
                    edgecolor="white",
                    linewidth=0.5,
                    zorder=3,
                )
        envelope = _envelope(smoothed)
        axes.plot(*envelope, color=ENVELOPE, linewidth=4.5, zorder=1)
        # The first steps fall from ln V through most of the range: they would flatten the rest.
        late = np.concatenate([loss[flops > 0.05 * flops[-1]] for flops, loss in smoothed])
        low = min(float(each.min()) for each in (late, *validated) if len(each))
        axes.set_ylim(low * 0.97, float(np.quantile(late, 0.99)) * 1.03)
        left = float(np.min([flops[loss <= axes.get_ylim()[1]].min() for flops, loss in smoothed]))
        axes.set_xlim(left * 0.9, float(max(flops[-1] for flops, _ in smoothed)) * 1.2)
        log_axis(axes.xaxis, "training compute C, FLOPs (counted exactly)", "flops")
        log_axis(axes.yaxis, "loss, nats/token", "loss")
        style: dict[str, Any] = {"marker": "o", "linestyle": "", "markeredgecolor": "white"}
        also = [
            Line2D([], [], color=INK, linewidth=1.0, label="training loss"),
            Line2D([], [], color=ENVELOPE, linewidth=4.5, label="least training loss so far"),
        ]
        if validated:
            also.append(Line2D([], [], color=INK, label="validation loss", **style))
        made = figure_of(axes)
        palette.key(made, axes, "N", f"N ({count_of(params_column)})", also=also)
    branched = f" branched off {len(trunks & set(curves))} trunks" if trunks & set(curves) else ""
    if ax is None:
        set_caption(
            made,
            f"n = {len(set(curves) - trunks)} runs{branched}. N = {count_of(params_column)}. "
            f"Training loss smoothed over {100 * (SMOOTHING - 1):.0f}% of compute. Validation "
            "loss is of other text, so it may lie above or below; large points end a run.",
        )
    return made


def _smooth(flops: Array, loss: Array) -> Array:
    """A straight line in ln C through the steps within a factor SMOOTHING of each, read there.

    A line, not a mean: where a window is one-sided a mean would tear a branch off its trunk.
    """
    first = np.searchsorted(flops, flops / SMOOTHING, side="left")
    last = np.searchsorted(flops, flops * SMOOTHING, side="right")
    x = np.log(flops / flops[-1])

    def inside(values: Array) -> Array:
        total = np.concatenate([[0.0], np.cumsum(values)])
        return np.asarray((total[last] - total[first]) / (last - first))

    mean_x, mean_y = inside(x), inside(loss)
    spread = inside(x * x) - mean_x**2
    shared = inside(x * loss) - mean_x * mean_y
    slope = np.divide(shared, spread, out=np.zeros_like(x), where=spread > 1e-9)
    return np.asarray(mean_y + slope * (x - mean_x))


def _envelope(curves: list[tuple[Array, Array]], points: int = 400) -> tuple[Array, Array]:
    """Least loss any curve has reached by each compute, on a log grid, steps not interpolated."""
    grid = np.geomspace(
        min(flops[0] for flops, _ in curves), max(flops[-1] for flops, _ in curves), points
    )
    least = np.full(points, np.inf)
    for flops, loss in curves:
        reached = np.searchsorted(flops, grid, side="right") - 1
        best = np.minimum.accumulate(loss)
        least = np.where(reached >= 0, np.minimum(least, best[np.maximum(reached, 0)]), least)
    return grid, least
