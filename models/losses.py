"""Cross-entropy of next tokens: from logits, or from what they are made of, rows by rows.

The gradient of logits is softmax minus one-hot, by a comparison in the pass that makes the softmax:
no scatter, and no other array of their size. Written out for both, so that what the backward pass
keeps is known: the logits alone, or in blocks not even they.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from models.output import BLOCK_ROWS, Losses, Output
from models.products import dot, kernel_gradient
from models.sharding import by_device, whole_vocabulary


class TokenLosses(NamedTuple):
    """Losses without a penalty: of each target, in the shape of the targets, float32, nats."""

    cross_entropy: jax.Array
    log_normaliser: jax.Array  # ln Z, of which z-loss is made


def losses_of(output: Output, targets_BxT: jax.Array) -> Losses:
    """The losses of targets (B, T), of what a model returned for the tokens before them."""
    return Losses(*token_losses(output.logits, targets_BxT), penalty=output.penalty)


def cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood of each target, nats, shape (B, T), float32."""
    return token_losses(logits_BxTxV, targets_BxT).cross_entropy


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap·tanh(x / cap): nearly x where it is small, never above the cap; x itself without one."""
    return x if cap is None else cap * jnp.tanh(x / cap)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def token_losses(
    logits_BxTxV: jax.Array, targets_BxT: jax.Array, cap: float | None = None
) -> TokenLosses:
    """The losses of float32 logits, whatever their leading dimensions, that are to be capped."""
    return _scored(logits_BxTxV, targets_BxT, cap)


def _scored(logits: jax.Array, targets: jax.Array, cap: float | None) -> TokenLosses:
    capped = softcap(logits, cap)
    log_normaliser = jax.nn.logsumexp(capped, axis=-1)
    chosen = jnp.take_along_axis(capped, targets[..., None], axis=-1)[..., 0]
    return TokenLosses(log_normaliser - chosen, log_normaliser)


def _logit_gradient(
    logits: jax.Array,
    targets: jax.Array,
    log_normaliser: jax.Array,
    grads: TokenLosses,
    cap: float | None,
) -> jax.Array:
    """The gradient of logits before they are capped, float32."""
    capped = softcap(logits, cap)
    of_softmax = (grads.cross_entropy + grads.log_normaliser)[..., None]
    grad = of_softmax * jnp.exp(capped - log_normaliser[..., None])
    number = jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1)
    grad -= jnp.where(number == targets[..., None], grads.cross_entropy[..., None], 0)
    return grad if cap is None else grad * (1 - (capped / cap) ** 2)


def _whole_forward(
    logits: jax.Array, targets: jax.Array, cap: float | None
) -> tuple[TokenLosses, tuple[jax.Array, jax.Array, jax.Array]]:
    losses = _scored(logits, targets, cap)
    return losses, (logits, targets, losses.log_normaliser)


def _whole_backward(
    cap: float | None, kept: tuple[jax.Array, jax.Array, jax.Array], grads: TokenLosses
) -> tuple[jax.Array, None]:
    return _logit_gradient(*kept, grads, cap), None


token_losses.defvjp(_whole_forward, _whole_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2, 4))
def chunked_losses(
    x_NxD: jax.Array, kernel: jax.Array, side: int, targets_N: jax.Array, cap: float | None
) -> TokenLosses:
    """The losses of the logits product(x, kernel, side), which never exist all at once.

    They are made again in the backward pass: a third more of the head's FLOPs, for memory that
    does not grow with N. The same roundings as of whole logits, but for the order in which the
    head's gradient is summed.
    """
    return _chunked_forward(x_NxD, kernel, side, targets_N, cap)[0]


def _chunked_forward(
    x_NxD: jax.Array, kernel: jax.Array, side: int, targets_N: jax.Array, cap: float | None
) -> tuple[TokenLosses, tuple[jax.Array, ...]]:
    operand = whole_vocabulary(kernel.astype(x_NxD.dtype), side)

    def of_device(x_MxD: jax.Array, targets_M: jax.Array) -> TokenLosses:
        def score(_: None, block: tuple[jax.Array, jax.Array]) -> tuple[None, TokenLosses]:
            x_RxD, targets_R = block
            return None, _scored(dot(x_RxD, operand, 1, side, jnp.float32), targets_R, cap)

        _, losses = jax.lax.scan(score, None, (_blocks(x_MxD), _blocks(targets_M)))
        return TokenLosses(*(_joined(each, len(targets_M)) for each in losses))

    losses = jax.vmap(of_device)(by_device(x_NxD), by_device(targets_N))
    losses = TokenLosses(*(each.reshape(-1) for each in losses))
    return losses, (x_NxD, kernel, targets_N, losses.log_normaliser)


def _chunked_backward(
    side: int, cap: float | None, kept: tuple[jax.Array, ...], grads: TokenLosses
) -> tuple[jax.Array, jax.Array, None]:
    x_NxD, kernel, targets_N, log_normaliser_N = kept
    operand = whole_vocabulary(kernel.astype(x_NxD.dtype), side)

    def of_device(
        x_MxD: jax.Array, targets_M: jax.Array, log_normaliser_M: jax.Array, grads: TokenLosses
    ) -> tuple[jax.Array, jax.Array]:
        def back(total: jax.Array, block: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            x_RxD, targets_R, log_normaliser_R, *grads_R = block
            logits_RxV = dot(x_RxD, operand, 1, side, jnp.float32)
            grad_RxV = _logit_gradient(
                logits_RxV, targets_R, log_normaliser_R, TokenLosses(*grads_R), cap
            ).astype(x_RxD.dtype)
            grad_RxD = dot(grad_RxV, operand, 1, 1 - side, x_RxD.dtype)
            return total + kernel_gradient(x_RxD, grad_RxV, side), grad_RxD

        every = (x_MxD, targets_M, log_normaliser_M, *grads)
        zeros = jnp.zeros(kernel.shape, jnp.float32)
        total, grad_x = jax.lax.scan(back, zeros, tuple(map(_blocks, every)))
        return _joined(grad_x, len(x_MxD)), total

    parts = (x_NxD, targets_N, log_normaliser_N, TokenLosses(*grads))
    grad_x, totals = jax.vmap(of_device)(*jax.tree.map(by_device, parts))
    return grad_x.reshape(x_NxD.shape), totals.sum(0), None


chunked_losses.defvjp(_chunked_forward, _chunked_backward)


def _blocks(rows: jax.Array) -> jax.Array:
    """Rows in equal blocks of at most BLOCK_ROWS along a new first axis, the last padded by 0."""
    blocks = math.ceil(len(rows) / BLOCK_ROWS)
    missing = -len(rows) % blocks
    if missing:
        rows = jnp.pad(rows, ((0, missing), *((0, 0) for _ in rows.shape[1:])))
    return rows.reshape(blocks, -1, *rows.shape[1:])


def _joined(blocks: jax.Array, rows: int) -> jax.Array:
    return blocks.reshape(-1, *blocks.shape[2:])[:rows]
