"""Accelerators: their peaks, memory and prices, each with its source; and whether one is here."""

from __future__ import annotations

import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SHIPPED = Path(__file__).with_name("devices.toml")
FIELDS = {"peak", "memory", "source", "price", "price_source", "price_date"}


@dataclass(frozen=True)
class Device:
    """One accelerator, with the source of each figure."""

    name: str
    peak: Mapping[str, float]  # FLOP/s by number format, dense
    memory: float  # bytes
    source: str
    price: float | None  # dollars an hour, on demand; None: no list price found
    price_source: str
    price_date: str


def devices(path: Path = SHIPPED) -> dict[str, Device]:
    """The devices of a TOML file like the one shipped, by name.

    Raises ValueError naming device and field for a figure without a source, an unknown field or a
    number that is not positive.
    """
    try:
        entries = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"cannot read devices from {path}: {error}.") from error
    return {name: _device(name, entry, path) for name, entry in entries.items()}


def _device(name: str, entry: Mapping[str, Any], path: Path) -> Device:
    unknown = set(entry) - FIELDS
    if unknown:
        known = ", ".join(sorted(FIELDS))
        raise ValueError(f"{path}: {name} has a field {min(unknown)!r}. Known: {known}.")
    for field in ("peak", "memory", "source"):
        if not entry.get(field):
            raise ValueError(f"{path}: {name} has no {field}.")
    if "price" in entry and not (entry.get("price_source") and entry.get("price_date")):
        raise ValueError(f"{path}: {name} has a price without price_source and price_date.")
    numbers = {"memory": entry["memory"], "price": entry.get("price", 1.0), **entry["peak"]}
    for field, value in numbers.items():
        if not 0 < value < math.inf:
            raise ValueError(f"{path}: {name} has {field} = {value}; it must be positive.")
    return Device(
        name=name,
        peak={dtype: float(value) for dtype, value in entry["peak"].items()},
        memory=float(entry["memory"]),
        source=str(entry["source"]),
        price=None if "price" not in entry else float(entry["price"]),
        price_source=str(entry.get("price_source", "")),
        price_date=str(entry.get("price_date", "")),
    )


def has_accelerator() -> bool:
    """Whether jax is installed for a GPU or TPU here, asked without loading jax."""
    return os.environ.get("JAX_PLATFORMS") != "cpu" and _plugin()


@cache
def _plugin() -> bool:
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin", "jax_rocm7_plugin", "libtpu")
    return any(map(find_spec, plugins))
