"""What a model costs, as sums of parts: parameters by their kind, FLOPs by what spends them.

Every convention in the literature (Kaplan's non-embedding N, Chinchilla's total N, 6ND, attention
included or not) is a sum of parts, never a second formula. All numbers are Python integers:
nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
