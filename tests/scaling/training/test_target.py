"""What a run is laid out for is what jax says of its devices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from models import devices
from scaling.planning.layout import Layout, Target
from scaling.training import step
from scaling.training.target import target_here, target_of


def device(platform: str, **more: Any) -> Any:
    return SimpleNamespace(platform=platform, memory_stats=lambda: {"bytes_limit": 7.0}, **more)


def test_a_gpu_has_its_memory_and_its_compute_capability() -> None:
    found = target_of(device("gpu", compute_capability="8.9"), 2)
    assert found == Target("gpu", 2, 7.0, 8.9)


def test_a_tpu_and_a_cpu_have_no_compute_capability() -> None:
    assert target_of(device("tpu"), 4) == Target("tpu", 4, 7.0)
    assert target_here() == Target("cpu", jax.device_count())


def test_a_gpu_of_rocm_is_told_by_the_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_installed", lambda: "rocm")
    assert target_of(device("gpu", compute_capability="gfx942"), 1) == Target("rocm", 1, 7.0)


def test_devices_along_the_tensor_axis_share_their_part_of_a_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Target] = []
    monkeypatch.setattr(step, "layout_of", lambda _, target: asked.append(target) or Layout(6))
    monkeypatch.setattr(step, "make_program", lambda *_: None)
    sides = {"data": 2, "fsdp": 3, "tensor": 4}
    mesh: Any = SimpleNamespace(
        shape=sides, size=24, devices=np.full((2, 3, 4), jax.devices()[0], object)
    )
    spec: Any = SimpleNamespace(architecture="", model=None, optimizer=None, seed=0)
    step.program_of(spec, mesh)
    assert [each.devices for each in asked] == [6]
