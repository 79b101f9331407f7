"""What of a block is kept for the backward pass, which computes the rest again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax

from models.architecture import Remat

F = TypeVar("F", bound=Callable[..., Any])

# cuDNN's attention is one primitive of its own. Its backward pass needs its output and the
# normalisers of its softmax, 2·K + 4 bytes a head and token: little, for not running it again.
FUSED_ATTENTION = ("dot_product_attention_fwd", "dot_product_attention_fwd_wrapper")


def rematerialised(block: F, remat: Remat, *, looped: bool) -> F:
    """The same function of its inputs, which keeps this much; `looped` if a scan runs it.

    "none" computes nothing again; "dots" keeps what products with parameters made, and attention's
    output where one kernel makes it; "full" keeps the inputs alone.

    A loop by itself keeps the compiler from merging the second computation with the first; without
    one, barriers do.
    """
    if remat == "none":
        return block
    policy = products_and_fused_attention if remat == "dots" else None
    return jax.checkpoint(block, prevent_cse=not looped, policy=policy)  # type: ignore[return-value]


def products_and_fused_attention(primitive: Any, *inputs: Any, **params: Any) -> Any:
    """A policy of jax.checkpoint: attention's own products, which have batch dimensions, go."""
    if primitive.name in FUSED_ATTENTION:
        return True
    dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    return dots(primitive, *inputs, **params)
