"""`scaling run` and `scaling worker` on a host with GPUs, which are made up; nothing is trained."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.__main__ import main
from scaling.launch import launcher, recording, slots
from scaling.launch.local import Local
from scaling.launch.pool import Pool
from scaling.launch.slots import Host
from scaling.spec import RunSpec
from scaling.training import flags
from scaling.training.flags import Slot, is_deterministic

H200 = Host("gpu", "NVIDIA H200", tuple("0123"))


class Launched:
    """The environments of the workers that a command would start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.environments: list[dict[str, str]] = []
        monkeypatch.setattr(slots, "this_host", lambda: H200)
        monkeypatch.setattr(flags, "version", lambda name: "0.11.1")
        monkeypatch.setattr(launcher, "launch", self)
        monkeypatch.delenv("XLA_FLAGS", raising=False)

    def __call__(self, pool: Pool, *_: Any) -> None:
        assert isinstance(pool.launcher, Local)
        self.environments = [dict(pool.launcher.environment(each.slot)) for each in pool.slots]


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> Launched:
    return Launched(monkeypatch)


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


def test_a_run_is_started_on_each_gpu(
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    write_study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("run", write_study("[1536, 2048, 3072, 6144]"), "--results", tmp_path / "results")
    assert scaling(monkeypatch, *words) == 1  # since none was trained
    said = capsys.readouterr()
    assert "4 runs at once, each on one NVIDIA H200\n" in said.out, said
    seen = [each["CUDA_VISIBLE_DEVICES"] for each in launched.environments]
    assert seen == ["0", "1", "2", "3"]
    assert {each["XLA_CLIENT_MEM_FRACTION"] for each in launched.environments} == {"0.920"}
    assert not any("deterministic" in each.get("XLA_FLAGS", "") for each in launched.environments)

    assert scaling(monkeypatch, *words, "--devices-per-run", 2) == 1
    assert "2 runs at once, each on 2 NVIDIA H200\n" in capsys.readouterr().out
    assert [each["CUDA_VISIBLE_DEVICES"] for each in launched.environments] == ["0,1", "2,3"]

    assert scaling(monkeypatch, *words, "--workers", 5) == 2
    assert "--workers 5: this host has 4 devices" in capsys.readouterr().err


def test_a_study_that_asks_for_the_same_bits_is_started_with_them(
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    write_study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def record(runs: Sequence[RunSpec], slot: Slot, file: Path) -> None:
        assert all(run.hardware.deterministic for run in runs)
        recorded.append(slot)
        file.write_text("recorded")

    recorded: list[Slot] = []
    monkeypatch.setattr(recording, "_record", record)
    study = write_study("[1536, 3072]")
    study.write_text(f"{study.read_text()}[hardware]\ndeterministic = true\n")
    assert scaling(monkeypatch, "run", study, "--results", tmp_path / "results") == 1
    assert "recording the algorithms of 1 programs" in capsys.readouterr().out
    for each in launched.environments:
        assert is_deterministic("gpu", each["XLA_FLAGS"])
        assert str(tmp_path / "results/grid/algorithms") in each["XLA_FLAGS"]

    # `scaling worker` becomes the process that a launch would start.
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda path, words, environment: started.append(environment))
    scaling(monkeypatch, "worker", tmp_path / "results/grid")
    (environment,) = started
    assert environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert is_deterministic("gpu", environment["XLA_FLAGS"])
    # A run on four devices is another program than one on one.
    assert [slot.devices for slot in recorded] == [("0",), H200.devices]


def test_a_faulty_jaxlib_is_refused_before_anything_is_planned(
    launched: Launched,
    monkeypatch: pytest.MonkeyPatch,
    write_study: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(flags, "version", lambda name: "0.10.2")
    assert scaling(monkeypatch, "run", write_study(), "--results", tmp_path / "results") == 2
    said = capsys.readouterr().err
    assert "jaxlib 0.10.2" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "results").exists()
