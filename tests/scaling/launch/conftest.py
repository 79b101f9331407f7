"""What every test of launches and workers shares."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def nothing_is_ignored() -> Iterator[None]:
    """Under `nohup` tests would wait for ever for a worker to hear the hang-up that they send."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
