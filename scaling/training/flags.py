"""The environment that a worker starts in: XLA's flags, and one thread a process. Loads no jax."""

from __future__ import annotations

import os

# Vector width and fast math are worth 1.5x to 2x on small float32 models on a CPU. Fast math may
# fold NaN checks away, so finiteness is always checked on the host.
_CPU_FLAGS = "--xla_cpu_prefer_vector_width=512 --xla_cpu_enable_fast_math=true"
# A resumed run is to end with the same bits on a GPU too.
_GPU_FLAGS = "--xla_gpu_deterministic_ops=true"


def worker_environment() -> dict[str, str]:
    """The environment a worker process starts in: one thread, fast CPU code, no surprises."""
    flags = os.environ.get("XLA_FLAGS", "")
    path = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    return {
        **os.environ,
        # Without empty entries, which are the working directory: anything may lie there.
        "PYTHONPATH": os.pathsep.join(path),
        # The user's flags last, so that they win.
        "XLA_FLAGS": f"{_CPU_FLAGS} {_GPU_FLAGS} {flags}".strip(),
        # Sizes XLA's thread pool: two single-threaded workers do half again the tokens of one
        # with two threads.
        "NPROC": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }
