"""Workers are of this installation, whatever else has our packages' names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scaling.launch.base import worker_command
from scaling.launch.start import PACKAGES, import_ours

OTHER = "raise SystemExit('another package of this name was imported')"


def shadow(folder: Path, name: str) -> dict[str, str]:
    """Put another package or module of this name there; an environment that looks there first."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(OTHER)
    return {**os.environ, "PYTHONPATH": str(folder)}


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kind", ["{}.py", "{}/__init__.py"])
def test_a_worker_imports_this_installation_alone(tmp_path: Path, name: str, kind: str) -> None:
    environment = shadow(tmp_path, kind.format(name))
    assert subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path).returncode == 1
    nothing_to_train = worker_command([])
    done = subprocess.run(
        nothing_to_train, cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["analysis", "models", "scaling"])  # which is what is started
def test_so_does_the_command_line(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "experiments", "laws"]
    environment = shadow(tmp_path, f"{name}.py")
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)


def test_packages_of_users_are_found_as_before() -> None:
    before = list(sys.path)
    import_ours()
    assert sys.path == before
