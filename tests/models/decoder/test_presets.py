"""Published shapes give published sizes, and rows that contradict themselves are listed."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from flax import nnx

from analysis.recommend.landmarks import landmarks
from models.decoder.model import Decoder
from models.decoder.presets import PRESETS, ROUNDING, preset
from models.decoder.sizes import count_params

ROOT = Path(__file__).resolve().parents[3]

# Heads × head size ≠ d_model in table A9 and in table 2.1 of GPT-3; worked out by hand.
CROOKED = {
    *("gpt3-xl", "gpt3-13b"),
    *("chinchilla-3530m", "chinchilla-4084m", "chinchilla-11452m"),
    *("chinchilla-12569m", "chinchilla-13775m", "chinchilla-14940m"),
}
# Printed sizes that their printed shapes miss, and what the shapes have, in millions.
MISPRINTED = {
    "gpt3-xl": 1517,
    "chinchilla-664m": 690,
    "chinchilla-816m": 755,
    "chinchilla-1018m": 976,
    "chinchilla-1266m": 1156,
    "chinchilla-2007m": 1868,
    "chinchilla-13775m": 14320,
}


def members(family: str) -> list[str]:
    return [name for name, each in PRESETS.items() if each.family.name == family]


@pytest.mark.parametrize("name", [name for name, each in PRESETS.items() if each.exact])
def test_shapes_of_released_weights_have_their_exact_counts(name: str) -> None:
    assert preset(name).params == preset(name).published


@pytest.mark.parametrize("name", ["gpt1", "gpt2-small", "chinchilla-44m", "pythia-14m"])
def test_the_decoder_builds_a_preset_with_every_parameter_counted(name: str) -> None:
    config = preset(name).config
    tree = nnx.state(nnx.eval_shape(lambda: Decoder(config, rngs=nnx.Rngs(0))), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == preset(name).params


def test_exact_counts_are_the_released_ones() -> None:
    released = {
        "gpt1": 116_534_784,
        "gpt2-small": 124_439_808,
        "gpt2-xl": 1_557_611_200,
        "pythia-70m": 70_426_624,
        "pythia-12b": 11_846_072_320,
        "llama-7b": 6_738_415_616,
        "mistral-7b": 7_241_732_096,
        "llama-3-8b": 8_030_261_248,
        "llama-3-70b": 70_553_706_496,
    }
    assert {name: preset(name).params for name in released} == released


def test_pythia_has_the_non_embedding_counts_of_its_model_cards() -> None:
    cards = {
        "pythia-14m": 1_189_888,
        "pythia-31m": 4_739_072,
        "pythia-70m": 18_915_328,
        "pythia-160m": 85_056_000,
        "pythia-410m": 302_311_424,
        "pythia-1b": 805_736_448,
        "pythia-1.4b": 1_208_602_624,
        "pythia-2.8b": 2_517_652_480,
        "pythia-6.9b": 6_444_163_072,
        "pythia-12b": 11_327_027_200,
    }
    assert set(cards) == set(members("pythia"))
    for name, non_embedding in cards.items():
        assert count_params(preset(name).config).non_embedding == non_embedding


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in MISPRINTED])
def test_every_other_shape_has_its_published_size_to_the_digits_printed(name: str) -> None:
    assert abs(preset(name).difference) <= ROUNDING


def test_rows_that_contradict_themselves_are_listed_each_way() -> None:
    heads = {
        name for name, each in PRESETS.items() if any("heads" in t for t in each.contradictions)
    }
    sizes = {
        name for name, each in PRESETS.items() if any("shape" in t for t in each.contradictions)
    }
    assert heads == CROOKED
    assert sizes == set(MISPRINTED)
    for name in MISPRINTED:
        each = preset(name)
        assert (each.params + each.uncounted) / 1e6 == pytest.approx(MISPRINTED[name], abs=0.5)


def test_gpt3_xl_says_what_is_wrong_with_it() -> None:
    assert preset("gpt3-xl").contradictions == (
        "24 heads × 128 = 3072, not 2048",
        "shape has 1,517M, not 1,300M",
    )


def test_chinchilla_components_equal_the_recomputed_columns() -> None:
    folder = Path(os.environ.get("SCALING_REFERENCE_DATA") or ROOT / "../shared/data")
    path = folder / "chinchilla-model-params/chinchilla_model_parameters.csv"
    if not path.exists():
        pytest.skip(f"no reference data at {path} (set SCALING_REFERENCE_DATA)")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [f"chinchilla-{row['Reported Parameters (M)']}m" for row in rows] == members(
        "chinchilla"
    )
    for row, name in zip(rows, members("chinchilla"), strict=True):
        config = preset(name).config
        plain, gated = count_params(config), count_params(replace(config, mlp="swiglu"))
        narrow = count_params(replace(config, d_ff=1))  # all but the MLP, whose width is one
        attention = narrow.matrix - 2 * config.n_layers * config.d_model
        assert plain.embedding == int(row["Embedding Parameters"])
        assert attention == int(row["Total Attn Params"])
        assert plain.matrix - attention == int(row["Total FFN Params"])
        assert gated.matrix - attention == int(row["Total Gated Params"])


# Landmarks that are presets by another name.
ALSO = {"GPT-2": "gpt2-xl", "GPT-3": "gpt3-175b", "Llama-3.1-405B": "llama-3-405b"}


def test_landmarks_of_the_analysis_have_the_sizes_of_their_presets() -> None:
    sizes = {each.name: each.params for each in landmarks()}
    both = {name: ALSO.get(name, name.lower()) for name in sizes}
    both = {name: preset_name for name, preset_name in both.items() if preset_name in PRESETS}
    assert len(both) >= 13
    for name, preset_name in both.items():
        printed = f"{sizes[name]:.12g}".rstrip("0")  # its digits, to which the count must round
        rounded = float(f"{preset(preset_name).published:.{len(printed)}g}")
        assert rounded == sizes[name], name


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ValueError, match=r"'Pythia-70' is unknown. Near: pythia-70m"):
        preset("Pythia-70")


def test_a_tied_head_starts_with_small_logits() -> None:
    for each in PRESETS.values():
        if each.config.head == "tied":  # the activations it multiplies have unit variance
            assert each.config.embedding_std * each.config.d_model**0.5 < 2.5, each.name
