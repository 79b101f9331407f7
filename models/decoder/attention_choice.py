"""Which implementation of attention a decoder uses where it runs, and why it can use no other.

The implementations are those of models/decoder/attention_kernels.py; planning asks here, without
jax.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from models.architecture import Attention, Platform
from models.decoder.config import ModelConfig

NEEDS: Mapping[Attention, Platform] = {"cudnn": "gpu", "splash": "tpu"}  # others run anywhere
CALLED: Mapping[Platform, str] = {"gpu": "GPU with CUDA", "tpu": "TPU"}
BEST: Mapping[Platform, Attention] = {
    **{"cpu": "blocks", "gpu": "cudnn", "rocm": "plain", "tpu": "splash"},
}
# On a CPU, forward and backward, four blocks took .35 to .7 of plain attention's time at 256
# positions, and two took .9 at 128: within the noise of a step.
FEWEST_IN_BLOCKS = 256
# Of a head: the fused kernels keep a block of queries, keys and values in fast memory.
WIDEST_HEAD = 256
# cuDNN's attention runs from compute capability 8.0 (Ampere) on, and its backward pass takes heads
# of more than 128 on Hopper (9.0) alone, neither before nor after (the support matrix of cuDNN
# 9.18.1, docs.nvidia.com/deeplearning/cudnn/frontend/latest/operations/Attention.html).
AMPERE, HOPPER, BLACKWELL = 8.0, 9.0, 10.0
WIDEST_BESIDE_HOPPER = 128
SPLASH_BLOCK = 128  # positions; its shortest block, for it has 128 lanes


def chosen(
    config: ModelConfig,
    sequence_length: int,
    dtype: str,
    platform: Platform,
    capability: float | None = None,
) -> Attention:
    """The implementation that suits: the fastest that the platform, dtype and shape allow.

    `dtype` is that of the arithmetic, such as "bfloat16"; `capability` the compute capability of a
    GPU, which is taken for the least that will do where it is not known.
    """
    best = BEST[platform]
    if best == "blocks" and sequence_length < FEWEST_IN_BLOCKS:
        return "plain"
    has = AMPERE if capability is None else capability
    wrong = refusal(config, sequence_length, dtype, platform, best, has)
    return best if wrong is None else "plain"


def refusal(
    config: ModelConfig,
    sequence_length: int,
    dtype: str,
    platform: Platform,
    asked: Attention,
    capability: float | None = None,
) -> str | None:
    """Why this implementation cannot be used: the field, its value and a remedy. None if it can.

    Nothing is refused for the compute capability of a GPU where that is not known.
    """
    c, remedy = config, 'ask for attention = "plain", or leave it out'
    if asked not in get_args(Attention):
        return f"attention = {asked!r} must be one of {', '.join(map(repr, get_args(Attention)))}"
    if asked == "plain":
        return None
    needs = NEEDS.get(asked, platform)
    if needs != platform:
        return f'attention = "{asked}" needs a {CALLED[needs]}, and this is a {platform}; {remedy}'
    if c.attention_softcap is not None:
        return f'attention = "{asked}" has no attention_softcap = {c.attention_softcap}; {remedy}'
    if c.dropout:
        return f'attention = "{asked}" has no dropout = {c.dropout}; {remedy}'
    if asked == "blocks":
        return None
    widest, where = WIDEST_HEAD, ""
    if asked == "cudnn" and capability is not None:
        if capability < AMPERE:
            return (
                f'attention = "cudnn" needs compute capability {AMPERE} or more, and this GPU has '
                f"{capability}; {remedy}"
            )
        if not HOPPER <= capability < BLACKWELL:
            widest, where = WIDEST_BESIDE_HOPPER, f" at compute capability {capability}"
    if c.head_dim > widest:
        return (
            f'attention = "{asked}" takes head_dim up to {widest}{where}, and it is {c.head_dim}; '
            f"{remedy}"
        )
    if asked == "cudnn" and dtype not in ("bfloat16", "float16"):
        return (
            f'attention = "cudnn" computes in bfloat16 or float16, not in {dtype}; give [training] '
            f'compute_dtype = "bfloat16", or {remedy}'
        )
    if asked == "cudnn" and c.head_dim % 8:
        return f'attention = "cudnn" takes head_dim a multiple of 8, not {c.head_dim}; {remedy}'
    if asked == "splash" and sequence_length % SPLASH_BLOCK:
        return (
            f'attention = "splash" takes sequence_length a multiple of {SPLASH_BLOCK}, not '
            f"{sequence_length}; {remedy}"
        )
    return None
