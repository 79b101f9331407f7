"""A bag of embeddings: what follows a token is told by the mean of all tokens up to it.

A whole family of models in one file: what the harness needs of it, and the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from models.architecture import Architecture, Execution, Settings
from models.output import Output
from models.sizes import Growing, Ladder, ParamCount


@dataclass(frozen=True)
class BagShape:
    vocab_size: int
    context_length: int
    width: int
    hidden: int


@dataclass(frozen=True, kw_only=True)
class BagSettings(Settings):
    expansion: Annotated[int, Field(ge=1)]  # hidden width over width


class Bag(nnx.Module):
    def __init__(self, shape: BagShape, rngs: nnx.Rngs, dtype: Any) -> None:
        V, D, F = shape.vocab_size, shape.width, shape.hidden
        self.table = nnx.Embed(V, D, dtype=dtype, rngs=rngs)
        self.up = nnx.Linear(D, F, dtype=dtype, rngs=rngs)
        self.head = nnx.Linear(F, V, use_bias=False, dtype=dtype, rngs=rngs)

    def __call__(self, tokens_BxT: jax.Array) -> Output:
        counts_T = 1 + jnp.arange(tokens_BxT.shape[1])
        x_BxTxD = jnp.cumsum(self.table(tokens_BxT), axis=1) / counts_T[None, :, None]
        h_BxTxF = jax.nn.gelu(self.up(x_BxTxD))
        logits_BxTxV = self.head(h_BxTxF).astype(jnp.float32)
        return Output(logits_BxTxV, penalty=1e-3 * jnp.mean(h_BxTxF**2))


class BagOfEmbeddings(Architecture):
    config = BagShape
    settings = BagSettings
    usual: Mapping[str, str] = {"expansion": "4"}

    def ladder(self, settings: BagSettings, vocab_size: int, context_length: int) -> Ladder:
        def shape(width: int) -> BagShape:
            return BagShape(vocab_size, context_length, width, settings.expansion * width)

        return Growing(shape, self.count_params)

    def build(self, config: BagShape, rngs: nnx.Rngs, execution: Execution) -> Bag:
        return Bag(config, rngs, jnp.dtype(execution.dtype))

    def count_params(self, config: BagShape) -> ParamCount:
        V, D, F = config.vocab_size, config.width, config.hidden
        return ParamCount(embedding=V * D, matrix=D * F, vector=F, head=F * V, head_matmul=F * V)

    def activation_bytes(self, config: BagShape, execution: Execution) -> float:
        return execution.bytes_each * (2 * config.width + 2 * config.hidden)


BAG = BagOfEmbeddings()
