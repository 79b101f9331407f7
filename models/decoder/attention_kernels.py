"""Attention of whole sequences, by four implementations of one function.

Each takes queries (B, T, H, K), keys and values (B, T, G, K) and gives what every query takes from
the values of the keys that it sees, (B, T, H, K): its own and those before it, `attention_window`
of them in all. Scores are q·k / √K and their softmax is float32 whatever the dtype; every product,
forward and backward, has operands of the compute dtype. Results differ by roundings alone.
models/decoder/attention_choice.py says which one is for what.

Beside the legend of models/decoder/model.py: C slots of a cache, or keys; M = R·(queries of a
block) rows of scores; S keys that a block sees; P positions that fill up a last block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from models.decoder.attention_choice import SPLASH_BLOCK
from models.decoder.config import ModelConfig
from models.decoder.layers import dropped
from models.losses import softcap
from models.sharding import on_own_sequences

# The score of a key that is not seen. Finite, because workers compile with fast math; half of the
# least number, so that it stays finite when a row's largest score is taken from it.
UNSEEN = float(jnp.finfo(jnp.float32).min) / 2

# q (B, T, H, K), k and v (B, T, G, K), the configuration, and keys (B,) where dropout drops.
Kernel = Callable[[jax.Array, jax.Array, jax.Array, ModelConfig, jax.Array | None], jax.Array]


def plain(
    q_BxTxHxK: jax.Array,
    k_BxTxGxK: jax.Array,
    v_BxTxGxK: jax.Array,
    config: ModelConfig,
    keys_B: jax.Array | None = None,
) -> jax.Array:
    """All T × T scores at once: the one implementation with soft-cap and dropout."""
    k_BxGxTxK, v_BxGxTxK = k_BxTxGxK.swapaxes(1, 2), v_BxTxGxK.swapaxes(1, 2)
    seen_1xTxT = visible(q_BxTxHxK.shape[1], config.attention_window)[None]
    return over(q_BxTxHxK, k_BxGxTxK, v_BxGxTxK, seen_1xTxT, config, keys_B)


def over(
    q_BxTxHxK: jax.Array,
    k_BxGxCxK: jax.Array,
    v_BxGxCxK: jax.Array,
    seen_BxTxC: jax.Array,
    config: ModelConfig,
    keys_B: jax.Array | None = None,
) -> jax.Array:
    """What each query takes from the values of the keys that it is said to see, (B, T, H, K)."""
    B, T, H, K = q_BxTxHxK.shape
    G = k_BxGxCxK.shape[1]
    R = H // G
    q_BxGxRTxK = (q_BxTxHxK.swapaxes(1, 2) * K**-0.5).reshape(B, G, R * T, K)
    scores_BxGxRTxC = softcap(batched_product(q_BxGxRTxK, k_BxGxCxK, 3), config.attention_softcap)
    seen_Bx1xRTxC = jnp.tile(seen_BxTxC, (1, R, 1))[:, None]
    probs_BxGxRTxC = jax.nn.softmax(jnp.where(seen_Bx1xRTxC, scores_BxGxRTxC, UNSEEN), axis=-1)
    probs_BxGxRTxC = dropped(probs_BxGxRTxC, keys_B, config.dropout)
    mixed_BxGxRTxK = batched_product(probs_BxGxRTxC, v_BxGxCxK, 2).astype(v_BxGxCxK.dtype)
    return mixed_BxGxRTxK.reshape(B, H, T, K).swapaxes(1, 2)


def visible(T: int, window: int | None) -> jax.Array:
    """Which keys (columns) each query (row) sees: none after it, `window` with its own."""
    causal_TxT = jnp.tril(jnp.ones((T, T), bool))
    return causal_TxT if window is None else causal_TxT & ~jnp.tril(causal_TxT, -window)


def contracted(x: jax.Array, y: jax.Array, of_x: int, of_y: int) -> jax.Array:
    """The float32 product of matrices along these axes, for each of the two leading ones."""
    return jax.lax.dot_general(
        x, y, (((of_x,), (of_y,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32
    )


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def batched_product(x_BxGxMxA: jax.Array, y: jax.Array, along: int) -> jax.Array:
    """The float32 product of x's last axis and y's axis `along`, 2 or 3, of operands in y's dtype.

    So have its gradients' products: left to itself, a float32 product hands back a float32
    cotangent, and the products with that would run in float32.
    """
    return contracted(x_BxGxMxA.astype(y.dtype), y, 3, along)


def _product_forward(x: jax.Array, y: jax.Array, along: int) -> tuple[jax.Array, Any]:
    return batched_product(x, y, along), (x, y)


def _product_backward(along: int, kept: Any, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, y = kept
    d_BxGxMxS, x_BxGxMxA = cotangent.astype(y.dtype), x.astype(y.dtype)
    dx = contracted(d_BxGxMxS, y, 3, 5 - along)
    left, right = (d_BxGxMxS, x_BxGxMxA) if along == 3 else (x_BxGxMxA, d_BxGxMxS)
    return dx.astype(x.dtype), contracted(left, right, 2, 2).astype(y.dtype)


batched_product.defvjp(_product_forward, _product_backward)


class Rows(NamedTuple):
    """A block of consecutive queries, and the first of the keys that any of them sees.

    The last key that it sees is the last query's own.
    """

    first: int
    end: int
    low: int

    def seen(self, R: int, window: int | None) -> jax.Array:
        """Which of its keys each query sees, once for each of R query heads, (1, 1, M, S)."""
        query_Qx1 = jnp.arange(self.first, self.end)[:, None]
        key_1xS = jnp.arange(self.low, self.end)[None, :]
        seen_QxS = key_1xS <= query_Qx1
        if window is not None:
            seen_QxS &= key_1xS > query_Qx1 - window
        return jnp.tile(seen_QxS, (R, 1))[None, None]

    def of(self, x_BxGxRxTxK: jax.Array) -> jax.Array:
        """The queries of the block, (B, G, M, K)."""
        B, G, _, _, K = x_BxGxRxTxK.shape
        return x_BxGxRxTxK[:, :, :, self.first : self.end].reshape(B, G, -1, K)


def rows_of(T: int, window: int | None) -> list[Rows]:
    """The blocks of T queries: one of short sequences, else four, or eight of long ones.

    More of them compute fewer scores that are masked, in smaller products, which are slower.
    """
    number = 1 if T < 256 else 4 if T < 1024 else 8
    size = -(-T // number)
    return [
        Rows(first, min(T, first + size), 0 if window is None else max(0, first + 1 - window))
        for first in range(0, T, size)
    ]


class BlockKept(NamedTuple):
    """What the backward pass needs of a block."""

    weights_BxGxMxS: jax.Array  # exp(score − the row's largest): probabilities times the row's sum
    sum_BxGxMx1: jax.Array
    mixed_BxGxMxK: jax.Array


def blocks(
    q_BxTxHxK: jax.Array,
    k_BxTxGxK: jax.Array,
    v_BxTxGxK: jax.Array,
    config: ModelConfig,
    keys_B: jax.Array | None = None,
) -> jax.Array:
    """Blocks of queries, each with the keys that it may see alone; for CPUs.

    Rows are divided by their sums after the product with the values, where they are shorter.
    """
    return _in_blocks(q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, config.attention_window)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _in_blocks(
    q_BxTxHxK: jax.Array, k_BxTxGxK: jax.Array, v_BxTxGxK: jax.Array, window: int | None
) -> jax.Array:
    return _blocks_forward(q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, window)[0]


def _blocks_forward(
    q_BxTxHxK: jax.Array, k_BxTxGxK: jax.Array, v_BxTxGxK: jax.Array, window: int | None
) -> tuple[jax.Array, Any]:
    B, T, H, K = q_BxTxHxK.shape
    G = k_BxTxGxK.shape[2]
    q_BxGxRxTxK = _grouped(q_BxTxHxK * K**-0.5, G)
    k_BxGxTxK, v_BxGxTxK = k_BxTxGxK.swapaxes(1, 2), v_BxTxGxK.swapaxes(1, 2)
    mixed, kept = [], []
    for rows in rows_of(T, window):
        keys = slice(rows.low, rows.end)
        scores_BxGxMxS = contracted(rows.of(q_BxGxRxTxK), k_BxGxTxK[:, :, keys], 3, 3)
        scores_BxGxMxS = jnp.where(rows.seen(H // G, window), scores_BxGxMxS, UNSEEN)
        weights_BxGxMxS = jnp.exp(scores_BxGxMxS - scores_BxGxMxS.max(axis=-1, keepdims=True))
        sum_BxGxMx1 = weights_BxGxMxS.sum(axis=-1, keepdims=True)
        weights_BxGxMxS = weights_BxGxMxS.astype(v_BxTxGxK.dtype)
        mixed_BxGxMxK = contracted(weights_BxGxMxS, v_BxGxTxK[:, :, keys], 3, 2) / sum_BxGxMx1
        mixed.append(mixed_BxGxMxK.reshape(B, G, H // G, -1, K))
        kept.append(BlockKept(weights_BxGxMxS, sum_BxGxMx1, mixed_BxGxMxK))
    mixed_BxTxHxK = _together(mixed).astype(v_BxTxGxK.dtype)
    return mixed_BxTxHxK, (q_BxGxRxTxK, k_BxGxTxK, v_BxGxTxK, kept)


def _blocks_backward(
    window: int | None, residuals: Any, d_BxTxHxK: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """With weights w, sums s and the cotangent d of what was mixed: dv = wᵀ(d/s) and the scores'
    is w ⊙ ((d/s) vᵀ − rowsum(d/s ⊙ mixed)) (Dao et al. 2022, arXiv:2205.14135, appendix B.2)."""
    q_BxGxRxTxK, k_BxGxTxK, v_BxGxTxK, kept = residuals
    B, G, R, T, K = q_BxGxRxTxK.shape
    dtype = q_BxGxRxTxK.dtype
    d_BxGxRxTxK = _grouped(d_BxTxHxK, G)
    dq, dk_BxGxKxT, dv_BxGxKxT = [], jnp.zeros((B, G, K, T)), jnp.zeros((B, G, K, T))
    for rows, (weights_BxGxMxS, sum_BxGxMx1, mixed_BxGxMxK) in zip(
        rows_of(T, window), kept, strict=True
    ):
        keys = slice(rows.low, rows.end)
        d_BxGxMxK = rows.of(d_BxGxRxTxK).astype(jnp.float32) / sum_BxGxMx1
        along_BxGxMx1 = (d_BxGxMxK * mixed_BxGxMxK).sum(axis=-1, keepdims=True)
        d_BxGxMxK = d_BxGxMxK.astype(dtype)
        ds_BxGxMxS = contracted(d_BxGxMxK, v_BxGxTxK[:, :, keys], 3, 3) - along_BxGxMx1
        ds_BxGxMxS = (weights_BxGxMxS * ds_BxGxMxS).astype(dtype)
        dq_BxGxMxK = contracted(ds_BxGxMxS, k_BxGxTxK[:, :, keys], 3, 2)
        dq.append(dq_BxGxMxK.reshape(B, G, R, -1, K))
        dk_BxGxKxT += _wide(rows.of(q_BxGxRxTxK), ds_BxGxMxS, rows, T)
        dv_BxGxKxT += _wide(d_BxGxMxK, weights_BxGxMxS, rows, T)
    dq_BxTxHxK = _together(dq) * K**-0.5
    dk_BxTxGxK, dv_BxTxGxK = (x.transpose(0, 3, 1, 2) for x in (dk_BxGxKxT, dv_BxGxKxT))
    return dq_BxTxHxK.astype(dtype), dk_BxTxGxK.astype(dtype), dv_BxTxGxK.astype(dtype)


_in_blocks.defvjp(_blocks_forward, _blocks_backward)


def _grouped(x_BxTxHxK: jax.Array, G: int) -> jax.Array:
    """Heads by the key-value head that they share, (B, G, R, T, K)."""
    B, T, H, K = x_BxTxHxK.shape
    return x_BxTxHxK.reshape(B, T, G, H // G, K).transpose(0, 2, 3, 1, 4)


def _together(blocks_BxGxRxQxK: list[jax.Array]) -> jax.Array:
    """Blocks of queries one after the other, (B, T, H, K)."""
    x_BxGxRxTxK = jnp.concatenate(blocks_BxGxRxQxK, axis=3)
    B, G, R, T, K = x_BxGxRxTxK.shape
    return x_BxGxRxTxK.transpose(0, 3, 1, 2, 4).reshape(B, T, G * R, K)


def _wide(x_BxGxMxK: jax.Array, y_BxGxMxS: jax.Array, rows: Rows, T: int) -> jax.Array:
    """xᵀy at the keys of a block, zeros at the others, (B, G, K, T).

    A CPU's product of a tall yᵀ and a narrow x takes three times as long as this, which has the
    same numbers; the barrier keeps the compiler from turning it back.
    """
    wide_BxGxKxS = jax.lax.optimization_barrier(contracted(x_BxGxMxK, y_BxGxMxS, 2, 2))
    return jnp.pad(wide_BxGxKxS, ((0, 0), (0, 0), (0, 0), (rows.low, T - rows.end)))


def cudnn(
    q_BxTxHxK: jax.Array,
    k_BxTxGxK: jax.Array,
    v_BxTxGxK: jax.Array,
    config: ModelConfig,
    keys_B: jax.Array | None = None,
) -> jax.Array:
    """cuDNN's fused attention, which keeps no scores; for GPUs, in bfloat16 and float16."""
    window = config.attention_window
    attention = partial(
        jax.nn.dot_product_attention,
        is_causal=True,
        local_window_size=None if window is None else (window - 1, 0),
        implementation="cudnn",
    )
    return on_own_sequences(attention, q_BxTxHxK, k_BxTxGxK, v_BxTxGxK)


