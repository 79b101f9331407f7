"""The same training on eight devices as on one, and programs for other devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import jax
import pytest

from models.sharding import make_mesh

# Runs in a process of its own, because the number of devices is fixed when jax starts.
EIGHT_DEVICES = """
import json
import jax, numpy as np
from models.config import ModelConfig
from models.sharding import make_mesh
from scaling.compilation import configure_jax
from scaling.run import Optimizer
from scaling.step import make_program

configure_jax()
model = ModelConfig(64, 16, 1, 16, 2, 2, 8, 32)
tokens = np.random.default_rng(0).integers(0, 64, (3, 8, 17)).astype(np.int32)
rates = np.full(3, 1e-2, np.float32)

def trained(mesh):
    program = make_program(model, Optimizer(0.9, 0.95, 0.1, 1.0), 0, "float32", mesh)
    state, metrics = program.train(
        program.initial(), program.put_batches(tokens), program.put_rates(rates)
    )
    return state, metrics

one, one_metrics = trained(make_mesh())
many, many_metrics = trained(make_mesh(2, 2, 2))
flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(many)}
print(json.dumps({
    "devices": jax.device_count(),
    "difference": max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
    ),
    "losses": [np.asarray(one_metrics.loss).tolist(), np.asarray(many_metrics.loss).tolist()],
    "whole": {name: leaf.size for name, leaf in flat.items()},
    "shard": {name: leaf.addressable_shards[0].data.size for name, leaf in flat.items()},
    "ndim": {name: leaf.ndim for name, leaf in flat.items()},
}))
"""

LOWERED = """
import jax, numpy as np
from models.config import DIALECTS, ModelConfig
from models.sharding import make_mesh
from scaling.run import Optimizer
from scaling.step import make_program

for dialect in DIALECTS.values():
    model = ModelConfig(64, 16, 1, 16, 2, 2, 8, 32, **dialect)
    for mesh in (make_mesh(), make_mesh(2, 2, 2)):
        program = make_program(model, Optimizer(0.9, 0.95, 0.1, 1.0), 0, "bfloat16", mesh)
        traced = program.train.trace(
            program.abstract,
            jax.ShapeDtypeStruct((2, 8, 17), np.int32),
            jax.ShapeDtypeStruct((2,), np.float32),
        )
        for platform in ("tpu", "cuda"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert "dot_general" in text, (platform, mesh)
print("lowered")
"""


def run(script: str) -> str:
    # Compiling for eight devices is most of the time: leave out the optimisations.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def eight() -> Any:
    return json.loads(run(EIGHT_DEVICES).splitlines()[-1])


def test_training_on_a_2x2x2_mesh_equals_training_on_one_device(eight: Any) -> None:
    assert eight["devices"] == 8
    # Sums over shards are taken in another order: float32 roundings of 1e-7, which Adam's
    # division by the size of the gradient magnifies; two steps move parameters by about 1e-2.
    assert eight["losses"][0] == pytest.approx(eight["losses"][1], rel=1e-5)
    assert eight["difference"] < 1e-5


def test_every_matrix_and_its_moments_lie_in_four_parts(eight: Any) -> None:
    matrices = [name for name, ndim in eight["ndim"].items() if ndim == 2]
    assert len(matrices) == 3 * (2 + 4 + 3)  # parameter and two moments of each
    for name in matrices:
        assert 4 * eight["shard"][name] == eight["whole"][name], name


def test_vectors_and_the_step_are_on_every_device(eight: Any) -> None:
    for name in (name for name, ndim in eight["ndim"].items() if ndim < 2):
        assert eight["shard"][name] == eight["whole"][name], name


def test_both_dialects_lower_for_tpu_and_cuda_on_one_device_and_on_a_mesh() -> None:
    assert run(LOWERED).strip() == "lowered"


def test_a_mesh_of_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=f"needs 64 devices; there are {jax.device_count()}"):
        make_mesh(4, 4, 4)
