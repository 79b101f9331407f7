"""One place says which attention is used where, and refuses in one line what cannot be."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, get_args

import pytest

from models.architecture import Attention
from models.decoder.architecture import DECODER
from models.decoder.attention_kernels import KERNELS
from models.decoder.config import ModelConfig

Tiny = Callable[..., ModelConfig]


@pytest.mark.parametrize(
    ("platform", "dtype", "T", "fields", "expected"),
    [
        ("cpu", "float32", 1024, {}, "blocks"),
        ("cpu", "bfloat16", 256, {"attention_window": 5}, "blocks"),
        ("cpu", "float32", 255, {}, "plain"),
        ("cpu", "float32", 1024, {"attention_softcap": 50.0}, "plain"),
        ("cpu", "float32", 1024, {"dropout": 0.1}, "plain"),
        ("gpu", "bfloat16", 1000, {"head_dim": 64, "attention_window": 99}, "cudnn"),
        ("gpu", "bfloat16", 1024, {"head_dim": 128, "n_kv_heads": 1}, "cudnn"),
        ("rocm", "bfloat16", 1024, {"head_dim": 64}, "plain"),
        ("gpu", "float32", 1024, {"head_dim": 64}, "plain"),
        ("gpu", "bfloat16", 1024, {"head_dim": 60}, "plain"),
        ("gpu", "bfloat16", 1024, {"head_dim": 264}, "plain"),
        ("gpu", "bfloat16", 1024, {"head_dim": 64, "attention_softcap": 50.0}, "plain"),
        ("gpu", "bfloat16", 1024, {"head_dim": 64, "dropout": 0.1}, "plain"),
        ("tpu", "bfloat16", 1024, {"head_dim": 60}, "splash"),
        ("tpu", "float32", 384, {"attention_window": 99}, "splash"),
        ("tpu", "bfloat16", 1000, {}, "plain"),
        ("tpu", "bfloat16", 1024, {"dropout": 0.1}, "plain"),
    ],
)
def test_the_fastest_that_platform_dtype_and_shape_allow_is_chosen(
    tiny: Tiny, platform: Any, dtype: str, T: int, fields: dict[str, Any], expected: str
) -> None:
    chosen = DECODER.attention(tiny(**fields), T, dtype, platform)
    assert chosen == expected
    DECODER.check_attention(tiny(**fields), T, dtype, platform, chosen)


@pytest.mark.parametrize(
    ("platform", "dtype", "T", "fields", "asked", "named"),
    [
        ("gpu", "bfloat16", 8, {"attention_softcap": 50.0}, "cudnn", "attention_softcap = 50.0"),
        ("gpu", "bfloat16", 8, {"dropout": 0.1}, "cudnn", "dropout = 0.1"),
        ("cpu", "float32", 256, {"dropout": 0.1}, "blocks", "dropout = 0.1"),
        (
            "cpu",
            "bfloat16",
            8,
            {},
            "cudnn",
            'attention = "cudnn" needs a GPU with CUDA, and this is a cpu',
        ),
        ("rocm", "bfloat16", 8, {}, "cudnn", "needs a GPU with CUDA, and this is a rocm"),
        ("gpu", "bfloat16", 128, {}, "splash", 'attention = "splash" needs a TPU'),
        ("gpu", "float32", 8, {"head_dim": 64}, "cudnn", '[training] compute_dtype = "bfloat16"'),
        ("gpu", "bfloat16", 8, {"head_dim": 60}, "cudnn", "a multiple of 8, not 60"),
        ("gpu", "bfloat16", 8, {"head_dim": 264}, "cudnn", "head_dim up to 256, and it is 264"),
        ("tpu", "bfloat16", 128, {"head_dim": 264}, "splash", "head_dim up to 256"),
        ("tpu", "bfloat16", 200, {}, "splash", "sequence_length a multiple of 128, not 200"),
        ("gpu", "bfloat16", 8, {}, "flash", "attention = 'flash' must be one of 'plain', 'bloc"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line_with_field_value_and_remedy(
    tiny: Tiny,
    platform: Any,
    dtype: str,
    T: int,
    fields: dict[str, Any],
    asked: Any,
    named: str,
) -> None:
    with pytest.raises(ValueError) as refused:
        DECODER.check_attention(tiny(**fields), T, dtype, platform, asked)
    message = str(refused.value)
    assert named in message and "\n" not in message
    assert asked == "flash" or message.endswith('ask for attention = "plain", or leave it out')


# Turing, Ampere, Ada, Hopper, Blackwell and Blackwell of desktops, as cuDNN's support matrix has
# them; and where none is known.
@pytest.mark.parametrize(
    ("capability", "widest"),
    [(7.5, 0), (8.0, 128), (8.9, 128), (9.0, 256), (10.0, 128), (12.0, 128), (None, 128)],
)
def test_cudnn_is_chosen_for_heads_of_which_it_has_a_backward_pass(
    tiny: Tiny, capability: float | None, widest: int
) -> None:
    for head_dim in (64, 128, 136, 256, 264):
        given: Any = tiny(head_dim=head_dim), 1024, "bfloat16", "gpu"
        expected = "cudnn" if head_dim <= widest else "plain"
        assert DECODER.attention(*given, capability) == expected
        if expected == "plain" and capability is not None:
            with pytest.raises(ValueError, match=r"compute capability|head_dim up to 256"):
                DECODER.check_attention(*given, "cudnn", capability)
    # Of a GPU that is not known nothing is refused on its account.
    DECODER.check_attention(tiny(head_dim=256), 1024, "bfloat16", "gpu", "cudnn", None)


def test_what_a_gpu_lacks_is_said_with_its_compute_capability(tiny: Tiny) -> None:
    def said(head_dim: int, capability: float) -> str:
        with pytest.raises(ValueError) as refused:
            DECODER.check_attention(
                tiny(head_dim=head_dim), 8, "bfloat16", "gpu", "cudnn", capability
            )
        return str(refused.value)

    assert "head_dim up to 128 at compute capability 8.6, and it is 200; ask" in said(200, 8.6)
    assert "needs compute capability 8.0 or more, and this GPU has 7.5; ask" in said(64, 7.5)


@pytest.mark.parametrize("platform", ["cpu", "gpu", "rocm", "tpu"])
def test_plain_attention_is_never_refused(tiny: Tiny, platform: Any) -> None:
    config = tiny(attention_softcap=5.0, dropout=0.1, attention_window=3, head_dim=300)
    DECODER.check_attention(config, 77, "float32", platform, "plain")


def test_every_name_has_a_kernel() -> None:
    assert set(KERNELS) == set(get_args(Attention))


def test_choosing_loads_no_jax() -> None:
    code = "import sys, models.decoder.architecture; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
