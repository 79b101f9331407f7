"""The map of the loss shows the law that was given, the runs, and models where they belong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.contour import ContourSet

from analysis.figures.landscape import landscape
from analysis.figures.recommended import recommended
from analysis.figures.style import alone
from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.landmarks import landmarks
from analysis.recommend.recommend import recommend

SOURCE = published("besiroglu-2024")


@pytest.fixture(scope="module")
def fitted() -> Fit:
    sizes, budgets = np.geomspace(2.5e4, 8e5, 4), np.geomspace(5e5, 4e6, 4)
    table = pd.DataFrame([(n, d) for n in sizes for d in budgets], columns=["params", "tokens"])
    loss = 0.8 + 12 / table["params"] ** 0.31 + 620 / table["tokens"] ** 0.53
    return fit(law("chinchilla"), table.assign(loss=loss), bootstrap=0)


def test_the_thick_line_is_the_compute_optimal_frontier():
    [axes] = alone(landscape, recommended(SOURCE, flops=(1e20, 1e24))).axes
    [line] = [each for each in axes.lines if each.get_label() == SOURCE.name]
    first, last = recommend(SOURCE, [1e20, 1e24])
    assert (line.get_xdata()[0], line.get_ydata()[0]) == pytest.approx((first.params, first.tokens))
    assert (line.get_xdata()[-1], line.get_ydata()[-1]) == pytest.approx((last.params, last.tokens))


def test_diagonals_are_decades_of_compute():
    [axes] = alone(landscape, recommended(SOURCE, flops=(1e20, 1e24))).axes
    grey = [line for line in axes.lines if line.get_color() == "#cccccc"]
    for line in grey:
        compute = 6 * line.get_xdata() * line.get_ydata()
        assert compute == pytest.approx(np.full(len(compute), compute[0]))
        assert np.log10(compute[0]) == pytest.approx(round(np.log10(compute[0])))
    assert len(grey) >= 4


def test_models_stand_at_their_active_size_and_tokens_and_only_decoders_do():
    figure = alone(landscape, recommended(SOURCE, flops=(1e20, 1e26)), landmarks=landmarks())
    [axes] = figure.axes
    drawn = {
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in axes.lines
        if line.get_marker() == "D"
    }
    expected = {(e.params_active, e.tokens) for e in landmarks() if e.flops and e.decoder}
    assert drawn == expected


def test_names_of_models_cover_no_other_name():
    figure = alone(landscape, recommended(SOURCE, flops=(1e20, 1e26)), landmarks=landmarks())
    figure.canvas.draw()
    names = {each.name for each in landmarks()}
    shown = [text for text in figure.axes[0].texts if text.get_visible()]
    boxes = [text.get_window_extent() for text in shown if text.get_text() in names]
    assert len(boxes) >= 15
    for index, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[index + 1 :])


def test_the_runs_of_a_fit_are_all_inside(fitted):
    [axes] = alone(landscape, recommended(fitted)).axes
    [runs] = [line for line in axes.lines if line.get_label() == "runs"]
    assert len(runs.get_xdata()) == len(fitted.table)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    assert left < runs.get_xdata().min() < runs.get_xdata().max() < right
    assert low < runs.get_ydata().min() < runs.get_ydata().max() < high


def test_contours_are_even_steps_of_the_loss_named_in_order_along_the_top():
    [axes] = alone(landscape, recommended(SOURCE, flops=(1e20, 1e24))).axes
    contours = [each for each in axes.collections if isinstance(each, ContourSet)]
    [drawn] = [each for each in contours if not each.filled]
    assert np.diff(drawn.levels) == pytest.approx(np.diff(drawn.levels)[0])
    names = sorted(drawn.labelTexts, key=lambda text: text.get_position()[0])
    values = [float(text.get_text()) for text in names]
    assert len(values) > 4
    assert values == sorted(values, reverse=True)
