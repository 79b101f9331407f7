"""Text from the cache is the text that reading everything again gives."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.decoder.config import ModelConfig
from models.decoder.generate import extend, generate, log_likelihoods, prefill, slot_positions
from models.decoder.model import Decoder

TEXT = np.random.default_rng(0).integers(0, 40, (3, 14))
LENGTHS = np.array([5, 2, 7])  # of the prompts in TEXT; up to column P the rest is padding
P, NEW = 7, 7
KEY = jax.random.key(0)
FORWARD = nnx.jit(Decoder.__call__)

# Every option that positions, attention or the cache have to do with, in few programs; and the
# dialects of test_decoder.py.
OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {
        **{"n_kv_heads": 2, "qk_norm": True, "biases": True, "rotary_fraction": 1 / 3},
        **{"attention_softcap": 0.7, "logit_softcap": 1.5},
    },
    "gpt2": {
        **{"dialect": "gpt2", "attention_window": 3, "n_kv_heads": 1, "parallel": True},
        **{"mlp": "gelu_exact", "layers": "scanned"},
    },
    "gpt1": {
        **{"dialect": "gpt2", "norm_placement": "post", "dropout": 0.5, "layers": "scanned"},
        **{"positions": "sinusoidal", "embedding_std": 0.3},
    },
}
MORE: dict[str, dict[str, Any]] = {
    "grouped": {"n_kv_heads": 2},
    "nowhere": {"n_kv_heads": 1, "biases": True, "norm": "layer", "positions": "none"},
    "window": {"attention_window": 5, "qk_norm": True, "n_kv_heads": 2},
    "capped": {"attention_softcap": 0.7, "logit_softcap": 1.5, "mlp": "relu2"},
    "short": {"dialect": "gpt2", "parallel": True, "mlp": "gelu_exact", "attention_window": 1},
    "partly": {"rotary_fraction": 1 / 3, "qk_norm": True, "parallel": True},
    "plain gpt1": {"dialect": "gpt2", "norm_placement": "post", "dropout": 0.1},
    "sinusoidal": {"positions": "sinusoidal", "attention_window": 3, "n_kv_heads": 2},
    "plain gpt2": {"dialect": "gpt2"},
    "scanned": {"attention_window": 3, "n_kv_heads": 1, "layers": "scanned"},
}


@pytest.fixture(scope="module")
def decoder(tiny: Callable[..., ModelConfig]) -> Callable[..., Any]:
    """A decoder whose every parameter is a random number, none of them small."""

    @cache
    def make(name: str, dtype: Any = jnp.float32) -> Any:
        options = dict({**OPTIONS, **MORE}[name])
        how: dict[str, Any] = {"layers": options.pop("layers", "unrolled"), "dtype": dtype}
        config = tiny(**options)
        graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), **how)))
        random = np.random.default_rng(1)
        return nnx.merge(
            graph,
            jax.tree.map(lambda leaf: jnp.float32(0.3 * random.normal(size=leaf.shape)), shapes),
        )

    return make


class Opaque(nnx.Module):
    """A model of another package, of which nothing is known but what it computes."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def __call__(self, tokens_BxT: jax.Array) -> jax.Array:
        return self.decoder(tokens_BxT)


def greedy(model: Any, prompts: np.ndarray = TEXT[:, :P]) -> np.ndarray:
    return np.asarray(generate(model, prompts, LENGTHS, new_tokens=NEW, temperature=0, key=KEY))


def read_again(model: Any, prompts: np.ndarray, continued: np.ndarray) -> np.ndarray:
    """Logits (B, S, V) of every continued token, each row read from its start without a cache."""
    whole = np.zeros((len(prompts), P + NEW), int)
    for row, (prompt, new, length) in enumerate(zip(prompts, continued, LENGTHS, strict=True)):
        whole[row, : length + NEW] = [*prompt[:length], *new]
    logits = np.asarray(FORWARD(model, jnp.asarray(whole)))
    before = LENGTHS[:, None] + np.arange(NEW) - 1
    return np.take_along_axis(logits, before[..., None], axis=1)


@jax.jit
def from_cache(model: Any, prompts: jax.Array, continued: jax.Array) -> jax.Array:
    """The same from the cache."""
    at = slot_positions(jnp.asarray(LENGTHS), P, NEW - 1)
    first, caches = prefill(model, prompts, jnp.asarray(LENGTHS), at)

    def step(caches: Any, inputs: Any) -> Any:
        logits, caches = extend(model, *inputs, at, caches)
        return caches, logits

    tokens = (continued[:, :-1].T, P + jnp.arange(NEW - 1))
    return jnp.concatenate([first[None], jax.lax.scan(step, caches, tokens)[1]]).swapaxes(0, 1)


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in MORE]


@pytest.mark.parametrize("name", [*OPTIONS, *SLOW])
def test_logits_from_the_cache_are_those_of_reading_everything_again(
    decoder: Callable[..., Any], name: str
) -> None:
    model, prompts, continued = decoder(name), TEXT[:, :P], TEXT[:, P:]
    found = from_cache(model, prompts, continued)
    # Float32 keeps 7 digits; logits of a few units pass through two blocks.
    np.testing.assert_allclose(
        found, read_again(model, prompts, continued), **{"rtol": 2e-5, "atol": 2e-5}
    )


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt1", *SLOW, pytest.param("llama", marks=pytest.mark.slow)]
)
def test_greedy_text_is_the_likeliest_after_reading_everything_again(
    decoder: Callable[..., Any], name: str
) -> None:
    model = decoder(name)
    tokens = greedy(model)
    np.testing.assert_array_equal(tokens, read_again(model, TEXT[:, :P], tokens).argmax(-1))


