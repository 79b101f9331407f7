"""What is drawn against compute is what `recommend` answers, with its interval."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import FillBetweenPolyCollection, PathCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from analysis.figures.frontier import frontier, frontier_figure, loss_by_compute
from analysis.figures.landscape import landscape
from analysis.figures.recommended import COLOURS, recommended
from analysis.figures.style import alone
from analysis.laws.published import published
from analysis.recommend.landmarks import landmarks
from analysis.recommend.recommend import Recommendations, recommend
from scaling.store.records import Refusal

LABELS = {"law": "the law (chinchilla)", "runs": "the runs' own minima"}
LARGEST = 6 * 786e3 * 4e6  # FLOPs of a run of grid_fit


@pytest.fixture(scope="module")
def asked(grid_fit):
    return recommend(grid_fit, [1e14, 1e15])


@pytest.fixture(scope="module")
def found(grid_fit, asked):
    return recommended(grid_fit, asked)


def lines_of(axes: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.lines}


def stars(axes: Axes) -> list[tuple[float, float]]:
    return [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() == "*"]


def bands(axes: Axes) -> list[FillBetweenPolyCollection]:
    return [each for each in axes.collections if isinstance(each, FillBetweenPolyCollection)]


@pytest.mark.parametrize("way", ["law", "runs"])
def test_the_frontier_is_what_recommend_recommends_by_either_way(grid_fit, found, way):
    left, right = frontier_figure(found).axes
    for axes, name in ((left, "params"), (right, "tokens")):
        flops, drawn = lines_of(axes)[LABELS[way]]
        best = recommend(grid_fit, list(flops), by=way)
        assert drawn == pytest.approx([getattr(each, name) for each in best])
        assert len(lines_of(axes)["runs"][0]) == len(grid_fit.table)
    assert flops[-1] == pytest.approx(LARGEST)  # solid so far


def test_a_line_goes_on_dashed_in_its_own_colour_past_the_largest_run_asked_for(found):
    left, _ = frontier_figure(found).axes
    dashed = [e for e in left.lines if e.get_linestyle() == "--" and len(e.get_xdata()) > 2]
    dashed = [e for e in dashed if e.get_color() in COLOURS.values()]  # not the published laws
    assert {line.get_color() for line in dashed} == {*COLOURS.values()}
    assert all(line.get_xdata()[-1] == pytest.approx(3e15) for line in dashed)


def test_the_band_is_the_interval_of_whoever_answers(grid_fit, found, asked):
    for axes, name in zip(frontier_figure(found).axes, ("params", "tokens"), strict=True):
        [band] = bands(axes)
        assert to_hex(band.get_facecolor()[0]) == COLOURS[asked[0].by]
        edges = band.get_paths()[0].vertices
        for each in asked:
            at = edges[np.isclose(edges[:, 0], each.flops), 1]
            assert (at.min(), at.max()) == pytest.approx(getattr(each.interval, name))


def test_every_run_asked_for_is_a_star_in_every_figure(found, asked):
    left, right = frontier_figure(found).axes
    panels = {
        "params": left,
        "tokens": right,
        "tokens_per_param": alone(frontier, found, "tokens_per_param").axes[0],
    }
    panels["loss"] = alone(loss_by_compute, found).axes[0]
    for name, axes in panels.items():
        expected = [(each.flops, getattr(each, name)) for each in asked]
        assert np.array(stars(axes)) == pytest.approx(np.array(expected))
    [axes] = alone(landscape, found).axes
    assert np.array(stars(axes)) == pytest.approx(np.array([(e.params, e.tokens) for e in asked]))


def test_titles_are_about_the_last_run_asked_for(found):
    for made in (frontier_figure(found), alone(frontier, found, "tokens_per_param")):
        assert made.get_suptitle().endswith(" at 1e15 FLOPs")


def test_loss_by_compute_has_the_runs_the_answers_and_the_forecast_of_a_run(found, asked, grid_fit):
    figure = alone(loss_by_compute, found)
    [axes] = figure.axes
    [points] = [each for each in axes.collections if isinstance(each, PathCollection)]
    expected = {*zip(found.runs["flops"], grid_fit.table["loss"], strict=True)}
    assert {*map(tuple, points.get_offsets())} == expected
    [band] = bands(axes)
    edges = band.get_paths()[0].vertices
    at = edges[np.isclose(edges[:, 0], 1e15), 1]
    assert (at.min(), at.max()) == pytest.approx(asked[1].interval.loss)


def test_the_caption_of_loss_by_compute_says_what_recommend_prints(found, grid_fit):
    said = alone(loss_by_compute, found).get_supxlabel().replace("\n", " ")
    printed = Recommendations(grid_fit, found.asked).text()
    for asked in ("1e14", "1e15"):
        text = said.partition(f"{asked} FLOPs: ")[2].partition("]. ")[0].removesuffix(".")
        for part in text.split(", "):
            assert part and part.partition(" ")[2] in printed


def test_published_laws_and_rules_of_thumb_do_not_set_the_limits(found):
    left, _ = frontier_figure(found).axes
    low, _ = left.get_ylim()
    assert lines_of(left)["Kaplan et al. 2020"][1].min() < low


def test_kaplans_line_has_slope_073_and_passes_1_3B_at_one_petaflop_day(grid_fit):
    left, right = frontier_figure(recommended(grid_fit)).axes
    flops, params = lines_of(left)["Kaplan et al. 2020"]
    slope, at_one = np.polyfit(np.log(flops / 8.64e19), np.log(params), 1)
    assert (slope, np.exp(at_one)) == pytest.approx((0.73, 1.3e9))
    flops, tokens = lines_of(right)["Kaplan et al. 2020"]
    slope, at_one = np.polyfit(np.log(flops / 8.64e19), np.log(tokens), 1)
    assert (slope, np.exp(at_one)) == pytest.approx((0.27, 2e10))


def test_hoffmanns_line_is_their_published_law(found):
    left, _ = frontier_figure(found).axes
    flops, params = lines_of(left)["Hoffmann et al. 2022"]
    best = recommend(published("chinchilla-2022"), [float(flops[0]), float(flops[-1])])
    assert (params[0], params[-1]) == pytest.approx((best[0].params, best[1].params))


def test_a_published_law_is_drawn_over_the_budgets_asked_for_with_the_decoders_in_reach():
    source = published("besiroglu-2024")
    made = frontier_figure(recommended(source, flops=(1e20, 1e25)), landmarks=landmarks())
    flops, params = lines_of(made.axes[0])["besiroglu-2024"]
    first, last = recommend(source, [1e20, 1e25])
    assert (flops[0], flops[-1]) == pytest.approx((1e20, 1e25))
    assert (params[0], params[-1]) == pytest.approx((first.params, last.params))
    inside = [e for e in landmarks() if e.flops and 1e20 <= e.flops <= 1e25]
    assert "BERT-Large" in [each.name for each in inside]
    for axes, column in zip(made.axes, ("params_active", "tokens"), strict=True):
        drawn = [line for line in axes.lines if line.get_marker() == "D"]
        at = {(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in drawn}
        assert at == {(e.flops, getattr(e, column)) for e in inside if e.decoder}


def test_limited_data_are_named_in_the_title_and_bend_the_answers():
    source = published("muennighoff-2023")
    asked = recommend(source, 1e22, unique_tokens=25e9)
    found = recommended(source, asked)
    assert "25B unique tokens" in found.name
    at = {round(each.flops / 1e22, 6): each.params for each in found.along}
    assert at[1.0] == pytest.approx(asked[0].params)


def test_hoffmanns_law_is_not_drawn_twice_and_a_published_law_needs_a_range():
    source = published("chinchilla-2022")
    left, _ = frontier_figure(recommended(source, flops=(1e22, 1e25))).axes
    assert "Hoffmann et al. 2022" not in lines_of(left)
    with pytest.raises(Refusal, match="flops is not given"):
        recommended(source)
    with pytest.raises(Refusal, match="smaller first"):
        recommended(source, flops=(1e25, 1e22))


def test_axes_of_ones_own_are_drawn_into_and_get_no_title_or_caption(found):
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert loss_by_compute(found, ax=left) is left
    assert frontier(found, "tokens_per_param", ax=right) is right
    assert stars(left) and stars(right)
    assert (figure.get_suptitle(), figure.get_supxlabel()) == ("", "")
