"""The time that a launch has left is said when it can be known, by the rate of late."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.launch import watch
from scaling.launch.prepare import prepare
from scaling.planning.plan import Plan


def test_the_time_left_is_by_what_was_trained_in_the_later_half_of_the_time(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, done = 0.0, 0.0
    monkeypatch.setattr(watch.time, "monotonic", lambda: now)
    monkeypatch.setattr(watch.WatchedRuns, "_flops_done", property(lambda _: done))
    prepare(tmp_path, plan(), b"")
    seen = watch.WatchedRuns(tmp_path)
    flops = seen.snapshot().flops

    def left() -> float | None:
        seen.look()
        return seen.snapshot().seconds_left

    now, done = 100.0, 0.0  # it starts, and compiles
    assert left() is None
    now, done = 110.0, 0.2 * flops
    assert left() is None, "nobody knows how much of this time that took"
    now, done = 210.0, 0.3 * flops
    assert left() is None
    now, done = 220.0, 0.4 * flops
    assert left() == pytest.approx(0.6 / (0.2 / 110)), "since second 110"
    now, done = 420.0, 0.5 * flops
    assert left() == pytest.approx(0.5 / (0.2 / 210)), "since second 210"
