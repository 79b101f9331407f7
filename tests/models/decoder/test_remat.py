"""What is not kept is computed again, and is the same."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from models.architecture import Attention, Layers, Remat
from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.decoder.remat import products_and_fused_attention

CONFIG = ModelConfig(40, 32, 3, 16, 2, 1, 8, 48)
TOKENS = np.random.default_rng(0).integers(0, 40, (4, 33))
REMAT: tuple[Remat, ...] = ("none", "dots", "full")


def program(remat: Remat, layers: Layers, attention: Attention = "plain") -> tuple[Any, Any]:
    """The gradient of the mean loss as a function of parameters, and their shapes."""
    graph, shapes = nnx.split(
        nnx.eval_shape(
            lambda: Decoder(
                CONFIG, rngs=nnx.Rngs(0), layers=layers, remat=remat, attention=attention
            )
        )
    )

    def loss(params: Any) -> jax.Array:
        return jnp.mean(nnx.merge(graph, params).losses(TOKENS[:, :-1], TOKENS[:, 1:])[0])

    return jax.grad(loss), shapes


def products(jaxpr: Any) -> int:
    """Matrix products of a program, those of a loop once for each turn."""
    total = 0
    for equation in jaxpr.eqns:
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += equation.primitive.name == "dot_general"
        total += times * sum(products(inner) for inner in jaxprs_in_params(equation.params))
    return total


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_the_backward_pass_computes_again_what_is_not_kept(layers: Layers) -> None:
    found = {}
    for remat in REMAT:
        grad, shapes = program(remat, layers)
        found[remat] = products(jax.make_jaxpr(grad)(shapes).jaxpr)
    # A block has seven products with parameters and attention's two, each with two in the backward
    # pass; the head has three in all. No gradient needs what the last product of a block made.
    assert found["none"] == 3 * 27 + 3
    assert found["dots"] == found["none"] + 3 * 2
    assert found["full"] == found["none"] + 3 * 8


@pytest.mark.slow
def test_the_less_is_kept_the_less_memory_a_step_takes() -> None:
    taken = []
    for remat in REMAT:
        grad, shapes = program(remat, "scanned")
        taken.append(jax.jit(grad).lower(shapes).compile().memory_analysis().temp_size_in_bytes)
    none, dots, full = taken
    assert full < 0.8 * dots
    assert dots < 0.8 * none


def test_the_output_of_cudnns_attention_is_kept_with_the_products() -> None:
    from jax._src.cudnn.fused_attention_stablehlo import (
        _dot_product_attention_bwd_p_wrapper,
        _dot_product_attention_fwd_p_wrapper,
    )

    assert products_and_fused_attention(_dot_product_attention_fwd_p_wrapper) is True
    assert not products_and_fused_attention(_dot_product_attention_bwd_p_wrapper)
