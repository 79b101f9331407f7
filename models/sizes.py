"""The size of a model: what it costs, as sums of parts, and ladders of shapes, from size to shape.

Every convention in the literature (Kaplan's non-embedding N, Chinchilla's total N, 6ND, attention
included or not) is a sum of parts, never a second formula. All numbers are Python integers:
nothing overflows.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

# What a trained array is; decay, learning rate and the counts go by it.
Kind = Literal["embedding", "matrix", "vector", "head"]
KINDS: tuple[Kind, ...] = ("embedding", "matrix", "vector", "head")

ParamsConvention = Literal["total", "non_embedding", "matmul", "active"]


@dataclass(frozen=True, kw_only=True)
class ParamCount:
    """Parameters by kind, and how many of them one token uses."""

    embedding: int  # tables of tokens and of positions
    matrix: int  # hidden matrices, the ones that multiply
    vector: int  # biases and scales
    head: int  # an output matrix of its own; 0 where the embedding serves as one
    head_matmul: int  # the matrix that the output multiplies by, its own or not
    idle: int = 0  # of the hidden matrices, what one token does not use: experts not chosen

    @property
    def total(self) -> int:
        """Every trained number; Hoffmann et al. 2022 count N so."""
        return self.embedding + self.matrix + self.vector + self.head

    @property
    def non_embedding(self) -> int:
        """All but tables and head: N of Kaplan et al. 2020, section 2.1 (vectors included)."""
        return self.matrix + self.vector

    @property
    def matmul(self) -> int:
        """The parameters that cost two FLOPs a token forward: hidden matrices used, and head."""
        return self.matrix - self.idle + self.head_matmul

    @property
    def active(self) -> int:
        """The parameters that one token uses; all of them where there are no experts."""
        return self.total - self.idle


@dataclass(frozen=True, kw_only=True)
class FlopCount:
    """FLOPs of one token in training, forward and backward, by what spends them."""

    blocks: int  # hidden matrices
    head: int
    attention: int = 0  # scores and their weighted sum
    lookup: int = 0  # an embedding lookup moves memory and multiplies nothing

    @property
    def total(self) -> int:
        return self.blocks + self.attention + self.head + self.lookup


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
            if self._size(most, convention) <= self._size(most // 2, convention):
                raise ValueError(
                    f"params = {target:.4g}: the shapes of this ladder do not grow in their "
                    f"{convention} parameters; check the settings of [model]"
                )
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


@dataclass(frozen=True)
class Leaf:
    """What one array of a parameter tree is, and how it is divided among devices.

    `axes` has a mesh axis, "fsdp" or "tensor", or None for each of its last dimensions; dimensions
    before them are not divided, nor is one that the axis does not divide.
    """

    kind: Kind
    axes: tuple[str | None, ...] = ()
    deep: bool = False  # in a block, of which deeper models have more
