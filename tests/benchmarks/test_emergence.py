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
    assert f"{len(kept['rows'])} of the 222 tables" in " ".join(page.split())


def test_a_turn_is_chosen_without_the_source_that_it_is_judged_on(script) -> None:
    bench = script("scores_ahead")
    costly = {"turn 0": 1.0, "turn 0.4": 1.0, "turn 0.8": 1.1, "before": 1.0}
    cheap = {**costly, "turn 0.8": 1.0}
    rows = pd.DataFrame(
        {"source": source, "scores": 10, **{f"{name}: crps": value for name, value in of.items()},
         **{f"{name}: coverage": 0.9 for name in of}}
        for source, of in (("a", costly), ("b", cheap))
    )  # fmt: skip
    turns = bench.by_choice(rows).set_index("source")["turn"]
    assert turns.to_dict() == {"a": 0.8, "b": 0.4}
    assert bench.chosen_turn(rows) == 0.4


def test_intervals_too_wide_or_too_narrow_and_a_loss_of_crps_are_faults(script) -> None:
    bench, kept = script("scores_ahead"), json.loads((KEPT / "scores_ahead.json").read_text())
    for name, value in (("inside 90%", 0.84), ("inside 90%", 0.96), ("mean CRPS", 1.0)):
        every = {**kept["sources"]["all"], f"auto: {name}": value}
        assert len(bench.faults({**kept, "sources": {"all": every}})) == 1
