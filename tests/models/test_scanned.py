"""Scanned layers and remat are other programs for the same numbers."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from models.config import ModelConfig
from models.count import count_params
from models.decoder import Decoder, cross_entropy

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 40, (3, 17)))
VARIANTS = [
    {"dialect": "llama", "n_layers": 3, "n_kv_heads": 2, "qk_norm": True, "attention_window": 5},
    {"dialect": "gpt2", "n_layers": 3, "parallel": True, "logit_softcap": 5.0},
]

OPTIONS: list[dict[str, Any]] = [
    {"layers": "scanned"},
    {"remat": True},
    {"layers": "scanned", "remat": True},
]


def initial(config: ModelConfig, seed: int = 0, **options: Any) -> Any:
    return jax.jit(lambda: nnx.split(Decoder(config, rngs=nnx.Rngs(seed), **options))[1])()


def loss_of(config: ModelConfig, **options: Any) -> Callable[[Any], jax.Array]:
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), **options)))

    def loss(params: Any) -> jax.Array:
        return cross_entropy(nnx.merge(graph, params)(TOKENS[:, :-1]), TOKENS[:, 1:]).mean()

    return loss


def layer_by_layer(state: Any, n_layers: int) -> dict[str, Any]:
    """The tree of a scanned decoder as the unrolled one has it."""
    tree = nnx.to_pure_dict(state)
    blocks = {i: jax.tree.map(lambda leaf, i=i: leaf[i], tree["blocks"]) for i in range(n_layers)}
    return {**tree, "blocks": blocks}


def equations(jaxpr: Any) -> int:
    """Equations of a program and of those nested in it."""
    return sum(
        1 + sum(equations(inner) for inner in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
@pytest.mark.parametrize("seed", [0, 7])
def test_initial_values_are_those_of_the_unrolled_decoder_bit_for_bit(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any], seed: int
) -> None:
    config = tiny(**fields)
    unrolled = nnx.to_pure_dict(initial(config, seed))
    scanned = layer_by_layer(initial(config, seed, layers="scanned"), config.n_layers)
    assert len(jax.tree.leaves(unrolled)) > 20
    jax.tree.map(np.testing.assert_array_equal, unrolled, scanned)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_loss_and_gradients_are_those_of_the_unrolled_decoder(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any], options: dict[str, Any]
) -> None:
    config = tiny(**fields)
    loss, grads = jax.jit(jax.value_and_grad(loss_of(config)))(initial(config))
    other_loss, other = jax.jit(jax.value_and_grad(loss_of(config, **options)))(
        initial(config, **options)
    )
    # The same operations, fused otherwise: roundings of 1e-7 through three blocks and back.
    assert float(other_loss) == pytest.approx(float(loss), rel=1e-6)
    scanned = options.get("layers") == "scanned"
    other = layer_by_layer(other, config.n_layers) if scanned else nnx.to_pure_dict(other)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    assert largest > 0.01

    def same(grad: jax.Array, other: jax.Array) -> None:
        np.testing.assert_allclose(other, grad, rtol=1e-5, atol=1e-6 * largest)

    jax.tree.map(same, nnx.to_pure_dict(grads), other)


@pytest.mark.parametrize("remat", [False, True])
def test_the_program_of_scanned_layers_does_not_grow_with_depth(
    tiny: Callable[..., ModelConfig], remat: bool
) -> None:
    def sizes(**options: Any) -> list[int]:
        found = []
        for depth in (2, 9):
            config = tiny(n_layers=depth)
            state = jax.eval_shape(lambda c=config: initial(c, **options))
            step = jax.value_and_grad(loss_of(config, **options))
            born = jax.make_jaxpr(lambda c=config: initial(c, **options))()
            found += [equations(jax.make_jaxpr(step)(state).jaxpr), equations(born.jaxpr)]
        return found

    step, born, deep_step, deep_born = sizes(layers="scanned", remat=remat)
    assert (step, born) == (deep_step, deep_born)
    step, born, deep_step, deep_born = sizes(remat=remat)
    assert deep_step > 2 * step
    assert deep_born > 2 * born


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_remat_keeps_the_input_of_each_block_alone(
    tiny: Callable[..., ModelConfig], layers: str
) -> None:
    def kept_a_block(remat: bool) -> float:
        """Numbers that the forward pass leaves to the backward pass, parameters included."""
        total = []
        for depth in (2, 6):
            config = tiny(n_layers=depth)
            state = jax.eval_shape(lambda c=config: initial(c, layers=layers))
            loss = loss_of(config, layers=layers, remat=remat)
            backward = jax.eval_shape(lambda params, f=loss: jax.vjp(f, params)[1], state)
            total.append(sum(leaf.size for leaf in jax.tree.leaves(backward)))
        return (total[1] - total[0]) / 4

    one, two = (count_params(tiny(n_layers=depth)).total for depth in (1, 2))
    inputs = 3 * 16 * tiny().d_model
    assert kept_a_block(remat=True) == two - one + inputs
    assert kept_a_block(remat=False) > two - one + 10 * inputs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_remat_and_scan_compute_in_bfloat16_and_keep_parameters_and_gradients_in_float32(
    tiny: Callable[..., ModelConfig], options: dict[str, Any]
) -> None:
    config = tiny()
    state = jax.eval_shape(lambda: initial(config, dtype=jnp.bfloat16, **options))
    step = jax.value_and_grad(loss_of(config, dtype=jnp.bfloat16, **options))
    _, grads = jax.eval_shape(step, state)
    assert {leaf.dtype for leaf in jax.tree.leaves((state, grads))} == {jnp.dtype("float32")}
    # Batched products are attention's, whose scores are float32; the others are all bfloat16.
    products = re.findall(r":(\w+)\[\d+,\d+\] = dot_general", str(jax.make_jaxpr(step)(state)))
    assert len(products) > 20
    assert set(products) == {"bf16"}


def test_a_way_to_run_layers_that_is_not_known_is_refused(
    tiny: Callable[..., ModelConfig],
) -> None:
    with pytest.raises(ValueError, match="layers = 'rolled' must be one of 'unrolled', 'scanned'"):
        Decoder(tiny(), rngs=nnx.Rngs(0), layers="rolled")
