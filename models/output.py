"""What a model gives: logits, and what it loses on each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax


class Output(NamedTuple):
    """What a model may return in place of its logits."""

    logits: jax.Array  # (B, T, V), float32
    penalty: jax.Array | float  # added to what is minimised; reported losses leave it out


class Losses(NamedTuple):
    """What a model loses on each token, and what of it training minimises."""

    cross_entropy: jax.Array  # (B, T), nats, float32
    log_normaliser: jax.Array  # (B, T), ln of the softmax's denominator, float32
    penalty: jax.Array | float  # added to what is minimised; reported losses leave it out


def output_of(returned: jax.Array | Output) -> Output:
    """What a model returned; the penalty is 0.0 where it has none."""
    return returned if isinstance(returned, Output) else Output(returned, 0.0)
