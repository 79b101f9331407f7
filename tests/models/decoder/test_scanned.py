"""Scanned layers and remat are other programs for the same numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.decoder.sizes import count_params
from models.losses import cross_entropy

TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 40, (3, 17)))
KEYS = jax.random.split(jax.random.key(0), len(TOKENS))  # of dropout, one a sequence
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {"dialect": "llama", "n_kv_heads": 2, "qk_norm": True, "attention_window": 5},
    "gpt2": {"dialect": "gpt2", "parallel": True, "logit_softcap": 5.0},
    "gpt1": {"dialect": "gpt2", "norm_placement": "post", "dropout": 0.2},
}

OPTIONS: list[dict[str, Any]] = [
    {"layers": "scanned"},
    {"remat": "dots"},
    {"layers": "scanned", "remat": "full"},
]


def initial(config: ModelConfig, seed: int = 0, **options: Any) -> Any:
    return jax.jit(lambda: nnx.split(Decoder(config, rngs=nnx.Rngs(seed), **options))[1])()


def loss_of(config: ModelConfig, **options: Any) -> Callable[[Any], jax.Array]:
    graph, _ = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), **options)))

    def loss(params: Any) -> jax.Array:
        logits = nnx.merge(graph, params)(TOKENS[:, :-1], KEYS if config.dropout else None)
        return cross_entropy(logits, TOKENS[:, 1:]).mean()

    return loss


def stacked(tree: dict[str, Any]) -> dict[str, Any]:
    """The tree of an unrolled decoder as the scanned one has it."""
    blocks = tree["blocks"].values()
    return {**tree, "blocks": jax.tree.map(lambda *leaves: np.stack(leaves), *blocks)}


# One with everything is as good as three in the default suite: what scans knows no dialect.
DIALECTS = [
    "llama",
    pytest.param("gpt2", marks=pytest.mark.slow),
    pytest.param("gpt1", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=DIALECTS)
def unrolled(request: pytest.FixtureRequest, tiny: Callable[..., ModelConfig]) -> Any:
    """A configuration, random parameters, and their loss and gradients, block by block."""
    config = tiny(**VARIANTS[request.param])
    random = np.random.default_rng(1)
    state = jax.tree.map(
        lambda leaf: jnp.float32(0.3 * random.normal(size=leaf.shape)),
        jax.eval_shape(lambda: initial(config)),
    )
    loss, grads = jax.jit(jax.value_and_grad(loss_of(config)))(state)
    return config, nnx.to_pure_dict(state), float(loss), nnx.to_pure_dict(grads)


def equations(jaxpr: Any) -> int:
    """Equations of a program and of those nested in it."""
    return sum(
        1 + sum(equations(inner) for inner in jaxprs_in_params(equation.params))
        for equation in jaxpr.eqns
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_initial_values_of_scanned_layers_are_the_unrolled_ones_bit_for_bit(
    tiny: Callable[..., ModelConfig], dialect: str
) -> None:
    config = tiny(**VARIANTS[dialect])
    one_by_one = stacked(nnx.to_pure_dict(initial(config, seed=7)))
    scanned = nnx.to_pure_dict(initial(config, seed=7, layers="scanned"))
    kernel = scanned["blocks"]["attention"]["q"]["kernel"]
    assert (kernel[0] != kernel[1]).all()
    jax.tree.map(np.testing.assert_array_equal, one_by_one, scanned)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_loss_and_gradients_are_those_of_the_unrolled_decoder(
    unrolled: Any, options: dict[str, Any]
) -> None:
    config, weights, loss, grads = unrolled
    if options.get("layers") == "scanned":
        weights, grads = stacked(weights), stacked(grads)
    state = jax.eval_shape(lambda: initial(config, **options))
    nnx.replace_by_pure_dict(state, jax.tree.map(jnp.asarray, weights))
    other_loss, other = jax.jit(jax.value_and_grad(loss_of(config, **options)))(state)
    # The same operations, fused otherwise: roundings of 1e-7 through the blocks and back.
    assert float(other_loss) == pytest.approx(loss, rel=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    assert largest > 0.01

    def same(grad: jax.Array, other: jax.Array) -> None:
        np.testing.assert_allclose(other, grad, rtol=1e-5, atol=1e-6 * largest)

    jax.tree.map(same, grads, nnx.to_pure_dict(other))


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_the_program_of_scanned_layers_does_not_grow_with_depth(
    tiny: Callable[..., ModelConfig], remat: str
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
    step, _, deep_step, _ = sizes(remat=remat)
    assert deep_step > 2 * step


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
def test_remat_keeps_the_input_of_each_block_alone(
    tiny: Callable[..., ModelConfig], layers: str
) -> None:
    def kept_a_block(remat: str) -> float:
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
    assert kept_a_block(remat="full") == two - one + inputs
    assert kept_a_block(remat="none") > two - one + 10 * inputs


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_remat_and_scan_in_bfloat16_keep_parameters_and_gradients_in_float32(
    tiny: Callable[..., ModelConfig], options: dict[str, Any]
) -> None:
    config = tiny()
    state = jax.eval_shape(lambda: initial(config, dtype=jnp.bfloat16, **options))
    step = jax.value_and_grad(loss_of(config, dtype=jnp.bfloat16, **options))
    _, grads = jax.eval_shape(step, state)
    assert {leaf.dtype for leaf in jax.tree.leaves((state, grads))} == {jnp.dtype("float32")}


def test_a_way_to_run_layers_that_is_not_known_is_refused(
    tiny: Callable[..., ModelConfig],
) -> None:
    with pytest.raises(ValueError, match="layers = 'rolled' must be one of 'unrolled', 'scanned'"):
        Decoder(tiny(), rngs=nnx.Rngs(0), layers="rolled")
