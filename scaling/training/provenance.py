"""Where and with what a run was trained: kept with it, never part of what it is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from scaling.planning.deriving import layout_of
from scaling.planning.layout import Layout
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.training.flags import is_deterministic
from scaling.training.processes import here

# What of the environment may change roundings and is the user's to set, beside XLA_FLAGS. The rest
# of JAX's is set by scaling/training/jax_setup.py.
ENVIRONMENT = ("JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")


def provenance(run: RunSpec, earlier: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    """Where and with what a run is made. Call in the worker: it asks jax for its device.

    `earlier` are the sessions, as this returned them, whose training goes on. `deterministic` is
    whether this process gives the same bits every time on the same device. Raises Refusal where the
    run asks for that and it does not, or would go on in another layout.
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
    layout = layout_of(run, target_here())
    if run.hardware.deterministic:
        _refuse_another_layout(run, layout, earlier, device.platform)
    return {
        "git": _git_commit(),
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in ("jax", "jaxlib", "flax", "optax", "numpy")},
        "host": platform.node(),
        "platform": device.platform,
        "device_kind": device.device_kind,
        "device_count": jax.device_count(),
        "process_count": jax.process_count(),  # of one worker; `host` is that of the first
        "layout": asdict(layout),
        "deterministic": deterministic,
        "xla_flags": flags,
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def _refuse_another_layout(
    run: RunSpec, layout: Layout, earlier: Sequence[Mapping[str, Any]], platform: str
) -> None:
    kept = [each for each in earlier if each.get("deterministic") and "layout" in each]
    if not kept:
        return
    had, has = (_as_asked(each, run, platform) for each in (kept[-1]["layout"], asdict(layout)))
    # Sums between processes may be taken in another order than between devices of one.
    had["processes"], has["processes"] = kept[-1].get("process_count", 1), here().count
    if not (differs := [name for name in has if had.get(name) != has[name]]):
        return
    began, now = (
        " and ".join(f"{name} = {json.dumps(each.get(name))}" for name in differs)
        for each in (had, has)
    )
    raise Refusal(
        f"[hardware] deterministic = true: it was begun with {began} and would go on here with "
        f"{now}, which changes its bits. Give each run the devices and the memory that it had, "
        f"or [hardware] {began}, and --retry failed; or leave deterministic out."
    )


def _as_asked(layout: Mapping[str, Any], run: RunSpec, platform: str) -> dict[str, Any]:
    """A layout that was recorded, as [hardware] would ask for it, and its devices."""
    sequences, devices = layout["microbatch_sequences"], layout["devices"]
    asked = {
        "devices": devices,
        "microbatch_tokens": sequences // devices * run.sequence_length,
        "sharding": layout["sharding"],
        **{name: value for name, value in layout["execution"].items() if name != "dtype"},
    }
    # On a CPU the bits do not depend on the length of a call.
    return asked if platform == "cpu" else {**asked, "steps_per_call": layout["steps_per_call"]}


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
