"""What a model gives: logits, and what it loses on each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import jax

# Rows whose logits a device holds at a time. In the backward pass each block adds to the float32
# gradient of the head, 8 bytes a number to read and write beside 8·rows FLOPs: at 4 TB/s and
# 600 TFLOP/s that is 300 / rows of the products' time, 7% here. Half as many rows cost 14%; a
# vocabulary of 50,257 takes 1.2 GB at 4 + 2 bytes a logit, and twice as many rows twice that.
BLOCK_ROWS = 4096


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
