"""Losses and their gradients are those of the formulas, of whole logits and in blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models import losses
from models.losses import chunked_losses, cross_entropy, softcap, token_losses
from models.products import product

N, D, V = 50, 6, 11
RANDOM = np.random.default_rng(0)
X = jnp.asarray(RANDOM.normal(size=(N, D)), jnp.float32)
KERNEL = jnp.asarray(RANDOM.normal(size=(D, V)), jnp.float32)
TARGETS = jnp.asarray(RANDOM.integers(0, V, N))
WEIGHTS = jnp.asarray(RANDOM.normal(size=(2, N)), jnp.float32)  # of cross-entropy and of ln Z

Form = Callable[[jax.Array, jax.Array, int, float | None], tuple[jax.Array, jax.Array]]


def formulas(x: jax.Array, kernel: jax.Array, side: int, cap: float | None) -> Any:
    logits = softcap(x @ (kernel if side == 0 else kernel.T), cap)
    log_normaliser = jnp.log(jnp.exp(logits).sum(-1))
    return log_normaliser - logits[jnp.arange(len(x)), TARGETS], log_normaliser


def whole(x: jax.Array, kernel: jax.Array, side: int, cap: float | None) -> Any:
    return token_losses(product(x, kernel, side, jnp.float32), TARGETS, cap)


def chunked(x: jax.Array, kernel: jax.Array, side: int, cap: float | None) -> Any:
    return chunked_losses(x, kernel, side, TARGETS, cap)


def found(form: Form, side: int, cap: float | None, dtype: Any = jnp.float32) -> list[np.ndarray]:
    """Both losses of each row, and the gradients of x and of the kernel."""
    kernel = KERNEL if side == 0 else KERNEL.T

    def weighted(x: jax.Array, kernel: jax.Array) -> Any:
        values = form(x, kernel, side, cap)
        return sum((w * v).sum() for w, v in zip(WEIGHTS, values, strict=True)), values

    grad = jax.grad(weighted, argnums=(0, 1), has_aux=True)
    (grad_x, grad_kernel), values = grad(X.astype(dtype), kernel)
    return [np.asarray(each, float) for each in (*values, grad_x, grad_kernel)]


@pytest.mark.parametrize("side, cap", [(0, None), (1, 1.5)])
@pytest.mark.parametrize("rows", [64, 7], ids="at most {} rows at a time".format)
def test_losses_in_blocks_and_their_gradients_are_those_of_the_formulas(
    monkeypatch: pytest.MonkeyPatch, side: int, cap: float | None, rows: int
) -> None:
    monkeypatch.setattr(losses, "BLOCK_ROWS", rows)
    # Numbers of a few units in float32, summed over at most 50 rows.
    for mine, theirs in zip(found(chunked, side, cap), found(formulas, side, cap), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("side, cap", [(0, None), (1, 1.5)])
def test_losses_of_whole_logits_and_their_gradients_are_those_of_the_formulas(
    side: int, cap: float | None
) -> None:
    for mine, theirs in zip(found(whole, side, cap), found(formulas, side, cap), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_blocks_change_the_order_of_sums_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "BLOCK_ROWS", 16)
    for mine, theirs in zip(
        found(chunked, 0, 1.5, jnp.bfloat16), found(whole, 0, 1.5, jnp.bfloat16), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-5)


def test_large_logits_overflow_nothing() -> None:
    logits = jnp.asarray([[3e4, -3e4, 0.0]])
    grad = jax.grad(lambda logits: cross_entropy(logits, jnp.asarray([1])).sum())(logits)
    assert cross_entropy(logits, jnp.asarray([1]))[0] == 6e4
    np.testing.assert_array_equal(grad, [[1, -1, 0]])


def lowered(form: Form, rows: int) -> Any:
    """The gradient of the mean loss of this many rows."""

    def loss(x: jax.Array, kernel: jax.Array, targets: jax.Array) -> jax.Array:
        if form is chunked:
            return chunked_losses(x, kernel, 0, targets, None).cross_entropy.mean()
        logits = product(x, kernel, 0, jnp.float32)
        return token_losses(logits, targets).cross_entropy.mean()

    shapes = [
        jax.ShapeDtypeStruct(shape, dtype)
        for shape, dtype in (((rows, 8), "bfloat16"), ((8, 512), "float32"), ((rows,), "int32"))
    ]
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*shapes)


def test_the_memory_of_losses_in_blocks_does_not_grow_with_the_rows() -> None:
    rows = 8 * losses.BLOCK_ROWS
    logits = 4 * rows * 512
    in_blocks, at_once = (
        lowered(form, rows).compile().memory_analysis().temp_size_in_bytes
        for form in (chunked, whole)
    )
    assert at_once > logits
    # One block's logits and their gradient, an eighth each, and what a row has of its own.
    assert in_blocks < 0.45 * logits


def test_no_gradient_of_logits_is_scattered() -> None:
    for form in (whole, chunked):
        assert "stablehlo.scatter" not in lowered(form, 64).as_text()
