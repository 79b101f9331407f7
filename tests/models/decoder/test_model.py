"""The decoder computes what the papers say, in the precision that it promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx

from models.decoder.attention import rotate
from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.losses import cross_entropy

FORWARD = nnx.jit(Decoder.__call__)
TOKENS = np.random.default_rng(0).integers(0, 40, (2, 16))


def randomised(config: ModelConfig, dtype: Any = jnp.float32) -> tuple[Any, dict[str, Any]]:
    """A decoder whose every parameter, biases and norms too, is a random number; and these."""
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), dtype=dtype))
    )
    random = np.random.default_rng(1)
    state = jax.tree.map(lambda leaf: jnp.float32(0.3 * random.normal(size=leaf.shape)), shapes)
    return nnx.merge(graph, state), jax.tree.map(np.asarray, nnx.to_pure_dict(state))


def logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(FORWARD(model, jnp.asarray(tokens)))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def reference(config: ModelConfig, weights: dict[str, Any], tokens: np.ndarray) -> np.ndarray:
    """Logits of one sequence in float64, position by position and head by head."""
    c, T = config, len(tokens)

    def linear(x: np.ndarray, w: dict[str, Any]) -> np.ndarray:
        return x @ w["kernel"].astype(float) + np.asarray(w.get("bias", 0.0), float)

    def rms(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.norm_epsilon)

    def norm(x: np.ndarray, w: dict[str, Any]) -> np.ndarray:
        if c.norm == "rms":
            y = rms(x)
        else:
            y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + c.norm_epsilon)
        return y * w["scale"] + w.get("bias", 0.0)

    def turned(vector: np.ndarray, position: int) -> np.ndarray:
        """Each pair (i, i + K/2) of the leading K turned by position·theta^(-2i/K), as complex."""
        K = int(c.head_dim * c.rotary_fraction)
        angle = position * c.rope_theta ** (-2 * np.arange(K // 2) / K)
        pairs = (vector[: K // 2] + 1j * vector[K // 2 : K]) * np.exp(1j * angle)
        return np.concatenate([pairs.real, pairs.imag, vector[K:]])

    def sinusoid(position: int, column: int) -> float:
        angle = position / 10000 ** (column // 2 * 2 / c.d_model)
        return math.cos(angle) if column % 2 else math.sin(angle)

    def capped(x: np.ndarray, cap: float | None) -> np.ndarray:
        return x if cap is None else cap * np.tanh(x / cap)

    def attention(x: np.ndarray, w: dict[str, Any]) -> np.ndarray:
        q, k, v = (linear(x, w[name]).reshape(T, -1, c.head_dim) for name in "qkv")
        out = np.zeros((T, c.n_heads, c.head_dim))
        for h in range(c.n_heads):
            g = h * c.n_kv_heads // c.n_heads
            qs, ks = q[:, h], k[:, g]
            if c.qk_norm:
                qs, ks = rms(qs) * w["q_norm"]["scale"], rms(ks) * w["k_norm"]["scale"]
            if c.positions == "rotary":
                qs = np.stack([turned(qs[t], t) for t in range(T)])
                ks = np.stack([turned(ks[t], t) for t in range(T)])
            for t in range(T):
                seen = slice(max(0, t + 1 - (c.attention_window or T)), t + 1)
                scores = capped(qs[t] @ ks[seen].T / np.sqrt(c.head_dim), c.attention_softcap)
                out[t, h] = softmax(scores) @ v[seen, g]
        return linear(out.reshape(T, -1), w["out"])

    def mlp(x: np.ndarray, w: dict[str, Any]) -> np.ndarray:
        up = linear(x, w["up"])
        if c.mlp == "swiglu":
            gate = linear(x, w["gate"])
            return linear(gate / (1 + np.exp(-gate)) * up, w["down"])
        hidden = {
            "gelu": 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))),
            "gelu_exact": up * scipy.stats.norm.cdf(up),
            "relu2": np.where(up > 0, up * up, 0.0),
        }[c.mlp]
        return linear(hidden, w["down"])

    x = weights["embedding"][tokens].astype(float)
    if c.positions == "learned":
        x = x + weights["positions"][:T]
    if c.positions == "sinusoidal":
        x = x + [[c.embedding_std * sinusoid(t, d) for d in range(c.d_model)] for t in range(T)]
    for index in range(c.n_layers):
        block = weights["blocks"][index]
        if c.norm_placement == "post":
            x = norm(x + attention(x, block["attention"]), block["attention_norm"])
            x = norm(x + mlp(x, block["mlp"]), block["mlp_norm"])
            continue
        y = x + attention(norm(x, block["attention_norm"]), block["attention"])
        x = y + mlp(norm(x if c.parallel else y, block["mlp_norm"]), block["mlp"])
    if c.norm_placement == "pre":
        x = norm(x, weights["final_norm"])
    head = weights["embedding"].T if c.head == "tied" else weights["head"]["kernel"]
    return capped(x @ head, c.logit_softcap)


@pytest.mark.parametrize(
    "fields",
    [
        {"dialect": "llama", "n_kv_heads": 2},
        {"dialect": "gpt2"},
        {"dialect": "llama", "n_kv_heads": 1, "biases": True, "norm": "layer", "positions": "none"},
        {"dialect": "llama", "attention_window": 5, "qk_norm": True, "n_kv_heads": 2},
        {"dialect": "llama", "attention_softcap": 0.7, "logit_softcap": 1.5, "mlp": "relu2"},
        {"dialect": "gpt2", "parallel": True, "mlp": "gelu_exact", "attention_window": 1},
        {"dialect": "llama", "rotary_fraction": 1 / 3, "qk_norm": True, "parallel": True},
        {"dialect": "gpt2", "norm_placement": "post", "dropout": 0.1},
        {"dialect": "llama", "positions": "sinusoidal", "norm_placement": "post", "n_kv_heads": 2},
        {"dialect": "gpt2", "positions": "sinusoidal", "embedding_std": 0.3, "head": "untied"},
    ],
    ids=str,
)
def test_logits_equal_those_of_the_formulas_in_float64(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any]
) -> None:
    config = tiny(**fields)
    model, weights = randomised(config)
    expected = np.stack([reference(config, weights, sequence) for sequence in TOKENS])
    # Float32 keeps 7 digits; logits of a few units pass through two blocks.
    np.testing.assert_allclose(logits(model, TOKENS), expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dialect", ["llama", "gpt2"])
def test_a_token_changes_no_logit_before_it_and_every_one_from_it_on(
    tiny: Callable[..., ModelConfig], dialect: str
) -> None:
    model, _ = randomised(tiny(dialect))
    changed = TOKENS.copy()
    changed[:, 9] = (changed[:, 9] + 1) % 40
    differs = np.any(logits(model, TOKENS) != logits(model, changed), axis=(0, 2))
    assert not differs[:9].any()
    assert differs[9:].all()


def test_a_token_leaves_the_window_of_one_block_after_as_many_positions(
    tiny: Callable[..., ModelConfig],
) -> None:
    model, _ = randomised(tiny(n_layers=1, attention_window=3))
    changed = TOKENS.copy()
    changed[:, 4] = (changed[:, 4] + 1) % 40
    differs = np.any(logits(model, TOKENS) != logits(model, changed), axis=(0, 2))
    assert list(np.flatnonzero(differs)) == [4, 5, 6]


def test_a_window_as_long_as_the_sequence_changes_nothing(
    tiny: Callable[..., ModelConfig],
) -> None:
    whole, limited = (
        logits(randomised(tiny(attention_window=window))[0], TOKENS) for window in (None, 16)
    )
    np.testing.assert_array_equal(whole, limited)


def test_capped_logits_stay_below_the_cap(tiny: Callable[..., ModelConfig]) -> None:
    plain, capped = (logits(randomised(tiny(logit_softcap=cap))[0], TOKENS) for cap in (None, 0.5))
    assert np.abs(plain).max() > 1
    assert 0.4 < np.abs(capped).max() <= 0.5
    assert (np.sign(plain) == np.sign(capped)).all()


def test_rotary_products_depend_on_relative_positions_alone() -> None:
    random = np.random.default_rng(2)
    q, k = (np.broadcast_to(random.normal(size=8).astype("f4"), (1, 16, 1, 8)) for _ in "qk")
    turned_q, turned_k = (rotate(jnp.asarray(x), 100.0)[0, :, 0] for x in (q, k))
    scores = np.asarray(turned_q @ turned_k.T)
    for distance in range(-15, 16):
        diagonal = np.diagonal(scores, distance)
        # Products of unit-size vectors in float32: a few roundings of 1e-7 each.
        np.testing.assert_allclose(diagonal, diagonal[0], atol=5e-6)
    assert np.ptp(scores[0]) > 0.1


def test_without_positions_the_order_of_the_past_is_invisible(
    tiny: Callable[..., ModelConfig],
) -> None:
    model, _ = randomised(tiny(n_layers=1, positions="none"))
    shuffled = TOKENS.copy()
    shuffled[:, :8] = shuffled[:, 7::-1]
    last = [logits(model, tokens)[:, -1] for tokens in (TOKENS, shuffled)]
    np.testing.assert_allclose(*last, rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_float32_logits_softmax_and_parameters(
    tiny: Callable[..., ModelConfig],
) -> None:
    model, _ = randomised(tiny(), jnp.bfloat16)
    jaxpr = str(jax.make_jaxpr(model)(jnp.asarray(TOKENS)))
    assert model(jnp.asarray(TOKENS)).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(nnx.state(model))} == {jnp.dtype("float32")}
    softmaxes = [line for line in jaxpr.splitlines() if "= exp " in line]
    assert softmaxes and all("f32" in line for line in softmaxes if "[2,4,16,16]" in line)
    statistics = [line for line in jaxpr.splitlines() if "= rsqrt " in line]
    assert len(statistics) == 5 and all("f32" in line for line in statistics)


def test_bfloat16_logits_are_those_of_float32_to_its_own_precision(
    tiny: Callable[..., ModelConfig],
) -> None:
    config = tiny(n_layers=1)
    exact, coarse = (
        logits(randomised(config, dtype)[0], TOKENS) for dtype in (jnp.float32, jnp.bfloat16)
    )
    # 8 bits of mantissa: 0.4% an operation, a dozen operations deep.
    assert np.abs(coarse - exact).max() < 0.05 * np.abs(exact).max()


def test_cross_entropy_is_minus_the_log_probability_of_the_target() -> None:
    logits = np.random.default_rng(3).normal(size=(2, 3, 5)).astype("f4")
    targets = np.array([[0, 4, 2], [1, 1, 3]])
    expected = -np.log(np.take_along_axis(softmax(logits), targets[..., None], -1)[..., 0])
    np.testing.assert_allclose(cross_entropy(logits, targets), expected, rtol=1e-5)


def test_equal_logits_cost_the_log_of_the_vocabulary() -> None:
    losses = cross_entropy(jnp.full((1, 2, 256), 50.0), jnp.array([[0, 255]]))
    np.testing.assert_allclose(losses, np.log(256), rtol=1e-6)
