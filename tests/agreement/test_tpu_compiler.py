"""The TPU's own compiler takes the accelerator study's largest step, and needs what is estimated.

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
from pathlib import Path

import pytest

from scaling.training.compiling import ENVIRONMENT

MEMORY = Path(__file__).parents[1] / "compiled_memory.py"

LARGEST = """
import json
from pathlib import Path
import jax
from models.sharding import batch_sharding
from scaling.data.prepare import declared
from scaling.planning.memory import step_memory
from scaling.planning.plan import make_plan
from scaling.study import read_study
from scaling.training.compiling import compiled_call, program_on, topology_of

study = read_study(Path("experiments/accelerator.toml"))
run = max(make_plan(study, declared(study.data)).runs, key=lambda run: run.flops_per_token)
program = program_on(run, topology_of("tpu-v5e:2x4"))
layout = program.layout
compiled = compiled_call(program, run.sequence_length)
memory = compiled.memory_analysis()
shape = (layout.microbatch_sequences, run.sequence_length + 1)
windows = jax.ShapeDtypeStruct(shape, "int32")
evaluated = program.evaluate.trace(program.abstract.params, windows).lower().compile()
# Questions of tasks, rows of one token less than a multiple of 8.
rows = jax.ShapeDtypeStruct((layout.devices, 511), "int32")
read = jax.jit(program.logits, in_shardings=(
    jax.tree.map(lambda leaf: leaf.sharding, program.abstract.params),
    batch_sharding(program.abstract.step.sharding.mesh),
)).trace(program.abstract.params, rows).lower().compile()
print(json.dumps({
    "device": program.abstract.step.sharding.mesh.devices.flat[0].device_kind,
    "devices": layout.devices,
    "layers": run.model.n_layers,
    "state": memory.argument_size_in_bytes,
    "temporary": memory.temp_size_in_bytes,
    "reused": memory.alias_size_in_bytes,
    "attention": layout.execution.attention,
    "kernels": compiled.as_text().count('custom_call_target="tpu_custom_call"'),
    "read": read.as_text().count('custom_call_target="tpu_custom_call"'),
    "evaluation": evaluated.memory_analysis().temp_size_in_bytes,
    "estimate": step_memory(run, layout).total,
}))
"""


@pytest.fixture(autouse=True)
def compiler() -> None:
    if find_spec("libtpu") is None:
        assert not os.environ.get("SCALING_REQUIRE_AGREEMENT"), "libtpu is missing"
        pytest.skip("libtpu is not installed; `make test-extras` runs this")


def said(*words: object) -> str:
    """What a Python process prints in which libtpu compiles."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_largest_step_compiles_for_eight_v5e_and_fits_their_memory() -> None:
    found = json.loads(said("-c", LARGEST).splitlines()[-1])
    print(found)
    assert (found["device"], found["devices"], found["layers"]) == ("TPU v5 lite", 8, 30)
    assert found["state"] + found["temporary"] < 15.75e9  # bytes that libtpu leaves of 16 GB
    assert found["state"] + found["evaluation"] < 15.75e9
    assert found["estimate"] == pytest.approx(found["state"] + found["temporary"], rel=0.15)
    assert found["attention"] == "splash"
    assert found["kernels"] >= 4  # forward, again where it is remade, and two of the backward pass
    assert found["read"] >= 1
    assert found["reused"] > 0.99 * found["state"]  # the donated state is updated in place


def test_a_plan_compiles_its_largest_step_and_says_what_it_needs(tmp_path: Path) -> None:
    path, study = tmp_path / "plan.json", "experiments/smoke.toml"
    printed = said(
        "-m", "experiments.cli", "plan", study, "--compile", "tpu-v5e:1x1", "--json", path
    )
    assert "Compiled for tpu-v5e:1x1 in " in printed and "and fits" in printed
    found = json.loads(path.read_text())["compiled"]
    assert found["fits"] and 0 < found["needed"] < 16e9


def test_the_estimate_is_within_15_percent_of_what_a_tpu_compiles() -> None:
    cases = [json.loads(line) for line in said(MEMORY, "tpu").splitlines()]
    assert len(cases) >= 6
    for case in cases:
        assert case["estimate"] == pytest.approx(case["compiled"], rel=0.15), case
