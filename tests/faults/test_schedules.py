"""Grids that go through schedules of faults, drawn from a seed, end as the undisturbed one does.

SCALING_FAULT_SEED and _SCHEDULES say which, _ONLY the numbers of those to give again, and
_STORAGE an address or folder of one's own to put results in. With _SHIM the faults are done below
Python.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fault_driver import INJECTED, Course, NotSurvived, linked
from fault_schedule import Place, schedule

from scaling.store.objects import is_address

Make = Callable[..., Any]
Survived = Callable[..., None]

SEED = int(os.environ.get("SCALING_FAULT_SEED") or 0)
SCHEDULES = int(os.environ.get("SCALING_FAULT_SCHEDULES") or 30)
ONLY = [int(word) for word in os.environ.get("SCALING_FAULT_ONLY", "").split()]
STORAGE = os.environ.get("SCALING_FAULT_STORAGE", "")
SHIM = bool(os.environ.get("SCALING_FAULT_SHIM"))
SHORT = ("tokens = [3072, 6144]", "tokens = [1536, 3072]")


@pytest.fixture(scope="session")
def short(make: Make, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A grid of short runs that nothing happened to."""
    grid = make(tmp_path_factory.mktemp("short"), SHORT)
    began = time.monotonic()
    code, said = grid.finish(grid.launch())
    assert code == 0, said
    return replace(grid, seconds=time.monotonic() - began)


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Where faults are done below Python, if that is asked for: built by the C compiler here."""
    if not SHIM:
        return None
    built = tmp_path_factory.mktemp("shim") / "shim.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", built, INJECTED / "shim.c", "-ldl"], check=True)
    return built


@pytest.mark.slow
@pytest.mark.parametrize("number", ONLY or range(SCHEDULES))
def test_a_grid_survives_a_schedule_of_faults(
    make: Make,
    short: Any,
    shim: Path | None,
    cache: Path,
    survived: Survived,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    given: Place | None = ("bucket" if is_address(STORAGE) else "folder") if STORAGE else None
    drawn = schedule(SEED, number, given)
    within = STORAGE or (f"file://{tmp_path}" if drawn.place == "bucket" else str(tmp_path))
    address = f"{within.rstrip('/')}/faults-{uuid4().hex[:12]}"
    grid = make(tmp_path, SHORT)
    if drawn.place == "folder":
        grid = replace(grid, results=Path(address))
    own = linked(cache, tmp_path / "cache")
    monkeypatch.setenv("SCALING_CACHE", str(own))
    course = Course(drawn, grid, short, address, own, tmp_path, shim)
    try:
        course.run()
        course.assert_equal()
        course.remove()
    except Exception as error:
        told = [f"{type(error).__name__}: {error}", str(drawn), *course.told]
        place = f" STORAGE={STORAGE}" if STORAGE else ""
        place += " SHIM=1" if SHIM else ""
        told.append(f"Give it again: make faults SEED={SEED} ONLY={number}{place}")
        raise NotSurvived("\n".join(told)) from error
    finally:
        for what in course.befell:
            survived(f"{what} ({drawn.place})")
