"""µP is the standard parametrization at its base, and moves away from it as the papers say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from models.architecture import architecture
from models.decoder.config import ModelConfig
from models.decoder.model import Decoder
from models.parametrization import Multipliers, Ratios, multipliers
from models.sharding import leaves_of

Tiny = Callable[..., ModelConfig]
BASE = {"parametrization": "mup", "base_width": 20, "base_depth": 2}
TOKENS = np.random.default_rng(0).integers(0, 40, (3, 12))


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree of parameters."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def spread(config: ModelConfig) -> dict[str, float]:
    """Standard deviation of each array at the start."""
    params = nnx.state(Decoder(config, rngs=nnx.Rngs(0), layers="scanned"))
    return {name: float(np.std(leaf)) for name, leaf in by_path(params).items()}


@pytest.mark.parametrize("dialect", ["llama", "gpt2"])
def test_at_its_base_mup_is_the_standard_parametrization_to_the_bit(
    tiny: Tiny, dialect: str
) -> None:
    # Heads of one number, of which 1 / K and 1 / √K are the same.
    shape: dict[str, Any] = {"head_dim": 1, "positions": "learned"}
    models = [Decoder(tiny(dialect, **shape, **each), rngs=nnx.Rngs(0)) for each in ({}, BASE)]
    standard, mup = (np.asarray(model(TOKENS)) for model in models)
    np.testing.assert_array_equal(standard, mup)


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_scores_of_attention_are_divided_by_the_dimensions_of_a_head(
    tiny: Tiny, positions: str
) -> None:
    c = tiny(positions=positions, head_dim=4, **BASE)
    standard, mup = (
        Decoder(each, rngs=nnx.Rngs(0)).blocks[0].attention.heads(np.ones((12, 20)), 1)
        for each in (tiny(positions=positions, head_dim=4), c)
    )
    np.testing.assert_allclose(mup[0], standard[0] / 2, rtol=1e-6)
    np.testing.assert_array_equal(mup[1], standard[1])


@pytest.mark.parametrize("head", ["tied", "untied"])
@pytest.mark.parametrize("loss", ["whole", "chunked"])
def test_logits_are_divided_by_the_ratio_of_widths(tiny: Tiny, head: str, loss: Any) -> None:
    base, wide = (
        Decoder(
            tiny(head=head, **{**BASE, "base_width": width}),
            rngs=nnx.Rngs(0),
            loss=loss,
            layers="scanned",
        )
        for width in (20, 5)
    )
    if head == "untied":  # drawn for its own base
        wide.head.kernel[...] = base.head.kernel[...]
    np.testing.assert_allclose(wide(TOKENS), base(TOKENS) / 4, rtol=1e-5)
    targets = np.roll(TOKENS, 1)
    capped = wide.losses(TOKENS, targets).cross_entropy
    chosen = np.take_along_axis(np.asarray(jax.nn.log_softmax(wide(TOKENS))), targets[..., None], 2)
    np.testing.assert_allclose(capped, -chosen[..., 0], rtol=1e-5)


def test_a_block_adds_less_in_a_deeper_model_and_its_matrices_start_as_large(tiny: Tiny) -> None:
    base, deep = tiny(**BASE), tiny(**{**BASE, "base_depth": 1})
    shallow, deeper = spread(base), spread(deep)
    assert deeper["blocks/mlp/down/kernel"] == pytest.approx(
        2**0.5 * shallow["blocks/mlp/down/kernel"]
    )
    x = np.ones((12, 20), np.float32)
    models = [Decoder(each, rngs=nnx.Rngs(0)) for each in (base, deep)]
    whole, half = (np.asarray(model.blocks[0].added(x, None)) for model in models)
    np.testing.assert_array_equal(half, whole / 2)


def test_the_head_starts_as_large_at_every_width_and_hidden_matrices_smaller(tiny: Tiny) -> None:
    narrow, wide = (
        spread(tiny(d_model=width, n_heads=width // 5, n_kv_heads=4, **BASE)) for width in (20, 320)
    )
    assert wide["head/kernel"] == pytest.approx(narrow["head/kernel"], rel=0.1)
    assert wide["embedding"] == pytest.approx(narrow["embedding"], rel=0.1)
    for name in ("attention/q", "attention/out", "mlp/up"):
        path = f"blocks/{name}/kernel"
        assert wide[path] == pytest.approx(narrow[path] / 4, rel=0.1), path


def test_arrays_are_told_apart_by_what_they_are_whatever_they_are_called(tiny: Tiny) -> None:
    """At 4 times the width and 3 times the depth of the base."""
    family, ratios = architecture("decoder"), Ratios(4.0, 3.0)
    expected = {
        "embedding": Multipliers(1, 1, 1 / 4),
        "blocks/attention/out/kernel": Multipliers(1 / 4, 1 / 2, 1 / 12),
        "blocks/mlp/gate/kernel": Multipliers(1 / 4, 1 / 2, 1 / 12),
        "blocks/mlp_norm/scale": Multipliers(1, 1, 1 / 12),
        "final_norm/scale": Multipliers(1, 1, 1 / 4),
        "head/kernel": Multipliers(1, 1, 1 / 4),
    }
    for layers in ("scanned", "unrolled"):
        params = nnx.state(Decoder(tiny(), rngs=nnx.Rngs(0), layers=layers))  # type: ignore[arg-type]
        leaves = by_path(leaves_of(family.leaf, params))
        found = {
            name.replace("blocks/0", "blocks"): multipliers(leaf, ratios)
            for name, leaf in leaves.items()
        }
        assert {name: found[name] for name in expected} == expected


def test_without_a_base_nothing_is_multiplied(tiny: Tiny) -> None:
    assert tiny().ratios == Ratios()
    leaf = architecture("decoder").leaf(("blocks", "q", "kernel"), 2)
    assert multipliers(leaf, Ratios()) == Multipliers(1, 1, 1)


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"base_width": 64}, 'base_width = 64 is read with parametrization = "mup" alone'),
        ({"parametrization": "mup"}, "base_width = None: .* needs a whole number"),
        ({**BASE, "base_depth": 0}, "base_depth = 0: .* at least 1"),
        ({**BASE, "norm_placement": "post"}, 'give norm_placement = "pre"'),
        ({"parametrization": "sp"}, "must be one of 'standard', 'mup'"),
    ],
    ids=str,
)
def test_a_base_that_means_nothing_is_refused(
    tiny: Tiny, fields: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        tiny(**fields)
