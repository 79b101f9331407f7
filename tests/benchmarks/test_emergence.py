"""What the benchmarks of emergence found is within their limits, and is what the page says."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_the_table_of_forecasts_on_the_page_is_the_benchmark_s() -> None:
    groups = json.loads((KEPT / "scores_ahead.json").read_text())["groups"]
    lines = (ROOT / "docs" / "emergence.md").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("| larger models on"))
    rows = [[cell.strip() for cell in line.split("|")[2:-1]] for line in lines[first + 2 :][:6]]

    def three(value: float) -> str:
        return f"{value:.3f}".lstrip("0")

    expected = [
        [
            *(
                f"{three(group[f'{name}: mean CRPS'])}, {three(group[f'{name}: median CRPS'])}"
                for name in ("auto", "persistence", "plain_logistic")
            ),
            f"{group['tasks won over plain_logistic']:.0%}",
            f"{group['inside 90%']:.0%}",
            f"{group['inside 90%, plain logistic']:.0%}",
        ]
        for group in groups.values()
    ]
    assert rows == expected


def test_the_page_says_where_the_logistic_forecasts_better() -> None:
    kept = json.loads((KEPT / "scores_ahead.json").read_text())
    rows, groups = kept["rows"], kept["groups"]
    better = sum(row["plain_logistic_crps"] < row["auto_crps"] for row in rows)
    page = " ".join((ROOT / "docs" / "emergence.md").read_text().split())
    assert f"the logistic is nearer on {better} of {len(rows)} tasks" in page
    (mean, median), (mean_mmlu, median_mmlu) = (
        [-groups[name][f"skill {of}over plain_logistic"] for of in ("", "of medians ")]
        for name in ("benchmarks", "opt-bloom, mmlu")
    )
    assert (
        f"CRPS is {mean:.0%} above its on the benchmarks (of medians {median:.0%}) and "
        f"{mean_mmlu:.0%} on MMLU's subjects ({median_mmlu:.0%})"
    ) in page
