"""What an optimiser costs is what its program multiplies."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from scaling.optimizers import COEFFICIENTS, ITERATIONS, step_flops

SHAPES = {(96, 192): 1, (192, 96): 1, (128, 128): 2}


def test_the_flops_of_muon_are_those_that_xla_counts_to_5_percent() -> None:
    """Beside the products XLA counts sums and scales, a few operations of each number."""
    params = {
        f"{place} of {shape}": jnp.ones(shape)
        for shape, count in SHAPES.items()
        for place in range(count)
    }
    # Its iterations one after the other, for of a loop XLA counts one turn.
    rule = scale_by_muon(
        COEFFICIENTS,
        ITERATIONS,
        weight_dimension_numbers=lambda tree: jax.tree.map(lambda _: MuonDimensionNumbers(), tree),
    )
    update = jax.jit(lambda grads, state: rule.update(grads, state))
    analysis = update.lower(params, rule.init(params)).compile().cost_analysis()
    counted = step_flops("muon", SHAPES)
    assert counted < analysis["flops"] < 1.05 * counted


def test_a_square_matrix_costs_30_products_of_its_side_cubed() -> None:
    assert step_flops("muon", {(10, 10): 1}) == 5 * (2 + 2 + 2) * 10**3
    assert step_flops("muon", {(10, 30): 2}) == 2 * step_flops("muon", {(30, 10): 1})


@pytest.mark.parametrize("matrices", [{}, SHAPES])
def test_adamw_multiplies_no_matrices(matrices: dict[tuple[int, int], int]) -> None:
    assert step_flops("adamw", matrices) == 0
