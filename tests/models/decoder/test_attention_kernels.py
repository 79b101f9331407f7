"""Every implementation of attention computes the formula, and its gradients, in its precision."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.decoder.attention_kernels import KERNELS, Kernel, rows_of, splash
from models.decoder.config import ModelConfig

Tiny = Callable[..., ModelConfig]
B, K = 2, 8
# T, query heads, key-value heads, window: one position; one block; blocks that divide T and that do
# not; windows of one position, within a block, beyond one, and as long as the sequence.
SHAPES = [
    (1, 2, 2, None),
    (7, 4, 2, 3),
    (255, 2, 1, None),
    (257, 4, 2, None),
    (257, 2, 2, 1),
    (300, 3, 1, 40),
    (300, 3, 1, 100),
    (256, 2, 2, 256),
    (1030, 1, 1, 200),
]


def formula(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, d: np.ndarray, window: int | None
) -> tuple[np.ndarray, ...]:
    """What queries take, and the gradients of its product with d; query by query, in float64."""
    q, k, v, d = (x.astype(float) for x in (q, k, v, d))
    mixed, dq, dk, dv = (np.zeros_like(x) for x in (q, q, k, v))
    for b, t, h in np.ndindex(q.shape[:3]):
        g = h * k.shape[2] // q.shape[2]
        seen = slice(0 if window is None else max(0, t + 1 - window), t + 1)
        keys, values = k[b, seen, g], v[b, seen, g]
        scores = keys @ q[b, t, h] / np.sqrt(q.shape[3])
        probs = np.exp(scores - scores.max())
        probs /= probs.sum()
        mixed[b, t, h] = probs @ values
        dprobs = values @ d[b, t, h]
        dscores = probs * (dprobs - probs @ dprobs) / np.sqrt(q.shape[3])
        dq[b, t, h] = dscores @ keys
        dk[b, seen, g] += np.outer(dscores, q[b, t, h])
        dv[b, seen, g] += np.outer(probs, d[b, t, h])
    return mixed, dq, dk, dv


def drawn(T: int, H: int, G: int, scale: float = 1.0) -> list[np.ndarray]:
    """Queries, keys, values, and the cotangent of what is mixed."""
    random = np.random.default_rng(0)
    drawn = [random.normal(size=(B, T, heads, K)).astype("f4") for heads in (H, G, G, H)]
    return [drawn[0] * np.float32(scale), *drawn[1:]]


def computed(
    kernel: Kernel, config: ModelConfig, arrays: list[np.ndarray], dtype: str = "float32"
) -> list[np.ndarray]:
    """The same four arrays by an implementation."""

    @jax.jit
    def both(q: jax.Array, k: jax.Array, v: jax.Array, d: jax.Array) -> Any:
        mixed, backward = jax.vjp(lambda q, k, v: kernel(q, k, v, config, None), q, k, v)
        return mixed, *backward(d)

    results = both(*(jnp.asarray(x, dtype) for x in arrays))
    assert {str(x.dtype) for x in results} == {dtype}
    return [np.asarray(x, np.float64) for x in results]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["plain", "blocks"])
def test_values_and_gradients_are_those_of_the_formula(tiny: Tiny, name: str, shape: Any) -> None:
    T, H, G, window = shape
    arrays = drawn(T, H, G)
    found = computed(KERNELS[name], tiny(attention_window=window), arrays)
    for found_x, expected in zip(found, formula(*arrays, window), strict=True):
        # Sums of up to 3,000 terms in float32; numbers of unit size.
        np.testing.assert_allclose(found_x, expected, rtol=1e-5, atol=2e-5)


# T, query heads, key-value heads, window: one block of the kernel, several with some empty, and
# blocks that are filled up.
@pytest.mark.parametrize(
    "shape",
    [
        (384, 4, 2, 200),
        pytest.param((128, 2, 2, None), marks=pytest.mark.slow),
        (255, 2, 1, None),
        pytest.param((1, 2, 2, None), marks=pytest.mark.slow),
        pytest.param((300, 2, 2, 40), marks=pytest.mark.slow),
        pytest.param((384, 2, 1, None), marks=pytest.mark.slow),
        pytest.param((384, 2, 2, 1), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_splash_has_the_values_and_gradients_of_the_formula(tiny: Tiny, shape: Any) -> None:
    T, H, G, window = shape
    arrays = drawn(T, H, G)
    found = computed(partial(splash, interpret=True), tiny(attention_window=window), arrays)
    for found_x, expected in zip(found, formula(*arrays, window), strict=True):
        np.testing.assert_allclose(found_x, expected, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("name", ["plain", "blocks"])
def test_bfloat16_is_right_to_its_own_precision(tiny: Tiny, name: str) -> None:
    arrays = [np.asarray(jnp.asarray(x, "bfloat16"), np.float32) for x in drawn(256, 4, 2)]
    found = computed(KERNELS[name], tiny(), arrays, "bfloat16")
    for found_x, expected in zip(found, formula(*arrays, None), strict=True):
        # 8 bits of mantissa: half of 2^-8 an operand, a handful of them in a row.
        assert np.linalg.norm(found_x - expected) < 0.01 * np.linalg.norm(expected)


@pytest.mark.parametrize("name", ["plain", "blocks"])
def test_large_scores_stay_finite_and_choose_one_key(tiny: Tiny, name: str) -> None:
    arrays = drawn(256, 2, 2, scale=1e6)
    mixed, *gradients = computed(KERNELS[name], tiny(), arrays)
    q, k, v, _ = arrays
    scores = np.einsum("bthk,bshk->bhts", q.astype(float), k.astype(float))
    scores[..., ~np.tri(256, dtype=bool)] = -np.inf
    first, second = np.sort(scores, axis=-1)[..., -1], np.sort(scores, axis=-1)[..., -2]
    clear = (first - second > 1e4).transpose(0, 2, 1)  # the others' weights underflow
    likeliest = scores.argmax(-1)
    chosen = np.take_along_axis(v.transpose(0, 2, 1, 3), likeliest[..., None], axis=2)
    assert clear.mean() > 0.9
    np.testing.assert_allclose(mixed[clear], chosen.transpose(0, 2, 1, 3)[clear], rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def products(kernel: Kernel, config: ModelConfig, dtype: str, T: int) -> list[tuple[str, ...]]:
    """Dtypes of the operands and the result of every product, lowered for a GPU, both passes."""

    def both(q: jax.Array, k: jax.Array, v: jax.Array, d: jax.Array) -> Any:
        mixed, backward = jax.vjp(lambda q, k, v: kernel(q, k, v, config, None), q, k, v)
        return mixed, backward(d)

    shapes = [jax.ShapeDtypeStruct((B, T, heads, K), dtype) for heads in (4, 2, 2, 4)]
    text = jax.jit(both).trace(*shapes).lower(lowering_platforms=("cuda",)).as_text()
    lines = [line for line in text.splitlines() if "dot_general" in line]
    return [tuple(re.findall(r"tensor<(?:\d+x)*(\w+)>", line)) for line in lines]


@pytest.mark.parametrize("fields", [{}, {"attention_softcap": 5.0}], ids=str)
@pytest.mark.parametrize(("name", "blocks"), [("plain", 1), ("blocks", 4)])
def test_every_product_has_operands_of_the_compute_dtype_and_a_float32_result(
    tiny: Tiny, name: str, blocks: int, fields: dict[str, Any]
) -> None:
    if fields and name == "blocks":
        fields = {"attention_window": 70}
    config = tiny(**fields)
    found = products(KERNELS[name], config, "bfloat16", 256)
    assert found == [("bf16", "bf16", "f32")] * 6 * blocks


@pytest.mark.parametrize("window", [None, 1, 100, 10_000])
@pytest.mark.parametrize("T", [1, 2, 255, 256, 257, 1000, 1024, 4097])
def test_blocks_hold_every_query_once_and_every_key_that_it_sees(
    T: int, window: int | None
) -> None:
    blocks = rows_of(T, window)
    assert [q for rows in blocks for q in range(rows.first, rows.end)] == list(range(T))
    for rows in blocks:
        assert rows.low == (0 if window is None else max(0, rows.first - window + 1))


def test_blocks_compute_little_more_than_half_of_the_square(
    tiny: Tiny, dot_flops: Callable[[Any], int]
) -> None:
    shapes = [jax.ShapeDtypeStruct((B, 1024, 2, K), "float32")] * 3

    def flops(name: str, window: int | None = None) -> int:
        config = tiny(attention_window=window)
        return dot_flops(jax.make_jaxpr(lambda *qkv: KERNELS[name](*qkv, config, None))(*shapes))

    assert flops("blocks") == flops("plain") * 9 / 16  # 8 blocks: (1 + … + 8) / 64
    assert flops("blocks", window=128) < flops("plain") / 4


@pytest.mark.parametrize("window", [None, 1, 100])
@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1)], ids=str)
def test_cudnn_lowers_to_its_fused_kernels_and_to_no_product(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, window: int | None, heads: tuple[int, int]
) -> None:
    pretend_hopper(monkeypatch)
    config = tiny(attention_window=window)
    text = lowered_for_gpus(config, [(2, 256, n, 64) for n in (heads[0], heads[1], heads[1])])
    calls = re.findall(r"custom_call @(\S+?)\(", text)
    assert calls.count("__cudnn$fmhaSoftmax") == 1
    assert calls.count("__cudnn$fmhaSoftmaxBackward") == 1
    assert "dot_general" not in text
    assert "CAUSAL" in text and ("NO_MASK" not in text)
    # XLA counts the query itself.
    assert set(re.findall(r"sliding_window_length\W+22: (\d+)", text)) == {str(window or 0)}


def pretend_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax asks the machine for its cuDNN and its GPU where it lowers."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused, "check_compute_capability", lambda _: True)


def lowered_for_gpus(config: ModelConfig, shapes: list[tuple[int, ...]]) -> str:
    def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return KERNELS["cudnn"](q, k, v, config, None).astype(jnp.float32).sum()

    arrays = [jax.ShapeDtypeStruct(shape, "bfloat16") for shape in shapes]
    traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arrays)
    return traced.lower(lowering_platforms=("cuda",)).as_text()
