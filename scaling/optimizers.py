"""The optimisers that a study may name, and what they cost beside the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

OptimizerName = Literal["adamw", "muon"]

# Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): Nesterov momentum, made
# nearly orthogonal by this many steps of a quintic Newton-Schulz iteration.
MOMENTUM = 0.95
ITERATIONS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
# Root mean square of the numbers of an update, about that of AdamW, so that one learning rate and
# one weight decay serve all arrays (Liu et al. 2025, arXiv:2502.16982, section 2.2).
UPDATE_RMS = 0.2


def step_flops(name: OptimizerName, matrices: Mapping[tuple[int, int], int]) -> int:
    """FLOPs of an optimiser's matrix products in one step, whatever the batch.

    `matrices` are those in blocks, by shape. With a and b the shorter and the longer side, an
    iteration has three products: X Xᵀ, its square, and that times X.
    """
    if name != "muon":
        return 0
    total = 0
    for shape, count in matrices.items():
        a, b = sorted(shape)
        total += count * ITERATIONS * (4 * a * a * b + 2 * a**3)
    return total


def state_numbers(name: OptimizerName, params: int, matrix: int) -> int:
    """Numbers that an optimiser keeps: two a parameter, and of Muon's matrices one."""
    return 2 * params - (matrix if name == "muon" else 0)
