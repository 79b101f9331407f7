"""One decoder-only transformer, whatever the dialect.

Shapes are part of the names: B batch, T positions, N = B·T, D model width, H query heads,
G key-value heads, R = H/G queries per key-value head, K head_dim, F hidden width, V vocabulary.

Written for compilers: activations are flat (N, D) before every matrix product and attention
runs in (B, G, R·T, K), so that each product is one large `dot_general`. Softmax and the
statistics of the norms are float32 whatever the compute dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.config import ModelConfig


class Linear(nnx.Module):
    """y = x W (+ b), on flat activations."""

    def __init__(
        self, n_in: int, n_out: int, *, std: float, bias: bool, dtype: jnp.dtype, rngs: nnx.Rngs
    ) -> None:
        self.dtype = dtype
        self.kernel = nnx.Param(std * jax.random.normal(rngs.params(), (n_in, n_out)))
        self.bias = nnx.Param(jnp.zeros(n_out)) if bias else None

    def __call__(self, x_NxI: jax.Array) -> jax.Array:
        y_NxO = x_NxI.astype(self.dtype) @ self.kernel[...].astype(self.dtype)
        if self.bias is None:
            return y_NxO
        return y_NxO + self.bias[...].astype(self.dtype)[None, :]


class RMSNorm(nnx.Module):
    """x / rms(x) · scale (Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, config: ModelConfig) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(config.d_model))

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        x32_NxD = x_NxD.astype(jnp.float32)
        mean_square_Nx1 = jnp.mean(x32_NxD * x32_NxD, axis=-1, keepdims=True)
        y_NxD = x32_NxD * jax.lax.rsqrt(mean_square_Nx1 + self.epsilon)
        return (y_NxD * self.scale[...][None, :]).astype(x_NxD.dtype)


class LayerNorm(nnx.Module):
    """(x − mean) / sd · scale (+ bias) (Ba et al. 2016, arXiv:1607.06450, eq. 3)."""

    def __init__(self, config: ModelConfig) -> None:
        self.epsilon = config.norm_epsilon
        self.scale = nnx.Param(jnp.ones(config.d_model))
        self.bias = nnx.Param(jnp.zeros(config.d_model)) if config.biases else None

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


