"""Counted from the configuration = counted from the program."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from models.architecture import Layers, architecture
from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.model import Decoder
from models.decoder.sizes import count_flops, count_params, matrices
from models.losses import cross_entropy
from models.sharding import leaves_of, matrices_of
from scaling.optimizers import step_flops
from scaling.spec import Optimizer
from scaling.training.optimizer import update_rule

VARIANTS: list[dict[str, Any]] = [
    {"dialect": dialect, **fields}
    for dialect, fields in product(
        ("llama", "gpt2"),
        (
            {},
            {"n_kv_heads": 2},
            {"n_kv_heads": 1, "head": "tied"},
            {"head": "untied", "biases": False},
            {"biases": True, "norm": "rms", "positions": "none"},
            {"norm": "layer", "positions": "learned", "mlp": "gelu"},
            {"n_layers": 1, "mlp": "swiglu", "biases": True},
        ),
    )
] + [
    {"qk_norm": True, "n_kv_heads": 2},
    {"attention_window": 5},
    {"attention_softcap": 20.0, "logit_softcap": 10.0},
    {"parallel": True, "mlp": "gelu_exact", "rotary_fraction": 1 / 3},
    {"mlp": "relu2", "qk_norm": True, "biases": True},
    {"positions": "sinusoidal"},
    {"dialect": "gpt2", "norm_placement": "post", "dropout": 0.1},
    {"norm_placement": "post", "positions": "sinusoidal", "dropout": 0.5, "qk_norm": True},
]


def tree(config: ModelConfig) -> Any:
    return nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))), nnx.Param)


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_params_equal_the_sizes_in_the_tree(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any]
) -> None:
    config = tiny(**fields)
    assert count_params(config).total == sum(leaf.size for leaf in jax.tree.leaves(tree(config)))


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_each_component_equals_its_part_of_the_tree(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any]
) -> None:
    config = tiny(**fields)
    counted, state = count_params(config), tree(config)
    sizes = {
        key: [leaf.shape for leaf in jax.tree.leaves(state[key])] if key in state else []
        for key in ("embedding", "positions", "blocks", "final_norm", "head")
    }
    total = {key: sum(map(math.prod, shapes)) for key, shapes in sizes.items()}
    matrices = sum(math.prod(shape) for shape in sizes["blocks"] if len(shape) == 2)
    assert counted.embedding == total["embedding"] + total["positions"]
    assert counted.head == total["head"]
    assert counted.matrix == matrices
    assert counted.non_embedding == total["blocks"] + total["final_norm"]
    assert counted.matmul == matrices + config.vocab_size * config.d_model


@pytest.mark.parametrize("fields", VARIANTS, ids=str)
def test_flops_equal_the_dot_products_of_forward_and_backward(
    tiny: Callable[..., ModelConfig], fields: dict[str, Any], dot_flops: Callable[[Any], int]
) -> None:
    config, batch, length = tiny(**fields), 3, 16
    graph, params = nnx.split(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))))
    tokens = jnp.zeros((batch, length), jnp.int32)
    keys = jax.random.split(jax.random.key(0), batch)

    def loss(params: Any) -> jax.Array:
        return cross_entropy(nnx.merge(graph, params)(tokens, keys), tokens).mean()

    counted = count_flops(config, length, "full").total * batch * length
    forward = dot_flops(jax.make_jaxpr(loss)(params).jaxpr)
    assert dot_flops(jax.make_jaxpr(jax.value_and_grad(loss))(params).jaxpr) == counted
    assert 3 * forward == counted


@pytest.mark.parametrize("layers", ["unrolled", "scanned"])
@pytest.mark.parametrize("fields", [{}, {"dialect": "gpt2"}, {"n_kv_heads": 1}], ids=str)
def test_flops_of_muon_equal_the_dot_products_of_its_update(
    tiny: Callable[..., ModelConfig],
    fields: dict[str, Any],
    layers: Layers,
    dot_flops: Callable[[Any], int],
) -> None:
    config, family = tiny(**fields), architecture("decoder")
    params = nnx.state(
        nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0), layers=layers)), nnx.Param
    )
    leaves = leaves_of(family.leaf, params)
    assert matrices_of(params, leaves) == matrices(config)
    rule = update_rule(Optimizer(0.9, 0.95, 0.1, 1.0, name="muon"), leaves)
    moments = jax.eval_shape(rule.init, params)
    traced = jax.make_jaxpr(rule.update)(params, moments, params)
    assert dot_flops(traced.jaxpr) == step_flops("muon", matrices(config))


def test_dot_products_in_a_loop_count_once_a_turn(dot_flops: Callable[[Any], int]) -> None:
    def looped(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (y @ y, None), x, length=5)[0]

    assert dot_flops(jax.make_jaxpr(looped)(jnp.ones((4, 4))).jaxpr) == 5 * 2 * 4**3


def test_causal_attention_is_half_of_full_and_nothing_else_changes(
    tiny: Callable[..., ModelConfig],
) -> None:
    causal, full = (count_flops(tiny(), 16, name) for name in ("causal", "full"))
    assert 2 * causal.attention == full.attention > 0
    assert (causal.blocks, causal.head, causal.lookup) == (full.blocks, full.head, 0)


def test_causal_attention_under_a_window_is_the_area_under_the_mask(
    tiny: Callable[..., ModelConfig],
) -> None:
    T, W = 16, 5
    whole, cut = (count_flops(tiny(attention_window=w), T, "causal") for w in (None, W))
    # Position t keeps min(t, W) keys, less the halves that T²/2 leaves out of a triangle's edge.
    kept = sum(min(t, W) for t in range(1, T + 1)) - W / 2
    assert cut.attention == whole.attention * kept / (T * T / 2)
    assert cut.total - cut.attention == whole.total - whole.attention
    full = (count_flops(tiny(attention_window=w), T) for w in (None, W))
    assert next(full) == next(full)


@pytest.mark.parametrize("window", [16, 17, 10**9])
def test_a_window_as_long_as_the_sequence_costs_what_none_costs(
    tiny: Callable[..., ModelConfig], window: int
) -> None:
    limited, whole = (count_flops(tiny(attention_window=w), 16, "causal") for w in (window, None))
    assert limited == whole


def test_flops_without_attention_are_six_per_matmul_parameter(
    tiny: Callable[..., ModelConfig],
) -> None:
    config = tiny("gpt2")
    flops = count_flops(config, 16)
    assert flops.total - flops.attention == 6 * count_params(config).matmul


def test_positions_and_norms_that_are_no_parameters_are_not_counted(
    tiny: Callable[..., ModelConfig],
) -> None:
    plain = count_params(tiny("gpt2", positions="none"))
    assert count_params(tiny("gpt2", positions="sinusoidal")) == plain
    post = count_params(tiny("gpt2", positions="none", norm_placement="post"))
    assert plain.total - post.total == plain.vector - post.vector == 2 * tiny().d_model


def test_gpt2_small_has_its_published_size() -> None:
    """124,439,808: the released weights, whose output matrix is the token table."""
    released = ModelConfig(50257, 1024, 12, 768, 12, 12, 64, 3072, **DIALECTS["gpt2"])
    assert count_params(released).total == 124_439_808


def test_llama_7b_has_its_published_size() -> None:
    """6,738,415,616: the released weights of LLaMA-7B (Touvron et al. 2023, table 2)."""
    released = ModelConfig(32000, 2048, 32, 4096, 32, 32, 128, 11008, **DIALECTS["llama"])
    assert count_params(released).total == 6_738_415_616


@pytest.mark.parametrize(
    "field, value",
    [
        ("n_layers", 0),
        ("d_model", -1),
        ("n_kv_heads", 3),
        ("head_dim", 5),
        ("embedding_std", float("nan")),
        ("rope_theta", float("inf")),
        ("norm_epsilon", 0.0),
        ("positions", "alibi"),
        ("norm", "batch"),
        ("mlp", "relu"),
        ("head", None),
        ("biases", "no"),
        ("qk_norm", None),
        ("parallel", "yes"),
        ("attention_window", 0),
        ("attention_window", 8.0),
        ("attention_softcap", 0.0),
        ("logit_softcap", float("nan")),
        ("norm_placement", "sandwich"),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", float("nan")),
        ("rotary_fraction", 0.0),
        ("rotary_fraction", 1.5),
        ("rotary_fraction", 0.5),  # of 6 dimensions: an odd 3
        ("rotary_fraction", 0.3),
    ],
)
def test_a_shape_that_cannot_be_built_is_refused_by_name(
    tiny: Callable[..., ModelConfig], field: str, value: Any
) -> None:
    with pytest.raises(ValueError, match=field):
        tiny(**{field: value})


def test_parallel_blocks_have_no_place_for_post_norm(tiny: Callable[..., ModelConfig]) -> None:
    with pytest.raises(ValueError, match='norm_placement = "post" has no place in parallel blocks'):
        tiny(norm_placement="post", parallel=True)
