"""The coordinate check: how far activations move in a few steps, over an 8 times wider model.

As Yang et al. 2022, arXiv:2203.03466, appendix D.1. Under µP no activation's change grows or fades
with width; under the standard parametrization, at one rate for all widths, they grow.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from models.architecture import architecture
from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.sharding import leaves_of
from scaling.optimizers import OptimizerName
from scaling.spec import Optimizer
from scaling.training.optimizer import update_rule

WIDTHS = (32, 64, 128, 256)
DEPTHS = (1, 2, 4, 8)
STEPS = 4
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 64, (4, 17)))
MUP = {"parametrization": "mup", "base_width": 32, "base_depth": 2}


def moved(width: int, layers: int, rate: float, name: OptimizerName, **fields: Any) -> np.ndarray:
    """Root mean square change of the residual stream that the head reads, and of logits."""
    heads = width // 16
    model = ModelConfig(64, 16, layers, width, heads, heads, 16, 2 * width, **fields)
    graph, params = nnx.split(Decoder(model, rngs=nnx.Rngs(0), layers="scanned"))
    family = architecture("decoder")
    optimizer = Optimizer(0.9, 0.95, 0.1, 1.0, name=name)
    rule = update_rule(optimizer, leaves_of(family.leaf, params), family.ratios(model))

    def seen(params: Any) -> list[jax.Array]:
        decoder = nnx.merge(graph, params)
        stream, _ = decoder.residual(TOKENS[:, :-1])
        return [stream, decoder.logits(stream)]

    def loss(params: Any) -> jax.Array:
        decoder = nnx.merge(graph, params)
        return decoder.losses(TOKENS[:, :-1], TOKENS[:, 1:]).cross_entropy.mean()

    def step(carry: Any, _: None) -> tuple[Any, None]:
        params, moments = carry
        updates, moments = rule.update(jax.grad(loss)(params), moments, params)
        return (jax.tree.map(lambda p, u: p - rate * u, params, updates), moments), None

    @jax.jit
    def changes(params: Any) -> list[jax.Array]:
        (after, _), _ = jax.lax.scan(step, (params, rule.init(params)), length=STEPS)
        pairs = zip(seen(after), seen(params), strict=True)
        return [jnp.sqrt(jnp.mean((new - old) ** 2)) for new, old in pairs]

    return np.array(changes(params))


def slopes(sizes: tuple[int, ...], changes: list[np.ndarray]) -> np.ndarray:
    """d log change / d log size, of each activation."""
    return np.polyfit(np.log(sizes), np.log(np.array(changes)), 1)[0]


@pytest.mark.parametrize("name, rate", [("adamw", 2e-3), ("muon", 5e-3)])
def test_no_activation_moves_further_in_a_wider_model_under_mup(
    name: OptimizerName, rate: float
) -> None:
    stream, logits = slopes(WIDTHS, [moved(width, 2, rate, name, **MUP) for width in WIDTHS])
    assert abs(stream) < 0.15
    # A part of it is what the head's initial values make of the stream, and falls by 1 / √m.
    assert -0.35 < logits < 0.1


def test_activations_move_further_in_a_wider_standard_model() -> None:
    under = slopes(WIDTHS, [moved(width, 2, 2e-3, "adamw") for width in WIDTHS])
    assert under.min() > 0.5, under


def test_no_activation_moves_further_in_a_deeper_model_under_mup() -> None:
    under = slopes(DEPTHS, [moved(32, layers, 2e-3, "adamw", **MUP) for layers in DEPTHS])
    assert np.abs(under).max() < 0.2, under