def rotate(x_BxHxTxK: jax.Array, theta: float) -> jax.Array:
    """Rotary positions on half-split pairs (Su et al. 2021, arXiv:2104.09864, eq. 34)."""
    T, K = x_BxHxTxK.shape[-2:]
    frequency_K2 = theta ** (-jnp.arange(0, K, 2, dtype=jnp.float32) / K)
    angle_TxK2 = jnp.arange(T, dtype=jnp.float32)[:, None] * frequency_K2[None, :]
    cos_TxK = jnp.tile(jnp.cos(angle_TxK2), 2).astype(x_BxHxTxK.dtype)[None, None]
    sin_TxK = jnp.tile(jnp.sin(angle_TxK2), 2).astype(x_BxHxTxK.dtype)[None, None]
    first, second = jnp.split(x_BxHxTxK, 2, axis=-1)
    return x_BxHxTxK * cos_TxK + jnp.concatenate([-second, first], axis=-1) * sin_TxK


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
        self.q = Linear(D, HK, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.k = Linear(D, GK, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.v = Linear(D, GK, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.out = Linear(HK, D, std=std_out, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array, batch: int) -> jax.Array:
        c = self.config
        B, T, G, R, K = (
            batch,
            x_NxD.shape[0] // batch,
            c.n_kv_heads,
            c.n_heads // c.n_kv_heads,
            c.head_dim,
        )

        def split_heads(y_NxHK: jax.Array) -> jax.Array:
            return y_NxHK.reshape(B, T, -1, K).transpose(0, 2, 1, 3)

        q_BxHxTxK, k_BxGxTxK, v_BxGxTxK = (
            split_heads(self.q(x_NxD)),
            split_heads(self.k(x_NxD)),
            split_heads(self.v(x_NxD)),
        )
        if c.positions == "rotary":
            q_BxHxTxK = rotate(q_BxHxTxK, c.rope_theta)
            k_BxGxTxK = rotate(k_BxGxTxK, c.rope_theta)
        q_BxGxRTxK = (q_BxHxTxK * K**-0.5).reshape(B, G, R * T, K)
        scores_BxGxRTxT = jax.lax.dot_general(
            q_BxGxRTxK,
            k_BxGxTxK,
            (((3,), (3,)), ((0, 1), (0, 1))),
            preferred_element_type=jnp.float32,
        )
        causal_TxT = jnp.tril(jnp.ones((T, T), bool))
        causal_RTxT = jnp.tile(causal_TxT, (R, 1))[None, None]
        probs_BxGxRTxT = jax.nn.softmax(
            jnp.where(causal_RTxT, scores_BxGxRTxT, jnp.finfo(jnp.float32).min), axis=-1
        ).astype(v_BxGxTxK.dtype)
        mixed_BxGxRTxK = jax.lax.dot_general(
            probs_BxGxRTxT, v_BxGxTxK, (((3,), (2,)), ((0, 1), (0, 1)))
        )
        mixed_NxHK = (
            mixed_BxGxRTxK.reshape(B, G * R, T, K).transpose(0, 2, 1, 3).reshape(B * T, G * R * K)
        )
        return self.out(mixed_NxHK)


class SwiGLU(nnx.Module):
    """(silu(x W_gate) ⊙ x W_up) W_down (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F, bias = config.d_model, config.d_ff, config.biases
        self.gate = Linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        self.up = Linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        std_out = (2 * config.n_layers * F) ** -0.5
        self.down = Linear(F, D, std=std_out, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.silu(self.gate(x_NxD)) * self.up(x_NxD))


class GeluMlp(nnx.Module):
    """gelu(x W_up) W_down, with the tanh form of GELU that GPT-2 uses."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        D, F, bias = config.d_model, config.d_ff, config.biases
        self.up = Linear(D, F, std=D**-0.5, bias=bias, dtype=dtype, rngs=rngs)
        std_out = (2 * config.n_layers * F) ** -0.5
        self.down = Linear(F, D, std=std_out, bias=bias, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array) -> jax.Array:
        return self.down(jax.nn.gelu(self.up(x_NxD), approximate=True))


MLPS = {"swiglu": SwiGLU, "gelu": GeluMlp}


class Block(nnx.Module):
    """Pre-norm residual block: attention, then the MLP."""

    def __init__(self, config: ModelConfig, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.attention_norm = NORMS[config.norm](config)
        self.attention = Attention(config, dtype=dtype, rngs=rngs)
        self.mlp_norm = NORMS[config.norm](config)
        self.mlp = MLPS[config.mlp](config, dtype=dtype, rngs=rngs)

    def __call__(self, x_NxD: jax.Array, batch: int) -> jax.Array:
        x_NxD = x_NxD + self.attention(self.attention_norm(x_NxD), batch)
        return x_NxD + self.mlp(self.mlp_norm(x_NxD))


class Decoder(nnx.Module):
    """Token ids (B, T) to float32 logits (B, T, V)."""

    def __init__(
        self, config: ModelConfig, *, rngs: nnx.Rngs, dtype: jnp.dtype = jnp.float32
    ) -> None:
        self.config = config
        self.dtype = dtype
        V, D = config.vocab_size, config.d_model
        self.embedding = nnx.Param(config.embedding_std * jax.random.normal(rngs.params(), (V, D)))
        self.positions = (
            nnx.Param(
                config.embedding_std * jax.random.normal(rngs.params(), (config.context_length, D))
            )
            if config.positions == "learned"
            else None
        )
        self.blocks = nnx.List(
            [Block(config, dtype=dtype, rngs=rngs) for _ in range(config.n_layers)]
        )
        self.final_norm = NORMS[config.norm](config)
        self.head = (
            Linear(D, V, std=D**-0.5, bias=False, dtype=dtype, rngs=rngs)
            if config.head == "untied"
            else None
        )

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        B, T = tokens_BxT.shape
        x_NxD = self.embedding[...].astype(self.dtype)[tokens_BxT.reshape(B * T)]
        if self.positions is not None:
            x_NxD = x_NxD + jnp.tile(self.positions[...][:T].astype(self.dtype), (B, 1))
        for block in self.blocks:
            x_NxD = block(x_NxD, B)
        x_NxD = self.final_norm(x_NxD)
        if self.head is None:
            logits_NxV = x_NxD @ self.embedding[...].astype(self.dtype).T
        else:
            logits_NxV = self.head(x_NxD)
        return logits_NxV.astype(jnp.float32).reshape(B, T, self.config.vocab_size)


def cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood of each target, nats, shape (B, T), float32."""
    log_normaliser_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    return log_normaliser_BxT - chosen_BxT
