"""What holds up the steps of a run is measured in every way that a run is held up."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[str], ModuleType]
HOST = Path(__file__).parents[2] / "benchmarks" / "host.py"

STUDY = """
name = "tiny"
[model]
head_dim = 8
aspect_ratio = 16
[data]
source = {source}
sequence_length = 64
holdout_fraction = 0.2
allow_repeats = true
[training]
schedule = "wsd"
batch_sequences = 4
learning_rate = 0.02
warmup_tokens = 1024
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
round_to_steps = 4
[grid]
kind = "product"
params = [3400]
tokens = [102400]
[evaluation]
tokens = 640
every_tokens = 51200
[hardware]
steps_per_call = 2
"""


def test_ratios_are_to_the_run_with_nothing_between_its_calls(script: Script) -> None:
    host = script("host")
    alone = {"p50": 2.0, "p90": 4.0, "p99": 5.0, "max": 8.0}
    both = {"p50": 3.0, "p90": 4.0, "p99": 10.0, "max": 8.0}
    found = host.ratios_of([{"variant": "both", **both}, {"variant": "alone", **alone}])
    assert found["p50: both / alone"] == 1.5 and found["p99: both / alone"] == 2.0
    assert all(found[f"{name}: alone / alone"] == 1.0 for name in alone)


@pytest.mark.slow
def test_every_way_is_measured_and_written_as_rows_and_ratios(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"the union of {number} peoples " * (40 + number))
    study = tmp_path / "tiny.toml"
    study.write_text(STUDY.format(source=json.dumps(str(tmp_path / "*.txt"))))
    written = tmp_path / "host.json"
    command = [sys.executable, HOST, "--study", study, "--calls", "20", "--json", written]
    done = subprocess.run(command, capture_output=True, text=True, cwd=HOST.parents[1])
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(written.read_text())
    assert set(found) == {"rows", "ratios"}
    named = ["alone", "checkpoints", "evaluations", "both", "task windows", "task evaluations"]
    assert [row["variant"] for row in found["rows"]] == named
    assert all(0 < row["p50"] <= row["max"] for row in found["rows"])
    assert len(found["ratios"]) == 4 * len(named)
    assert all(name in done.stdout for name in named)
