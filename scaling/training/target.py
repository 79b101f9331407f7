"""What this process trains on."""

from __future__ import annotations

import jax

from models.architecture import Platform
from scaling.planning.layout import Target


def target_here() -> Target:
    """All devices that this process sees."""
    return target_of(jax.devices()[0], jax.device_count())


def target_of(device: jax.Device, count: int) -> Target:
    """So many devices of one kind, as what runs are laid out for."""
    platform: Platform = "gpu"  # cuda or rocm
    if device.platform in ("cpu", "tpu"):
        platform = device.platform
    return Target(platform, count, None if platform == "cpu" else _memory_of(device))


def _memory_of(device: jax.Device) -> float | None:
    """Bytes that a device lends; null of one that a compiler was only told of."""
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except jax.errors.JaxRuntimeError:
        return None
