"""Figures show the runs and the fit that were given, on readable axes, the same bytes each time.

What is tested is the Figure's own objects, not its pixels.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.figures.style import Palette, levels
from analysis.fit import Fit, fit, load_fit, save_fit
from analysis.landmarks import landmarks
from analysis.laws import law
from analysis.plots import (
    draw,
    frontier,
    loss_curves,
    optima_figures,
    repeat_curves,
    residuals,
    training_curves,
    with_runs,
)
from analysis.published import published
from analysis.recommend import recommend
from analysis.runs.table import standardise
from scaling.records import Refusal

SIZES, BUDGETS = (25e3, 98e3, 332e3, 786e3), (0.5e6, 1e6, 2e6, 4e6)


@pytest.fixture(scope="module")
def fitted() -> Fit:
    table = pd.DataFrame([(n, d) for n in SIZES for d in BUDGETS], columns=["params", "tokens"])
    exact = 0.8 + 12 / table["params"] ** 0.31 + 620 / table["tokens"] ** 0.53
    noise = np.exp(0.004 * np.random.default_rng(0).normal(size=len(table)))
    return fit(law("chinchilla"), table.assign(loss=exact * noise), bootstrap=200)


@pytest.fixture(scope="module")
def trained() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A trunk and a cooldown branch for each of two sizes; one branch diverges at its end."""
    runs, steps = [], []
    for size in SIZES[:2]:
        for run, first, last in ((f"trunk{size:.0f}", 1, 800), (f"branch{size:.0f}", 640, 800)):
            step = np.arange(first, last + 1)
            loss = 1.2 + 3 / step**0.3 - (run < "c") * 0.1 * (step - first) / 160
            if run == "branch98000":
                loss[-5:] = np.nan
            validated = np.where(step % 400 == 0, loss, np.nan)
            flops = 6.5 * size * 1024 * step
            columns = {"step": step, "flops": flops, "loss": loss, "val_loss": validated}
            steps.append(pd.DataFrame({"run_id": run, **columns}))
            kind = "trunk" if run.startswith("trunk") else "cooldown"
            runs.append({"run_id": run, "params_total": size, "run_kind": kind})
    return pd.DataFrame(runs), pd.concat(steps, ignore_index=True)


def scattered(axes: Axes) -> int:
    return sum(len(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection))


def tick_labels(axes: Axes, which: str) -> list[str]:
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    inside = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    return [text for text in axis.get_major_formatter().format_ticks(inside) if text]


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


# --- training curves --------------------------------------------------------------------------


def test_every_run_is_a_line_and_every_validation_loss_a_point(trained):
    figure = training_curves(*trained)
    [axes] = figure.axes
    assert sorted(line.get_gid() for line in axes.lines if line.get_gid()) == [
        "run-branch25000", "run-branch98000", "run-trunk25000", "run-trunk98000",
    ]  # fmt: skip
    assert scattered(axes) == np.isfinite(trained[1]["val_loss"]).sum()
    assert caption(figure).startswith("n = 2 runs branched off 2 trunks; N = params_total.")


def test_only_the_end_of_a_decayed_run_is_a_large_point(trained):
    [axes] = training_curves(*trained).axes
    areas = [float(a) for c in axes.collections for a in c.get_sizes()]
    # A branch and a trunk of each size end validated, but one branch diverged before its end.
    assert (areas.count(26.0), areas.count(9.0)) == (1, 4)


def test_runs_of_one_size_have_one_colour(trained):
    [axes] = training_curves(*trained).axes
    colours = {line.get_gid(): line.get_color() for line in axes.lines}
    assert colours["run-branch25000"] == colours["run-trunk25000"] != colours["run-trunk98000"]


def test_the_envelope_never_rises_and_is_the_least_of_the_curves(trained):
    [axes] = training_curves(*trained).axes
    [envelope] = [line for line in axes.lines if not line.get_gid()]
    flops, least = envelope.get_xdata(), envelope.get_ydata()
    assert (np.diff(least) <= 0).all()
    curves = [line for line in axes.lines if line.get_gid()]
    assert least[-1] == pytest.approx(min(line.get_ydata().min() for line in curves))
    for line in curves:
        for compute, loss in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert (least[flops >= compute] <= loss).all()


def test_smoothing_keeps_a_straight_line_to_its_very_ends(trained):
    runs, steps = trained
    straight = steps.assign(loss=5 - 0.1 * np.log(steps["flops"]))
    [axes] = training_curves(runs, straight).axes
    for line in axes.lines:
        if line.get_gid():
            assert line.get_ydata() == pytest.approx(5 - 0.1 * np.log(line.get_xdata()))


