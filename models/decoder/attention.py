"""Self-attention: queries, keys and values at their positions, with or without a cache.

A field of the configuration is read in one place each. Names carry shapes; the legend is in
models/decoder/model.py.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder.attention_kernels import KERNELS, over
from models.decoder.config import ModelConfig
from models.decoder.layers import RMSNorm, linear


def rotate(x_BxTxHxK: jax.Array, theta: float, positions_BxT: jax.Array | None = None) -> jax.Array:
    """Rotary positions on half-split pairs (Su et al. 2021, arXiv:2104.09864, eq. 34).

    They count from 0 where none are given.
    """
    T, K = x_BxTxHxK.shape[1], x_BxTxHxK.shape[3]
    frequency_K2 = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    at_BxT = jnp.arange(T)[None] if positions_BxT is None else positions_BxT
    angle_BxTxK2 = at_BxT[:, :, None].astype(jnp.float32) * frequency_K2[None, None]
    cos_BxTx1xK = jnp.tile(jnp.cos(angle_BxTxK2), 2).astype(x_BxTxHxK.dtype)[:, :, None]
    sin_BxTx1xK = jnp.tile(jnp.sin(angle_BxTxK2), 2).astype(x_BxTxHxK.dtype)[:, :, None]
    first, second = jnp.split(x_BxTxHxK, 2, axis=-1)
    return x_BxTxHxK * cos_BxTx1xK + jnp.concatenate([-second, first], axis=-1) * sin_BxTx1xK


def rotate_part(
    x_BxTxHxK: jax.Array, theta: float, turned: int, positions_BxT: jax.Array | None = None
) -> jax.Array:
    """Rotary positions on the first `turned` dimensions alone (GPT-NeoX)."""
    if turned == x_BxTxHxK.shape[-1]:
        return rotate(x_BxTxHxK, theta, positions_BxT)
    first, rest = jnp.split(x_BxTxHxK, [turned], axis=-1)
    return jnp.concatenate([rotate(first, theta, positions_BxT), rest], axis=-1)


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
    """Causal self-attention with grouped key-value heads (Ainslie et al. 2023).

    Whole sequences go through the kernel of the name `kernel`; what reads from a cache is plain.
    """

    def __init__(
        self, config: ModelConfig, *, dtype: jnp.dtype, kernel: str, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.kernel = kernel
        D, HK, GK = (
            config.d_model,
            config.n_heads * config.head_dim,
            config.n_kv_heads * config.head_dim,
        )
        std_in, std_out = D**-0.5, config.back_std(HK)
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
        positions_BxT = None if place is None else place.positions_BxT
        q_BxTxHxK, k_BxTxGxK, v_BxTxGxK = self.heads(x_NxD, batch, positions_BxT)
        if place is None:
            mix = KERNELS[self.kernel]
            mixed_BxTxHxK = mix(q_BxTxHxK, k_BxTxGxK, v_BxTxGxK, self.config, keys_B)
        else:
            join = partial(jax.lax.dynamic_update_slice_in_dim, start_index=place.slot, axis=2)
            new = Cache(k_BxTxGxK.swapaxes(1, 2), v_BxTxGxK.swapaxes(1, 2))
            cache = k_BxGxCxK, v_BxGxCxK = jax.tree.map(join, cache, new)
            mixed_BxTxHxK = over(
                q_BxTxHxK, k_BxGxCxK, v_BxGxCxK, place.seen_BxTxC, self.config, keys_B
            )
        return self.out(mixed_BxTxHxK.reshape(x_NxD.shape[0], -1)), cache

    def heads(
        self, x_NxD: jax.Array, batch: int, positions_BxT: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries (B, T, H, K), keys and values (B, T, G, K), at their positions."""
        c = self.config

        def split_heads(y_NxHK: jax.Array, norm: RMSNorm | None = None) -> jax.Array:
            if norm is not None:
                y_NxHK = norm(y_NxHK.reshape(-1, c.head_dim))
            return y_NxHK.reshape(batch, x_NxD.shape[0] // batch, -1, c.head_dim)

        q_BxTxHxK, k_BxTxGxK, v_BxTxGxK = (
            split_heads(self.q(x_NxD), self.q_norm),
            split_heads(self.k(x_NxD), self.k_norm),
            split_heads(self.v(x_NxD)),
        )
        if c.positions == "rotary":
            q_BxTxHxK, k_BxTxGxK = (
                rotate_part(x_BxTxHxK, c.rope_theta, c.rotary_dim, positions_BxT)
                for x_BxTxHxK in (q_BxTxHxK, k_BxTxGxK)
            )
        if c.parametrization == "mup":  # of 1 / K; the kernels divide by √K
            q_BxTxHxK = q_BxTxHxK * c.head_dim**-0.5
        return q_BxTxHxK, k_BxTxGxK, v_BxTxGxK
