"""What one worker on this machine needs for a run: time and memory, roughly."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache

import numpy as np

from models.devices import has_accelerator
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Target, native
from scaling.planning.memory import step_memory
from scaling.spec import RunSpec

# The share of a core's float32 matrix throughput that a study reaches: the isoflop and repeat
# studies took 60 and 30 minutes of CPU where .45 said 37 and 19. The step alone reached .29 to .60
# at the quickstart's sizes (`benchmarks/train.py` measures others); compiling, evaluating and
# checkpoints take the rest.
CPU_EFFICIENCY = 0.28


@cache
def core_flops() -> float:
    """Float32 matrix FLOP/s of one core of this machine, measured in about 50 ms."""
    a = np.ones((256, 256), np.float32)
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        a @ a
        best = min(best, time.perf_counter() - start)
    return 2 * 256**3 / best


def worker_seconds(flops: float) -> float | None:
    """Seconds to train so many FLOPs on one core of this machine, roughly.

    Null on accelerators, where nothing was measured.
    """
    return None if has_accelerator() else flops / (CPU_EFFICIENCY * core_flops())


def worker_memory(run: RunSpec) -> float:
    """Bytes of a worker that trains a run on this machine, roughly.

    They are those of a step on one device, and of the runtime itself. What a study asks for that a
    CPU does not have is left out.
    """
    here = run
    if native(run.hardware.attention).platform != "cpu":
        here = replace(run, hardware=replace(run.hardware, attention=None))
    runtime = 450e6  # resident size of a worker after import and compilation
    return step_memory(here, layout_of(here, Target("cpu"))).total + runtime
