"""What a model loses on each token, from its logits."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from models.architecture import Losses, Output


def losses_of(output: Output, targets_BxT: jax.Array) -> Losses:
    """The losses of targets (B, T), of what a model returned for the tokens before them."""
    logits_BxTxV, penalty = output
    log_normaliser_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    return Losses(log_normaliser_BxT - chosen_BxT, log_normaliser_BxT, penalty)


def cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood of each target, nats, shape (B, T), float32."""
    return losses_of(Output(logits_BxTxV, 0.0), targets_BxT).cross_entropy
