"""A number that the data may not identify: its value, its interval, or the reason for neither."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from analysis.interval import Interval

NOT_IN_RANGE = "not in range"
NOT_IDENTIFIED = "not identified"


@dataclass(frozen=True)
class Estimate:
    """A value with its interval. An infinite end is open: the data do not bound it."""

    value: float | None  # None: see the reason
    interval: Interval | None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain values; an open end is null."""
        ends = self.interval and [end if math.isfinite(end) else None for end in self.interval]
        return {"value": self.value, "interval": ends, "reason": self.reason}
