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
from models.layers import NORMS, Block, Linear, softcap


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
        self.final_norm = NORMS[config.norm](config, D)
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
        logits_NxV = softcap(logits_NxV.astype(jnp.float32), self.config.logit_softcap)
        return logits_NxV.reshape(B, T, self.config.vocab_size)


def cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood of each target, nats, shape (B, T), float32."""
    log_normaliser_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    return log_normaliser_BxT - chosen_BxT
