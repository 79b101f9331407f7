"""Accelerators: their peaks, memory and prices, each with its source; and which kind is here."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from models.architecture import Platform

SHIPPED = Path(__file__).with_name("devices.toml")
FIELDS = {
    *{"platform", "kinds", "float32", "peak", "memory", "capability", "source"},
    *{"price", "price_source", "price_date"},
}

# What each platform is called in JAX_PLATFORMS, and the packages that bring it to jax.
NAMES: Mapping[str, Platform] = {
    **{"cpu": "cpu", "tpu": "tpu", "gpu": "gpu", "cuda": "gpu", "rocm": "rocm"},
}
PLUGINS: Mapping[str, Platform] = {
    "libtpu": "tpu",
    **{"jax_cuda12_plugin": "gpu", "jax_cuda13_plugin": "gpu", "jax_rocm7_plugin": "rocm"},
}
GPUS: tuple[Platform, ...] = ("gpu", "rocm")


@dataclass(frozen=True)
class Device:
    """One accelerator, with the source of each figure."""

    name: str
    platform: Platform  # what jax calls its family: "gpu" (with CUDA), "rocm" or "tpu"
    kinds: tuple[str, ...]  # what jax calls it; none where that is not known
    float32: str | None  # the number format of float32 products at jax's default precision
    peak: Mapping[str, float]  # FLOP/s by number format, dense
    memory: float  # bytes
    capability: float | None  # a CUDA GPU's compute capability; None: it is none, or not known
    source: str
    price: float | None  # dollars an hour, on demand; None: no list price found
    price_source: str
    price_date: str


def devices() -> dict[str, Device]:
    """The devices that are shipped, by name."""
    return devices_in(SHIPPED.read_bytes(), SHIPPED)


def devices_in(toml: bytes, path: Path) -> dict[str, Device]:
    """The devices in what a TOML file like the one shipped holds, by name.

    Raises ValueError naming device and field for a figure without a source, an unknown field, a
    number that is not positive, a kind that two devices have, or a `float32` without a peak.
    """
    try:
        entries = tomllib.loads(toml.decode())
    # Beside its own error, tomllib lets through those of integers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}. Give a TOML file.") from error
    found = {name: _device(name, entry, path) for name, entry in entries.items()}
    owners: dict[str, str] = {}
    for device in found.values():
        for kind in device.kinds:
            if (other := owners.setdefault(kind, device.name)) != device.name:
                raise ValueError(f"{path}: {other} and {device.name} both have the kind {kind!r}.")
    return found


def device_of_kind(kind: str) -> Device | None:
    """The shipped device that jax calls by this `device_kind`; null where it is not known."""
    return _by_kind().get(kind)


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of one device for products of float32 or bfloat16; null where it is not known.

    `device_kind` is jax's, such as "NVIDIA H200"; `dtype` is "float32" or "bfloat16". Of float32 it
    is the peak of what jax's default precision computes in: TF32 on NVIDIA's GPUs, bfloat16 on TPUs
    (jax.lax.Precision). Sources: devices.toml.
    """
    if (device := device_of_kind(device_kind)) is None:
        return None
    number_format = {"bfloat16": "bf16", "float32": device.float32}.get(dtype)
    return None if number_format is None else device.peak.get(number_format)


@cache
def _by_kind() -> dict[str, Device]:
    return {kind: device for device in devices().values() for kind in device.kinds}


def _device(name: str, entry: Any, path: Path) -> Device:
    if not isinstance(entry, dict):
        raise ValueError(f"{path}: {name} = {entry!r:.60} stands outside a table [DEVICE].")
    unknown = set(entry) - FIELDS
    if unknown:
        known = ", ".join(sorted(FIELDS))
        raise ValueError(f"{path}: {name} has a field {min(unknown)!r}. Known: {known}.")
    for field in ("peak", "memory", "source"):
        if not entry.get(field):
            raise ValueError(f"{path}: {name} has no {field}.")
    if "price" in entry and not (entry.get("price_source") and entry.get("price_date")):
        raise ValueError(f"{path}: {name} has a price without price_source and price_date.")
    if not isinstance(entry["peak"], dict):
        raise ValueError(f"{path}: {name} has a peak of no format, such as peak = {{bf16 = 1e15}}.")
    numbers = {"memory": entry["memory"], **entry["peak"]}
    numbers |= {name: entry[name] for name in ("price", "capability") if name in entry}
    for field, value in numbers.items():
        if type(value) not in (int, float) or not 0 < value <= sys.float_info.max:
            raise ValueError(
                f"{path}: {name} has {field} = {value!r:.60}; it must be a positive number."
            )
    kinds, float32 = entry.get("kinds", []), entry.get("float32")
    if not (isinstance(kinds, list) and all(isinstance(kind, str) and kind for kind in kinds)):
        raise ValueError(f"{path}: {name} has kinds = {kinds!r}; give a list of jax's names.")
    if float32 is not None and not (isinstance(float32, str) and float32 in entry["peak"]):
        raise ValueError(f"{path}: {name} has float32 = {float32!r}, of which it has no peak.")
    platform = entry.get("platform", "gpu")
    if platform not in ("gpu", "rocm", "tpu"):
        raise ValueError(f"{path}: {name} has platform = {platform!r}; give gpu, rocm or tpu.")
    return Device(
        name=name,
        platform=platform,
        kinds=tuple(kinds),
        float32=float32,
        peak={dtype: float(value) for dtype, value in entry["peak"].items()},
        memory=float(entry["memory"]),
        capability=None if "capability" not in entry else float(entry["capability"]),
        source=str(entry["source"]),
        price=None if "price" not in entry else float(entry["price"]),
        price_source=str(entry.get("price_source", "")),
        price_date=str(entry.get("price_date", "")),
    )


def expected_platform() -> Platform:
    """What jax would run on here by what is installed and JAX_PLATFORMS, asked without loading jax.

    A plugin may be installed where there is no device; jax falls back to the CPU then.
    """
    for name in os.environ.get("JAX_PLATFORMS", "").split(","):
        if (found := platform_named(name)) is not None:  # jax takes the first
            return found
    return _installed()


def is_asked_for_others() -> bool:
    """Whether JAX_PLATFORMS names anything but the CPU, which jax may not have: then it fails."""
    return os.environ.get("JAX_PLATFORMS", "") not in ("", "cpu")


def platform_named(name: str) -> Platform | None:
    """The platform of a name in JAX_PLATFORMS or of a device of jax; null where it is not known.

    "gpu" is what jax calls those of CUDA and of ROCm: which, is told by the plugin installed.
    """
    return "rocm" if name == "gpu" and _installed() == "rocm" else NAMES.get(name)


def has_accelerator() -> bool:
    """Whether jax is installed for a GPU or TPU here, asked without loading jax."""
    return expected_platform() != "cpu"


@cache
def _installed() -> Platform:
    return next((platform for name, platform in PLUGINS.items() if find_spec(name)), "cpu")
