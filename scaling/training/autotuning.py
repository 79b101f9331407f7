"""The fastest algorithms of a GPU, recorded once, so that deterministic processes take the same.

XLA measures which algorithm of a product is the fastest, so that two compilations may choose
differently; with the flags for determinism it measures nothing and takes the first that compiles,
unless it is given results of another process that measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, cast

from scaling.spec import PROGRAM, RunSpec, one_of_each, plain, spec_of
from scaling.store.records import fingerprint


def programs_of(runs: Iterable[RunSpec]) -> dict[str, RunSpec]:
    """One run of each program among them, by the fingerprint of what a program is compiled from."""
    return {fingerprint(_compiled_from(run)): run for run in one_of_each(runs)}


def _compiled_from(run: RunSpec) -> dict[str, Any]:
    return {name: plain(getattr(run, name)) for name in PROGRAM}


def compile_run(run: RunSpec) -> None:
    """Compile what trains and evaluates a run, on the devices of this process; keep nothing."""
    import jax

    from scaling.training.step import program_of

    program = program_of(run)
    steps, length = program.layout.steps_per_call, run.sequence_length + 1

    def tokens(*leading: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*leading, length), "int32")

    batches, rates = tokens(steps, run.batch_sequences), jax.ShapeDtypeStruct((steps,), "float32")
    windows = tokens(program.layout.microbatch_sequences)
    cast(Any, program.train).lower(program.abstract, batches, rates).compile()
    cast(Any, program.evaluate).lower(program.abstract.params, windows).compile()


def compile_specifications(configs: str) -> int:
    """Compile the runs of these specifications, in JSON; returns the exit code.

    Where the results go is for XLA_FLAGS to say (`worker_environment` of scaling/training/flags.py,
    "recorded"); how many programs were compiled is printed as JSON.
    """
    from scaling.training.jax_setup import configure_jax

    configure_jax()
    programs = programs_of(map(spec_of, json.loads(configs)))
    for run in programs.values():
        compile_run(run)
    print(json.dumps({"programs": len(programs)}))
    return 0
