"""One layer of a decoder: attention and an MLP, their norms, and the residual around them.

Names carry shapes; the legend is in models/decoder/model.py.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder.attention import Attention, Cache, Place
from models.decoder.config import ModelConfig
from models.decoder.layers import MLPS, NORMS, dropped, folded


class Block(nnx.Module):
    """Residual block: attention, then the MLP, or both at once from one input.

    Each has its norm before it, or after what it adds to (Vaswani et al. 2017, section 3.1).
    """

    def __init__(
        self, config: ModelConfig, *, dtype: jnp.dtype, attention: str, rngs: nnx.Rngs
    ) -> None:
        self.config = config
        self.attention_norm = NORMS[config.norm](config, config.d_model)
        self.attention = Attention(config, dtype=dtype, kernel=attention, rngs=rngs)
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
        y_NxD = x_NxD + self.added(mixed_NxD, mixed_keys_B)
        if post:
            y_NxD = self.attention_norm(y_NxD)
            out_NxD = y_NxD + self.added(self.mlp(y_NxD), mlp_keys_B)
            return self.mlp_norm(out_NxD), cache
        read_NxD = self.mlp_norm(x_NxD if c.parallel else y_NxD)
        return y_NxD + self.added(self.mlp(read_NxD), mlp_keys_B), cache

    def added(self, x_NxD: jax.Array, keys_B: jax.Array | None) -> jax.Array:
        """What attention or the MLP made, as the residual stream gets it."""
        x_NxD = dropped(x_NxD, keys_B, self.config.dropout)
        depth = self.config.ratios.depth
        return x_NxD if depth == 1 else x_NxD / depth
