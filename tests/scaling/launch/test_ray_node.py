"""A node of a Ray cluster says what it lacks, and its worker is one like any other."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.launch import ray_node
from scaling.launch.prepare import prepare
from scaling.launch.ray_node import Place, unfit
from scaling.launch.worker import REQUEUE
from scaling.planning.plan import Plan
from scaling.store.claims import owner
from scaling.store.ready import run_folder
from scaling.store.records import Refusal
from scaling.store.run_record import read_run
from scaling.training.flags import Slot


@pytest.fixture
def runs(plan: Callable[..., Plan], tmp_path: Path) -> list[Path]:
    """The folders of the runs of a plan in a results folder, which has a mark of the launch."""
    made = plan(grid={"tokens": [6144]})
    prepare(tmp_path, made, b"")
    (tmp_path / ".mark").touch()
    return [run_folder(tmp_path, run.run_id) for run in made.runs]


def test_a_node_that_has_all_is_fit(runs: list[Path], tmp_path: Path) -> None:
    assert unfit(str(tmp_path), ".mark") == ""


def test_a_node_with_a_folder_of_its_own_at_that_path_is_not(
    runs: list[Path], tmp_path: Path
) -> None:
    """However like the launch's it is."""
    other = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-there")
    (other / ".mark").unlink()
    assert "does not see" in unfit(str(other), ".mark")


def test_a_node_with_another_version_of_the_program_is_not(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_node, "source_digest", lambda names: "f" * 64)
    assert "it has source ffffffffffff of this program" in unfit(str(tmp_path), ".mark")


def test_a_node_without_the_plans_architecture_is_not(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(names: object) -> str:
        raise ValueError("no architecture 'mine'")

    monkeypatch.setattr(ray_node, "source_digest", absent)
    assert "is not there: no architecture 'mine'" in unfit(str(tmp_path), ".mark")


def test_a_node_without_the_corpora_is_not(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALING_CACHE", str(tmp_path / "elsewhere"))
    said = unfit(str(tmp_path), ".mark")
    assert f"its cache of corpora {tmp_path}/elsewhere/corpora lacks" in said
    assert "SCALING_CACHE set to a folder that all nodes share" in said


def test_gpus_that_jax_does_not_find_are_refused(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_node, "whole_host", lambda: Slot("cpu"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(Refusal, match=r"gives this worker GPUs \(3\), and jax finds none"):
        Place(str(tmp_path), "cheapest-first", "a.log", 1, 1)


def test_a_worker_on_cores_takes_no_gpu() -> None:
    assert ray_node._without_gpus(Slot())["JAX_PLATFORMS"] == "cpu"


@pytest.mark.slow
def test_a_worker_of_an_actor_stops_with_a_checkpoint_and_another_goes_on(
    runs: list[Path], tmp_path: Path
) -> None:
    first = Place(str(tmp_path), "cheapest-first", "a.log", 0, 1)
    while owner(runs[0]) is None:
        time.sleep(0.01)
    codes: list[int] = []
    waiting = threading.Thread(target=lambda: codes.append(first.wait()))  # as the actor's does
    waiting.start()
    first.stop()
    waiting.join()
    assert codes == [REQUEUE] and owner(runs[0]) is None
    assert Place(str(tmp_path), "cheapest-first", "a.log", 0, 1).wait() == 0
    assert [read_run(run).status for run in runs] == ["completed"] * len(runs)
    assert "ended by signal" not in (tmp_path / "logs" / "a.log").read_text()
    killed = Place(str(tmp_path), "cheapest-first", "b.log", 0, 1)
    killed.kill()
    assert killed.wait() < 0