def test_training_curves_without_what_they_need_are_refused(trained):
    runs, steps = trained
    with pytest.raises(Refusal, match="run table has no column params_total"):
        training_curves(runs.drop(columns="params_total"), steps)
    with pytest.raises(Refusal, match="Train first"):
        training_curves(runs, steps.assign(loss=np.nan))


# --- the fit ----------------------------------------------------------------------------------


def test_loss_curves_draw_every_run_and_every_level_in_both_panels(fitted):
    figure = loss_curves(fitted)
    left, right = figure.axes
    assert (left.get_xlabel(), right.get_xlabel()) == ("parameters N", "training tokens D")
    for axes, levels_drawn in ((left, len(BUDGETS)), (right, len(SIZES))):
        assert scattered(axes) == len(fitted.table)
        solid = [line for line in axes.lines if line.get_linestyle() == "-"]
        dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert len(solid) == len(dashed) - 1 == levels_drawn  # the floor is the other one
        assert len(axes.get_legend().get_texts()) == levels_drawn


def test_where_levels_are_many_the_curves_shown_are_at_some_of_them(fitted):
    sizes = np.geomspace(2e4, 9e5, 12)
    table = pd.DataFrame([(n, d) for n in sizes for d in BUDGETS], columns=["params", "tokens"])
    table["loss"] = fitted.predict({name: table[name].to_numpy() for name in table})
    _, right, _ = loss_curves(replace(fitted, table=table)).axes
    solid = [line for line in right.lines if line.get_linestyle() == "-"]
    assert len(solid) == 6
    for line in solid:
        at = {"params": sizes, "tokens": line.get_xdata()[0]}
        assert np.isclose(fitted.predict(at), line.get_ydata()[0]).sum() == 1


def test_curves_are_solid_inside_the_runs_and_go_on_dashed_outside(fitted):
    left, _ = loss_curves(fitted).axes
    solid = [line for line in left.lines if line.get_linestyle() == "-"]
    for line in solid:
        x, y = line.get_xdata(), line.get_ydata()
        assert (x[0], x[-1]) == pytest.approx((SIZES[0], SIZES[-1]))
        curves = [fitted.predict({"params": x, "tokens": budget}) for budget in BUDGETS]
        assert sum(y == pytest.approx(curve) for curve in curves) == 1
    assert left.get_xlim() == pytest.approx((SIZES[0] / 3, SIZES[-1] * 3))


def test_the_floor_is_drawn_where_the_fit_has_it_and_named(fitted):
    for axes in loss_curves(fitted).axes:
        floor = axes.lines[-1]
        assert set(floor.get_ydata()) == {fitted.coefficients["E"]}
        assert any(text.get_text().startswith("floor E = 0.") for text in axes.texts)


def test_bands_are_drawn_from_draws_only(fitted):
    def bands(source: Fit) -> int:
        left, _ = loss_curves(source).axes
        return sum(not isinstance(c, PathCollection) for c in left.collections)

    assert bands(fitted) == len(BUDGETS)
    assert bands(replace(fitted, draws=fitted.draws.iloc[:0])) == 0


def test_residuals_are_the_fits_and_their_rms_is_in_the_caption(fitted):
    figure = residuals(fitted)
    above, below = figure.axes
    points = next(c for c in below.collections if isinstance(c, PathCollection)).get_offsets()
    assert len(points) == scattered(above) == len(fitted.table)
    rms = np.sqrt(np.mean(np.asarray(points)[:, 1] ** 2))
    assert rms == pytest.approx(100 * fitted.rmse_log)
    assert f"RMSE {rms:.2g}%" in caption(figure)
    assert below.get_ylabel() == "residual, %"


def test_residuals_can_be_drawn_for_a_law_of_one_variable(fitted):
    table = fitted.table[fitted.table["params"] == SIZES[0]]
    more = pd.concat([table.assign(tokens=table["tokens"] * k) for k in (1, 1.5)])
    source = fit(law("kaplan_d"), more[["tokens", "loss"]], bootstrap=0)
    assert scattered(residuals(source).axes[0]) == 8


def test_a_fit_without_its_runs_is_refused_with_the_remedy(fitted):
    with pytest.raises(Refusal, match="Fit again"):
        residuals(replace(fitted, table=pd.DataFrame()))


# --- the frontier -----------------------------------------------------------------------------


def lines_of(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.lines}


def test_the_frontier_is_what_recommend_recommends(fitted):
    left, right, _ = frontier(fitted).axes
    for axes, name in ((left, "params"), (right, "tokens")):
        flops, drawn = lines_of(axes)["this fit"]
        best = recommend(fitted, list(flops))
        assert drawn == pytest.approx([getattr(each, name) for each in best])
        assert scattered(axes) == len(fitted.table)
    assert flops[-1] == pytest.approx(6 * SIZES[-1] * BUDGETS[-1])


