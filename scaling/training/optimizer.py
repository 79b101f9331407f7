"""What an optimiser does with gradients."""

from __future__ import annotations

from typing import Any

import jax
import optax

from scaling.spec import Optimizer

ADAM_EPSILON = 1e-8  # Kingma & Ba 2015, arXiv:1412.6980, algorithm 1


def update_rule(optimizer: Optimizer, leaves: Any) -> optax.GradientTransformation:
    """AdamW without its learning rate, which the step multiplies in, for parameters of these kinds.

    Decay is decoupled and touches no vectors (Loshchilov & Hutter 2019, arXiv:1711.05101).
    """
    return optax.chain(
        optax.clip_by_global_norm(optimizer.clip_norm),
        optax.scale_by_adam(optimizer.beta1, optimizer.beta2, eps=ADAM_EPSILON),
        optax.add_decayed_weights(
            optimizer.weight_decay,
            mask=jax.tree.map(lambda leaf: leaf.kind != "vector", leaves),
        ),
    )
