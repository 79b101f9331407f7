"""One decoder-only transformer, whatever the dialect.

Shapes are part of the names: B batch, T positions, N = B·T, D model width, H query heads,
G key-value heads, R = H/G queries per key-value head, K head_dim, F hidden width, V vocabulary.

Written for compilers: activations are flat (N, D) before every matrix product and attention
runs in (B, G, R·T, K), so that each product is one large `dot_general`. Softmax and the
statistics of the norms are float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from models.decoder.config import ModelConfig
from models.decoder.layers import NORMS, Block, Cache, Place, linear, softcap
from models.sharding import by_sequence, whole_rows

Layers = Literal["unrolled", "scanned"]
# One a layer; of scanned layers a single one, whose arrays have a leading axis, the layer.
Caches = list[Cache]


def scanned_blocks(config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> Block:
    """One block whose every parameter has a leading axis, the layer; drawn as if one by one."""
    streams, counts = nnx.split(rngs)

    def draw(counts: nnx.State, _: None) -> tuple[nnx.State, nnx.State]:
        rngs = nnx.merge(streams, counts)
        params = nnx.state(Block(config, dtype=dtype, rngs=rngs))
        return nnx.state(rngs), params

    counts, params = jax.lax.scan(draw, counts, length=config.n_layers)
    nnx.update(rngs, counts)
    block = nnx.eval_shape(lambda: Block(config, dtype=dtype, rngs=nnx.Rngs(0)))
    return nnx.merge(nnx.split(block)[0], params)


def unrolled_blocks(config: ModelConfig, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.List[Block]:
    """The blocks one by one.

    Drawn by the same loop as scanned ones: fast math rounds the same draws otherwise in a program
    that holds them one after the other.
    """
    graph, stacked = nnx.split(scanned_blocks(config, dtype, rngs))
    return nnx.List(
        [
            nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked))
            for layer in range(config.n_layers)
        ]
    )


BLOCKS: Mapping[str, Callable[[ModelConfig, jnp.dtype, nnx.Rngs], nnx.List[Block] | Block]] = {
    "unrolled": unrolled_blocks,
    "scanned": scanned_blocks,
}


class Decoder(nnx.Module):
    """Token ids (B, T) to float32 logits (B, T, V).

    How the blocks are run changes no result, only roundings: `scanned` holds their parameters
    stacked along a leading axis and runs one block in a loop, so that the program does not grow
    with depth; `remat` keeps a block's input alone and computes the rest again in the backward
    pass. Initial values are the same numbers either way.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        remat: bool = False,
        layers: Layers = "unrolled",
    ) -> None:
        if layers not in BLOCKS:
            raise ValueError(f"layers = {layers!r} must be one of {', '.join(map(repr, BLOCKS))}")
        self.config = config
        self.dtype = dtype
        self.remat = remat
        V, D = config.vocab_size, config.d_model
        self.embedding = nnx.Param(config.embedding_std * jax.random.normal(rngs.params(), (V, D)))
        self.positions = (
            nnx.Param(
                config.embedding_std * jax.random.normal(rngs.params(), (config.context_length, D))
            )
            if config.positions == "learned"
            else None
        )
        self.blocks = BLOCKS[layers](config, dtype, rngs)
        self.final_norm = NORMS[config.norm](config, D)
        self.head = (
            linear(D, V, std=D**-0.5, bias=False, dtype=dtype, rngs=rngs)
            if config.head == "untied"
            else None
        )

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        B, T = tokens_BxT.shape
        x_NxD = self.looked_up(tokens_BxT)
        if self.positions is not None:
            x_NxD = x_NxD + jnp.tile(self.positions[...][:T].astype(self.dtype), (B, 1))
        logits_NxV = self.logits(self.run_blocks(x_NxD, B))
        return logits_NxV.reshape(B, T, self.config.vocab_size)

    def extend(
        self, tokens_BxT: jax.Array, place: Place, caches: Caches
    ) -> tuple[jax.Array, Caches]:
        """The residual stream (N, D) after all blocks, of tokens that follow those in the caches.

        They join the caches. models/decoder/generate.py is what makes these and the places.
        """
        x_NxD = self.looked_up(tokens_BxT)
        if self.positions is not None:
            table, at_N = self.positions[...].astype(self.dtype), place.positions_BxT.reshape(-1)
            # Padding may stand beyond the table, and a number there would be NaN for others too.
            x_NxD = x_NxD + table.at[at_N].get(mode="clip")
        if isinstance(self.blocks, Block):
            graph, params = nnx.split(self.blocks)

            def run(x_NxD: jax.Array, layer: tuple[nnx.State, Cache]) -> tuple[jax.Array, Cache]:
                return nnx.merge(graph, layer[0]).extend(by_sequence(x_NxD), place, layer[1])

            x_NxD, stacked = jax.lax.scan(run, x_NxD, (params, caches[0]))
            return x_NxD, [stacked]
        extended = []
        for block, cache in zip(self.blocks, caches, strict=True):
            x_NxD, cache = block.extend(by_sequence(x_NxD), place, cache)
            extended.append(cache)
        return x_NxD, extended

    def looked_up(self, tokens_BxT: jax.Array) -> jax.Array:
        """The rows of the embedding, (N, D)."""
        return whole_rows(self.embedding[...].astype(self.dtype))[tokens_BxT.reshape(-1)]

    def logits(self, x_NxD: jax.Array) -> jax.Array:
        """Float32 logits (N, V) of the residual stream after all blocks."""
        x_NxD = by_sequence(self.final_norm(x_NxD))
        if self.head is None:
            logits_NxV = x_NxD @ self.embedding[...].astype(self.dtype).T
        else:
            logits_NxV = self.head(x_NxD)
        return softcap(by_sequence(logits_NxV).astype(jnp.float32), self.config.logit_softcap)

    def run_blocks(self, x_NxD: jax.Array, batch: int) -> jax.Array:
        """The residual stream after all blocks."""
        first = self.blocks if isinstance(self.blocks, Block) else self.blocks[0]
        graph, _ = nnx.split(first)

        def run(x_NxD: jax.Array, params: nnx.State) -> tuple[jax.Array, None]:
            return nnx.merge(graph, params)(by_sequence(x_NxD), batch), None

        if isinstance(self.blocks, Block):
            # A loop by itself keeps the compiler from merging the second computation with the
            # first, so it needs no barriers against that.
            body = jax.checkpoint(run, prevent_cse=False) if self.remat else run
            return jax.lax.scan(body, x_NxD, nnx.state(self.blocks))[0]
        body = jax.checkpoint(run) if self.remat else run
        for block in self.blocks:
            x_NxD, _ = body(x_NxD, nnx.state(block))
        return x_NxD


def cross_entropy(logits_BxTxV: jax.Array, targets_BxT: jax.Array) -> jax.Array:
    """Negative log-likelihood of each target, nats, shape (B, T), float32."""
    log_normaliser_BxT = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    chosen_BxT = jnp.take_along_axis(logits_BxTxV, targets_BxT[..., None], axis=-1)[..., 0]
    return log_normaliser_BxT - chosen_BxT
