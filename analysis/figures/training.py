"""Loss against compute while training: every run, coloured by size, and the least so far."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis.array import Array
from analysis.figures import style
from analysis.text import decimal
from scaling.store.records import Refusal

SMOOTHING = 1.1  # the training loss is smoothed over steps within this factor of the compute


def training(
    runs: pd.DataFrame,
    steps: pd.DataFrame,
    ax: Axes | None = None,
    *,
    params_column: str = "params_total",
) -> Axes:
    """Loss (nats/token) against cumulative exact FLOPs for every run in `steps`; returns the axes.

    Lines are the training loss, lightly smoothed; points the validation loss, larger where a
    run ends (a trunk does not: its learning rate has not decayed). The grey line is the least
    smoothed training loss of all runs, where one reached it. `runs` gives each run's size by
    `run_id`. Raises Refusal when nothing can be drawn.
    """
    curves = _curves(runs, steps, params_column)
    palette = style.Palette([each.params for each in curves])
    seen = pd.concat([each.validated for each in curves])
    trunks = sum(each.trunk for each in curves)
    ended = len(curves) - trunks
    said = f"{ended} runs" + (f" branched off {trunks} trunks" if trunks else "")
    least = min(float(each.loss.min()) for each in curves)
    title = f"Loss while training: {ended} runs, down to {decimal(least)} nats/token"
    with style.panel(ax, title, style.counted(said, params_column)) as axes:
        for each in curves:
            axes.plot(
                each.flops, each.loss, color=palette(each.params), linewidth=1.0, alpha=0.8,
                gid=f"run-{each.run}",
            )  # fmt: skip
        axes.scatter(
            seen["flops"], seen["val_loss"], s=np.where(seen["ends"], 26.0, 9.0),
            color=[palette(size) for size in seen["params"]], edgecolor="white", linewidth=0.5,
            zorder=3,
        )  # fmt: skip
        lower = _envelope(curves)
        axes.plot(lower["flops"], lower["loss"], color=style.PALE, linewidth=4.5, zorder=1)
        style.log_axis(axes.xaxis, "training compute C, FLOPs (counted exactly)", "flops")
        style.log_axis(axes.yaxis, "loss, nats/token", "loss")
        _set_limits(axes, curves, seen["val_loss"])
        dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markeredgecolor": "white"}
        also = [
            Line2D([], [], color=style.INK, linewidth=1.0, label="training loss"),
            Line2D([], [], color=style.PALE, linewidth=4.5, label="least training loss"),
        ]
        if len(seen):
            also.append(Line2D([], [], color=style.INK, label="validation loss", **dot))
        palette.key(axes, also)
        style.note(
            axes,
            f"Training loss is smoothed over {100 * (SMOOTHING - 1):.0f}% of compute. Validation "
            "loss is of other text, so it may lie above or below; large points end a run.",
        )
    return axes


class _Curve(NamedTuple):
    """A run while it is trained."""

    run: str
    params: float
    trunk: bool  # its learning rate does not decay, so it does not end
    flops: Array
    loss: Array  # of training, smoothed
    validated: pd.DataFrame  # flops, val_loss, params, and whether the run ends there


def _curves(runs: pd.DataFrame, steps: pd.DataFrame, params_column: str) -> list[_Curve]:
    """The runs of the table with two finite losses or more, by their ids."""
    needed = (
        ("run", runs, ("run_id", params_column)),
        ("steps", steps, ("run_id", "flops", "loss")),
    )
    for name, table, columns in needed:
        missing = [column for column in columns if column not in table]
        if missing:
            raise Refusal(
                f"the {name} table has no column {missing[0]}.",
                "Draw from a results folder of `scaling run`.",
            )
    known = runs.drop_duplicates("run_id").set_index("run_id")
    finite = steps[np.isfinite(steps["loss"]) & steps["run_id"].isin(known.index)]
    curves = []
    for run, rows in finite.sort_values("flops").groupby("run_id"):
        flops, loss = rows[["flops", "loss"]].to_numpy(dtype=np.float64).T
        params = float(known[params_column][run])
        trunk = "run_kind" in known and known["run_kind"][run] == "trunk"
        seen = rows.reindex(columns=["flops", "val_loss"]).astype(float)
        seen = seen[np.isfinite(seen["val_loss"])]
        seen = seen.assign(params=params, ends=(seen["flops"] >= flops[-1]) & (not trunk))
        if len(rows) > 1:
            curves.append(_Curve(str(run), params, trunk, flops, _smooth(flops, loss), seen))
    if not curves:
        raise Refusal(
            "the step records hold no run of the run table with two finite losses.", "Train first."
        )
    return curves


def _set_limits(axes: Axes, curves: list[_Curve], validated: pd.Series) -> None:
    # The first steps fall from ln V through most of the range: they would flatten the rest.
    late = np.concatenate([each.loss[each.flops > 0.05 * each.flops[-1]] for each in curves])
    high = float(np.quantile(late, 0.99)) * 1.03
    axes.set_ylim(min([late.min(), *validated]) * 0.97, high)
    left = min(each.flops[each.loss <= high].min() for each in curves)
    axes.set_xlim(left * 0.9, max(each.flops[-1] for each in curves) * 1.2)


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


def _envelope(curves: list[_Curve]) -> pd.DataFrame:
    """The least loss (`loss`) that any curve has reached at the compute (`flops`) of each step;
    NaN where the curve that reached it has ended."""
    steps = pd.concat(
        pd.DataFrame({"flops": each.flops, "loss": each.loss, "end": each.flops[-1]})
        for each in curves
    ).sort_values(["flops", "loss"])
    least = steps["loss"].cummin()
    end = steps["end"].where(steps["loss"] == least).ffill()
    return steps.assign(loss=least.where(steps["flops"] <= end))
