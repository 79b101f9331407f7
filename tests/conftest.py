"""What every test shares: a cache of its own, and the flags that workers run with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from scaling.training.flags import worker_environment

# Before jax is imported anywhere: what holds under the workers' fast math is what is tested, and a
# program that one test compiled serves all. Most of the time is compilation, so it optimises
# nothing; test_worker.py trains with the very flags of a study.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {worker_environment()['XLA_FLAGS']}"

# The same examples on every machine, however slow: what fails there fails here.
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The cache folder of all tests, shared by the processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "scaling-cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALING_CACHE", str(folder))
        yield folder
