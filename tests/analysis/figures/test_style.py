"""Panel functions draw into the axes they are given, or into a figure that a notebook shows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures import style
from analysis.figures.fitted import loss, residuals
from analysis.figures.frontier import frontier, frontier_figure, loss_by_compute
from analysis.figures.landscape import landscape
from analysis.figures.recommended import recommended
from analysis.figures.sweep import sweep_losses, sweep_optima
from analysis.figures.training import training
from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.runs.sweep import sweep
from scaling.store.records import Refusal

Panel = Callable[[Axes | None], Axes]


@pytest.fixture
def notebook() -> Iterator[None]:
    """pyplot without a window, left as it was."""
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


@pytest.fixture(scope="module")
def panels(grid_fit, trained) -> dict[str, Panel]:
    found = recommended(grid_fit)
    rows = [
        (n, 20 * n, rate, 3 + 0.03 * np.log(rate / 1e-3) ** 2 - 0.1 * np.log(n))
        for n in (3e7, 1e8)
        for rate in 1e-3 * 2.0 ** np.arange(-3, 4)
    ]
    columns = ["params", "tokens", "learning_rate", "loss"]
    swept = sweep(pd.DataFrame(rows, columns=columns), "learning_rate")
    return {
        "loss": lambda ax: loss(grid_fit, ax=ax),
        "loss by tokens": lambda ax: loss(grid_fit, "tokens", ax=ax),
        "residuals": lambda ax: residuals(grid_fit, ax=ax),
        "frontier": lambda ax: frontier(found, ax=ax),
        "loss by compute": lambda ax: loss_by_compute(found, ax=ax),
        "landscape": lambda ax: landscape(found, ax=ax),
        "training": lambda ax: training(*trained, ax=ax),
        "sweep": lambda ax: sweep_losses(swept, ax=ax),
        "optima": lambda ax: sweep_optima(swept, ax=ax),
    }


def test_a_panel_is_drawn_into_the_axes_given_which_get_no_title(panels):
    for draw in panels.values():
        made = Figure()
        axes, other = made.subplots(1, 2)
        assert draw(axes) is axes
        assert axes.get_xlabel() and axes.get_ylabel() and not other.has_data()
        assert not any(axes.spines[side].get_visible() for side in ("top", "right"))
        assert (made.get_suptitle(), made.get_supxlabel(), axes.get_title("left")) == ("", "", "")
    assert not pyplot.get_fignums()


def test_without_axes_a_panel_is_a_figure_of_pyplot_with_title_and_caption(panels, notebook):
    for count, draw in enumerate(panels.values(), 1):
        made = style.figure_of(draw(None))
        assert pyplot.get_fignums()[-1] == made.number and len(pyplot.get_fignums()) == count
        assert made.get_suptitle() and made.get_supxlabel().startswith("n = ")


def test_no_legend_covers_its_panel(panels):
    for draw in panels.values():
        made = style.alone(lambda ax, draw=draw: draw(ax))
        made.draw_without_rendering()
        for axes in made.axes:
            if axes.get_legend():
                box = axes.get_legend().get_window_extent()
                assert box.y0 > axes.bbox.y1 and made.bbox.padded(1).containsx(box.x1)


def test_two_panels_share_one_legend_of_which_each_has_a_part(grid_fit):
    left, right = frontier_figure(recommended(grid_fit)).axes
    named = [[each.get_text() for each in axes.get_legend().get_texts()] for axes in (left, right)]
    assert named[0] and named[1] and not {*named[0]} & {*named[1]}
    for axes, names in zip((left, right), named, strict=True):
        assert {*names} <= {str(each.get_label()) for each in style.entries(axes)}


def test_a_caption_says_what_two_panels_note_once():
    with style.figure(6, 3) as made:
        for axes in made.subplots(1, 2):
            with style.panel(axes, "Title", "n = 3.", "Doubtful."):
                style.note(axes, "Bands: 90%.", "")
        style.finish(made)
    assert made.get_suptitle() == "Title"
    assert made.get_supxlabel() == "n = 3. Bands: 90%. Doubtful."


def test_a_legend_has_as_many_columns_as_fit():
    def columns(label: str) -> int:
        with style.figure(5, 3) as made:
            axes = made.add_subplot()
            style.legend(axes, [Line2D([], [], label=label) for _ in range(4)])
            made.draw_without_rendering()
            entries = axes.get_legend().get_texts()
            return len({round(each.get_window_extent().x0) for each in entries})

    assert (columns("N = 5k"), columns("a long name of one law")) == (4, 2)


def isoflop_table() -> pd.DataFrame:
    """Runs at four budgets, of nine sizes each: D has 36 values."""
    params, flops = np.meshgrid(np.geomspace(3e7, 3e9, 9), np.geomspace(3e18, 1e20, 4))
    table = pd.DataFrame({"params": params.ravel(), "tokens": (flops / 6 / params).ravel()})
    table["loss"] = published("besiroglu-2024").predict(
        {name: table[name].to_numpy() for name in table}
    )
    return table


def isoflop_fit() -> Fit:
    return fit(law("chinchilla"), isoflop_table(), bootstrap=0, checks=False)


def test_runs_at_a_few_budgets_have_a_curve_at_each_that_passes_them():
    found = isoflop_fit()
    axes = style.alone(loss, found, "params").axes[0]
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert len(said) == 4 and said[0] == "C = 3e18"
    solid = [each for each in axes.lines if each.get_linestyle() == "-"]
    table = found.table.assign(flops=found.table["params"] * found.table["tokens"])
    for line, (_, rows) in zip(solid, table.groupby(table["flops"].round(-10)), strict=True):
        x, y = np.log(line.get_xdata()), line.get_ydata()
        assert np.interp(np.log(rows["params"]), x, y) == pytest.approx(rows["loss"], rel=2e-3)


def test_the_x_axis_is_by_default_the_feature_with_most_values(grid_fit):
    assert loss(isoflop_fit(), ax=Figure().add_subplot()).get_xlabel() == "training tokens D"
    assert loss(grid_fit, ax=Figure().add_subplot()).get_xlabel() == "parameters N"


def test_a_law_of_one_feature_is_one_curve_and_one_of_three_is_refused(grid_fit):
    rows = grid_fit.table[["params", "loss"]]
    axes = style.alone(loss, fit(law("kaplan_n"), rows, bootstrap=0, checks=False)).axes[0]
    assert len([line for line in axes.lines if line.get_linestyle() == "-"]) == 1
    assert axes.get_legend() is None
    with pytest.raises(Refusal, match=r"has no feature 'size'\. Give params or tokens"):
        loss(grid_fit, "size", ax=axes)
    with pytest.raises(Refusal, match="Draw its residuals"):
        loss(replace(grid_fit, law=law("data_constrained")), ax=axes)


def test_a_fit_from_the_command_line_loads_no_plotting(tmp_path):
    isoflop_table().to_csv(tmp_path / "runs.csv", index=False)
    code = (
        "import sys\n"
        "sys.argv = ['scaling', 'fit', 'runs.csv', '--bootstrap', '0']\n"
        "from experiments.cli.__main__ import main\n"
        "assert main() == 0\n"
        "assert not {'matplotlib', 'seaborn'} & {*sys.modules}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True)
