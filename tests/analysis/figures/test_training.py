"""Curves while training: every run, its validation losses, and the least of them so far."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from analysis.figures.style import alone
from analysis.figures.training import training
from scaling.store.records import Refusal


def scattered(axes: Axes) -> int:
    return sum(len(c.get_offsets()) for c in axes.collections if isinstance(c, PathCollection))


def caption(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_every_run_is_a_line_and_every_validation_loss_a_point(trained):
    figure = alone(training, *trained)
    [axes] = figure.axes
    assert sorted(line.get_gid() for line in axes.lines if line.get_gid()) == [
        "run-branch25000", "run-branch98000", "run-trunk25000", "run-trunk98000",
    ]  # fmt: skip
    assert scattered(axes) == np.isfinite(trained[1]["val_loss"]).sum()
    assert caption(figure).startswith("n = 2 runs branched off 2 trunks. N = params_total.")


def test_only_the_end_of_a_decayed_run_is_a_large_point(trained):
    [axes] = alone(training, *trained).axes
    areas = [float(a) for c in axes.collections for a in c.get_sizes()]
    # A branch and a trunk of each size end validated, but one branch diverged before its end.
    assert (areas.count(26.0), areas.count(9.0)) == (1, 4)


def test_runs_of_one_size_have_one_colour(trained):
    [axes] = alone(training, *trained).axes
    colours = {line.get_gid(): line.get_color() for line in axes.lines}
    assert colours["run-branch25000"] == colours["run-trunk25000"] != colours["run-trunk98000"]


def test_the_envelope_never_rises_and_is_the_least_of_the_curves(trained):
    [axes] = alone(training, *trained).axes
    [envelope] = [line for line in axes.lines if not line.get_gid()]
    known = np.isfinite(envelope.get_ydata())
    flops, least = envelope.get_xdata()[known], envelope.get_ydata()[known]
    assert (np.diff(least) <= 0).all()
    curves = [line for line in axes.lines if line.get_gid()]
    assert least[-1] == pytest.approx(min(line.get_ydata().min() for line in curves))
    for line in curves:
        for compute, loss in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert (least[flops >= compute] <= loss).all()


def test_the_envelope_has_a_gap_from_the_end_of_a_run_until_another_is_lower(trained):
    [axes] = alone(training, *trained).axes
    [envelope] = [line for line in axes.lines if not line.get_gid()]
    gap = envelope.get_xdata()[np.isnan(envelope.get_ydata())]
    small, large = (
        max(line.get_xdata()[-1] for line in axes.lines if (line.get_gid() or "").endswith(size))
        for size in ("25000", "98000")
    )
    assert small < gap.min() < large


def test_smoothing_keeps_a_straight_line_to_its_very_ends(trained):
    runs, steps = trained
    straight = steps.assign(loss=5 - 0.1 * np.log(steps["flops"]))
    [axes] = alone(training, runs, straight).axes
    for line in axes.lines:
        if line.get_gid():
            assert line.get_ydata() == pytest.approx(5 - 0.1 * np.log(line.get_xdata()))


def test_training_curves_without_what_they_need_are_refused(trained):
    runs, steps = trained
    with pytest.raises(Refusal, match="run table has no column params_total"):
        alone(training, runs.drop(columns="params_total"), steps)
    with pytest.raises(Refusal, match="Train first"):
        alone(training, runs, steps.assign(loss=np.nan))


def test_the_legend_says_which_loss_is_which(trained):
    [axes] = alone(training, *trained).axes
    said = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"training loss", "validation loss", "least training loss"} <= {*said}
