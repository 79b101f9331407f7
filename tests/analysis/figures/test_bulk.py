"""One slip of the pen flattens no figure: it is an arrow at the edge, counted in the caption."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures.bulk import bulk
from analysis.figures.fitted import loss_figure, residuals_figure
from analysis.figures.frontier import loss_by_compute
from analysis.figures.isoflop import optima_figures
from analysis.figures.recommended import recommended
from analysis.figures.style import alone
from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.laws.published import published

ARROWS = ("^", "v", "<", ">")


def slipped(rows: Sequence[int], times: float) -> Fit:
    """IsoFLOP runs, nine sizes of each of five budgets, with some losses multiplied."""
    params, flops = np.meshgrid(np.geomspace(3e7, 3e9, 9), np.geomspace(3e18, 1e20, 5))
    table = pd.DataFrame({"params": params.ravel(), "tokens": (flops / 6 / params).ravel()})
    scatter = np.random.default_rng(0).normal(0, 0.003, len(table))
    features = {name: table[name].to_numpy() for name in table}
    table["loss"] = published("besiroglu-2024").predict(features) * np.exp(scatter)
    table.loc[list(rows), "loss"] *= times
    return fit(law("chinchilla"), table, bootstrap=0, checks=False)


@pytest.fixture(scope="module", params=[10.0, 0.1], ids=["large", "small"])
def broken(request) -> Fit:
    return slipped([21], request.param)


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def arrows(figure: Figure) -> list[int]:
    return [
        sum(line.get_marker() in ARROWS for line in axes.lines)
        for axes in figure.axes
        if axes.get_label() != "<colorbar>"
    ]


def test_a_loss_off_by_ten_sets_no_axis_of_losses(broken):
    by_compute = alone(loss_by_compute, recommended(broken))
    for made in (loss_figure(broken), by_compute, residuals_figure(broken)):
        low, high = made.axes[0].get_ylim()
        assert low > 1.5 and high < 5
        assert set(arrows(made)) == {1}
        assert "1 point lies beyond the axis (arrow)." in caption(made)


def test_residuals_have_the_error_with_and_without_the_points_beyond():
    made = residuals_figure(slipped([21], 10.0))
    assert made.axes[1].get_ylim()[1] < 2
    assert "RMSE 34% (0.24% without those beyond the axis)" in made.get_suptitle()


def test_no_line_of_isoflop_or_envelope_leaves_the_runs_for_a_slip(broken):
    for made in optima_figures(broken).values():
        axes = made.axes[0]
        low, high = axes.get_ylim()
        assert low > 2
        for line in [each for each in axes.lines if each.get_linestyle() == "-"]:
            inside = np.ma.masked_outside(line.get_ydata(), low, high)
            assert np.abs(np.ma.diff(np.ma.log(inside))).max() < 0.05


def test_a_slip_makes_no_parabola_and_is_not_among_the_points():
    made = optima_figures(slipped([26], 10.0))["isoflop"]
    drawn = [line for line in made.axes[0].lines if line.get_linestyle() == "-"]
    assert all(line.get_ydata().min() > made.axes[0].get_ylim()[0] for line in drawn)
    assert "n = 44 points" in caption(made) and "Doubtful: row 27" in caption(made)


def test_the_bulk_is_all_of_an_even_spread_and_of_a_few():
    assert bulk(np.linspace(0, 1, 50)).all()
    assert bulk([1.0, 1.1, 9.0]).all()
    assert bulk(np.random.default_rng(0).standard_normal(200)).all()


def test_a_twentieth_of_the_points_may_lie_beyond_and_no_more():
    values = np.linspace(0, 1, 100)
    for count in (1, 5):
        assert (~bulk(np.append(values, np.full(count, 30.0)))).sum() == count
    assert bulk(np.append(values, np.full(10, 30.0))).all()
