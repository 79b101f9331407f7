"""Products keep the precision that they promise, forward and backward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.products import biased, product

RANDOM = np.random.default_rng(0)
X, KERNEL, GRAD = (RANDOM.normal(size=shape) for shape in ((300, 20), (20, 7), (300, 7)))


def both(side: int, dtype: str, out: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The product, and the gradients of x and of the kernel."""
    kernel = jnp.asarray(KERNEL if side == 0 else KERNEL.T, jnp.float32)
    y, back = jax.vjp(
        lambda x, w: product(x, w, side, jnp.dtype(out)), jnp.asarray(X, dtype), kernel
    )
    grad_x, grad_kernel = back(jnp.asarray(GRAD, out))
    return y, grad_x, grad_kernel if side == 0 else grad_kernel.T


@pytest.mark.parametrize("side", [0, 1])
def test_a_float32_product_and_its_gradients_are_those_of_float64(side: int) -> None:
    # Sums of 300 products of numbers of size 1, each rounded to 6e-8.
    for found, expected in zip(
        both(side, "float32", "float32"), (X @ KERNEL, GRAD @ KERNEL.T, X.T @ GRAD), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("out", ["bfloat16", "float32"])
def test_bfloat16_operands_are_summed_in_float32_into_the_gradient_of_a_kernel(
    side: int, out: str
) -> None:
    y, grad_x, grad_kernel = both(side, "bfloat16", out)
    assert (y.dtype, grad_x.dtype, grad_kernel.dtype) == (out, "bfloat16", "float32")
    x, grad = (np.asarray(jnp.asarray(a, "bfloat16"), float) for a in (X, GRAD))
    # Of the same rounded operands: float32's own error, where bfloat16's would be 4e-3.
    np.testing.assert_allclose(grad_kernel, x.T @ grad, rtol=1e-5, atol=2e-5)
    if out == "float32":
        kernel = np.asarray(jnp.asarray(KERNEL, "bfloat16"), float)
        np.testing.assert_allclose(y, x @ kernel, rtol=1e-5, atol=2e-5)


def test_a_bias_gathers_its_gradient_in_float32() -> None:
    rows = jnp.full((5000, 3), 0.01, jnp.bfloat16)
    y, back = jax.vjp(biased, rows, jnp.ones(3))
    grad_y, grad_bias = back(rows)
    assert (y.dtype, grad_y.dtype, grad_bias.dtype) == ("bfloat16", "bfloat16", "float32")
    # In bfloat16 the sum stops where adding .01 rounds to nothing, at 4.
    np.testing.assert_allclose(grad_bias, 5000 * float(rows[0, 0]), rtol=1e-4)
