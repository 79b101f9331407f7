"""Deterministic workers of a GPU take the algorithms that were recorded, once for a plan."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaling.hardware import Hardware
from scaling.launch import recording
from scaling.launch.recording import FOLDER, environment_for
from scaling.launch.slots import Host, slots_of
from scaling.launch.start import ROOT
from scaling.planning.plan import Plan
from scaling.spec import RunSpec, config_of
from scaling.store.records import Refusal
from scaling.training.autotuning import programs_of
from scaling.training.flags import DUMP_FLAG, LOAD_FLAG, Slot, is_deterministic, worker_environment

H200 = Host("gpu", "NVIDIA H200", ("0", "1"))
ONE = slots_of(H200).slots[0]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS", raising=False)


@pytest.fixture
def runs(plan: Callable[..., Plan]) -> list[RunSpec]:
    made = plan(grid={"tokens": [1536, 3072]})
    return [replace(run, hardware=replace(run.hardware, deterministic=True)) for run in made.runs]


def flags(environment: recording.Environment, slot: Slot = ONE) -> list[str]:
    return environment(slot)["XLA_FLAGS"].split()


def given(words: list[str], flag: str) -> Path | None:
    """The file that a flag names."""
    return next((Path(word.partition("=")[2]) for word in words if word.startswith(flag)), None)


class Recorder:
    """Writes a line where XLA would write its results."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, writes: bool = True, code: int = 0) -> None:
        self.calls: list[list[dict[str, Any]]] = []  # the specifications that each compiles
        self.loaded: list[str] = []
        self.writes, self.code = writes, code
        monkeypatch.setattr(recording.subprocess, "run", self)  # type: ignore[attr-defined]

    def __call__(
        self, command: list[str], env: dict[str, str], input: str, **_: object
    ) -> subprocess.CompletedProcess[str]:
        words = env["XLA_FLAGS"].split()
        assert not is_deterministic("gpu", env["XLA_FLAGS"]), "nothing is measured with the switch"
        self.calls.append(json.loads(input))
        file, before = given(words, DUMP_FLAG), given(words, LOAD_FLAG)
        self.loaded.append(before.read_text() if before else "")
        if self.writes:
            assert file is not None
            file.write_text(f"{self.loaded[-1]}{len(self.calls)} ")
        return subprocess.CompletedProcess(command, self.code, "", "out of memory\n")


def environment(results: Path, runs: list[RunSpec], said: list[str]) -> recording.Environment:
    return environment_for(results, runs, H200, ONE, said.append)


def test_what_was_recorded_once_is_loaded_by_every_worker(
    monkeypatch: pytest.MonkeyPatch, runs: list[RunSpec], tmp_path: Path
) -> None:
    recorder, said = Recorder(monkeypatch), list[str]()
    words = flags(environment(tmp_path, runs, said))
    file = given(words, LOAD_FLAG)
    assert file is not None and file.read_text() == "1 " and file.parent == tmp_path / FOLDER
    assert is_deterministic("gpu", " ".join(words)) and given(words, DUMP_FLAG) is None
    assert flags(environment(tmp_path, runs, said)) == words
    assert len(recorder.calls) == 1 and "recording the algorithms of" in said[0]
    # One compilation for all seeds and lengths of a shape.
    assert recorder.calls[0] == [config_of(run) for run in programs_of(runs).values()]
    assert list(file.parent.iterdir()) == [file]


def test_new_programs_of_a_plan_change_no_choice_for_the_old_ones(
    monkeypatch: pytest.MonkeyPatch, runs: list[RunSpec], tmp_path: Path
) -> None:
    recorder = Recorder(monkeypatch)
    environment(tmp_path, runs, [])
    more = [*runs, replace(runs[0], sequence_length=2 * runs[0].sequence_length)]
    assert len(programs_of(more)) == len(programs_of(runs)) + 1
    file = given(flags(environment(tmp_path, more, [])), LOAD_FLAG)
    assert file is not None and file.read_text() == "1 2 "
    assert recorder.loaded == ["", "1 "]


def test_another_layout_on_the_same_kind_of_device_has_a_record_of_its_own(
    monkeypatch: pytest.MonkeyPatch, runs: list[RunSpec], tmp_path: Path
) -> None:
    """Less memory, as of a worker that shares its device, makes other programs of the same runs."""
    recorder = Recorder(monkeypatch)
    asked = Hardware(deterministic=True)
    wide = [replace(run, batch_sequences=4096, hardware=asked) for run in runs]
    files = set()
    for memory in (130e9, 65e9, 50e6):
        made = environment_for(tmp_path, wide, replace(H200, memory=memory), ONE, print)
        files.add(given(flags(made), LOAD_FLAG))
    assert len(recorder.calls) == len(files) == 2  # this tiny model needs less than half an H200


def test_lengths_and_seeds_are_of_one_program(runs: list[RunSpec]) -> None:
    longer = replace(runs[0], schedule=replace(runs[0].schedule, steps=999), seed=7)
    assert programs_of([runs[0], longer]).keys() == programs_of([runs[0]]).keys()


def test_where_xla_records_nothing_workers_are_deterministic_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, runs: list[RunSpec], tmp_path: Path
) -> None:
    Recorder(monkeypatch, writes=False)
    said: list[str] = []
    words = flags(environment(tmp_path, runs, said))
    assert is_deterministic("gpu", " ".join(words)) and given(words, LOAD_FLAG) is None
    assert "XLA recorded none" in said[-1]


def test_a_recording_that_fails_is_refused_with_its_last_line(
    monkeypatch: pytest.MonkeyPatch, runs: list[RunSpec], tmp_path: Path
) -> None:
    Recorder(monkeypatch, code=1)
    with pytest.raises(Refusal, match="cannot be recorded: out of memory"):
        environment(tmp_path, runs, [])
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_nothing_is_recorded_for_those_who_did_not_ask_or_need_not(
    monkeypatch: pytest.MonkeyPatch, runs: list[RunSpec], tmp_path: Path
) -> None:
    recorder = Recorder(monkeypatch)
    plain = [replace(run, hardware=replace(run.hardware, deterministic=False)) for run in runs]
    assert environment(tmp_path, plain, []) is worker_environment
    cpu = Host("cpu", "cpu", ("0",))
    assert environment_for(tmp_path, runs, cpu, Slot(), print) is worker_environment
    tpu = Host("tpu", "TPU v4", ("0",))
    with pytest.raises(Refusal, match="deterministic = true: of a TPU"):
        environment_for(tmp_path, runs, tpu, Slot("tpu"), print)
    assert recorder.calls == [] and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_process_that_records_compiles_each_program_once(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    made = plan(grid={"tokens": [1536, 3072]})
    start = str(ROOT / "scaling/launch/start.py")
    done = subprocess.run(
        [sys.executable, "-P", start, "--record"],
        input=json.dumps([config_of(run) for run in made.runs]),
        env={**worker_environment(ONE, "recorded", tmp_path / "f"), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, '{"programs": 1}\n'), done.stderr
