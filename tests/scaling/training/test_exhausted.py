"""A run that its device has no memory for fails with a reason and a smaller microbatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from scaling.hardware import Hardware
from scaling.launch.prepare import prepare
from scaling.launch.worker import train_run
from scaling.planning.plan import Plan
from scaling.store.ready import run_folder
from scaling.store.run_record import read_run
from scaling.training import loop
from scaling.training.exhausted import out_of_memory

PETABYTE = 1 << 50


def exhaust(*_: Any, **__: Any) -> Any:
    """What a device says that has too little memory; really, and of any device."""
    return jax.block_until_ready(jnp.zeros(PETABYTE, jnp.int8))


@pytest.fixture
def error() -> jax.errors.JaxRuntimeError:
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        exhaust()
    return raised.value


def test_the_reason_names_the_microbatch_and_the_next_smaller_one(
    plan: Callable[..., Plan], error: jax.errors.JaxRuntimeError
) -> None:
    run = plan().runs[0]
    assert out_of_memory(error, run) == (
        "out of memory on the device with microbatch_tokens = 64: "
        "give [hardware] microbatch_tokens = 32 and --retry failed."
    )
    one = replace(run, hardware=Hardware(microbatch_tokens=16))
    assert 'give [hardware] remat = "full"' in str(out_of_memory(error, one))
    least = replace(run, hardware=Hardware(microbatch_tokens=16, remat="full"))
    assert "give each run more devices" in str(out_of_memory(error, least))


def test_other_errors_say_nothing_of_memory(plan: Callable[..., Plan]) -> None:
    for other in (ValueError("RESOURCE_EXHAUSTED"), jax.errors.JaxRuntimeError("INTERNAL: x")):
        assert out_of_memory(other, plan().runs[0]) is None


def test_a_run_that_is_out_of_memory_in_a_step_fails_with_the_reason(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan()
    prepare(tmp_path, made, b"")
    folder = run_folder(tmp_path, made.runs[0].run_id)
    monkeypatch.setattr(loop._Loop, "_advance", exhaust)
    assert train_run(folder) == "failed"
    assert read_run(folder).reason == (
        "out of memory on the device with microbatch_tokens = 64: "
        "give [hardware] microbatch_tokens = 32 and --retry failed."
    )
