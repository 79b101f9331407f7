"""A device's peak is found by what jax calls it, or said to be unknown."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest
from jax._src.pallas.mosaic.tpu_info import chip_version_from_device_kind

from models import devices
from models.devices import device_of_kind, expected_platform, peak_flops, platform_named

# Dense peaks in TFLOP/s of NVIDIA's data sheets (bf16, TF32) and cloud.google.com/tpu (bf16).
PUBLISHED = [
    ("NVIDIA A100-SXM4-80GB", 312, 156),
    ("NVIDIA H100 80GB HBM3", 989, 495),
    ("NVIDIA H200", 989, 495),
    ("TPU v4", 275, 275),
    ("TPU v5 lite", 197, 197),
    ("TPU v5", 459, 459),
    ("TPU v6 lite", 918, 918),
]


@pytest.mark.parametrize(("kind", "bf16", "float32"), PUBLISHED)
def test_a_kinds_peak_is_the_published_one(kind: str, bf16: float, float32: float) -> None:
    assert peak_flops(kind, "bfloat16") == bf16 * 1e12
    # jax's default precision computes float32 products in TF32 on these GPUs, in bf16 on TPUs.
    assert peak_flops(kind, "float32") == float32 * 1e12


@pytest.mark.parametrize("kind", ["cpu", "NVIDIA H200 NVL", "NVIDIA A10G", "TPU v9", ""])
def test_no_peak_is_guessed(kind: str) -> None:
    assert device_of_kind(kind) is None
    assert peak_flops(kind, "bfloat16") is None


def test_a_number_format_without_a_peak_has_none() -> None:
    assert peak_flops("NVIDIA H200", "float64") is None


def test_the_device_that_tests_run_on_has_no_peak() -> None:
    assert peak_flops(jax.devices()[0].device_kind, "float32") is None


def test_jax_knows_the_kinds_of_tpus_that_the_table_has() -> None:
    kinds = [kind for each in devices.devices().values() for kind in each.kinds]
    tpus = [kind for kind in kinds if kind.startswith("TPU")]
    assert len(tpus) == 7 and all(map(chip_version_from_device_kind, tpus))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('kinds = "NVIDIA X"', "kinds = 'NVIDIA X'; give a list"),
        ('float32 = "tf32"', "float32 = 'tf32', of which it has no peak"),
    ],
)
def test_a_table_with_a_faulty_kind_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'[mine]\npeak = {{ bf16 = 1e14 }}\nmemory = 1e11\nsource = "m"\n{text}\n')
    with pytest.raises(ValueError, match=words):
        devices.devices_in(path.read_bytes(), path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("memory = 1e11", "memory = .* outside a table"),
        ("[mine]\npeak = 1e14", "peak of no format"),
        ('[mine]\npeak = { bf16 = "1e14" }', "bf16 = '1e14'; it must be a positive number"),
        ('[mine]\npeak = { bf16 = 1e14 }\nmemory = "80GB"', "memory = '80GB'; it must be"),
        (f"[mine]\npeak = {{ bf16 = 1e14 }}\nmemory = 1{'0' * 400}", "memory = 1.*; it must be"),
        ("[mine]\npeak = { bf16 = 1e14 }\nfloat32 = []", "float32 = \\[\\], of which"),
    ],
)
def test_a_table_of_other_kinds_of_values_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.toml"
    needs = "" if "memory" in text else "\nmemory = 1e11"
    with pytest.raises(ValueError, match=words):
        devices.devices_in(f'{text}{needs}\nsource = "m"\n'.encode(), path)


def test_a_kind_of_two_devices_is_refused(tmp_path: Path) -> None:
    entry = 'kinds = ["X"]\npeak = { bf16 = 1e14 }\nmemory = 1e11\nsource = "m"\n'
    path = tmp_path / "mine.toml"
    path.write_text(f"[one]\n{entry}\n[two]\n{entry}")
    with pytest.raises(ValueError, match="one and two both have the kind 'X'"):
        devices.devices_in(path.read_bytes(), path)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        *[("cpu", "cpu"), ("cuda", "gpu"), ("tpu,cpu", "tpu"), ("gpu", "gpu"), ("", "cpu")],
        ("rocm", "rocm"),
    ],
)
def test_the_platform_follows_what_jax_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: str, found: str
) -> None:
    monkeypatch.setattr(devices, "_installed", lambda: "cpu")
    monkeypatch.setenv("JAX_PLATFORMS", asked)
    assert expected_platform() == found


def test_a_gpu_is_one_of_rocm_where_its_plugin_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "find_spec", lambda name: name == "jax_rocm7_plugin" or None)
    devices._installed.cache_clear()
    try:
        for asked in ("", "gpu", "rocm", "rocm,cpu"):
            monkeypatch.setenv("JAX_PLATFORMS", asked)
            assert expected_platform() == "rocm"
        assert platform_named("cuda") == "gpu"
    finally:
        devices._installed.cache_clear()


@pytest.mark.parametrize(
    ("kind", "capability"),
    [("NVIDIA A100-SXM4-80GB", 8.0), ("NVIDIA L4", 8.9), ("NVIDIA H200", 9.0), ("TPU v5", None)],
)
def test_a_gpu_has_its_compute_capability(kind: str, capability: float | None) -> None:
    device = device_of_kind(kind)
    assert device is not None and device.capability == capability