def test_a_model_of_another_package_gives_the_same_text_without_a_cache(
    decoder: Callable[..., Any],
) -> None:
    model = decoder("gpt2")
    np.testing.assert_array_equal(greedy(Opaque(model)), greedy(model))


def test_a_model_of_another_package_reads_no_more_than_its_context(
    decoder: Callable[..., Any],
) -> None:
    model = decoder("gpt2")  # has a table of 24 positions
    more = np.pad(TEXT[:, :P], ((0, 0), (0, 30)))
    how = {"temperature": 0.0, "key": KEY, "context_length": 24}
    found = generate(Opaque(model), more, LENGTHS, new_tokens=NEW, **how)
    np.testing.assert_array_equal(found, greedy(model))
    with pytest.raises(ValueError, match="7 tokens and 19 new ones do not fit in context_length"):
        generate(Opaque(model), more, LENGTHS, new_tokens=19, **how)


def test_what_stands_in_the_padding_and_how_much_of_it_changes_nothing(
    decoder: Callable[..., Any],
) -> None:
    model = decoder("gpt2")
    other = np.where(np.arange(P)[None] < LENGTHS[:, None], TEXT[:, :P], 39 - TEXT[:, :P])
    more = np.pad(other, ((0, 0), (0, 30)))  # beyond the table of positions
    np.testing.assert_array_equal(greedy(model, prompts=other), greedy(model))
    np.testing.assert_array_equal(greedy(model, prompts=more), greedy(model))


def test_bfloat16_is_cached_as_it_is_computed(decoder: Callable[..., Any]) -> None:
    model = decoder("llama", jnp.bfloat16)
    at = slot_positions(jnp.asarray(LENGTHS), P, NEW)
    logits, caches = jax.eval_shape(prefill, model, TEXT[:, :P], jnp.asarray(LENGTHS), at)
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(caches)} == {jnp.dtype("bfloat16")}


def draw(model: Any, rows: int, temperature: float, seed: int = 0) -> np.ndarray:
    """Two tokens after a prompt, a row each time."""
    prompts, lengths = np.repeat(TEXT[:1, :5], rows, axis=0), np.full(rows, 5)
    how = {"new_tokens": 2, "temperature": temperature, "key": jax.random.key(seed)}
    return np.asarray(generate(model, prompts, lengths, **how))


def test_draws_follow_the_softmax_over_the_temperature_and_depend_on_key_row_and_step(
    decoder: Callable[..., Any],
) -> None:
    model, rows = decoder("gpt2"), 400
    drawn = np.stack([draw(model, rows, 3.0, seed) for seed in range(5)])
    logits = np.asarray(FORWARD(model, jnp.asarray(TEXT)))[0, 4].astype(float) / 3
    expected = drawn[..., 0].size * np.exp(logits) / np.exp(logits).sum()
    counts = np.bincount(drawn[..., 0].ravel(), minlength=40)
    # Chi-square over 40 tokens, 39 degrees of freedom: above 72.1 one time in a thousand.
    assert expected.min() > 1 and ((counts - expected) ** 2 / expected).sum() < 72.1
    np.testing.assert_array_equal(drawn[0], draw(model, rows, 3.0))
    assert (drawn[0] != drawn[1]).mean() > 0.5
    assert (drawn[0, :, 0] != drawn[0, :, 1]).mean() > 0.5
    assert (draw(model, rows, 1e-4)[:, 0] == logits.argmax()).all()


@pytest.mark.slow
def test_draws_of_a_row_do_not_depend_on_how_many_others_there_are(
    decoder: Callable[..., Any],
) -> None:
    model = decoder("gpt2")
    np.testing.assert_array_equal(draw(model, 400, 1.0)[:3], draw(model, 3, 1.0))


def test_log_likelihoods_are_those_of_the_softmax(decoder: Callable[..., Any]) -> None:
    model = decoder("gpt2")
    logits = np.asarray(FORWARD(model, jnp.asarray(TEXT)), float)[:, :-1]
    found = log_likelihoods(FORWARD(model, jnp.asarray(TEXT[:, :-1])), jnp.asarray(TEXT))
    likelihoods, likeliest = map(np.asarray, found)
    expected = np.log(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True))
    chosen = np.take_along_axis(expected, TEXT[:, 1:, None], axis=-1)[..., 0]
    np.testing.assert_allclose(likelihoods, chosen, rtol=1e-4)
    np.testing.assert_array_equal(likeliest, chosen == expected.max(-1))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"new_tokens": 19}, "7 tokens and 19 new ones do not fit in context_length = 24"),
        ({"new_tokens": 0}, "new_tokens = 0 must be at least 1"),
        ({"temperature": -1.0}, "temperature = -1.0 must be finite"),
        ({"temperature": float("nan")}, "temperature = nan must be finite"),
        ({"lengths_B": np.array([0, 1, 2])}, "lengths from 0 to 2 must be from 1 to the 7 columns"),
        ({"lengths_B": np.array([1, 8, 2])}, "lengths from 1 to 8"),
        ({"lengths_B": np.array([1, 2])}, r"shape \(3, 7\) and lengths of shape \(2,\)"),
    ],
)
def test_what_cannot_be_generated_is_refused(
    decoder: Callable[..., Any], changes: dict[str, Any], words: str
) -> None:
    asked: dict[str, Any] = {"lengths_B": LENGTHS, "new_tokens": 18, "temperature": 0.0}
    with pytest.raises(ValueError, match=words):
        generate(decoder("gpt2"), TEXT[:, :P], key=KEY, **{**asked, **changes})
