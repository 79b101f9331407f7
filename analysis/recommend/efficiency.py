"""How much of a device's peak training reached, by the size of the model, as it was measured."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaling.store.records import Refusal, read_json


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peak, by the number of parameters."""

    params: tuple[float, ...]  # ascending
    mfu: tuple[float, ...]  # in (0, 1], by the FLOPs that count attention in full
    source: str  # which measurement: file, device, date, jax

    def at(self, params: float) -> float:
        """The share at a size, between those measured linear in its logarithm; else the nearest."""
        i = bisect_left(self.params, params)
        if i == 0 or i == len(self.params):
            return self.mfu[min(i, len(self.params) - 1)]
        low, high = self.params[i - 1], self.params[i]
        part = math.log(params / low) / math.log(high / low)
        return self.mfu[i - 1] + part * (self.mfu[i] - self.mfu[i - 1])

    def is_beyond(self, params: float) -> bool:
        """Whether a size lies outside those measured."""
        return not self.params[0] <= params <= self.params[-1]


def efficiency_in(path: Path, kinds: Collection[str], dtype: str) -> Efficiency | None:
    """What a file of benchmarks/accelerator.py says of devices of these kinds; null if nothing.

    Its rows of `variant` "default" and of this `dtype`, such as "bfloat16", count. Raises Refusal
    for a file that cannot be read as one.
    """
    found = read_json(path)
    rows = found.get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise Refusal(f"{path} has no rows. Give what benchmarks/accelerator.py --json wrote.")
    device = found.get("device")
    kind_of_all = device.get("kind") if isinstance(device, Mapping) else None
    points: dict[float, float] = {}
    for row in rows:
        kind = row.get("device_kind", kind_of_all)
        asked = row.get("variant") == "default" and row.get("dtype") == dtype
        if kind in kinds and asked and row.get("mfu") is not None:
            points[_number(path, row, "params_total", math.inf)] = _number(path, row, "mfu", 1.0)
    if not points:
        return None
    params, mfu = zip(*sorted(points.items()), strict=True)
    versions = found.get("versions")
    jax = versions.get("jax") if isinstance(versions, Mapping) else None
    made = f"{path.name}, {str(found.get('date', 'no date'))[:10]}, jax {jax or 'not said'}"
    return Efficiency(params, mfu, made)


def _number(path: Path, row: Mapping[str, Any], field: str, most: float) -> float:
    value = row.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise Refusal(f"{path}: a row has {field} = {value!r}. Measure it again.")
    return float(value)
