"""How long and how much memory reading a hostile file may take, and who counts it."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from scaling.store.records import Refusal

SECONDS = 10.0  # of CPU, for what takes a tenth of it
MEGABYTES = 300  # beyond what was there before
LONGEST = 20_000  # characters of a refusal


@contextmanager
def _refused_or_done() -> Iterator[None]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    try:
        yield
    except Refusal as error:
        assert 0 < len(str(error)) < LONGEST
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1e3


@pytest.fixture(scope="session")
def refused_or_done() -> Callable[[], object]:
    """A context that nothing but a Refusal of some lines may end, soon and in little memory."""
    return _refused_or_done
