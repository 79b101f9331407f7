"""What every test shares: a cache of its own, and the flags that workers run with."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import settings

from models.architecture import GROUP, architecture, declared
from scaling.training.flags import worker_environment

TOY = Path(__file__).with_name("models") / "toy.py"

# Before jax is imported anywhere: what holds under the workers' fast math is what is tested, and a
# program that one test compiled serves all. Most of the time is compilation, so it optimises
# nothing; test_worker.py trains with the very flags of a study.
os.environ["XLA_FLAGS"] = f"--xla_backend_optimization_level=0 {worker_environment()['XLA_FLAGS']}"

# Wheels that lie in the working directory are no part of a test.
os.environ["SCALING_PACKAGES"] = os.devnull

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


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """Installs modules as a package that declares architectures, `name="module:OBJECT"` each.

    Their sources are given by file name; the folder in which they lie is returned, and workers
    find them too.
    """
    folder = tmp_path / "packages"

    def forget() -> None:
        architecture.cache_clear()
        declared.cache_clear()
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", "")).startswith(str(folder)):
                del sys.modules[name]

    def install(sources: Mapping[str, str], **entries: str) -> Path:
        info = folder / "my_models-1.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-models\nVersion: 1\n")
        lines = [f"{name} = {value}" for name, value in entries.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines, ""]))
        for name, source in sources.items():
            file = folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder))
        forget()
        return folder

    yield install
    forget()


@pytest.fixture
def toy(declare: Callable[..., Path]) -> str:
    """The name of an architecture that one short file adds."""
    declare({"toy.py": TOY.read_text()}, bag="toy:BAG")
    return "bag"
