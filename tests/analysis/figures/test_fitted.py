"""The fit against its runs: every run a point, curves solid inside the runs and dashed outside."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.figures.fitted import floor_text, loss_figure, residuals_figure
from analysis.figures.repeats import repeats
from analysis.figures.style import alone
from analysis.fitting.fit import Fit, fit
from analysis.interval import Interval
from analysis.laws.catalogue import law
from analysis.laws.published import published
from scaling.store.records import Refusal

SIZES, BUDGETS = (25e3, 98e3, 332e3, 786e3), (0.5e6, 1e6, 2e6, 4e6)  # of grid_fit


def scattered(axes: Axes) -> int:
    return sum(len(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection))


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_loss_curves_draw_every_run_and_every_level_in_both_panels(grid_fit):
    figure = loss_figure(grid_fit)
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("parameters N", "training tokens D")
    for axes, levels_drawn in ((left, len(BUDGETS)), (right, len(SIZES))):
        assert scattered(axes) == len(grid_fit.table)
        solid = [line for line in axes.lines if line.get_linestyle() == "-"]
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert len(solid) == len(dashed) == levels_drawn
        assert len(axes.get_legend().get_texts()) == levels_drawn


def test_where_levels_are_many_the_curves_shown_are_at_some_of_them(grid_fit):
    sizes = np.geomspace(2e4, 9e5, 12)
    table = pd.DataFrame([(n, d) for n in sizes for d in BUDGETS], columns=["params", "tokens"])
    table["loss"] = grid_fit.predict({name: table[name].to_numpy() for name in table})
    _, right, bar = loss_figure(replace(grid_fit, table=table)).axes
    solid = [line for line in right.lines if line.get_linestyle() == "-"]
    assert len(solid) == len(bar.xaxis.get_majorticklocs()) == 6
    for line in solid:
        at = {"params": sizes, "tokens": line.get_xdata()[0]}
        assert np.isclose(grid_fit.predict(at), line.get_ydata()[0]).sum() == 1


def test_curves_are_solid_inside_the_runs_and_go_on_dashed_outside(grid_fit):
    left, _ = loss_figure(grid_fit).axes
    solid = [line for line in left.lines if line.get_linestyle() == "-"]
    for line in solid:
        x, y = line.get_xdata(), line.get_ydata()
        assert (x[0], x[-1]) == pytest.approx((SIZES[0], SIZES[-1]))
        curves = [grid_fit.predict({"params": x, "tokens": budget}) for budget in BUDGETS]
        assert sum(y == pytest.approx(curve) for curve in curves) == 1
    assert left.get_xlim() == pytest.approx((SIZES[0] / 3, SIZES[-1] * 3))


def test_the_floor_is_drawn_where_it_is_near_and_named_once(grid_fit):
    high = replace(grid_fit, coefficients={**grid_fit.coefficients, "E": 1.1})
    figure = loss_figure(high)
    for axes in figure.axes:
        assert set(axes.lines[-1].get_ydata()) == {1.1}
    assert caption(figure).count("Dotted: the floor E = 1.1") == 1


def test_a_floor_far_below_takes_no_part_of_the_panel_and_stands_in_the_caption(grid_fit):
    low = replace(grid_fit, coefficients={**grid_fit.coefficients, "E": 0.01})
    figure = loss_figure(low)
    bottom, _ = figure.axes[0].get_ylim()
    curves = [line.get_ydata().min() for line in figure.axes[0].lines]
    assert bottom > 0.9 * min(curves)
    assert "The floor E = " in caption(figure) and "lies below the panel" in caption(figure)


def test_the_runs_fill_most_of_the_height_wherever_the_floor_and_the_curves_are(grid_fit):
    for floor in (0.01, 0.8, 1.2):
        source = replace(grid_fit, coefficients={**grid_fit.coefficients, "E": floor})
        low, high = np.log(loss_figure(source).axes[0].get_ylim())
        assert np.ptp(np.log(grid_fit.table["loss"])) > 0.5 * (high - low)


def test_bands_are_drawn_from_draws_only(grid_fit):
    def bands(source: Fit) -> int:
        left, _ = loss_figure(source).axes
        return sum(not isinstance(c, PathCollection) for c in left.collections)

    assert bands(grid_fit) == 2  # of the least and the largest level
    assert bands(replace(grid_fit, draws=grid_fit.draws.iloc[:0])) == 0


def test_residuals_are_the_fits_and_their_rms_is_in_the_caption(grid_fit):
    figure = residuals_figure(grid_fit)
    above, below = figure.axes
    points = next(c for c in below.collections if isinstance(c, PathCollection)).get_offsets()
    assert len(points) == scattered(above) == len(grid_fit.table)
    rms = np.sqrt(np.mean(np.asarray(points)[:, 1] ** 2))
    assert rms == pytest.approx(100 * grid_fit.rmse_log)
    assert f"RMSE {rms:.2g}%" in figure.get_suptitle()
    assert below.get_ylabel() == "residual, %"


def test_residuals_can_be_drawn_for_a_law_of_one_variable(grid_fit):
    table = grid_fit.table[grid_fit.table["params"] == SIZES[0]]
    more = pd.concat([table.assign(tokens=table["tokens"] * k) for k in (1, 1.5)])
    source = fit(law("kaplan_d"), more[["tokens", "loss"]], bootstrap=0)
    assert scattered(residuals_figure(source).axes[0]) == 8


def test_a_fit_without_its_runs_is_refused_with_the_remedy(grid_fit):
    with pytest.raises(Refusal, match="Fit again"):
        residuals_figure(replace(grid_fit, table=pd.DataFrame()))


def test_repeated_runs_are_hollow_and_their_curve_leaves_the_fresh_one():
    truth = published("muennighoff-2023")
    sizes, budgets, caps = (1e8, 4e8, 2e9), (1e9, 4e9, 2e10), (1e9, 1e12)
    grid = [(n, d, min(d, u)) for n in sizes for d in budgets for u in caps]
    table = pd.DataFrame(grid, columns=["params", "tokens", "unique_tokens"]).drop_duplicates()
    features = {name: table[name].to_numpy() for name in table}
    table["loss"] = truth.law.predict(truth.coefficients, features)
    (axes,) = alone(repeats, fit(truth.law, table, bootstrap=0)).axes
    (fresh,) = axes.collections
    again = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert (len(fresh.get_offsets()), sum(len(line.get_xdata()) for line in again)) == (9, 6)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert len(dashed) == len(solid) == 3
    for old, new in zip(dashed, solid, strict=True):
        assert old.get_ydata()[-1] > new.get_ydata()[-1]


def test_sizes_near_each_other_have_colours_and_names_of_their_own(grid_fit):
    table = grid_fit.table.replace({"params": {332e3: 101e3}})
    _, right = loss_figure(replace(grid_fit, table=table)).axes
    curves = [line for line in right.lines if line.get_linestyle() == "-"]
    colours = np.array([line.get_color()[:3] for line in curves])
    assert min(np.abs(a - b).max() for a, b in combinations(colours, 2)) > 0.1
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "N = 25k", "N = 98k", "N = 101k", "N = 786k",
    ]  # fmt: skip


def test_both_panels_name_their_losses_and_no_bar_stands_between_them(grid_fit):
    many = np.geomspace(2e4, 9e5, 12)
    table = pd.DataFrame([(n, n * k) for n in many for k in (5, 20)], columns=["params", "tokens"])
    table["loss"] = grid_fit.predict({name: table[name].to_numpy() for name in table})
    figure = loss_figure(replace(grid_fit, table=table))
    figure.draw_without_rendering()
    left, right, *bars = figure.axes
    assert left.get_ylabel() == right.get_ylabel() == "loss, nats/token"
    for axes, bar in zip((left, right), bars, strict=True):
        assert bar.bbox.y0 > axes.bbox.y1
        assert bar.bbox.x0 == pytest.approx(axes.bbox.x0, abs=2)


def test_losses_without_a_logarithm_are_refused_with_the_remedy(grid_fit):
    table = grid_fit.table.assign(loss=grid_fit.table["loss"] - 1.3)
    with pytest.raises(Refusal, match="scaling fit RUNS --where 'loss>0'"):
        residuals_figure(replace(grid_fit, table=table))


def test_a_floor_without_an_interval_is_named_without_one(grid_fit):
    bounds = {**grid_fit.interval.coefficients, "E": Interval(float("nan"), float("nan"))}
    unknown = replace(grid_fit, interval=replace(grid_fit.interval, coefficients=bounds))
    assert "floor E = " in caption(loss_figure(unknown)) + floor_text(unknown)
    assert "nan" not in floor_text(unknown) and "[" not in floor_text(unknown)
