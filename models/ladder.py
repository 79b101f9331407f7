"""A ladder: the shapes of one family, from which the nearest to a size is taken."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from models.counts import ParamCount, ParamsConvention

LARGEST = 1e14


@dataclass(frozen=True)
class Rung:
    """A buildable shape and how far it lies from what was asked."""

    config: Any  # its architecture's own
    counts: ParamCount
    target: float  # parameters asked for
    convention: ParamsConvention  # how they are counted

    @property
    def params(self) -> int:
        """The parameters it has, counted as they were asked for."""
        return size_of(self.counts, self.convention)

    @property
    def error(self) -> float:
        """params / target − 1."""
        return self.params / self.target - 1


class Ladder(Protocol):
    """The shapes of one family, on one vocabulary and sequence length."""

    def smallest(self) -> Any:
        """The configuration with the fewest parameters."""

    def nearest(self, target: float, convention: ParamsConvention) -> Rung:
        """The shape nearest to so many parameters. Raises ValueError where none is near."""


@dataclass(frozen=True)
class Growing:
    """A ladder of one whole number: `shape(1)` is the smallest, and each further one is larger."""

    shape: Callable[[int], Any]
    count: Callable[[Any], ParamCount]

    def smallest(self) -> Any:
        """The configuration of 1."""
        return self.shape(1)

    def nearest(self, target: float, convention: ParamsConvention) -> Rung:
        """The shape whose size is nearest in log.

        Raises ValueError for a target below half of the smallest shape's, or above any model.
        """
        refuse_size(target, self._size(1, convention), convention)
        most = 1
        while self._size(most, convention) < target:
            most *= 2
        above = bisect_left(range(most + 1), target, lo=1, key=lambda n: self._size(n, convention))
        rungs = [
            Rung(config, self.count(config), target, convention)
            for config in map(self.shape, range(max(1, above - 1), above + 1))
        ]
        return min(rungs, key=lambda rung: abs(math.log(rung.params / target)))

    def _size(self, number: int, convention: ParamsConvention) -> int:
        return size_of(self.count(self.shape(number)), convention)


def size_of(counts: ParamCount, convention: ParamsConvention) -> int:
    """The parameters by a convention."""
    return int(getattr(counts, convention))


def refuse_size(target: float, smallest: int, convention: ParamsConvention) -> None:
    """Raises ValueError for a size below half of the smallest shape's, where no shape means what
    was asked, and for one above any model."""
    if target > LARGEST:
        raise ValueError(
            f"params = {target:.4g} is more than any model has ({LARGEST:.0e}); "
            "give parameters, not FLOPs or tokens"
        )
    if target < smallest / 2:
        raise ValueError(
            f"params = {target:.4g} is less than half of the smallest shape of this ladder, "
            f"{smallest} {convention} parameters; ask for more"
        )
