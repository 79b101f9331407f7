"""The parts of a decoder: linear maps, norms, attention, MLPs and the block of them.

A field of the configuration is read in one place each. Names carry shapes; the legend is in
models/decoder/model.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder.config import ModelConfig


def linear(
    n_in: int, n_out: int, *, std: float, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.Linear:
    """y = x W (+ b), W drawn from a normal distribution of this standard deviation, b from 0 on."""
    return nnx.Linear(
        n_in,
        n_out,
        use_bias=bias,
        kernel_init=nnx.initializers.normal(std),
        dtype=dtype,
        rngs=rngs,
    )


class RMSNorm(nnx.Module):
    """x / rms(x) · scale (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        x32_NxD = x_NxD.astype(jnp.float32)
        mean_square_Nx1 = jnp.mean(x32_NxD * x32_NxD, axis=-1, keepdims=True)
        y_NxD = x32_NxD * jax.lax.rsqrt(mean_square_Nx1 + self.epsilon)
        return (y_NxD * self.scale[...][None, :]).astype(x_NxD.dtype)


class LayerNorm(nnx.Module):
    """(x − mean) / sd · scale (+ bias) (Ba et al. 2016, arXiv:1607.06450, eq. 3)."""

    def __init__(self, config: ModelConfig, width: int) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width)) if config.biases else None

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        x32_NxD = x_NxD.astype(jnp.float32)
        centred_NxD = x32_NxD - jnp.mean(x32_NxD, axis=-1, keepdims=True)
        variance_Nx1 = jnp.mean(centred_NxD * centred_NxD, axis=-1, keepdims=True)
        y_NxD = centred_NxD * jax.lax.rsqrt(variance_Nx1 + self.epsilon)
        y_NxD = y_NxD * self.scale[...][None, :]
        if self.bias is not None:
            y_NxD = y_NxD + self.bias[...][None, :]
        return y_NxD.astype(x_NxD.dtype)


NORMS = {"rms": RMSNorm, "layer": LayerNorm}


def softcap(x: jax.Array, cap: float | None) -> jax.Array:
    """cap·tanh(x / cap): nearly x where it is small, never above the cap; x itself without one."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def visible(T: int, window: int | None) -> jax.Array:
    """Which keys (columns) each query (row) sees: none after it, `window` with its own."""
    causal_TxT = jnp.tril(jnp.ones((T, T), bool))
    return causal_TxT if window is None else causal_TxT & ~jnp.tril(causal_TxT, -window)


def sinusoids(positions_M: jax.Array, width: int) -> jax.Array:
    """Sinusoidal positions (Vaswani et al. 2017, arXiv:1706.03762, section 3.5), (M, width).

    Columns 2i and 2i + 1 are sine and cosine of the position over 10000^(2i / width).
    """
    column_D = jnp.arange(width)
    frequency_D = 10_000.0 ** (-(column_D - column_D % 2) / width)
    angle_MxD = positions_M.astype(jnp.float32)[:, None] * frequency_D[None, :]
    return jnp.where((column_D % 2 == 0)[None, :], jnp.sin(angle_MxD), jnp.cos(angle_MxD))


def folded(keys_B: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Other keys for the part of the model that has this number; none where none are given."""
    if keys_B is None:
        return None
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys_B)


def dropped(x: jax.Array, keys_B: jax.Array | None, rate: float) -> jax.Array:
    """Dropout (Srivastava et al. 2014, JMLR 15) of activations whose leading axis is B or B·T.

    A share `rate` of the numbers is 0 and the others are larger by 1 / (1 − rate). What a sequence
    loses is a function of its own key alone. Without keys it is x itself.
    """
    if keys_B is None:
        return x
    B = len(keys_B)
    shape = (x.shape[0] // B, *x.shape[1:])
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, shape))(keys_B)
    return jnp.where(kept.reshape(x.shape), x / (1 - rate), 0)


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


class SwiGLU(nnx.Module):
    """(silu(x W_gate) ⊙ x W_up) W_down (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F, bias = config.d_model, config.d_ff, config.biases
        self.gate = linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        self.up = linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        std_out = (2 * config.n_layers * F) ** -0.5
        self.down = linear(F, D, std=std_out, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x_NxD)) * self.up(x_NxD))


ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=True),  # as GPT-2 does
    "gelu_exact": partial(jax.nn.gelu, approximate=False),  # as GPT-NeoX does
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),  # So et al. 2021, arXiv:2109.08668
}


class PlainMlp(nnx.Module):
    """activation(x W_up) W_down."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F, bias = config.d_model, config.d_ff, config.biases
        self.activation = ACTIVATIONS[config.mlp]
        self.up = linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        std_out = (2 * config.n_layers * F) ** -0.5
        self.down = linear(F, D, std=std_out, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return self.down(self.activation(self.up(x_NxD)))


MLPS = {"swiglu": SwiGLU, **dict.fromkeys(ACTIVATIONS, PlainMlp)}


class Block(nnx.Module):
    """Residual block: attention, then the MLP, or both at once from one input.

    Each has its norm before it, or after what it adds to (Vaswani et al. 2017, section 3.1).
    """

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.config = config
        self.attention_norm = NORMS[config.norm](config, config.d_model)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.mlp_norm = NORMS[config.norm](config, config.d_model)
        self.mlp = MLPS[config.mlp](config, dtype=dtype, rngs=rngs)

    def __call__(
        self,
        x_NxD: jax.Array,
        batch: int,
        place: Place | None = None,
        cache: Cache | None = None,
        keys_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Cache | None]:
        """The block's output, and the cache that these tokens joined, if any."""
        c, post = self.config, self.config.norm_placement == "post"
        attention_keys_B, mixed_keys_B, mlp_keys_B = (folded(keys_B, part) for part in range(3))
        read_NxD = x_NxD if post else self.attention_norm(x_NxD)
        mixed_NxD, cache = self.attention(read_NxD, batch, place, cache, attention_keys_B)
        y_NxD = x_NxD + dropped(mixed_NxD, mixed_keys_B, c.dropout)
        if post:
            y_NxD = self.attention_norm(y_NxD)
            out_NxD = y_NxD + dropped(self.mlp(y_NxD), mlp_keys_B, c.dropout)
            return self.mlp_norm(out_NxD), cache
        read_NxD = self.mlp_norm(x_NxD if c.parallel else y_NxD)
        return y_NxD + dropped(self.mlp(read_NxD), mlp_keys_B, c.dropout), cache
