"""Exponents of procedures are drawn with their intervals, and nothing that was refused is."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis.allocation.procedures import Exponent, Procedures
from analysis.figures.procedures import procedures_figure
from analysis.interval import Interval


@pytest.fixture
def drawn() -> Figure:
    def row(name: str, value: float | None, off: float | None = None) -> Exponent:
        span = None if value is None else Interval(value - 0.05, value + 0.05)
        apart = None if not off else Interval(off - 0.01, off + 0.01)
        return Exponent(name, "params_total", "law", value, span, off, apart)

    rows = (row("mended", 0.5, 0.0), row("long warmup", 0.6, 0.1), row("untuned", None))
    return procedures_figure(Procedures("mended", 0.9, rows))


def bars(figure: Figure, panel: int) -> list[list[float]]:
    lines = figure.axes[panel].lines
    # The line at no difference crosses the panel from 0 to 1 of its height.
    return [[*map(float, each.get_xdata())] for each in lines if np.ptp(each.get_xdata()) > 0]


def caption(figure: Figure) -> str:
    return " ".join(each.get_text() for each in figure.findobj(Text))


def test_every_exponent_has_its_interval_and_what_was_refused_no_mark(drawn: Figure) -> None:
    assert bars(drawn, 0) == [pytest.approx([0.45, 0.55]), pytest.approx([0.55, 0.65])]
    names = [each.get_text() for each in drawn.axes[0].get_yticklabels()]
    assert names == ["mended", "long warmup", "untuned"]


def test_differences_are_from_the_base_and_it_has_none(drawn: Figure) -> None:
    assert bars(drawn, 1) == [pytest.approx([0.09, 0.11])]
    assert "Base: mended" in caption(drawn)
