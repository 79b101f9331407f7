"""Text from a model: one pass over the prompts, then one token at a time from a cache.

Prompts are padded on the right. The cache has a slot for every column of the prompts and one for
every new token, which is the same for all rows; at which position a slot's token stands differs
by row, and what a token sees goes by position alone. Padding has a position that nothing sees.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from models.decoder.attention import Cache, Place
from models.decoder.block import Block
from models.decoder.config import ModelConfig
from models.decoder.model import Caches, Decoder
from models.losses import cross_entropy
from models.output import output_of

NOWHERE = jnp.iinfo(jnp.int32).max  # the position of padding, after that of any token


def generate(
    model: nnx.Module,
    prompts_BxP: ArrayLike,
    lengths_B: ArrayLike,
    *,
    new_tokens: int,
    temperature: float,
    key: jax.Array,
    context_length: int | None = None,
) -> jax.Array:
    """The tokens (B, new_tokens), int32, with which a model goes on after its prompts.

    The first lengths_B of a row of `prompts_BxP` are its prompt, whatever follows is padding.
    Temperature 0 takes the likeliest token; above, tokens are drawn from the softmax of the logits
    over the temperature, as a function of the key, the row's number and the step. A model that is
    no Decoder, any module from token ids (B, T) to logits (B, T, V) of which none depends on later
    tokens, reads everything again for every token, and never more columns
    than its `context_length`, if it has one.
    Raises ValueError for a prompt without tokens and for more tokens than the context holds.
    """
    if isinstance(model, Decoder):
        context_length = model.config.context_length
    _check(prompts_BxP, lengths_B, new_tokens, temperature, context_length)
    graph, params = nnx.split(model)
    return _generated(
        params,
        jnp.asarray(prompts_BxP, jnp.int32),
        jnp.asarray(lengths_B, jnp.int32),
        key,
        jnp.float32(temperature),
        graph=graph,
        new_tokens=new_tokens,
        context_length=context_length,
        greedy=temperature == 0,
    )


def log_likelihoods(logits_BxTxV: jax.Array, tokens_BxT1: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Of each token after the first: ln of its probability, (B, T), and whether it is likeliest.

    From the logits of all tokens but the last. Of rows padded on the right, what belongs to the
    padding is to be left out.
    """
    targets_BxT = tokens_BxT1[:, 1:]
    return -cross_entropy(logits_BxTxV, targets_BxT), logits_BxTxV.argmax(-1) == targets_BxT


def slot_positions(lengths_B: jax.Array, prompt_slots: int, new_slots: int) -> jax.Array:
    """Where in its row's sequence the token of each slot of the cache stands, (B, C)."""
    column_1xP = jnp.arange(prompt_slots, dtype=jnp.int32)[None]
    prompt_BxP = jnp.where(column_1xP < lengths_B[:, None], column_1xP, NOWHERE)
    new_BxS = lengths_B[:, None] + jnp.arange(new_slots, dtype=jnp.int32)[None]
    return jnp.concatenate([prompt_BxP, new_BxS], axis=1)


def prefill(
    model: Decoder, prompts_BxP: jax.Array, lengths_B: jax.Array, at_BxC: jax.Array
) -> tuple[jax.Array, Caches]:
    """Logits (B, V) of the token after each prompt, and caches of as many slots as `at_BxC` has."""
    B, P = prompts_BxP.shape
    positions_BxP = jnp.tile(jnp.arange(P, dtype=jnp.int32)[None], (B, 1))
    place = Place(positions_BxP, jnp.int32(0), _seen(model.config, positions_BxP, at_BxC))
    x_NxD, caches = model.residual(prompts_BxP, place, _empty(model, B, at_BxC.shape[1]))
    return model.logits(x_NxD[jnp.arange(B) * P + lengths_B - 1]), caches


def extend(
    model: Decoder, tokens_B: jax.Array, slot: jax.Array, at_BxC: jax.Array, caches: Caches
) -> tuple[jax.Array, Caches]:
    """Logits (B, V) of the token after these, and the caches with these in `slot`."""
    positions_Bx1 = jax.lax.dynamic_slice_in_dim(at_BxC, slot, 1, axis=1)
    place = Place(positions_Bx1, slot, _seen(model.config, positions_Bx1, at_BxC))
    x_NxD, caches = model.residual(tokens_B[:, None], place, caches)
    return model.logits(x_NxD), caches


def _seen(config: ModelConfig, positions_BxT: jax.Array, at_BxC: jax.Array) -> jax.Array:
    """Which slots are seen from these positions, (B, T, C): none after, `window` with its own."""
    from_BxTx1, at_Bx1xC = positions_BxT[..., None], at_BxC[:, None]
    causal_BxTxC = at_Bx1xC <= from_BxTx1
    window = config.attention_window
    return causal_BxTxC if window is None else causal_BxTxC & (at_Bx1xC > from_BxTx1 - window)


