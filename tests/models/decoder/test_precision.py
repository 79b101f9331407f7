"""Bfloat16 costs gradients its own roundings and no more, whatever text a batch holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.decoder.config import ModelConfig
from models.decoder.model import Decoder

FREQUENT = 3
RANDOM = np.random.default_rng(0)
TOKENS = jnp.asarray(
    np.where(RANDOM.random((32, 25)) < 2 / 3, FREQUENT, RANDOM.integers(0, 40, (32, 25)))
)


def gradients(config: ModelConfig, **options: Any) -> dict[str, np.ndarray]:
    graph, params = nnx.split(Decoder(config, rngs=nnx.Rngs(0), **options))

    def loss(params: Any) -> jax.Array:
        return jnp.mean(nnx.merge(graph, params).losses(TOKENS[:, :-1], TOKENS[:, 1:])[0])

    grads = jax.jit(jax.grad(loss))(params)
    return {
        jax.tree_util.keystr(path): np.asarray(leaf, float)
        for path, leaf in jax.tree.leaves_with_path(grads)
    }


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    "fields",
    [{"dialect": "llama", "n_kv_heads": 2}, {"dialect": "gpt2", "logit_softcap": 20.0}],
    ids=["llama", "gpt2"],
)
def test_gradients_in_bfloat16_are_within_2_percent_of_float32_array_by_array(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any]
) -> None:
    """The relative norm of the difference, of each array, on text of which two thirds is one token.

    That token's row of the embedding too, which sums over 500 places.
    """
    config = tiny(**fields)
    exact = gradients(config)
    in_blocks = gradients(config, dtype=jnp.bfloat16, loss="chunked")
    for name, grad in exact.items():
        if "'k'" in name and "bias" in name:
            continue  # a softmax knows nothing of it: its gradient is 0 but for roundings
        assert distance(in_blocks[name], grad) < 0.02, name
    (embedding,) = (name for name in exact if "embedding" in name)
    assert distance(in_blocks[embedding][FREQUENT], exact[embedding][FREQUENT]) < 0.02
