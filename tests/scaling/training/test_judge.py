"""Held-out losses are asked for whole, fetched once, and are those of every window."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.data.holdout import HoldoutWindows
from scaling.training import judge as judging
from scaling.training.judge import holdout_losses, judge

WINDOWS = HoldoutWindows(
    np.arange(7 * 5, dtype=np.int32).reshape(7, 5), np.arange(7)[:, None].repeat(4, 1), None
)


def program(said: list[str], sequences: int = 3) -> Any:
    def evaluate(params: Any, tokens: jax.Array) -> jax.Array:
        said.append("asked")
        return jnp.float32(params) * tokens[:, 1:]

    layout = SimpleNamespace(microbatch_sequences=sequences)
    return SimpleNamespace(evaluate=evaluate, put_windows=jnp.asarray, layout=layout)


def test_all_losses_are_asked_for_before_any_is_fetched_and_all_are_fetched_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    fetch = jax.device_get
    monkeypatch.setattr(
        judging.jax, "device_get", lambda parts: (said.append("fetched"), fetch(parts))[1]
    )
    asked = judge(program(said), 2, WINDOWS)
    assert said == ["asked"] * 3
    losses = asked.losses()
    assert said == ["asked"] * 3 + ["fetched"]
    assert losses.dtype == np.float32 and (losses == 2 * WINDOWS.tokens[:, 1:]).all()


@pytest.mark.parametrize("sequences", [1, 2, 7, 16])
def test_what_fills_up_the_last_batch_is_no_part_of_the_losses(sequences: int) -> None:
    losses = holdout_losses(program([], sequences), 1, WINDOWS)
    assert (losses == WINDOWS.tokens[:, 1:]).all()


def test_a_step_may_overwrite_the_parameters_before_the_losses_are_fetched() -> None:
    evaluate = jax.jit(lambda params, tokens: params["w"][None] * tokens[:, 1:])
    step = jax.jit(lambda params: {"w": params["w"] * 0}, donate_argnums=0)
    on_device = program([])
    on_device.evaluate = evaluate
    params = {"w": jnp.ones(4)}
    asked = judge(on_device, params, WINDOWS)
    jax.block_until_ready(step(params))
    assert (asked.losses() == WINDOWS.tokens[:, 1:]).all()
