"""Workers are of this installation, whatever else has our packages' names."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.launch.prepare import prepare
from scaling.launch.start import PACKAGES, ROOT, import_ours
from scaling.launch.worker import worker_command
from scaling.planning.plan import Plan
from scaling.store.ready import run_folder
from scaling.store.records import write_json
from scaling.store.run_record import read_run
from scaling.training.flags import worker_environment

OTHER = "raise SystemExit('another package of this name was imported')"


def shadow(folder: Path, name: str) -> None:
    """Put another package or module of this name there."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(OTHER)


@pytest.fixture(scope="module")
def results(plan: Callable[..., Plan], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder in which nothing is left to train."""
    results = tmp_path_factory.mktemp("results")
    for run in prepare(results, plan(), b""):
        folder = run_folder(results, run.run_id)
        write_json(folder / "run.json", read_run(folder).changed(status="completed").plain())
    return results


def work(results: Path, where: Path, **environment: str) -> None:
    """A worker in that working directory ends in order."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        env = worker_environment()
    command = worker_command(results, "cheapest-first")
    done = subprocess.run(command, cwd=where, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("every run of the plan has ended\n")


@pytest.mark.parametrize("name", PACKAGES)
@pytest.mark.parametrize("kind", ["{}.py", pytest.param("{}/__init__.py", marks=pytest.mark.slow)])
def test_a_worker_imports_this_installation_alone(
    tmp_path: Path, results: Path, name: str, kind: str
) -> None:
    shadow(tmp_path, kind.format(name))
    assert subprocess.run([sys.executable, "-c", f"import {name}"], cwd=tmp_path).returncode == 1
    work(results, tmp_path)
    work(results, tmp_path, PYTHONPATH=str(tmp_path))


@pytest.mark.parametrize("path", ["", os.pathsep, f"{os.pathsep}/nowhere", "."])
def test_an_empty_entry_of_the_path_does_not_bring_the_working_directory_first(
    tmp_path: Path, results: Path, path: str
) -> None:
    for name in (*PACKAGES, "numpy", "json"):
        # Of the user's own there may be anything, unless "." is asked for by name.
        if path != "." or name in PACKAGES:
            shadow(tmp_path, f"{name}.py")
    work(results, tmp_path, PYTHONPATH=path)


def test_another_checkout_in_the_working_directory_is_not_imported(
    tmp_path: Path, results: Path
) -> None:
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.toml"))
    (tmp_path / "scaling" / "launch" / "worker.py").write_text(OTHER)
    work(results, tmp_path, PYTHONPATH=os.pathsep)


@pytest.mark.parametrize("name", ["analysis", "models", "scaling"])  # which is what is started
def test_so_does_the_command_line(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-m", "experiments.cli", "laws"]
    shadow(tmp_path, f"{name}.py")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)


def test_packages_of_users_are_found_as_before() -> None:
    before = list(sys.path)
    import_ours()
    assert sys.path == before
