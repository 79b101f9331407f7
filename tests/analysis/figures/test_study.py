"""Figures show the runs and the fit that were given, on readable axes, the same bytes each time.

What is tested is the Figure's own objects, not its pixels.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.fitted import loss_figure, residuals_figure
from analysis.figures.frontier import frontier_figure, loss_by_compute
from analysis.figures.isoflop import optima_figures
from analysis.figures.recommended import recommended
from analysis.figures.study import draw, draw_recommended
from analysis.figures.style import MANY, Colour, Palette, alone, levels
from analysis.figures.training import training
from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.recommend import recommend

SIZES = (25e3, 98e3, 332e3, 786e3)


def tick_labels(axes: Axes, which: str) -> list[str]:
    axis = getattr(axes, f"{which}axis")
    low, high = sorted(axis.get_view_interval())
    inside = [tick for tick in axis.get_majorticklocs() if low <= tick <= high]
    return [text for text in axis.get_major_formatter().format_ticks(inside) if text]


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


@pytest.fixture(scope="module")
def figures(grid_fit, trained) -> list[Figure]:
    found = recommended(grid_fit, recommend(grid_fit, [1e14]))
    made = [
        loss_figure(grid_fit),
        residuals_figure(grid_fit),
        frontier_figure(found),
        alone(training, *trained),
    ]
    made.append(alone(loss_by_compute, found))
    for figure in made:
        figure.canvas.draw()
    return made


def test_every_axis_is_labelled_logarithmic_and_has_at_least_three_tick_labels(figures):
    for figure in figures:
        for axes in figure.axes:
            assert axes.get_xscale() == "log" or axes.get_label() == "<colorbar>"
            linear = axes.get_ylabel() == "residual, %" or axes.get_label() == "<colorbar>"
            assert axes.get_yscale() == "log" or linear
            assert len(tick_labels(axes, "y")) >= 3
            if axes.get_label() != "<colorbar>":
                assert len(tick_labels(axes, "x")) >= 3
        assert caption(figure).startswith("n = ")
        assert figure.get_suptitle()
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


def test_the_legends_of_loss_and_isoflop_curves_lie_outside_the_axes(grid_fit):
    truth = published("besiroglu-2024")
    flops, spread = np.meshgrid(np.geomspace(1e18, 1e20, 5), np.geomspace(0.2, 5, 7))
    params = (0.1 * flops**0.5 * spread).ravel()
    runs = pd.DataFrame({"params": params, "tokens": flops.ravel() / 6 / params})
    runs["loss"] = truth.predict({name: runs[name].to_numpy() for name in runs})
    found = fit(law("chinchilla"), runs, bootstrap=0, checks=False)
    for made in (loss_figure(grid_fit), *optima_figures(found).values()):
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
        boxes += [figure._supxlabel.get_window_extent(), figure._suptitle.get_window_extent()]
        boxes = [box for box in boxes if box.width > 1 and box.height > 1]
        for index, box in enumerate(boxes):
            assert figure.bbox.padded(1).containsx(box.x0)
            assert figure.bbox.padded(1).containsx(box.x1)
            assert not any(box.overlaps(other) for other in boxes[index + 1 :])


@pytest.mark.slow
def test_files_are_written_in_both_formats_and_the_same_bytes_each_time(
    tmp_path, grid_fit, trained
):
    first = draw(tmp_path / "a", grid_fit, *trained)
    again = draw(tmp_path / "b", grid_fit, *trained)
    names = ("residuals", "loss", "loss_by_compute", "frontier", "training")
    assert [path.name for path in first] == [
        f"{n}.{kind}" for n in names for kind in ("png", "svg")
    ]
    for one, two in zip(first, again, strict=True):
        assert one.read_bytes() == two.read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")
    assert b"</svg>" in first[1].read_bytes()


def test_a_fit_loaded_from_its_file_is_drawn_as_the_fit_itself(tmp_path, grid_fit):
    save_fit(grid_fit, tmp_path / "fit.json")
    loaded = load_fit(tmp_path / "fit.json")
    for make in (residuals_figure, loss_figure, lambda each: frontier_figure(recommended(each))):
        for fresh, again in zip(make(grid_fit).axes, make(loaded).axes, strict=True):
            for one, two in zip(fresh.lines, again.lines, strict=True):
                assert one.get_ydata() == pytest.approx(two.get_ydata(), rel=1e-12)


def test_a_recommendation_is_drawn_in_four_figures(tmp_path, grid_fit):
    drawn = draw_recommended(tmp_path, grid_fit, recommend(grid_fit, [1e14]))
    assert {path.stem for path in drawn} == {
        "loss_by_compute", "frontier", "tokens_per_param", "landscape",
    }  # fmt: skip


def test_drawing_changes_no_settings_and_opens_no_window():
    # `backend` is left out: reading it makes matplotlib choose one.
    code = """
import matplotlib
read = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != "backend"}
before = read()
import analysis.figures.study
from analysis.figures.style import Palette, figure
with figure(4, 3) as made:
    Palette([1.0, 2.0]).key(made.add_subplot())
assert before == read()
from matplotlib import pyplot
assert not pyplot.get_fignums()
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_neighbouring_values_are_one_level_and_distinct_ones_are_not():
    assert levels([1.0, 1.001, 2.0, 2.002, 4.0]) == pytest.approx([1.0005, 2.001, 4.0])
    assert len(levels(np.geomspace(1, 10, 500))) > 90  # a chain of neighbours is no level


@pytest.mark.parametrize("name", ["params", "tokens"])
@pytest.mark.parametrize("values", [SIZES, np.geomspace(1e5, 1e9, 20)])
def test_colours_grow_darker_with_size_and_none_is_lost_on_white(name, values):
    palette = Palette(values, name)
    luminance = [np.dot(palette(size)[:3], (0.2126, 0.7152, 0.0722)) for size in values]
    assert luminance == sorted(luminance, reverse=True)
    assert luminance[0] < 0.78


@pytest.mark.parametrize("name", ["params", "tokens"])
def test_as_many_colours_as_a_legend_names_can_be_told_apart(name):
    values = np.geomspace(1e5, 1e9, MANY)
    seen = np.array([lab(Palette(values, name)(each)[:3]) for each in values])
    assert np.linalg.norm(np.diff(seen, axis=0), axis=1).min() > 16  # seaborn's crest: 13


def lab(colour: Colour) -> np.ndarray:
    """CIELAB under D65, in which equal distances look equal; about 2 are just seen."""
    srgb = np.asarray(colour)
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.4339, 0.3762, 0.1899], [0.2126, 0.7152, 0.0722], [0.0177, 0.1095, 0.8728]]
    x, y, z = np.cbrt(np.asarray(to_xyz) @ linear)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])
