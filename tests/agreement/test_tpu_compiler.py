"""The TPU's own compiler takes the accelerator study's largest step, and it fits the memory.

Lowering for another platform checks little, and compiling a program lowered for a TPU on a CPU
nothing. libtpu compiles ahead of time for a described topology, without a TPU; it comes with
`make test-extras`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

COMPILED = """
import json
from pathlib import Path
import jax, numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType
from models.sharding import AXES, batch_sharding, replicated
from scaling.data.prepare import declared
from scaling.planning.plan import make_plan
from scaling.training.step import program_of
from scaling.study import read_study

chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
mesh = jax.make_mesh((1, 8, 1), AXES, axis_types=(AxisType.Auto,) * 3, devices=chips)
study = read_study(Path("experiments/accelerator.toml"))
run = max(make_plan(study, declared(study.data)).runs, key=lambda run: run.flops_per_token)
program = program_of(run, mesh)
batch = (program.layout.steps_per_call, run.batch_sequences, run.sequence_length + 1)
compiled = program.train.trace(
    program.abstract,
    jax.ShapeDtypeStruct(batch, np.int32, sharding=batch_sharding(mesh, leading=1)),
    jax.ShapeDtypeStruct(batch[:1], np.float32, sharding=replicated(mesh)),
).lower().compile()
memory = compiled.memory_analysis()
shape = (program.layout.microbatch_sequences, run.sequence_length + 1)
windows = jax.ShapeDtypeStruct(shape, np.int32, sharding=batch_sharding(mesh))
evaluated = program.evaluate.trace(program.abstract.params, windows).lower().compile()
print(json.dumps({
    "device": chips[0].device_kind,
    "devices": len(chips),
    "layers": run.model.n_layers,
    "state": memory.argument_size_in_bytes,
    "temporary": memory.temp_size_in_bytes,
    "reused": memory.alias_size_in_bytes,
    "attention": program.layout.execution.attention,
    "kernels": compiled.as_text().count('custom_call_target="tpu_custom_call"'),
    "evaluation": evaluated.memory_analysis().temp_size_in_bytes,
}))
"""


def test_the_largest_step_compiles_for_eight_v5e_and_fits_their_memory() -> None:
    if find_spec("libtpu") is None:
        assert not os.environ.get("SCALING_REQUIRE_AGREEMENT"), "libtpu is missing"
        pytest.skip("libtpu is not installed; `make test-extras` runs this")
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it compiles alone; a lock of before is nobody's
    }
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert (found["device"], found["devices"], found["layers"]) == ("TPU v5 lite", 8, 30)
    assert found["state"] + found["temporary"] < 15.75e9  # bytes that libtpu leaves of 16 GB
    assert found["state"] + found["evaluation"] < 15.75e9
    assert found["attention"] == "splash"
    assert found["kernels"] >= 4  # forward, again where it is remade, and two of the backward pass
    assert found["reused"] > 0.99 * found["state"]  # the donated state is updated in place
