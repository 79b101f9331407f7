"""A sweep is drawn so that every N and D can be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis.figures.study import draw
from analysis.figures.sweep import sweep_figure
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.runs.sweep import Sweep, optima, sweep

SIZES = (3e7, 1e8, 3e8)
RATIOS = (5, 20, 80)


def table(tokens=lambda n, k: n * k) -> pd.DataFrame:
    rows = [
        (
            n,
            tokens(n, k),
            rate,
            3 - 0.1 * np.log(n * k) + 0.03 * np.log(rate / (0.2 * n**-0.3)) ** 2,
        )
        for n in SIZES
        for k in RATIOS
        for rate in 2.0 ** np.arange(-14, -3)
    ]
    return pd.DataFrame(rows, columns=["params", "tokens", "learning_rate", "loss"])


@pytest.fixture
def swept() -> Sweep:
    return sweep(table(), "learning_rate")


def keys(figure: Figure) -> list[list[str]]:
    legends = (axes.get_legend() for axes in figure.axes)
    return [[text.get_text() for text in each.get_texts()] for each in legends if each]


def test_sizes_are_named_on_the_left_and_data_on_the_right(swept):
    assert keys(sweep_figure(swept, "params", "nats/token")) == [
        ["N = 30M", "N = 100M", "N = 300M"],
        ["D/N = 5", "D/N = 20", "D/N = 80"],
    ]


def test_tokens_are_named_where_every_size_has_the_same():
    found = sweep(table(lambda n, k: k * 1e9), "learning_rate")
    assert keys(sweep_figure(found, "params", "nats/token"))[1] == ["D = 5B", "D = 20B", "D = 80B"]


def test_no_two_best_values_of_one_size_share_a_marker_or_a_place(swept):
    right = sweep_figure(swept, "params", "nats/token").axes[1]
    marks = [line for line in right.lines if line.get_linestyle() == "None"]
    assert [line.get_marker() for line in marks] == ["o", "s", "^"] * 3
    assert len({float(line.get_xdata()[0]) for line in marks}) == len(swept.cells)


def test_the_legends_cover_neither_panel_nor_each_other(swept):
    figure = sweep_figure(swept, "params", "nats/token")
    figure.draw_without_rendering()
    boxes = [axes.get_legend().get_window_extent() for axes in figure.axes]
    assert not boxes[0].overlaps(boxes[1])
    for box, axes in zip(boxes, figure.axes, strict=True):
        assert box.y0 > axes.bbox.y1 and not axes.get_title(loc="left")


def test_a_law_of_the_rate_has_residuals_in_the_rate(swept, tmp_path: Path):
    found = fit(law("steplaw_lr"), optima(table(), swept), bootstrap=0, checks=False)
    assert {path.stem for path in draw(tmp_path, found)} == {"residuals"}