def _empty(model: Decoder, B: int, C: int) -> Caches:
    """The caches of a decoder that has read nothing."""
    c, L = model.config, model.config.n_layers

    def cache(*layers: int) -> Cache:
        shape = (*layers, B, c.n_kv_heads, C, c.head_dim)
        return Cache(jnp.zeros(shape, model.dtype), jnp.zeros(shape, model.dtype))

    return cache(L) if isinstance(model.blocks, Block) else [cache() for _ in range(L)]


@partial(jax.jit, static_argnames=("graph", "new_tokens", "context_length", "greedy"))
def _generated(
    params: Any,
    prompts_BxP: jax.Array,
    lengths_B: jax.Array,
    key: jax.Array,
    temperature: jax.Array,
    *,
    graph: Any,
    new_tokens: int,
    context_length: int | None,
    greedy: bool,
) -> jax.Array:
    model = nnx.merge(graph, params)
    B, P = prompts_BxP.shape
    # A key a row, so that what a row draws does not depend on how many others there are.
    keys_B = jax.vmap(partial(jax.random.fold_in, key))(jnp.arange(B))

    def chosen(logits_BxV: jax.Array, step: jax.Array) -> jax.Array:
        if greedy:
            return logits_BxV.argmax(-1).astype(jnp.int32)
        steps = jax.vmap(lambda each: jax.random.fold_in(each, step))(keys_B)
        return jax.vmap(jax.random.categorical)(steps, logits_BxV / temperature).astype(jnp.int32)

    def cached(carry: tuple[jax.Array, Caches], step: jax.Array) -> tuple[Any, jax.Array]:
        tokens_B, caches = carry
        logits_BxV, caches = extend(model, tokens_B, P + step - 1, at_BxC, caches)
        tokens_B = chosen(logits_BxV, step)
        return (tokens_B, caches), tokens_B

    def uncached(text_BxC: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        at_B = lengths_B + step
        logits_BxCxV = output_of(model(text_BxC)).logits
        before_Bx1x1 = (at_B - 1)[:, None, None]
        logits_BxV = jnp.take_along_axis(logits_BxCxV, before_Bx1x1, axis=1)[:, 0]
        tokens_B = chosen(logits_BxV, step)
        column_1xC = jnp.arange(text_BxC.shape[1])[None]
        return jnp.where(column_1xC == at_B[:, None], tokens_B[:, None], text_BxC), tokens_B

    if not isinstance(model, Decoder):
        # What is cut off is padding of every row: the longest fits with what is new.
        text_BxC = jnp.pad(prompts_BxP, ((0, 0), (0, new_tokens - 1)))[:, :context_length]
        return jax.lax.scan(uncached, text_BxC, jnp.arange(new_tokens))[1].T
    at_BxC = slot_positions(lengths_B, P, new_tokens - 1)
    logits_BxV, caches = prefill(model, prompts_BxP, lengths_B, at_BxC)
    first_B = chosen(logits_BxV, jnp.int32(0))
    steps = jnp.arange(1, new_tokens, dtype=jnp.int32)
    rest_SxB = jax.lax.scan(cached, (first_B, caches), steps)[1]
    return jnp.concatenate([first_B[:, None], rest_SxB.T], axis=1)


def _check(
    prompts_BxP: Any,
    lengths_B: Any,
    new_tokens: int,
    temperature: float,
    context_length: int | None,
) -> None:
    """Raises ValueError for what cannot be generated; lengths inside a jit are not looked at."""
    if np.ndim(prompts_BxP) != 2 or np.shape(lengths_B) != np.shape(prompts_BxP)[:1]:
        raise ValueError(
            f"prompts of shape {np.shape(prompts_BxP)} and lengths of shape {np.shape(lengths_B)}: "
            "give (B, P) and (B,)"
        )
    if new_tokens < 1:
        raise ValueError(f"new_tokens = {new_tokens} must be at least 1")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature = {temperature} must be finite, and 0 (greedy) or above")
    slots = np.shape(prompts_BxP)[1]
    longest = slots
    traced = isinstance(lengths_B, jax.core.Tracer)
    # Of several processes none has all lengths.
    if not traced and getattr(lengths_B, "is_fully_addressable", True):
        lengths = np.asarray(lengths_B)
        if lengths.min() < 1 or lengths.max() > slots:
            raise ValueError(
                f"lengths from {lengths.min()} to {lengths.max()} must be from 1 to the "
                f"{slots} columns of the prompts"
            )
        longest = int(lengths.max())
    # The last new token is not read.
    if context_length is not None and longest + new_tokens - 1 > context_length:
        raise ValueError(
            f"a prompt of {longest} tokens and {new_tokens} new ones do not fit in "
            f"context_length = {context_length}; shorten the prompt or ask for fewer"
        )
