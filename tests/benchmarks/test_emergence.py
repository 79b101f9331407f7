"""What the benchmarks of emergence found is within their limits, and is what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "benchmarks" / "results"


def test_every_pool_of_the_benchmark_keeps_its_limits_and_none_is_left_to_chance(script) -> None:
    bench, kept = script("emergence"), json.loads((KEPT / "emergence.json").read_text())
    assert kept["pools"] == bench.result(kept["rows"])["pools"]
    assert [name for name, pool in kept["pools"].items() if bench.faults(pool)] == []
    assert len(kept["rows"]) == len(list(bench.settings()))
    smooth = kept["pools"]["scales 8"]
    assert smooth["smooth tables"] > 500
    assert bench.faults({**smooth, "breaks found where smooth": 0.071}) == [
        "breaks found where smooth"
    ]


def test_forecasts_of_scores_keep_their_limits_and_the_page_has_what_they_are(script) -> None:
    bench, kept = script("scores_ahead"), json.loads((KEPT / "scores_ahead.json").read_text())
    again = bench.result(kept["rows"])
    for part in ("sources", "groups"):
        assert kept[part].keys() == again[part].keys()
        for name, numbers in kept[part].items():
            assert numbers == pytest.approx(again[part][name])
    assert bench.faults(kept) == []
    page = (ROOT / "docs" / "emergence.md").read_text()
    assert [line for line in bench.page(kept) if line not in page] == []
    rows, words = pd.DataFrame(kept["rows"]), " ".join(page.split())
    assert f"all {len(rows)} tables" in words
    nearer = int((rows["plain_logistic: crps"] <= rows["auto: crps"]).sum())
    assert f"The logistic is nearer on {nearer} of {len(rows)} tables" in words
    ways = kept["ways"]
    over, direct = (f"{ways[name]:.3f}".lstrip("0") for name in ("two_step", "direct"))
    assert f"CRPS was {over} and directly {direct} on the {ways['tables']} tables" in words
    assert ways["chosen over the loss"] == 0


def test_intervals_too_wide_or_too_narrow_and_a_loss_of_crps_are_faults(script) -> None:
    bench, kept = script("scores_ahead"), json.loads((KEPT / "scores_ahead.json").read_text())
    for name, value in (("inside 90%", 0.84), ("inside 90%", 0.96), ("mean CRPS", 1.0)):
        every = {**kept["sources"]["all"], f"auto: {name}": value}
        assert len(bench.faults({**kept, "sources": {"all": every}})) == 1
