"""Rows that are read for their logits fit where a training step fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from models.architecture import Execution
from models.output import BLOCK_ROWS
from scaling.planning.layout import Layout
from scaling.planning.memory import logits_memory
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.training.inputs import rows_at_once

T = 512


@pytest.fixture
def run(plan: Callable[..., Plan]) -> RunSpec:
    run = plan().runs[0]
    return replace(run, model=replace(run.model, context_length=T), sequence_length=T)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize(
    ("execution", "rows"),
    [
        # Of 64 sequences, a float32 logit beside a gradient of 4 or 2 bytes.
        (Execution("float32"), 128),
        (Execution("bfloat16"), 96),
        (Execution("bfloat16", attention="splash"), 72),
        # Of a block alone: 8 sequences.
        (Execution("bfloat16", loss="chunked"), 12),
    ],
)
def test_logits_take_what_a_steps_logits_and_their_gradient_do(
    run: RunSpec, execution: Execution, rows: int, devices: int
) -> None:
    layout = Layout(64 * devices, devices=devices, execution=execution)
    found = rows_at_once(run, layout)
    assert BLOCK_ROWS == 8 * T and found == rows * devices
    assert 4 * rows * T * run.model.vocab_size <= logits_memory(run, layout)


def test_each_device_reads_a_sequence_at_least(run: RunSpec) -> None:
    long = replace(run, sequence_length=4 * BLOCK_ROWS)
    layout = Layout(2, devices=2, execution=Execution("bfloat16", loss="chunked"))
    assert rows_at_once(long, layout) == 2
