"""What this process trains on."""

from __future__ import annotations

from dataclasses import replace

import jax

from models.devices import platform_named
from scaling.planning.layout import Target
from scaling.training.flags import no_device
from scaling.training.processes import here


def target_here() -> Target:
    """All devices that this process sees, and those of the processes that train with it.

    Raises Refusal where jax cannot start.
    """
    try:
        device = jax.local_devices()[0]
    except Exception as error:  # jax raises many types
        raise no_device(f"{type(error).__name__}: {error}") from error
    mine = target_of(device, jax.device_count())
    return mine if here().memory is None else replace(mine, memory=here().memory)


def target_of(device: jax.Device, count: int) -> Target:
    """So many devices of one kind, as what runs are laid out for."""
    platform = platform_named(device.platform) or "gpu"
    memory = None if platform == "cpu" else _memory_of(device)
    return Target(platform, count, memory, _capability_of(device) if platform == "gpu" else None)


def _capability_of(device: jax.Device) -> float | None:
    """The compute capability of a GPU; null where jax does not say it."""
    said = getattr(device, "compute_capability", None)
    return None if said is None else float(said)


def _memory_of(device: jax.Device) -> float | None:
    """Bytes that a device lends; null of one that a compiler was only told of."""
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:
        return None