def splash(
    q_BxTxHxK: jax.Array,
    k_BxTxGxK: jax.Array,
    v_BxTxGxK: jax.Array,
    config: ModelConfig,
    keys_B: jax.Array | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Splash attention, JAX's fused kernel for TPUs.

    The kernel takes whole blocks of 128 positions. Other sequences, such as those of an evaluation,
    whose rows lose their last token, are filled up at the end, where none of their queries looks.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, T, H, K = q_BxTxHxK.shape
    window, P = config.attention_window, -T % SPLASH_BLOCK
    mask = (
        masks.CausalMask((T + P, T + P))
        if window is None
        else masks.LocalMask((T + P, T + P), (window - 1, 0), offset=0)
    )
    size = next(size for size in (512, 256, SPLASH_BLOCK) if (T + P) % size == 0)

    def attention(q_BxTxHxK: jax.Array, k_BxTxGxK: jax.Array, v_BxTxGxK: jax.Array) -> jax.Array:
        kernel = kernels.make_splash_mha(
            masks.MultiHeadMask([mask] * H),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=kernels.BlockSizes(*(size,) * 8),
            interpret=interpret,
        )
        by_head = [
            jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, P), (0, 0)))
            for x in (q_BxTxHxK * K**-0.5, k_BxTxGxK, v_BxTxGxK)
        ]
        return jax.vmap(kernel)(*by_head)[:, :, :T].swapaxes(1, 2)

    return on_own_sequences(attention, q_BxTxHxK, k_BxTxGxK, v_BxTxGxK)


KERNELS: Mapping[str, Kernel] = {
    "plain": plain,
    "blocks": blocks,
    "cudnn": cudnn,
    "splash": splash,
}
