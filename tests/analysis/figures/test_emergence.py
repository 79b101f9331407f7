"""The plane of half-rise is the one that made the scores, and every figure is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from scipy.special import expit

from analysis.emergence.exact_match import predict_exact_match
from analysis.emergence.forecast.forecast import forecast_scores
from analysis.emergence.inference.analyse import analyse
from analysis.emergence.response_surface import fit_response_surface
from analysis.emergence.scores.metrics import Metric, metric
from analysis.emergence.scores.series import Series
from analysis.figures.emergence import draw, forecast_panels, small_multiples
from analysis.figures.panels import panels, score_axes
from analysis.figures.score_map import score_map
from analysis.figures.style import alone

X = np.array([1e7, 1e8, 1e9])
MANY = np.geomspace(1e6, 1e10, 12)


def caption(made: Figure) -> str:
    return made.get_supxlabel().replace("\n", " ")


def runs() -> pd.DataFrame:
    """Scores of which the log-odds are 2 ln(N/1e8) + 1 ln(D/1e10) over a grid of both."""
    n, d = (each.ravel() for each in np.meshgrid(np.geomspace(1e7, 1e9, 6),
                                                 np.geomspace(1e9, 1e11, 6)))  # fmt: skip
    odds = 2 * np.log(n / 1e8) + np.log(d / 1e10)
    return pd.DataFrame({"params": n, "tokens": d, "value": expit(odds)})


def test_the_line_of_half_rise_is_recovered() -> None:
    found = fit_response_surface(runs(), 0.0, 1.0)
    assert found is not None
    assert (found.by_params, found.by_tokens) == pytest.approx((2, 1), rel=0.02)
    assert found.half_way(np.array([1e8, 1e9])) == pytest.approx([1e10, 1e8], rel=0.05)


def test_scores_on_one_ray_or_without_tokens_have_no_plane() -> None:
    rows = runs()
    assert fit_response_surface(rows.assign(tokens=20 * rows["params"]), 0.0, 1.0) is None
    assert fit_response_surface(rows.drop(columns="tokens"), 0.0, 1.0) is None
    assert fit_response_surface(rows.head(6), 0.0, 1.0) is None


def test_every_score_of_a_map_lies_at_its_own_size_and_tokens() -> None:
    rows = runs()
    seeds = pd.concat([rows.assign(value=rows["value"] * share) for share in (1.0, 0.5, 0.25)])
    over = fit_response_surface(seeds, 0.0, 1.0)
    assert over is not None
    (drawn,) = (each for each in alone(score_map, "add", "em", over).axes[0].collections)
    places = {tuple(each) for each in np.asarray(drawn.get_offsets()).tolist()}
    assert places == set(zip(rows["params"], rows["tokens"], strict=True))
    assert len(drawn.get_offsets()) == len(seeds)  # a ring each: seeds that differ are all seen


def test_a_name_on_a_map_covers_no_score_and_is_not_cut_off() -> None:
    made = alone(score_map, "add", "em", fit_response_surface(runs(), 0.0, 1.0))  # type: ignore[arg-type]
    axes = made.axes[0]
    made.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    points = axes.transData.transform(axes.collections[0].get_offsets())
    assert boxes and all(box.x1 <= axes.bbox.x1 and box.y1 <= axes.bbox.y1 for box in boxes)
    assert not any(box.contains(*point) for box in boxes for point in points)


@pytest.mark.parametrize("count", [1, 4, 5, 7, 11])
def test_panels_fill_the_page(count: int) -> None:
    with panels(count) as (made, grid):
        made.draw_without_rendering()
        right = max(axes.get_position().x1 for axes in grid)
        last = [axes for axes in grid if axes.get_position().y0 == grid[-1].get_position().y0]
    assert len(grid) == count and last[-1].get_position().x1 == pytest.approx(right)


def test_panels_of_one_metric_write_their_ticks_alike() -> None:
    with panels(2) as (made, grid):
        series = []
        for axes, top in zip(grid, (0.65, 1.0), strict=True):
            series.append(Series("t", metric("acc"), "params", X, np.array([0.25, 0.5, top])))
            axes.plot(X, series[-1].value)
        score_axes(grid, series)
        made.draw_without_rendering()
        labels = [each.get_text() for axes in grid for each in axes.get_yticklabels()]
    assert len({len(label.partition(".")[2]) for label in labels}) == 1


def test_the_caption_names_no_line_that_is_not_drawn() -> None:
    value = expit(2.0 * np.log10(MANY / 1e8))
    few, many = (
        analyse(Series("t", metric("acc"), "params", MANY, value, np.full(12, n), chance=0.0),
                bootstrap=33)
        for n in (20.0, 5000.0)
    )  # fmt: skip
    assert "Dotted" in caption(small_multiples([few]))
    assert "Dotted" not in caption(small_multiples([many]))


def test_groups_have_colours_of_their_own_and_a_legend() -> None:
    value, family = expit(2.0 * np.log10(MANY / 1e8)), np.repeat(["OPT", "Pythia", "Llama"], 4)
    series = Series("t", metric("acc"), "params", MANY, value, np.full(12, 100.0), group=family)
    made = small_multiples([analyse(series, bootstrap=33)], "family")
    (legend,) = made.legends
    assert [each.get_text() for each in legend.get_texts()] == ["Llama", "OPT", "Pythia"]
    assert legend.get_title().get_text() == "family"
    (points,) = [c for c in made.axes[0].collections if isinstance(c, PathCollection)]
    assert len(points.get_offsets()) == len(MANY)
    assert len({tuple(colour) for colour in points.get_facecolor()}) == 3


def test_the_forecast_panel_has_the_fit_below_the_cut_within_its_band() -> None:
    value = expit(2.0 * np.log10(MANY / 1e8))
    found = forecast_scores(Series("t", metric("acc"), "params", MANY, value, chance=0.0), 1e8)
    path = found.track
    assert path.x[0] == pytest.approx(MANY[0]) and path.x[-1] == pytest.approx(MANY[-1])
    assert 1e8 in path.x.round()
    assert np.all((path.low <= path.median) & (path.median <= path.high))
    below = path.x <= 1e8
    assert np.interp(np.log(MANY[:4]), np.log(path.x[below]), path.median[below]) == pytest.approx(
        value[:4], abs=0.1
    )
    drawn = [line.get_xdata() for line in forecast_panels([found]).axes[0].lines]
    assert min(float(np.min(x)) for x in drawn if len(x) > 30) < 2e6  # type: ignore[arg-type]


def test_two_labels_of_one_file_name_are_two_files(tmp_path: Path) -> None:
    value = np.array([0.1, 0.2, 0.4])
    curves = [
        analyse(Series(task, metric(name), "params", X, value), bootstrap=33)
        for task in ("add 2", "add-2")
        for name in ("em", "token_accuracy")
    ]
    stems = [path.stem for path in draw(tmp_path, curves) if path.suffix == ".png"]
    assert len(stems) == len(set(stems)) == 3


@pytest.mark.slow
def test_every_figure_that_the_scores_allow_is_written(tmp_path: Path) -> None:
    rows = runs().iloc[::2]
    x = (6 * rows["params"] * rows["tokens"]).to_numpy()
    n = np.full(len(x), 200.0)
    token = rows["value"].to_numpy()
    exact = Series("add", Metric("exact_match", 0.0, 1.0), "flops", x, token**4, n=n, chance=0.0)
    smooth = Series("add", Metric("token_accuracy", 0.0, 1.0), "flops", x, token, n=n, chance=0.0)
    curves = [analyse(each, bootstrap=33) for each in (exact, smooth)]
    long = pd.concat([rows.assign(task="add", metric="exact_match", x=x, value=token**4),
                      rows.assign(task="add", metric="token_accuracy", x=x)])  # fmt: skip
    predicted = predict_exact_match(long, "add", 4)
    assert predicted is not None
    forecasts = [forecast_scores(exact, float(np.median(x)))]
    names = {"emergence", "pair-add", "map-add-exact-match", "map-add-token-accuracy", "forecast"}
    written = draw(tmp_path, curves, forecasts, [rows, rows], [predicted])
    assert {path.stem for path in written} == names and len(written) == 10
    assert all(path.stat().st_size > 5000 for path in written)
