"""One decoder-only transformer, whatever the dialect.

Shapes are part of the names: B batch, T positions, N = B·T, D model width, H query heads,
G key-value heads, R = H/G queries per key-value head, K head_dim, F hidden width, V vocabulary.

Written for compilers: activations are flat (N, D) before every matrix product, so that each is
one large `dot_general`; heads are (B, T, H, K), of which attention_kernels.py makes what suits a
platform. Softmax and the statistics of the norms are float32 whatever the compute dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from models.architecture import Attention, Layers, LossForm, Remat
from models.decoder.attention import Cache, Place
from models.decoder.block import Block
from models.decoder.config import ModelConfig
from models.decoder.layers import NORMS, dropped, folded, linear, sinusoids
from models.decoder.remat import rematerialised
from models.lookup import looked_up
from models.losses import chunked_losses, softcap, token_losses
from models.output import Losses
from models.products import product
from models.sharding import by_sequence

# One a layer; of scanned layers one alone, whose arrays have a leading axis, the layer. None where
# nothing is kept.
Caches = list[Cache] | Cache | None


def scanned_blocks(
    config: ModelConfig, dtype: jnp.dtype, attention: Attention, rngs: nnx.Rngs
) -> Block:
    """One block whose every parameter has a leading axis, the layer; drawn as if one by one."""
    streams, counts = nnx.split(rngs)

    def draw(counts: nnx.State, _: None) -> tuple[nnx.State, nnx.State]:
        rngs = nnx.merge(streams, counts)
        params = nnx.state(Block(config, dtype=dtype, attention=attention, rngs=rngs))
        return nnx.state(rngs), params

    counts, params = jax.lax.scan(draw, counts, length=config.n_layers)
    nnx.update(rngs, counts)
    block = nnx.eval_shape(
        lambda: Block(config, dtype=dtype, attention=attention, rngs=nnx.Rngs(0))
    )
    return nnx.merge(nnx.split(block)[0], params)


def unrolled_blocks(
    config: ModelConfig, dtype: jnp.dtype, attention: Attention, rngs: nnx.Rngs
) -> nnx.List[Block]:
    """The blocks one by one.

    Drawn by the same loop as scanned ones: fast math rounds the same draws otherwise in a program
    that holds them one after the other.
    """
    graph, stacked = nnx.split(scanned_blocks(config, dtype, attention, rngs))
    return nnx.List(
        [
            nnx.merge(graph, jax.tree.map(lambda leaf, layer=layer: leaf[layer], stacked))
            for layer in range(config.n_layers)
        ]
    )


BLOCKS: Mapping[
    str, Callable[[ModelConfig, jnp.dtype, Attention, nnx.Rngs], nnx.List[Block] | Block]
] = {
    "unrolled": unrolled_blocks,
    "scanned": scanned_blocks,
}


class Layer(NamedTuple):
    """What a block is run with, of one layer or of all along a leading axis."""

    params: nnx.State
    cache: Cache | None
    keys_B: jax.Array | None


class HeadKernel(NamedTuple):
    """The matrix that makes logits: (D, V), or the embedding (V, D)."""

    kernel: jax.Array
    side: int  # its axis D


class Decoder(nnx.Module):
    """Token ids (B, T) to float32 logits (B, T, V).

    How the blocks are run changes no result, only roundings: `scanned` holds their parameters
    stacked along a leading axis and runs one block in a loop, so that the program does not grow
    with depth; `remat` says what of a block is kept for the backward pass, which computes the rest
    again (models/decoder/remat.py); `loss` whether logits exist all at once or in blocks of rows.
    Initial values are the same numbers either way.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        rngs: nnx.Rngs,
        dtype: jnp.dtype = jnp.float32,
        remat: Remat = "none",
        layers: Layers = "unrolled",
        attention: Attention = "plain",
        loss: LossForm = "whole",
    ) -> None:
        if layers not in BLOCKS:
            raise ValueError(f"layers = {layers!r} must be one of {', '.join(map(repr, BLOCKS))}")
        self.config = config
        self.dtype = dtype
        self.remat = remat
        self.loss = loss
        V, D = config.vocab_size, config.d_model
        self.embedding = nnx.Param(config.embedding_std * jax.random.normal(rngs.params(), (V, D)))
        self.positions = (
            nnx.Param(
                config.embedding_std * jax.random.normal(rngs.params(), (config.context_length, D))
            )
            if config.positions == "learned"
            else None
        )
        self.blocks = BLOCKS[layers](config, dtype, attention, rngs)
        # The last block of a post-norm decoder ends with a norm.
        self.final_norm = NORMS[config.norm](config, D) if config.norm_placement == "pre" else None
        self.head = (
            linear(D, V, std=config.head_std, bias=False, dtype=dtype, rngs=rngs)
            if config.head == "untied"
            else None
        )

    def __call__(self, tokens_BxT: jax.Array, keys_B: jax.Array | None = None) -> jax.Array:
        """Logits. Keys, one a sequence, are given in training: they say what dropout drops."""
        B, T = tokens_BxT.shape
        x_NxD, _ = self.residual(tokens_BxT, keys_B=keys_B)
        return self.logits(x_NxD).reshape(B, T, self.config.vocab_size)

    def residual(
        self,
        tokens_BxT: jax.Array,
        place: Place | None = None,
        caches: Caches = None,
        keys_B: jax.Array | None = None,
    ) -> tuple[jax.Array, Caches]:
        """The residual stream (N, D) after all blocks, and the caches that the tokens joined.

        Without a place and caches, the tokens are whole sequences from their first position on.
        models/decoder/generate.py is what makes places and caches.
        """
        # Float32 up to one cast, so that gradients of both tables are sums of float32 numbers.
        rows_NxD = looked_up(self.embedding[...], tokens_BxT.reshape(-1))
        x_NxD = self.placed(rows_NxD, tokens_BxT.shape[0], place).astype(self.dtype)
        x_NxD = dropped(x_NxD, folded(keys_B, 0), self.config.dropout)
        return self.run_blocks(x_NxD, tokens_BxT.shape[0], place, caches, keys_B)

    def placed(self, x_NxD: jax.Array, batch: int, place: Place | None) -> jax.Array:
        """Embeddings with what their positions add to them."""
        if self.config.positions not in ("learned", "sinusoidal"):
            return x_NxD
        T = x_NxD.shape[0] // batch
        at_M = jnp.arange(T) if place is None else place.positions_BxT.reshape(-1)
        if self.positions is None:
            # As large beside embeddings as in the original, where both are of unit size.
            rows_MxD = self.config.embedding_std * sinusoids(at_M, self.config.d_model)
        elif place is None:
            rows_MxD = self.positions[...][:T]
        else:
            # Padding may stand beyond the table, and a number there would be NaN for others too.
            rows_MxD = self.positions[...].at[at_M].get(mode="clip")
        return x_NxD + (jnp.tile(rows_MxD, (batch, 1)) if place is None else rows_MxD)

    def logits(self, x_NxD: jax.Array) -> jax.Array:
        """Float32 logits (N, V) of the residual stream after all blocks."""
        return softcap(self.uncapped(self.read(x_NxD)), self.config.logit_softcap)

    def losses(
        self, tokens_BxT: jax.Array, targets_BxT: jax.Array, keys_B: jax.Array | None = None
    ) -> Losses:
        """Of each target, after the tokens up to its place."""
        x_NxD, _ = self.residual(tokens_BxT, keys_B=keys_B)
        x_NxD, targets_N, cap = self.read(x_NxD), targets_BxT.reshape(-1), self.config.logit_softcap
        if self.loss == "chunked":
            losses = chunked_losses(x_NxD, *self.head_kernel, targets_N, cap)
        else:
            losses = token_losses(self.uncapped(x_NxD), targets_N, cap)
        cross_entropy_BxT, log_normaliser_BxT = (each.reshape(targets_BxT.shape) for each in losses)
        return Losses(cross_entropy_BxT, log_normaliser_BxT, penalty=0.0)

    def read(self, x_NxD: jax.Array) -> jax.Array:
        """What the head reads of the residual stream."""
        x_NxD = x_NxD if self.final_norm is None else self.final_norm(x_NxD)
        width = self.config.ratios.width
        return by_sequence(x_NxD if width == 1 else x_NxD / width)

    def uncapped(self, x_NxD: jax.Array) -> jax.Array:
        """Float32 logits (N, V) before their soft-cap, if any."""
        return by_sequence(product(x_NxD, *self.head_kernel, jnp.float32))

    @property
    def head_kernel(self) -> HeadKernel:
        if self.head is None:
            return HeadKernel(self.embedding[...], 1)
        return HeadKernel(self.head.kernel[...], 0)

    def run_blocks(
        self,
        x_NxD: jax.Array,
        batch: int,
        place: Place | None,
        caches: Caches,
        keys_B: jax.Array | None,
    ) -> tuple[jax.Array, Caches]:
        """The residual stream after all blocks, and the caches."""
        first = self.blocks if isinstance(self.blocks, Block) else self.blocks[0]
        graph, _ = nnx.split(first)

        def run(x_NxD: jax.Array, layer: Layer) -> tuple[jax.Array, Cache | None]:
            block = nnx.merge(graph, layer.params)
            return block(by_sequence(x_NxD), batch, place, layer.cache, layer.keys_B)

        L = self.config.n_layers
        keys_LxB = None
        if keys_B is not None:  # 0 is the embeddings'
            keys_LxB = jax.vmap(lambda layer: folded(keys_B, 1 + layer))(jnp.arange(L))
        if isinstance(self.blocks, Block):
            assert not isinstance(caches, list)
            body = rematerialised(run, self.remat, looped=True)
            return jax.lax.scan(body, x_NxD, Layer(nnx.state(self.blocks), caches, keys_LxB))
        body = rematerialised(run, self.remat, looped=False)
        kept: list[Any] = []
        for params, cache, layer_keys_B in zip(
            map(nnx.state, self.blocks), each(caches, L), each(keys_LxB, L), strict=True
        ):
            x_NxD, cache = body(x_NxD, Layer(params, cache, layer_keys_B))
            kept.append(cache)
        return x_NxD, None if caches is None else kept


def each(of_layers: Any, n_layers: int) -> list[Any]:
    """What there is of each layer, where there is anything."""
    return [None] * n_layers if of_layers is None else list(of_layers)