def test_kaplans_line_has_slope_073_and_passes_1_3B_at_one_petaflop_day(fitted):
    left, right, _ = frontier(fitted).axes
    flops, params = lines_of(left)["Kaplan et al. 2020"]
    slope, at_one = np.polyfit(np.log(flops / 8.64e19), np.log(params), 1)
    assert (slope, np.exp(at_one)) == pytest.approx((0.73, 1.3e9))
    flops, tokens = lines_of(right)["Kaplan et al. 2020"]
    slope, at_one = np.polyfit(np.log(flops / 8.64e19), np.log(tokens), 1)
    assert (slope, np.exp(at_one)) == pytest.approx((0.27, 2e10))


def test_hoffmanns_line_is_their_published_law(fitted):
    left, _, _ = frontier(fitted).axes
    flops, params = lines_of(left)["Hoffmann et al. 2022"]
    best = recommend(published("chinchilla-2022"), [float(flops[0]), float(flops[-1])])
    assert (params[0], params[-1]) == pytest.approx((best[0].params, best[1].params))


def test_a_published_law_is_drawn_over_the_budgets_asked_for_with_the_models_in_reach():
    source = published("besiroglu-2024")
    left, right = frontier(source, flops=(1e22, 1e25), landmarks=landmarks()).axes
    flops, params = lines_of(left)["besiroglu-2024"]
    first, last = recommend(source, [1e22, 1e25])
    assert (flops[0], flops[-1]) == pytest.approx((1e22, 1e25))
    assert (params[0], params[-1]) == pytest.approx((first.params, last.params))
    inside = [each for each in landmarks() if each.flops and 1e22 <= each.flops <= 1e25]
    for axes, column in ((left, "params_active"), (right, "tokens")):
        drawn = [line for line in axes.lines if line.get_marker() == "D"]
        at = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in drawn}
        assert at == {(each.flops, getattr(each, column)) for each in inside}


def test_hoffmanns_law_is_not_drawn_twice_and_a_published_law_needs_a_range():
    source = published("chinchilla-2022")
    left, _ = frontier(source, flops=(1e22, 1e25)).axes
    assert "Hoffmann et al. 2022" not in lines_of(left)
    with pytest.raises(Refusal, match="flops is not given"):
        frontier(source)
    with pytest.raises(Refusal, match="smaller one first"):
        frontier(source, flops=(1e25, 1e22))


# --- what holds for all -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures(fitted, trained) -> list[Figure]:
    made = [loss_curves(fitted), residuals(fitted), frontier(fitted), training_curves(*trained)]
    for figure in made:
        figure.canvas.draw()
    return made


def test_every_axis_is_labelled_logarithmic_and_has_at_least_three_tick_labels(figures):
    for figure in figures:
        for axes in figure.axes:
            assert axes.get_xscale() == "log" or axes.get_label() == "<colorbar>"
            assert axes.get_yscale() == "log" or axes.get_ylabel() == "residual, %"
            assert len(tick_labels(axes, "y")) >= 3
            if axes.get_label() != "<colorbar>":
                assert len(tick_labels(axes, "x")) >= 3
        assert caption(figure).startswith("n = ")
    assert figures[0].axes[0].get_ylabel() == "loss, nats/token"
    assert figures[2].axes[0].get_xlabel() == "training compute C = 6ND, FLOPs"
    assert figures[3].axes[0].get_xlabel() == "training compute C, FLOPs (counted exactly)"


@pytest.mark.parametrize(("low", "high"), [(1.2, 1.9), (2.0, 2.1), (0.9, 1.1), (1e5, 1e21)])
def test_a_log_axis_over_any_range_has_three_to_ten_different_labels(low, high):
    from analysis.figures.style import log_axis

    axes = Figure().add_subplot()
    log_axis(axes.yaxis, "loss, nats/token", "loss" if high < 3 else "flops")
    axes.set_ylim(low, high)
    labels = tick_labels(axes, "y")
    assert 3 <= len(labels) == len(set(labels)) <= 10


