"""The same training on eight devices as on one, and programs for other devices."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import jax
import pytest

from models.architecture import architecture
from models.sharding import make_mesh

# Runs in a process of its own, because the number of devices is fixed when jax starts.
EIGHT_DEVICES = """
import json
import jax, numpy as np
from models.decoder.config import ModelConfig
from models.sharding import make_mesh
from scaling.training.jax_setup import configure_jax
from models.architecture import Execution
from scaling.planning.layout import Layout
from scaling.spec import Optimizer
from scaling.training.step import make_program

configure_jax()
model = ModelConfig(64, 16, 2, 16, 2, 2, 8, 32)
tokens = np.random.default_rng(0).integers(0, 64, (3, 8, 17)).astype(np.int32)
rates = np.full(3, 1e-2, np.float32)

def trained(mesh, layers):
    adam, layout = Optimizer(0.9, 0.95, 0.1, 1.0), Layout(8, execution=Execution(layers=layers))
    program = make_program("decoder", model, adam, 0, layout, mesh)
    return program.train(
        program.initial(), program.put_batches(tokens), program.put_rates(rates)
    )

def compared(layers):
    one, one_metrics = trained(make_mesh(), layers)
    many, many_metrics = trained(make_mesh(2, 2, 2), layers)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(many)}
    return {
        "difference": max(
            float(np.abs(np.asarray(a) - np.asarray(b)).max())
            for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True)
        ),
        "losses": [np.asarray(one_metrics.loss).tolist(), np.asarray(many_metrics.loss).tolist()],
        "whole": {name: leaf.shape for name, leaf in flat.items()},
        "shard": {name: leaf.addressable_shards[0].data.shape for name, leaf in flat.items()},
    }

found = {layers: compared(layers) for layers in ("unrolled", "scanned")}
print(json.dumps({"devices": jax.device_count(), **found}))
"""

LOWERED = """
import jax, numpy as np
from models.decoder.config import DIALECTS, ModelConfig
from models.sharding import make_mesh
from models.architecture import Execution
from scaling.planning.layout import Layout
from scaling.spec import Optimizer
from scaling.training.step import make_program

for dialect in DIALECTS.values():
    model = ModelConfig(64, 16, 1, 16, 2, 2, 8, 32, **dialect)
    for mesh in (make_mesh(), make_mesh(2, 2, 2)):
        adam = Optimizer(0.9, 0.95, 0.1, 1.0)
        layout = Layout(8, execution=Execution("bfloat16"))
        program = make_program("decoder", model, adam, 0, layout, mesh)
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


def run(script: str) -> subprocess.CompletedProcess[str]:
    # Compiling for eight devices is most of the time: leave out the optimisations.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", script],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def process() -> subprocess.CompletedProcess[str]:
    return run(EIGHT_DEVICES)


@pytest.fixture(params=["unrolled", "scanned"])
def eight(process: subprocess.CompletedProcess[str], request: pytest.FixtureRequest) -> Any:
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["devices"] == 8
    return found[request.param]


@pytest.mark.slow
def test_training_on_a_2x2x2_mesh_equals_training_on_one_device(eight: Any) -> None:
    # Sums over shards are taken in another order: float32 roundings of 1e-7, which Adam's
    # division by the size of the gradient magnifies; two steps move parameters by about 1e-2.
    assert eight["losses"][0] == pytest.approx(eight["losses"][1], rel=1e-5)
    assert eight["difference"] < 1e-5


@pytest.mark.slow
def test_scanned_layers_train_as_unrolled_ones(
    process: subprocess.CompletedProcess[str],
) -> None:
    """Weight decay too, which would touch stacked norm scales if it asked for dimensions alone."""
    found = json.loads(process.stdout.splitlines()[-1])
    assert found["scanned"]["losses"][0] == pytest.approx(found["unrolled"]["losses"][0], rel=1e-6)


@pytest.mark.slow
def test_every_matrix_and_its_moments_lie_in_four_parts(eight: Any) -> None:
    vectors = ("scale", "bias")
    matrices = [
        name
        for name, shape in eight["whole"].items()
        if len(shape) >= 2 and not any(vector in name for vector in vectors)
    ]
    stacked = [name for name in matrices if len(eight["whole"][name]) == 3]
    blocks = 7 if stacked else 2 * 7
    assert len(matrices) == 3 * (blocks + 2)  # parameter and two moments of each
    for name in matrices:
        whole, shard = eight["whole"][name], eight["shard"][name]
        assert whole[-2:] == [2 * side for side in shard[-2:]], name
        assert whole[:-2] == shard[:-2], name  # no device lacks a layer
    for name in eight["whole"].keys() - matrices:
        assert eight["shard"][name] == eight["whole"][name], name


@pytest.mark.slow
def test_no_activation_is_copied_everywhere_on_its_way_between_layouts(
    process: subprocess.CompletedProcess[str],
) -> None:
    assert "rematerialization" not in process.stderr


@pytest.mark.parametrize(
    "path, dimensions, kind",
    [
        (("blocks", "q", "kernel"), 3, "matrix"),
        (("blocks", "0", "q", "kernel"), 2, "matrix"),
        (("embedding",), 2, "embedding"),
        (("positions",), 2, "embedding"),
        (("head", "kernel"), 2, "head"),
        (("blocks", "q", "bias"), 2, "vector"),
        (("blocks", "attention_norm", "scale"), 2, "vector"),
        (("final_norm", "scale"), 1, "vector"),
    ],
)
def test_a_matrix_is_told_from_a_stack_of_vectors(
    path: tuple[str, ...], dimensions: int, kind: str
) -> None:
    assert architecture("decoder").leaf(path, dimensions).kind == kind


def test_both_dialects_lower_for_tpu_and_cuda_on_one_device_and_on_a_mesh() -> None:
    assert run(LOWERED).stdout.strip() == "lowered"


def test_a_mesh_of_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match=f"needs 64 devices; there are {jax.device_count()}"):
        make_mesh(4, 4, 4)
