"""What a run's step needs by the TPU's own compiler, with no TPU.

libtpu compiles ahead of time for chips that are only described. It comes with the extra `tpu`, and
runs in a process of its own, which it may end where it gives up.
"""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.devices import Device, devices
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Target
from scaling.spec import RunSpec, config_of, spec_of
from scaling.store.records import Refusal, did_you_mean

if TYPE_CHECKING:
    from scaling.training.step import Program

# Our packages by where this one is, whatever the working directory.
START = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); "
    "from scaling.training.compiling import main; main(*sys.argv[1:], sys.stdin.read())"
)
ENVIRONMENT: Mapping[str, str] = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # it compiles alone; a lock of before is nobody's
}
# libtpu's topologies of a v4 are of its cores, two a chip.
APART = "tpu-v4"
EXCEEDED = re.compile(r"Used ([0-9.]+)([KMGT]) of [0-9.]+[KMGT] hbm")
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Topology:
    """Chips of a TPU, and how they lie."""

    device: Device
    shape: str  # such as 2x2

    @property
    def name(self) -> str:
        return f"{self.device.name}:{self.shape}"

    @property
    def count(self) -> int:
        return math.prod(map(int, self.shape.split("x")))

    @property
    def target(self) -> Target:
        return Target("tpu", self.count, self.device.memory)


@dataclass(frozen=True)
class Compiled:
    """What a compiled step needs of each device."""

    needed: float  # bytes
    seconds: float  # to trace and to compile it


def topology_of(asked: str) -> Topology:
    """The chips of a name such as "tpu-v5e:2x2".

    Raises Refusal for a device that has no compiler or is not known, and for what is no shape.
    """
    known = {name: device for name, device in devices().items() if name.startswith("tpu-")}
    del known[APART]
    name, _, shape = asked.partition(":")
    if name not in known and name in devices():
        raise Refusal(
            f"--compile {asked}: no compiler for {name} is here. `--device {name}` gives the "
            f"estimate of its memory. Those with a compiler: {', '.join(known)}."
        )
    if name not in known:
        near = did_you_mean(name, known)
        raise Refusal(f"--compile {asked}: unknown device.{near} Known: {', '.join(known)}.")
    if not re.fullmatch(r"[1-9]\d{0,2}(x[1-9]\d{0,2}){1,2}", shape):
        raise Refusal(
            f"--compile {asked}: give how the chips lie, such as {name}:1x1 for one, {name}:2x2 "
            f"for four or {name}:2x4 for eight."
        )
    return Topology(known[name], shape)


def compile_step(run: RunSpec, topology: Topology) -> Compiled:
    """Compile a run's training step for these chips, laid out as it would be there.

    Raises Refusal where libtpu is not installed or knows no such topology, and as `layout_of` does.
    """
    layout_of(run, topology.target)
    if find_spec("libtpu") is None:
        raise Refusal(
            f"--compile {topology.name}: libtpu is not installed. Install the extra `tpu` (pip "
            "install 'scaling-laws[tpu]') in an environment of its own: jax takes it for a TPU."
        )
    done = subprocess.run(
        [sys.executable, "-P", "-c", START, topology.device.name, topology.shape],
        env={**os.environ, **ENVIRONMENT},
        input=json.dumps(config_of(run)),
        capture_output=True,
        text=True,
    )
    said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    if done.returncode:
        raise Refusal(f"--compile {topology.name}: {said[-1]}")
    return Compiled(**json.loads(done.stdout.splitlines()[-1]))


def main(name: str, shape: str, config: str) -> None:
    """Compile what `compile_step` asks for, and print it as JSON."""
    try:
        found = _compiled(spec_of(json.loads(config)), Topology(devices()[name], shape))
    except Refusal as error:
        sys.exit(str(error))
    print(json.dumps(asdict(found)))


def _compiled(run: RunSpec, topology: Topology) -> Compiled:
    import jax

    program = program_on(run, topology)
    began = time.perf_counter()
    try:
        memory = compiled_call(program, run.sequence_length).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if (found := EXCEEDED.search(str(error))) is None:
            raise
        used = float(found[1]) * UNITS[found[2]]
        return Compiled(used, time.perf_counter() - began)
    # The donated state is updated in place: what comes out needs no more.
    made = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + made
    return Compiled(float(needed), time.perf_counter() - began)


def program_on(run: RunSpec, topology: Topology) -> Program:
    """The program of a run on chips that libtpu only describes, in a process with ENVIRONMENT.

    Raises Refusal where libtpu knows no such topology, and as `layout_of` does.
    """
    import jax
    from jax.experimental import topologies

    from scaling.training.step import make_program, mesh_of

    # A host has four chips, unless it is said that it has one.
    alone = {"chips_per_host_bounds": [1, 1, 1]} if topology.count == 1 else {}
    try:
        chips = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name.removeprefix("tpu-"), **alone
        ).devices
    except jax.errors.JaxRuntimeError as error:
        raise Refusal(str(error).splitlines()[0]) from error
    layout = layout_of(run, topology.target)
    mesh = mesh_of(layout, chips)
    return make_program(run.architecture, run.model, run.optimizer, run.seed, layout, mesh)


def compiled_call(program: Program, sequence_length: int) -> Any:
    """What XLA makes of a call of a program's training steps (jax.stages.Compiled)."""
    import jax

    layout = program.layout
    steps, sequences = layout.steps_per_call, layout.microbatch_sequences * layout.accumulate
    train: Any = program.train  # what jax.jit made
    traced = train.trace(
        program.abstract,
        jax.ShapeDtypeStruct((steps, sequences, sequence_length + 1), "int32"),
        jax.ShapeDtypeStruct((steps,), "float32"),
    )
    return traced.lower().compile()
