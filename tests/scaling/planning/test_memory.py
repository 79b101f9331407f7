"""The memory of a step is what its compiler says, and follows from its layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models.architecture import Execution
from models.decoder.sizes import count_params
from scaling.planning.layout import Layout
from scaling.planning.memory import step_memory
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.training.flags import CPU_FLAGS

COMPILED = Path(__file__).parents[2] / "compiled_memory.py"


@pytest.mark.slow
def test_the_estimate_is_within_15_percent_of_what_a_cpu_compiles() -> None:
    flags = " ".join([*CPU_FLAGS, "--xla_force_host_platform_device_count=4"])
    environment = {**os.environ, "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, COMPILED, "cpu"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cases = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(cases) >= 6
    for case in cases:
        assert case["estimate"] == pytest.approx(case["compiled"], rel=0.15), case


@pytest.fixture
def run(plan: Callable[..., Plan]) -> RunSpec:
    return plan().runs[0]


def test_state_is_divided_among_the_devices_that_share_it_and_activations_follow_the_microbatch(
    run: RunSpec,
) -> None:
    one = step_memory(run, Layout(2))
    eight = step_memory(run, Layout(16, devices=8, sharding="fsdp"))
    every = step_memory(run, Layout(16, devices=8))
    assert one.state == 12 * count_params(run.model).total == 8 * eight.state == every.state
    assert one.activations == eight.activations == every.activations
    assert eight.total < every.total
    assert step_memory(run, Layout(4)).activations == 2 * one.activations


def test_each_way_to_save_memory_saves_some(run: RunSpec) -> None:
    model = replace(run.model, n_layers=12, d_model=64, vocab_size=30_000)
    run = replace(run, model=model, sequence_length=1024, dtype="bfloat16")

    def total(sequences: int = 16, **execution: Any) -> float:
        made = Execution("bfloat16", attention="cudnn", **execution)
        return step_memory(run, Layout(sequences, execution=made)).total

    for layers in ("unrolled", "scanned"):
        remats = [total(layers=layers, remat=remat) for remat in ("none", "dots", "full")]
        assert remats == sorted(remats, reverse=True) and remats[0] > remats[-1]
    assert total(loss="chunked") < total() and total(8) < total()


def test_microbatches_keep_the_sum_of_their_gradients(run: RunSpec) -> None:
    one, two = step_memory(run, Layout(2)), step_memory(run, Layout(2, accumulate=2))
    assert two.total - one.total == 4 * run.params.total


def test_muon_keeps_one_number_less_of_each_matrix(run: RunSpec) -> None:
    muon = replace(run, optimizer=replace(run.optimizer, name="muon"))
    adamw, less = step_memory(run, Layout(2)), step_memory(muon, Layout(2))
    assert adamw.state - less.state == 4 * run.params.matrix
