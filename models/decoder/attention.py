"""Attention: queries, keys and values at their positions, and what each query takes.

A field of the configuration is read in one place each. Names carry shapes; the legend is in
models/decoder/model.py.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder.config import ModelConfig
from models.decoder.layers import RMSNorm, dropped, linear
from models.losses import softcap


def visible(T: int, window: int | None) -> jax.Array:
    """Which keys (columns) each query (row) sees: none after it, `window` with its own."""
    causal_TxT = jnp.tril(jnp.ones((T, T), bool))
    return causal_TxT if window is None else causal_TxT & ~jnp.tril(causal_TxT, -window)


def rotate(x_BxHxTxK: jax.Array, theta: float, positions_T: jax.Array | None = None) -> jax.Array:
    """Rotary positions on half-split pairs (Su et al. 2021, arXiv:2104.09864, eq. 34).

    They count from 0 where none are given.
    """
    T, K = x_BxHxTxK.shape[-2:]
    frequency_K2 = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    at_T = jnp.arange(T, dtype=jnp.float32) if positions_T is None else positions_T
    angle_TxK2 = at_T[:, None].astype(jnp.float32) * frequency_K2[None, :]
    cos_TxK = jnp.tile(jnp.cos(angle_TxK2), 2).astype(x_BxHxTxK.dtype)[None, None]
    sin_TxK = jnp.tile(jnp.sin(angle_TxK2), 2).astype(x_BxHxTxK.dtype)[None, None]
    first, second = jnp.split(x_BxHxTxK, 2, axis=-1)
    return x_BxHxTxK * cos_TxK + jnp.concatenate([-second, first], axis=-1) * sin_TxK


def rotate_part(
    x_BxHxTxK: jax.Array, theta: float, turned: int, positions_T: jax.Array | None = None
) -> jax.Array:
    """Rotary positions on the first `turned` dimensions alone (GPT-NeoX)."""
    if turned == x_BxHxTxK.shape[-1]:
        return rotate(x_BxHxTxK, theta, positions_T)
    first, rest = jnp.split(x_BxHxTxK, [turned], axis=-1)
    return jnp.concatenate([rotate(first, theta, positions_T), rest], axis=-1)


class Cache(NamedTuple):
    """Keys and values of the tokens that a layer has seen, in C slots."""

    keys_BxGxCxK: jax.Array
    values_BxGxCxK: jax.Array


class Place(NamedTuple):
    """Where the tokens of a call stand, in their sequences and in the cache."""

    positions_BxT: jax.Array
    slot: jax.Array  # of the first; the others follow it
    seen_BxTxC: jax.Array  # which slots each of them sees


class Attention(nnx.Module):
    """Causal self-attention with grouped key-value heads (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config = config
        D, HK, GK = (
            config.d_model,
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
        )
        std_in, std_out = D**-0.5, (2 * config.n_layers * HK) ** -0.5
        bias = config.biases
        self.q = linear(D, HK, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.k = linear(D, GK, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.v = linear(D, GK, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.out = linear(HK, D, std=std_out, bias=bias, dtype=dtype, rngs=rngs)
        self.q_norm = RMSNorm(config, config.head_dim) if config.qk_norm else None
        self.k_norm = RMSNorm(config, config.head_dim) if config.qk_norm else None

    def __call__(
        self,
        x_NxD: jax.Array,
        batch: int,
        place: Place | None = None,
        cache: Cache | None = None,
        keys_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """What attention adds to each token, and the cache that these tokens joined, if any.

        Without a place, the tokens are whole sequences from their first position on.
        """
        c = self.config
        positions_BxT = None if place is None else place.positions_BxT
        q_BxHxTxK, k_BxGxCxK, v_BxGxCxK = self.heads(x_NxD, batch, positions_BxT)
        R = c.n_heads // c.n_kv_heads
        if place is None:
            seen_TxT = visible(q_BxHxTxK.shape[2], c.attention_window)
            seen_Bx1xRTxC = jnp.tile(seen_TxT, (R, 1))[None, None]
        else:
            join = partial(jax.lax.dynamic_update_slice_in_dim, start_index=place.slot, axis=2)
            cache = k_BxGxCxK, v_BxGxCxK = jax.tree.map(join, cache, Cache(k_BxGxCxK, v_BxGxCxK))
            seen_Bx1xRTxC = jnp.tile(place.seen_BxTxC, (1, R, 1))[:, None]
        return self.mix(q_BxHxTxK, k_BxGxCxK, v_BxGxCxK, seen_Bx1xRTxC, keys_B), cache

    def heads(
        self, x_NxD: jax.Array, batch: int, positions_BxT: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, H, T, K), keys and values (B, G, T, K), at their positions."""
        c = self.config
        B, T, K = batch, x_NxD.shape[0] // batch, c.head_dim

        def split_heads(y_NxHK: jax.Array, norm: RMSNorm | None = None) -> jax.Array:
            if norm is not None:
                y_NxHK = norm(y_NxHK.reshape(-1, K))
            return y_NxHK.reshape(B, T, -1, K).transpose(0, 2, 1, 3)

        def turned(x_BxHxTxK: jax.Array) -> jax.Array:
            turn = partial(rotate_part, theta=c.rope_theta, turned=c.rotary_dim)
            if positions_BxT is None:
                return turn(x_BxHxTxK)
            each = jax.vmap(lambda x_HxTxK, at_T: turn(x_HxTxK[None], positions_T=at_T)[0])
            return each(x_BxHxTxK, positions_BxT)

        q_BxHxTxK, k_BxGxTxK, v_BxGxTxK = (
            split_heads(self.q(x_NxD), self.q_norm),
            split_heads(self.k(x_NxD), self.k_norm),
            split_heads(self.v(x_NxD)),
        )
        if c.positions == "rotary":
            q_BxHxTxK, k_BxGxTxK = turned(q_BxHxTxK), turned(k_BxGxTxK)
        return q_BxHxTxK, k_BxGxTxK, v_BxGxTxK

    def mix(
        self,
        q_BxHxTxK: jax.Array,
        k_BxGxCxK: jax.Array,
        v_BxGxCxK: jax.Array,
        seen_Bx1xRTxC: jax.Array,
        keys_B: jax.Array | None,
    ) -> jax.Array:
        """What each query takes from the values of the keys that it sees."""
        c = self.config
        B, H, T, K = q_BxHxTxK.shape
        G, R = c.n_kv_heads, H // c.n_kv_heads
        q_BxGxRTxK = (q_BxHxTxK * K**-0.5).reshape(B, G, R * T, K)
        scores_BxGxRTxC = jax.lax.dot_general(
            q_BxGxRTxK,
            k_BxGxCxK,
            (((3,), (3,)), ((0, 1), (0, 1))),
            preferred_element_type=jnp.float32,
        )
        scores_BxGxRTxC = softcap(scores_BxGxRTxC, c.attention_softcap)
        probs_BxGxRTxC = jax.nn.softmax(
            jnp.where(seen_Bx1xRTxC, scores_BxGxRTxC, jnp.finfo(jnp.float32).min), axis=-1
        ).astype(v_BxGxCxK.dtype)
        probs_BxGxRTxC = dropped(probs_BxGxRTxC, keys_B, c.dropout)
        mixed_BxGxRTxK = jax.lax.dot_general(
            probs_BxGxRTxC, v_BxGxCxK, (((3,), (2,)), ((0, 1), (0, 1)))
        )
        mixed_NxHK = mixed_BxGxRTxK.reshape(B, H, T, K).transpose(0, 2, 1, 3).reshape(B * T, H * K)
        return self.out(mixed_NxHK)
