"""Ten thousand runs are planned, watched and collected in seconds, in linear time, anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "grid.py"


@pytest.mark.slow
def test_ten_thousand_runs_take_less_than_ten_seconds_and_a_gigabyte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, BENCHMARK, "--json", tmp_path / "grid.json"], check=True)
    found = json.loads((tmp_path / "grid.json").read_text())
    large = [row for row in found["rows"] if row["runs"] == 10_000]
    commands = {"plan", "status", "collect", "bucket: status", "bucket: collect"}
    assert {row["what"] for row in large} == {*commands, "bucket: status after that"}
    # Seconds of CPU, so that what else the machine does is not counted.
    assert all(row["seconds"] < 10 and row["peak_mb"] < 1000 for row in large)
    assert all(ratio < 1.5 for ratio in found["ratios"].values())
