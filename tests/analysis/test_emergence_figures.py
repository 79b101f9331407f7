"""The plane of half-rise is the one that made the scores, and every figure is drawn."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from analysis.emergence.foresee import foresee
from analysis.emergence.metrics import Metric
from analysis.emergence.pairs import predict_exact_match
from analysis.emergence.plane import plane
from analysis.emergence.series import Series
from analysis.emergence.verdict import analyse


def runs() -> pd.DataFrame:
    """Scores of which the log-odds are 2 ln(N/1e8) + 1 ln(D/1e10) over a grid of both."""
    n, d = (each.ravel() for each in np.meshgrid(np.geomspace(1e7, 1e9, 6),
                                                 np.geomspace(1e9, 1e11, 6)))  # fmt: skip
    odds = 2 * np.log(n / 1e8) + np.log(d / 1e10)
    return pd.DataFrame({"params": n, "tokens": d, "value": expit(odds)})


def test_the_line_of_half_rise_is_recovered() -> None:
    found = plane(runs(), 0.0, 1.0)
    assert found is not None
    assert (found.by_params, found.by_tokens) == pytest.approx((2, 1), rel=0.02)
    assert found.half_way(np.array([1e8, 1e9])) == pytest.approx([1e10, 1e8], rel=0.05)


def test_scores_on_one_ray_or_without_tokens_have_no_plane() -> None:
    rows = runs()
    assert plane(rows.assign(tokens=20 * rows["params"]), 0.0, 1.0) is None
    assert plane(rows.drop(columns="tokens"), 0.0, 1.0) is None
    assert plane(rows.head(6), 0.0, 1.0) is None


def test_seeds_of_one_size_and_length_stand_side_by_side() -> None:
    from analysis.figures.emergence import plane_map

    rows = pd.concat([runs()] * 3)
    over = plane(rows, 0.0, 1.0)
    assert over is not None
    x = rows["params"].to_numpy()
    curve = SimpleNamespace(series=Series("add", Metric("em", 0.0, 1.0), "params", x, over.value))
    drawn = plane_map(curve, over).axes[0].collections[0].get_offsets()  # type: ignore[arg-type]
    assert len(np.unique(np.asarray(drawn).round(3), axis=0)) == len(rows)


def test_sizes_of_a_fine_ladder_stay_near_their_places() -> None:
    from analysis.figures.emergence import plane_map

    n, d = (e.ravel() for e in np.meshgrid(1e7 * 2 ** (np.arange(15) / 2), [1e9, 1e10, 1e11]))
    rows = pd.DataFrame({"params": n, "tokens": d})
    rows["value"] = expit(2 * np.log(n / 1e8) + np.log(d / 1e10))
    over = plane(rows, 0.0, 1.0)
    assert over is not None
    curve = SimpleNamespace(series=Series("add", Metric("em", 0.0, 1.0), "params", n, over.value))
    drawn = plane_map(curve, over).axes[0].collections[0].get_offsets()  # type: ignore[arg-type]
    assert np.abs(np.log(np.asarray(drawn)[:, 0] / n)).max() < np.log(1.5)


@pytest.mark.slow
def test_every_figure_that_the_scores_allow_is_written(tmp_path: Path) -> None:
    from analysis.figures.emergence import draw

    rows = runs().iloc[::2]
    x = (6 * rows["params"] * rows["tokens"]).to_numpy()
    n = np.full(len(x), 200.0)
    token = rows["value"].to_numpy()
    exact = Series("add", Metric("exact_match", 0.0, 1.0), "flops", x, token**4, n=n, chance=0.0)
    smooth = Series("add", Metric("token_accuracy", 0.0, 1.0), "flops", x, token, n=n, chance=0.0)
    curves = [analyse(each, bootstrap=20) for each in (exact, smooth)]
    long = pd.concat([rows.assign(task="add", metric="exact_match", x=x, value=token**4),
                      rows.assign(task="add", metric="token_accuracy", x=x)])  # fmt: skip
    predicted = predict_exact_match(long, "add", 4)
    assert predicted is not None
    forecasts = [foresee(exact, float(np.median(x)))]
    names = {"emergence", "pair-add", "map-add-exact-match", "map-add-token-accuracy", "forecast"}
    written = draw(tmp_path, curves, forecasts, [rows, rows], [predicted])
    assert {path.stem for path in written} == names and len(written) == 10
    assert all(path.stat().st_size > 5000 for path in written)
