"""The scripts of benchmarks/ as modules."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """The script of a name, loaded and not run."""

    def load(name: str) -> ModuleType:
        known = f"benchmark_{name}"
        if known not in sys.modules:
            spec = importlib.util.spec_from_file_location(known, FOLDER / f"{name}.py")
            assert spec is not None and spec.loader is not None
            sys.modules[known] = importlib.util.module_from_spec(spec)
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(str(FOLDER))  # scripts import each other, as when run
                spec.loader.exec_module(sys.modules[known])
        return sys.modules[known]

    return load