def test_the_legends_of_loss_and_isoflop_curves_lie_outside_the_axes(fitted):
    truth = published("besiroglu-2024")
    flops, spread = np.meshgrid(np.geomspace(1e18, 1e20, 5), np.geomspace(0.2, 5, 7))
    params = (0.1 * flops**0.5 * spread).ravel()
    runs = pd.DataFrame({"params": params, "tokens": flops.ravel() / 6 / params})
    runs["loss"] = truth.predict({name: runs[name].to_numpy() for name in runs})
    found = fit(law("chinchilla"), runs, bootstrap=0, checks=False)
    for made in (loss_curves(fitted), *optima_figures(found).values()):
        made.draw_without_rendering()
        keyed = [axes for axes in made.axes if axes.get_legend()]
        assert keyed
        for axes in keyed:
            assert axes.get_legend().get_window_extent().y0 > axes.bbox.y1


def test_no_text_of_a_figure_is_cut_off_or_overlaps_another(figures):
    for figure in figures:
        boxes = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
        boxes += [axes.xaxis.label.get_window_extent() for axes in figure.axes]
        boxes += [axes.yaxis.label.get_window_extent() for axes in figure.axes]
        boxes.append(figure._supxlabel.get_window_extent())
        boxes = [box for box in boxes if box.width > 1 and box.height > 1]
        for index, box in enumerate(boxes):
            assert figure.bbox.padded(1).containsx(box.x0)
            assert figure.bbox.padded(1).containsx(box.x1)
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])


@pytest.mark.slow
def test_files_are_written_in_both_formats_and_the_same_bytes_each_time(tmp_path, fitted, trained):
    first = draw(tmp_path / "a", fitted, *trained)
    again = draw(tmp_path / "b", fitted, *trained)
    names = ("residuals", "loss", "frontier", "training")
    assert [path.name for path in first] == [
        f"{n}.{kind}" for n in names for kind in ("png", "svg")
    ]
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in first[1].read_bytes()


def test_a_fit_loaded_from_its_file_is_drawn_from_the_run_table(tmp_path, fitted):
    runs = fitted.table.rename(columns={"params": "params_total"})
    half = runs.assign(loss=99.0, status="diverged").iloc[:2]
    table = standardise(pd.concat([runs.assign(status="completed"), half]))
    source = fit(law("chinchilla"), table, bootstrap=200)
    save_fit(source, tmp_path / "fit.json")
    loaded = with_runs(load_fit(tmp_path / "fit.json"), table)
    for make in (residuals, loss_curves, frontier):
        for fresh, again in zip(make(source).axes, make(loaded).axes, strict=True):
            assert scattered(fresh) == scattered(again)
            for one, two in zip(fresh.lines, again.lines, strict=True):
                assert one.get_ydata() == pytest.approx(two.get_ydata(), rel=1e-12)


def test_runs_without_the_column_the_fit_counted_in_are_refused(fitted):
    other = replace(fitted, data=replace(fitted.data, params_column="params_matmul"))
    with pytest.raises(Refusal, match="counted N in params_matmul"):
        with_runs(other, fitted.table)


def test_drawing_leaves_no_pyplot_and_no_changed_settings():
    # `backend` is left out: reading it makes matplotlib load pyplot to choose one.
    code = """
import sys, matplotlib
read = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
before = read()
import analysis.plots
from analysis.figures.style import figure
with figure() as made:
    made.add_subplot()
assert before == read()
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_neighbouring_values_are_one_level_and_distinct_ones_are_not():
    assert levels([1.0, 1.001, 2.0, 2.002, 4.0]) == pytest.approx([1.0005, 2.001, 4.0])


def test_colours_grow_lighter_with_size():
    palette = Palette(SIZES)
    luminance = [np.dot(palette(size)[:3], (0.2126, 0.7152, 0.0722)) for size in SIZES]
    assert luminance == sorted(luminance)
    assert luminance[-1] < 0.75  # still visible on white


def test_repeated_runs_are_hollow_and_their_curve_leaves_the_fresh_one(tmp_path):
    truth = published("muennighoff-2023")
    sizes, budgets, caps = (1e8, 4e8, 2e9), (1e9, 4e9, 2e10), (1e9, 1e12)
    grid = [(n, d, min(d, u)) for n in sizes for d in budgets for u in caps]
    table = pd.DataFrame(grid, columns=["params", "tokens", "unique_tokens"]).drop_duplicates()
    features = {name: table[name].to_numpy() for name in table}
    table["loss"] = truth.law.predict(truth.coefficients, features)
    fitted = fit(truth.law, table, bootstrap=0)
    (axes,) = repeat_curves(fitted).axes
    fresh, again = axes.collections
    assert (len(fresh.get_offsets()), len(again.get_offsets())) == (9, 6)
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    solid = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert len(dashed) == len(solid) == 3
    for new, old in zip(dashed, solid, strict=True):
        assert old.get_ydata()[-1] > new.get_ydata()[-1]
    assert any("repeats" in path.name for path in draw(tmp_path, fitted))
