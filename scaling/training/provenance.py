"""Where and with what a run was trained: kept with it, never part of what it is."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scaling.planning.layout import layout_of
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.training.flags import is_deterministic

# What of the environment may change roundings and is the user's to set, beside XLA_FLAGS. The rest
# of JAX's is set by scaling/training/jax_setup.py.
ENVIRONMENT = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def provenance(run: RunSpec) -> dict[str, Any]:
    """Where and with what a run is made. Call in the worker: it asks jax for its device.

    `deterministic` is whether this process gives the same bits every time on the same device.
    Raises Refusal where the run asks for that and it does not.
    """
    import jax

    from scaling.training.target import target_here

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    device = jax.devices()[0]
    flags = os.environ.get("XLA_FLAGS", "")
    deterministic = is_deterministic(device.platform, flags)
    if run.hardware.deterministic and not deterministic:
        raise Refusal(
            f"[hardware] deterministic = true: this process on a {device.device_kind} does not "
            f"keep it, with XLA_FLAGS = {flags!r}. On a GPU start it with `scaling run` or "
            "`scaling worker` and leave their flags on; on a TPU leave deterministic out."
        )
    return {
        "git": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "host": platform.node(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "layout": asdict(layout_of(run, target_here())),
        "deterministic": deterministic,
        "xla_flags": flags,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
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
