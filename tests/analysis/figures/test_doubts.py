"""A figure says what is doubtful about its fit, and names no line or model that is not there."""

from __future__ import annotations

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from analysis.figures.fitted import doubts, loss_figure, residuals_figure
from analysis.figures.frontier import frontier, frontier_figure, loss_by_compute
from analysis.figures.landscape import landscape
from analysis.figures.named import name_points
from analysis.figures.recommended import recommended
from analysis.figures.style import alone
from analysis.fitting.result import Status
from analysis.recommend.recommend import recommend

UNDECAYED = (
    "126 of 150 rows had not decayed their learning rate (lr is more than 1.5 times that at the "
    "end of their run). Their losses lie above those of runs that end there. Fit the last row"
)


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_every_figure_of_a_doubtful_fit_says_so(grid_fit):
    doubted = replace(grid_fit, status=Status.WEAKLY_IDENTIFIED, cautions=(UNDECAYED,))
    found = recommended(doubted)
    made = [loss_figure(doubted), residuals_figure(doubted), alone(loss_by_compute, found)]
    for figure in [*made, frontier_figure(found), alone(frontier, found), alone(landscape, found)]:
        assert caption(figure).endswith(
            "The fit is weakly identified. "
            "Doubtful: 126 of 150 rows had not decayed their learning rate."
        )


def test_a_fit_at_a_bound_names_the_coefficient_and_a_sound_one_nothing(grid_fit):
    bound = replace(grid_fit, status=Status.AT_BOUND, at_bound=("E",), cautions=())
    assert doubts(bound) == "The fit is at the bound of E."
    assert not doubts(replace(grid_fit, status=Status.CONVERGED, cautions=()))


def test_a_long_caution_is_cut_after_its_first_clause(grid_fit):
    text = "run has several rows a run, and no column says whether the rate had decayed at each: "
    said = doubts(replace(grid_fit, status=Status.CONVERGED, cautions=(text + "if not, it " * 9,)))
    assert said == f"Doubtful: {text.removesuffix(': ')}."


def test_a_name_stands_on_the_side_where_no_other_point_is_as_near():
    figure = Figure(figsize=(4, 4), dpi=72)
    axes = figure.add_subplot(xscale="log", yscale="log")
    axes.set(xlim=(1, 1e4), ylim=(1, 1e4))
    name_points(axes, [("Own", 100.0, 100.0), ("Near", 118.0, 146.0)])
    figure.draw_without_rendering()
    own, near = axes.texts
    assert own.xyann[0] < 0 < near.xyann[0]  # left of one, right of the other


def test_a_legend_names_no_line_that_lies_outside_the_panel(grid_fit):
    axes = alone(frontier, recommended(grid_fit, recommend(grid_fit, [1e14]))).axes[0]
    low, high = axes.get_ylim()
    drawn = [text.get_text() for text in axes.get_legend().get_texts()]
    for line in axes.lines:
        y = line.get_ydata()
        name = str(line.get_label())
        if name.startswith(("Kaplan", "Hoffmann")):
            assert (name in drawn) == any(low < value < high for value in y)


@pytest.mark.parametrize("by", ["law", "runs"])
def test_a_landscape_has_a_band_only_where_the_law_answers(grid_fit, by):
    found = recommended(grid_fit)
    said = replace(found, along=tuple(replace(each, by=by) for each in found.along))
    made = alone(landscape, said)
    assert ("Band: " in caption(made)) == (by == "law") == bool(made.axes[0].patches)
