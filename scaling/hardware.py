"""What a run meets on this machine: worker environments, costs, and where it ran."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from models.decoder.count import count_params
from scaling.spec import RunSpec
from scaling.store.paths import refuse_address
from scaling.store.records import Refusal

# Vector width and fast math are worth 1.5x to 2x on small float32 models on a CPU. Fast math may
# fold NaN checks away, so finiteness is always checked on the host.
_CPU_FLAGS = "--xla_cpu_prefer_vector_width=512 --xla_cpu_enable_fast_math=true"
# A resumed run is to end with the same bits on a GPU too.
_GPU_FLAGS = "--xla_gpu_deterministic_ops=true"


def cache_folder() -> Path:
    """Where tokenised corpora and compiled programs are kept between runs.

    `SCALING_CACHE` if set, else ~/.cache/scaling-laws. Raises Refusal for an address.
    """
    refuse_address("SCALING_CACHE", os.environ.get("SCALING_CACHE", ""))
    return Path(os.environ.get("SCALING_CACHE", "~/.cache/scaling-laws")).expanduser()


def worker_environment() -> dict[str, str]:
    """The environment a worker process starts in: one thread, fast CPU code, no surprises."""
    flags = os.environ.get("XLA_FLAGS", "")
    return {
        **os.environ,
        # The user's flags last, so that they win.
        "XLA_FLAGS": f"{_CPU_FLAGS} {_GPU_FLAGS} {flags}".strip(),
        # Sizes XLA's thread pool: two single-threaded workers do half again the tokens of one
        # with two threads.
        "NPROC": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
    }


def has_accelerator() -> bool:
    """Whether jax is installed for a GPU or TPU here, asked without loading jax."""
    return os.environ.get("JAX_PLATFORMS") != "cpu" and _plugin()


@cache
def _plugin() -> bool:
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    return any(map(find_spec, plugins))


@cache
def device_count() -> int:
    """Devices that a worker started here sees.

    jax is asked in a process of its own, which leaves their memory free again; where neither an
    accelerator nor XLA_FLAGS can make them several, it is one and nobody is asked. Raises Refusal
    where jax cannot start.
    """
    several = "--xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not several and not has_accelerator():
        return 1
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import jax; print(jax.device_count())"],
        env={**worker_environment(), "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Refusal(f"jax finds no device here: {said[-1]}")
    return int(done.stdout.split()[-1])


def worker_count() -> int:
    """One worker per core that this process may use; one in all where they share accelerators."""
    if has_accelerator():
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(cores or 1, _container_cores()))


def _container_cores() -> int:
    """The processors that a container may use at once (cgroup v2); many if it is not limited."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return round(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup, or "max"
        return 1 << 16


# The share of a core's float32 matrix throughput that a study reaches: the isoflop and repeat
# studies took 60 and 30 minutes of CPU where .45 said 37 and 19. The step alone reaches .29 to .60
# (`benchmarks/step.py`); compiling, evaluating and checkpoints take the rest.
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


@dataclass(frozen=True)
class Estimate:
    """What one worker needs."""

    seconds: float | None  # null on accelerators, where nothing was measured
    memory_bytes: float


def estimate(run: RunSpec, flops: float) -> Estimate:
    """Seconds to train `flops` on one core of this machine, and the memory of the worker.

    Memory: parameters, gradients and two moments in float32, the activations kept for the
    backward pass of a microbatch (with remat one layer's, and the input of each), and the
    runtime itself. Both are rough.
    """
    c = run.model
    layer = (
        8 * c.d_model + 4 * c.n_heads * c.head_dim + 3 * c.d_ff + 3 * c.n_heads * c.context_length
    )
    kept = layer + c.n_layers * c.d_model if run.compute.remat else c.n_layers * layer
    size = {"float32": 4, "bfloat16": 2}[run.compute.dtype]
    microbatch = run.batch_tokens / run.compute.accumulate
    activations = microbatch * (size * kept + 4 * 3 * c.vocab_size)  # logits are float32 always
    runtime = 450e6  # resident size of a worker after import and compilation
    return Estimate(
        seconds=None if has_accelerator() else flops / (CPU_EFFICIENCY * core_flops()),
        memory_bytes=16.0 * count_params(c).total + activations + runtime,
    )


def provenance(run: RunSpec) -> dict[str, Any]:
    """Where and with what a run is made. Call in the worker: it asks jax for its device."""
    import jax

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    device = jax.devices()[0]
    return {
        "git": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "host": platform.node(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "devices_used": run.devices_used(jax.device_count()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _git_commit() -> str | None:
    """The commit of this checkout, with -dirty if it was changed; null outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
