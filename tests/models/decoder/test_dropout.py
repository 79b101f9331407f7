"""Dropout drops the share that it says, where it says, and only in training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.decoder.attention_kernels import over
from models.decoder.config import ModelConfig
from models.decoder.layers import dropped
from models.decoder.model import Decoder

RATE = 0.25
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 40, (4, 16)))
KEYS = jax.random.split(jax.random.key(0), len(TOKENS))
Tiny = Callable[..., ModelConfig]


def decoder(config: ModelConfig, **replaced: float) -> Any:
    """A decoder whose parameters are random numbers, but where a part's are replaced by one."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(1)

    def value(path: Any, leaf: Any) -> jax.Array:
        names = jax.tree_util.keystr(path, simple=True, separator="/")
        for part, number in replaced.items():
            if part in names:
                return jnp.full(leaf.shape, number)
        return jnp.float32(0.3 * random.normal(size=leaf.shape))

    return nnx.merge(graph, jax.tree.map_with_path(value, shapes))


def share(zero: Any, of: int) -> None:
    """Asserts that as many are zero as the rate says: within five standard deviations."""
    assert abs(np.sum(zero) - RATE * of) < 5 * np.sqrt(of * RATE * (1 - RATE))


def test_a_share_is_zero_and_the_rest_is_larger_so_that_the_mean_stays() -> None:
    found = np.asarray(dropped(jnp.ones((4 * 100, 50)), KEYS, RATE))
    assert set(np.unique(found)) == {np.float32(0), np.float32(1 / (1 - RATE))}
    for sequence in np.split(found, 4):
        share(sequence == 0, sequence.size)
    rows = found.reshape(4, -1)
    agree = (rows[:, None] == rows[None]).mean(-1)[~np.eye(4, dtype=bool)]
    assert np.abs(agree - (RATE**2 + (1 - RATE) ** 2)).max() < 0.05  # of independent draws


def test_embeddings_are_dropped_with_their_positions(tiny: Tiny) -> None:
    config = tiny("gpt2", dropout=RATE, biases=False)
    x_NxD, _ = decoder(config, kernel=0.0).residual(TOKENS, keys_B=KEYS)
    share(x_NxD == 0, x_NxD.size)


@pytest.mark.parametrize("part", ["attention", "mlp"])
def test_what_a_part_adds_is_dropped(tiny: Tiny, part: str) -> None:
    config = tiny("gpt2", dropout=RATE, n_layers=1)
    nothing = {"embedding": 0.0, "positions": 0.0, "kernel": 0.0}
    other = {"attention": "mlp/down/bias", "mlp": "attention/out/bias"}[part]
    x_NxD, _ = decoder(config, **nothing, **{other: 0.0}).residual(TOKENS, keys_B=KEYS)
    share(x_NxD == 0, x_NxD.size)


def test_attention_probabilities_are_dropped_before_they_weigh_the_values(tiny: Tiny) -> None:
    B, T, H, K = 4, 6, 4, 6
    q_BxTxHxK, k_BxHxTxK = jnp.zeros((B, T, H, K)), jnp.zeros((B, H, T, K))
    v_BxHxTxK = jnp.broadcast_to(jnp.eye(K), (B, H, T, K))  # what is mixed are the probabilities
    seen_1xTxT = jnp.ones((1, T, T), bool)
    mixed = over(q_BxTxHxK, k_BxHxTxK, v_BxHxTxK, seen_1xTxT, tiny(dropout=RATE), KEYS)
    probs = np.asarray(mixed)
    # Each query sees six keys alike.
    np.testing.assert_allclose(np.unique(probs.round(6)), [0, 1 / 6 / (1 - RATE)], atol=1e-5)
    share(probs == 0, probs.size)


def test_without_keys_nothing_is_dropped(tiny: Tiny) -> None:
    plain, trained = (decoder(tiny("gpt2", dropout=rate))(TOKENS) for rate in (0.0, RATE))
    np.testing.assert_array_equal(plain, trained)


def test_what_a_sequence_loses_is_a_function_of_its_own_key(tiny: Tiny) -> None:
    model, forward = decoder(tiny(dropout=RATE)), nnx.jit(Decoder.__call__)
    order = np.array([2, 0, 3, 1])
    logits = np.asarray(forward(model, TOKENS, KEYS))
    shuffled = np.asarray(forward(model, TOKENS[order], KEYS[order]))
    np.testing.assert_allclose(logits[order], shuffled, rtol=1e-5, atol=1e-5)
    same_tokens = np.asarray(forward(model, jnp.tile(TOKENS[:1], (4, 1)), KEYS))
    assert np.abs(same_tokens[1:] - same_tokens[:1]).max(axis=(1, 2)).min() > 0.1


def test_layers_and_their_parts_do_not_lose_the_same_numbers(tiny: Tiny) -> None:
    config = tiny("gpt2", dropout=RATE, n_layers=2)
    silent = {"embedding": 0.0, "positions": 0.0, "kernel": 0.0}
    found = []
    for layer in range(2):
        for part in ("attention/out", "mlp/down"):
            others = {f"blocks/{1 - layer}": 0.0, f"{part}/bias": 1.0, "bias": 0.0}
            x_NxD, _ = decoder(config, **silent, **others).residual(TOKENS, keys_B=KEYS)
            found.append(np.asarray(x_NxD == 0).ravel())
    agree = (np.stack(found)[:, None] == np.stack(found)[None]).mean(-1)[~np.eye(4, dtype=bool)]
    assert np.abs(agree - (RATE**2 + (1 - RATE) ** 2)).max() < 0.08
