"""A target becomes a shape that can be built, and its error is told."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from models.decoder.config import ModelConfig
from models.decoder.sizes import Ladder, count_flops, count_params, nearest


def ladder(**fields: Any) -> Ladder:
    default = {
        "vocab_size": 256,
        "context_length": 128,
        "dialect": "llama",
        "head_dim": 16,
        "aspect_ratio": 32.0,
    }
    return Ladder(**{**default, **fields})


@pytest.mark.parametrize("target", [25e3, 98e3, 332e3, 786e3, 5e6, 1e8])
@pytest.mark.parametrize("convention", ["total", "non_embedding", "matmul"])
def test_the_error_is_the_distance_to_the_target(target: float, convention: Any) -> None:
    rung = nearest(ladder(), target, convention)
    assert rung.params == getattr(count_params(rung.config), convention)
    assert rung.error == pytest.approx(rung.params / target - 1, abs=1e-15)


@pytest.mark.parametrize("target", [1e5, 1e6, 1e7, 1e8, 1e9])
def test_large_targets_are_met_within_a_tenth(target: float) -> None:
    assert abs(nearest(ladder(), target, "non_embedding").error) < 0.1


@pytest.mark.parametrize("target", [3e4, 2.2e5, 1e6])
@pytest.mark.parametrize("aspect_ratio", [8.0, 32.0])
def test_no_shape_of_the_family_is_better(target: float, aspect_ratio: float) -> None:
    """Against every shape there is: within 5% the aspect ratio decides, else the distance."""
    family = ladder(aspect_ratio=aspect_ratio)

    def badness(config: ModelConfig) -> tuple[float, float]:
        miss = abs(math.log(count_params(config).non_embedding / target))
        aspect = config.d_model / config.n_layers / aspect_ratio
        return max(miss, 0.05), abs(math.log(aspect))

    shapes = [family.shape(L, H) for L, H in itertools.product(range(1, 40), range(1, 40))]
    allowed = [s for s in shapes if 0.5 <= s.d_model / s.n_layers / aspect_ratio <= 2]
    best = min(map(badness, [family.shape(1, 1), *allowed]))
    assert badness(nearest(family, target, "non_embedding").config) == pytest.approx(best)


def test_a_larger_target_never_gives_a_smaller_model() -> None:
    targets = [2e4 * 1.3**power for power in range(40)]
    sizes = [nearest(ladder(), target, "non_embedding").params for target in targets]
    # Within 5% of its target a rung may be chosen for its aspect ratio.
    assert all(small < 1.11 * large for small, large in itertools.pairwise(sizes))


def test_the_target_itself_is_found_when_it_can_be_built() -> None:
    config = ladder().shape(3, 6)
    size = count_params(config).total
    assert nearest(ladder(), size, "total").config == config


def test_query_heads_share_key_value_heads_as_asked() -> None:
    for target in (1e5, 1e6, 1e7):
        config = nearest(ladder(queries_per_kv=4), target, "non_embedding").config
        assert config.n_heads == min(4, config.n_heads) * config.n_kv_heads


def test_fields_override_the_dialect() -> None:
    config = nearest(ladder(fields={"head": "tied", "mlp": "gelu"}), 1e6, "total").config
    assert (config.head, config.mlp, config.d_ff) == ("tied", "gelu", 4 * config.d_model)


def test_a_target_below_half_of_the_smallest_shape_is_refused_with_its_size() -> None:
    smallest = count_params(ladder().shape(1, 1)).total
    with pytest.raises(ValueError, match=f"{smallest} total parameters"):
        nearest(ladder(), smallest / 2 - 1, "total")
    assert nearest(ladder(), smallest / 2 + 1, "total").params == smallest


def test_a_target_that_no_machine_trains_is_refused_and_not_searched() -> None:
    with pytest.raises(ValueError, match=r"params = 1e\+21 .*FLOPs"):
        nearest(ladder(), 1e21, "total")


def test_a_target_of_more_heads_than_anyone_builds_is_refused_and_not_searched() -> None:
    with pytest.raises(ValueError, match="more than 4096 heads of 2; give a larger head_dim"):
        nearest(ladder(head_dim=2), 1e13, "total")


def test_a_trillion_parameters_do_not_overflow() -> None:
    family = ladder(head_dim=128, aspect_ratio=128.0)
    rung = nearest(family, 1e12, "total")
    assert abs(rung.error) < 0.05
    tokens = 20 * rung.params
    flops = count_flops(rung.config, 4096).total * tokens
    assert flops > 6 * rung.params * tokens * 0.99 > 1e26  # int64 ends at 9.2e18


@pytest.mark.parametrize("mlp", ["gelu", "gelu_exact", "relu2"])
def test_only_a_gated_mlp_is_narrowed(mlp: str) -> None:
    wide, gated = ladder(fields={"mlp": mlp}).shape(2, 3), ladder().shape(2, 3)
    assert (wide.d_ff, gated.d_ff) == (4 * 48, 8 * 16)
