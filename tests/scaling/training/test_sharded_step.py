"""A step on eight devices: the same losses, and no more sent between them than there must be."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# In processes of their own, because the number of devices is fixed when jax starts.
COMMON = """
import json
import jax, numpy as np
from models.architecture import Execution
from models.decoder.config import ModelConfig
from models.sharding import make_mesh
from scaling.planning.layout import Layout
from scaling.spec import Optimizer
from scaling.training.step import make_program

MODEL = ModelConfig(64, 16, 1, 32, 2, 2, 16, 48)
TOKENS = np.random.default_rng(0).integers(0, 64, (2, 16, 17)).astype(np.int32)
RATES = np.full(2, 1e-2, np.float32)

def program(sharding, devices, accumulate=1, dtype="float32", name="adamw", **execution):
    layout = Layout(
        16 // accumulate, accumulate, devices, sharding, Execution(dtype, **execution)
    )
    optimizer, mesh = Optimizer(0.9, 0.95, 0.1, 1.0, 1e-4, name), make_mesh(**{sharding: devices})
    return make_program("decoder", MODEL, optimizer, 0, layout, mesh)
"""

LOSSES = """
def losses(*layout, **execution):
    made = program(*layout, **execution)
    batches, rates = made.put_batches(TOKENS), made.put_rates(RATES)
    return np.asarray(made.train(made.initial(), batches, rates)[1].loss).tolist()

print(json.dumps([
    losses("data", 1),
    losses("data", 2),
    losses("data", 8, 2),
    losses("fsdp", 2),
    losses("fsdp", 8, 2),
    losses("fsdp", 8, loss="chunked", layers="scanned", remat="dots"),
]))
print(json.dumps([
    losses("data", 1, name="muon"),
    losses("fsdp", 8, 2, name="muon"),
    losses("fsdp", 8, name="muon", layers="scanned"),
]))
"""

# What the partitioner leaves: later a CPU makes float32 of bfloat16, and joins its all-reduces.
PARTITIONED = """
made = program("fsdp", 8, 2, "bfloat16")
batches, rates = (jax.ShapeDtypeStruct(each.shape, each.dtype) for each in (TOKENS, RATES))
dump = {{"xla_dump_to": {folder!r}, "xla_dump_hlo_pass_re": "spmd-partitioning"}}
made.train.trace(made.abstract, batches, rates).lower().compile(dump)
"""


def run(script: str) -> str:
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", COMMON + script],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rematerialization" not in done.stderr  # nothing is copied everywhere on its way
    return done.stdout


def users(text: str, name: str) -> list[str]:
    """The operations that read a value; of a lone copy, which is taken away later, its users."""
    found = re.findall(rf"%(\S+) = \S+ (\S+?)\([^)]*%{re.escape(name)}[,)]", text)
    if [operation for _, operation in found] == ["copy"]:
        return users(text, found[0][0])
    return [operation for _, operation in found]


@pytest.mark.slow
def test_losses_are_the_same_however_many_devices_share_a_step_and_whatever_they_hold() -> None:
    for of_optimizer in map(json.loads, run(LOSSES).splitlines()[-2:]):
        alone, *shared = of_optimizer
        for losses in shared:
            # Sums over devices are taken in another order: float32 roundings, and Adam's of them.
            assert losses == pytest.approx(alone, rel=1e-5)


def test_divided_gradients_are_reduced_by_share_and_kernels_gathered_in_bfloat16(
    tmp_path: Path,
) -> None:
    """A share of an all-reduce is what GPUs and TPUs make a reduce-scatter of; CPUs have none."""
    run(PARTITIONED.format(folder=str(tmp_path)))
    (found,) = tmp_path.glob("*jit_train*after_spmd-partitioning*.txt")
    text = found.read_text()

    def results(operation: str) -> list[Any]:
        """Name, dtype and shape of what this operation makes."""
        return re.findall(rf"%(\S+) = (\w+)\[([\d,]*)\]\S* {operation}\(", text)

    matrices = [name for name, _, shape in results("all-reduce") if shape.count(",") == 1]
    assert len(matrices) == 9  # of seven kernels, a head and an embedding
    for name in matrices:
        assert users(text, name) == ["dynamic-slice"], name
    gathered = {(dtype, shape) for _, dtype, shape in results("all-gather") if dtype != "s32"}
    assert {each for each in gathered if each[0] != "bf16"} == {("f32", "64,32")}  # the embedding
    assert {"32,48", "48,32", "32,32", "32,64"} <= {shape for _, shape in gathered}
