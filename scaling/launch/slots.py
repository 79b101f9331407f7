"""How many workers this host takes, and how many devices each of them sees."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

from models.devices import has_accelerator
from scaling.store.records import Refusal
from scaling.training.flags import worker_environment


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
