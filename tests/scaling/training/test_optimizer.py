"""Which array gets which update, stacked or not, and how µP changes it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from models.architecture import Execution, architecture
from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.model import Decoder
from models.parametrization import Ratios
from models.sharding import leaves_of, make_mesh
from models.sizes import Leaf
from scaling.optimizers import UPDATE_RMS
from scaling.planning.layout import Layout
from scaling.spec import Optimizer
from scaling.store.records import Refusal
from scaling.training.optimizer import ADAM_EPSILON, orthogonal, update_rule
from scaling.training.step import make_program

ADAMW = Optimizer(0.9, 0.95, 0.1, 1e9)
MUON = replace(ADAMW, name="muon")
MODEL = ModelConfig(40, 12, 2, 16, 2, 2, 8, 24, **DIALECTS["gpt2"])
RANDOM = np.random.default_rng(0)
MATRIX, VECTOR = Leaf("matrix", deep=True), Leaf("vector", deep=True)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.normal(size=shape), jnp.float32)


def updated(rule: optax.GradientTransformation, grads: list[Any], params: Any) -> Any:
    """The last of several updates."""
    state = rule.init(params)
    for each in grads:
        updates, state = rule.update(each, state, params)
    return updates


def test_the_update_of_a_stack_is_that_of_its_slices() -> None:
    stacks = [normal(3, 10, 6) for _ in range(2)]
    stacked = updated(orthogonal(), stacks, stacks[0])
    for layer in range(3):
        alone = updated(orthogonal(), [each[layer] for each in stacks], stacks[0][layer])
        np.testing.assert_allclose(stacked[layer], alone, atol=1e-6)


@pytest.mark.parametrize("shape", [(12, 12), (8, 40), (40, 8)])
def test_an_update_is_nearly_orthogonal_and_as_large_as_one_of_adamw(
    shape: tuple[int, int],
) -> None:
    update = np.asarray(updated(orthogonal(), [normal(*shape)], jnp.zeros(shape)))
    values = np.linalg.svd(update, compute_uv=False) / (UPDATE_RMS * max(shape) ** 0.5)
    assert values.min() > 0.5 and values.max() < 1.3  # Jordan et al. 2024: about .7 to 1.2
    assert np.sqrt(np.mean(update**2)) == pytest.approx(UPDATE_RMS, rel=0.3)


@pytest.mark.parametrize("layers", ["scanned", "unrolled"])
def test_matrices_of_blocks_get_muon_and_all_else_adamw(layers: Any) -> None:
    """Not by the number of dimensions: stacked biases have two, and so have the tables."""
    params = nnx.state(Decoder(MODEL, rngs=nnx.Rngs(0), layers=layers))
    leaves = leaves_of(architecture("decoder").leaf, params)
    grads = jax.tree.map(lambda leaf: normal(*leaf.shape), params)
    muon, adamw = (
        updated(update_rule(each, leaves), [grads, grads], params) for each in (MUON, ADAMW)
    )
    same = jax.tree.map(lambda a, b: bool((a == b).all()), muon, adamw)
    assert same == jax.tree.map(lambda leaf: leaf.kind != "matrix", leaves)
    assert {leaf.kind for leaf in jax.tree.leaves(leaves)} == {"embedding", "matrix", "vector"}


def test_muon_keeps_one_number_of_a_matrix_and_two_of_all_else() -> None:
    params = {"matrix": normal(6, 4), "vector": normal(6)}
    state = update_rule(MUON, {"matrix": MATRIX, "vector": VECTOR}).init(params)
    kept = [leaf for leaf in jax.tree.leaves(state) if leaf.shape in ((6, 4), (6,))]
    assert sorted(leaf.shape for leaf in kept) == [(6,), (6,), (6, 4)]


def test_mup_divides_the_rate_and_not_the_decay() -> None:
    leaves, params = (
        {"matrix": MATRIX, "vector": VECTOR},
        {"matrix": normal(6, 4), "vector": normal(6)},
    )
    grads = jax.tree.map(lambda leaf: 1e3 * leaf, params)  # beside which epsilon is nothing
    base, wide, decay_alone = (
        updated(update_rule(each, leaves, ratios), [grads], params)
        for each, ratios in (
            (ADAMW, Ratios()),
            (ADAMW, Ratios(4.0, 3.0)),
            (replace(ADAMW, weight_decay=0.0), Ratios(4.0, 3.0)),
        )
    )
    decay = 0.1 * params["matrix"]
    np.testing.assert_allclose(wide["matrix"], (base["matrix"] - decay) / 4 + decay, atol=1e-5)
    np.testing.assert_allclose(wide["matrix"] - decay_alone["matrix"], decay, atol=1e-6)
    np.testing.assert_allclose(wide["vector"], base["vector"], atol=1e-6)


def test_mup_divides_epsilon_by_width_and_depth() -> None:
    """A gradient as large as epsilon makes half an update; at 12 times less, with an epsilon of a
    twelfth, so it does."""
    leaves, params = {"vector": VECTOR}, {"vector": jnp.zeros(3)}
    grads = {"vector": jnp.full(3, ADAM_EPSILON)}
    smaller = jax.tree.map(lambda grad: grad / 12, grads)
    base = updated(update_rule(ADAMW, leaves), [grads], params)
    wide = updated(update_rule(ADAMW, leaves, Ratios(4.0, 3.0)), [smaller], params)
    np.testing.assert_allclose(base["vector"], 0.5, rtol=1e-5)
    np.testing.assert_allclose(wide["vector"], 0.5, rtol=1e-5)


def test_muon_moves_less_far_by_the_root_of_the_width_under_mup() -> None:
    leaves, params, grads = (
        {"matrix": MATRIX},
        {"matrix": jnp.zeros((6, 4))},
        {"matrix": normal(6, 4)},
    )
    base = updated(update_rule(MUON, leaves), [grads], params)
    wide = updated(update_rule(MUON, leaves, Ratios(4.0, 3.0)), [grads], params)
    np.testing.assert_allclose(wide["matrix"], base["matrix"] / 2, atol=1e-6)


def test_matrices_that_the_tree_contradicts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    family = architecture("decoder")
    monkeypatch.setattr(type(family), "matrices", lambda self, config: {(16, 24): 3})
    words = (
        r"holds the matrices 8 of 16×16, 2 of 16×24, 2 of 24×16 and matrices\(\) says 3 of 16×24"
    )
    with pytest.raises(Refusal, match=words):
        make_program("decoder", MODEL, MUON, 0, Layout(4), make_mesh())


def three_steps(**execution: Any) -> tuple[Any, np.ndarray]:
    model = replace(MODEL, parametrization="mup", base_width=8, base_depth=1)
    layout = Layout(4, execution=Execution(**execution))
    program = make_program("decoder", model, MUON, 0, layout, make_mesh())
    tokens = np.random.default_rng(0).integers(0, 40, (3, 4, 13)).astype(np.int32)
    state, metrics = program.train(
        program.initial(),
        program.put_batches(tokens),
        program.put_rates(np.full(3, 1e-2, np.float32)),
    )
    return state.params, np.asarray(metrics.loss)


def test_scanned_and_unrolled_layers_train_alike_with_muon_under_mup() -> None:
    (stacked, losses), (alone, others) = three_steps(layers="scanned"), three_steps()
    assert losses == pytest.approx(others, rel=1e-5)
    moved = np.asarray(stacked["blocks"]["mlp"]["up"]["kernel"][...])
    for layer in range(2):
        found = np.asarray(alone["blocks"][layer]["mlp"]["up"]["kernel"][...])
        np.testing.assert_allclose(moved[layer], found, atol=2e-5)
