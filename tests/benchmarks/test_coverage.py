"""What the coverage benchmark says of its rows follows from them, and is what warnings quote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from analysis.fitting import warnings

FILE = Path(__file__).resolve().parents[2] / "benchmarks/results/coverage.json"


@pytest.fixture(scope="module")
def coverage(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("coverage")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(FILE.read_text())["rows"]
    return found


def test_coverage_in_the_warnings_is_the_mean_of_the_rows_of_the_file(coverage, rows):
    assert coverage.quoted(rows) == {
        "3 to 6 clusters": warnings.HELD_BELOW_HALF,
        "6 to 12 clusters": warnings.HELD_BELOW_MANY,
        "few rows": warnings.HELD_FEW_ROWS,
    }


def test_what_the_file_says_is_what_its_rows_say(coverage, rows):
    text = FILE.read_text()
    assert "Infinity" not in text and "NaN" not in text
    assert json.loads(text) == coverage.finished(rows)


def test_settings_that_cover_are_judged_by_one_limit_however_few_the_tables(coverage):
    # One standard deviation of 400 tables at .85 and at .95.
    assert coverage.inside(0.8323) and coverage.inside(0.9607)
    assert not coverage.inside(0.8320) and not coverage.inside(0.9611)


def test_what_does_not_warn_holds_no_less_than_it_says(coverage, rows):
    # Wider than nominal is the lesser fault: the benchmark's own exit status says where.
    unwarned = [row for row in coverage.finished(rows)["rows"] if not row["warns"]]
    assert unwarned
    for row in unwarned:
        assert all(value > coverage.LOW - 0.018 for value in row["coverage"].values())
        assert row["covers"] == all(map(coverage.inside, row["coverage"].values()))
