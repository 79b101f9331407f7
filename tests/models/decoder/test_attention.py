"""A decoder learns the same whichever attention it uses, however its layers are run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo

from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.losses import cross_entropy

Tiny = Callable[..., ModelConfig]
T = 260  # four blocks
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 40, (2, T + 1)))


def learned(config: ModelConfig, **options: Any) -> tuple[float, dict[str, Any]]:
    """The loss of random parameters and its gradients; of stacked layers, with them unstacked."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), **options)))
    random = np.random.default_rng(1)
    scanned = options.get("layers") == "scanned"
    L = config.n_layers

    def value(path: Any, leaf: Any) -> jax.Array:
        shape = leaf.shape[1:] if scanned and "blocks" in str(path) else leaf.shape
        layers = [0.3 * random.normal(size=shape) for _ in range(L)]
        return jnp.float32(np.stack(layers) if shape != leaf.shape else layers[0])

    params = jax.tree_util.tree_map_with_path(value, shapes)

    def loss(params: Any) -> jax.Array:
        return cross_entropy(nnx.merge(graph, params)(TOKENS[:, :-1]), TOKENS[:, 1:]).mean()

    loss_value, grads = jax.jit(jax.value_and_grad(loss))(params)
    return float(loss_value), jax.tree.map(np.asarray, nnx.to_pure_dict(grads))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": "scanned", "remat": "full"},
        pytest.param({"layers": "scanned", "remat": "dots"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_blocks_give_the_loss_and_gradients_of_plain_attention(
    tiny: Tiny, options: dict[str, Any]
) -> None:
    config = tiny(context_length=T, attention_window=100, n_kv_heads=2)
    plain, gradients = learned(config, **options)
    in_blocks, others = learned(config, **options, attention="blocks")
    assert in_blocks == pytest.approx(plain, rel=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradients))

    def same(one: np.ndarray, other: np.ndarray) -> None:
        # Sums of a thousand float32 terms in another order, through two blocks and back.
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * largest)

    jax.tree.map(same, gradients, others)


@pytest.mark.parametrize(
    ("options", "calls"),
    [
        ({}, ["fmhaSoftmax"] * 2 + ["fmhaSoftmaxBackward"] * 2),
        ({"layers": "scanned"}, ["fmhaSoftmax", "fmhaSoftmaxBackward"]),
        # The forward pass, and again in the backward pass.
        ({"layers": "scanned", "remat": "full"}, ["fmhaSoftmax"] * 2 + ["fmhaSoftmaxBackward"]),
        # What attention gave is kept.
        ({"layers": "scanned", "remat": "dots"}, ["fmhaSoftmax", "fmhaSoftmaxBackward"]),
    ],
    ids=str,
)
def test_a_decoder_with_cudnn_has_no_square_of_scores(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], calls: list[str]
) -> None:
    # jax asks the machine for its cuDNN and its GPU where it lowers.
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    config = tiny(context_length=T, head_dim=8)
    execution: dict[str, Any] = {"dtype": jnp.bfloat16, "attention": "cudnn", **options}
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), **execution))
    )

    def loss(params: Any) -> jax.Array:
        return nnx.merge(graph, params)(TOKENS[:, :-1]).mean()

    text = jax.jit(jax.grad(loss)).trace(shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert sorted(re.findall(r"custom_call @__cudnn\$(\w+)", text)) == calls
    assert f"x{T}x{T}x" not in text


# Runs in a process of its own, because the number of devices is fixed when jax starts.
FOUR_DEVICES = """
import json, re
from functools import partial
import jax, jax.numpy as jnp, numpy as np
from jax._src.cudnn import fused_attention_stablehlo as fused
from jax.sharding import use_abstract_mesh
from models.decoder.attention_kernels import KERNELS, splash
from models.decoder.config import ModelConfig
from models.sharding import batch_sharding, make_mesh

fused.check_cudnn_version = lambda: 91000
fused.check_compute_capability = lambda _: True
mesh = make_mesh(2, 2)
config = ModelConfig(64, 128, 1, 16, 2, 2, 8, 32)
random = np.random.default_rng(0)
arrays = [random.normal(size=(8, 128, 2, 8)).astype("f4") for _ in "qkv"]

def gradients(kernel, q, k, v):
    return jax.grad(lambda *qkv: jnp.sin(kernel(*qkv, config, None)).sum(), (0, 1, 2))(q, k, v)

def on_the_mesh(kernel, q, k, v):
    with use_abstract_mesh(mesh.abstract_mesh):
        return gradients(kernel, q, k, v)

shared = jax.device_put(arrays, batch_sharding(mesh))
kernels = {"blocks": KERNELS["blocks"], "splash": partial(splash, interpret=True)}
differences, collectives = {}, {}
for name, kernel in kernels.items():
    one = jax.jit(partial(gradients, kernel))(*arrays)
    compiled = jax.jit(partial(on_the_mesh, kernel)).lower(*shared).compile()
    many = compiled(*shared)
    differences[name] = max(float(jnp.abs(a - b).max()) for a, b in zip(one, many, strict=True))
    collective = r" (?:all-gather|all-reduce|all-to-all|collective-permute)\\(.*"
    collectives[name] = re.findall(collective, compiled.as_text())
halves = [jax.ShapeDtypeStruct(x.shape, "bfloat16", sharding=batch_sharding(mesh)) for x in arrays]
traced = jax.jit(partial(on_the_mesh, KERNELS["cudnn"])).trace(*halves)
text = traced.lower(lowering_platforms=("cuda",)).as_text()
print(json.dumps({
    "differences": differences,
    "collectives": collectives,
    "cudnn": re.findall(r"@__cudnn\\$(\\w+)\\(.*?\\(tensor<(\\d+)x", text),
}))
"""


def test_each_device_attends_to_its_own_sequences() -> None:
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    done = subprocess.run(
        [sys.executable, "-c", FOUR_DEVICES],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # The same sums; a product of another shape may take them in another order.
    assert all(difference < 1e-5 for difference in found["differences"].values())
    assert found["collectives"] == {"blocks": [], "splash": []}
    # Two of the eight sequences on each of four devices.
    assert found["cudnn"] == [["fmhaSoftmax", "2"], ["fmhaSoftmaxBackward", "2"]]
