"""What the commands make of a results folder: of a pipe, of two studies, of other versions."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import status
from experiments.cli.__main__ import main
from scaling.launch import launcher
from scaling.store.folder import Folder
from scaling.store.holding import holding
from scaling.store.manifest import read_manifest
from scaling.store.ready import run_folder
from scaling.store.records import FORMAT, read_json, sealed, write_json
from scaling.store.run_record import read_run


@dataclass(frozen=True)
class Here:
    """A study, and the command line to train it with. A launch trains nothing."""

    study: Path
    folder: Path
    scaling: Callable[..., int]

    def run(self, study: object | None = None) -> int:
        given = self.study if study is None else study
        return self.scaling("run", given, "--results", self.folder.parent)


@pytest.fixture
def here(write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.setattr(launcher, "launch", lambda *_: [])

    def scaling(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
        return main()

    study = write_study("[1536, 3072]")
    return Here(study, tmp_path / "results" / "grid", scaling)


@pytest.fixture
def trained(here: Here, capsys: pytest.CaptureFixture[str]) -> Here:
    """All of its runs have completed."""
    here.run()
    for run in read_manifest(here.folder).runs:
        folder = run_folder(here.folder, run.run_id)
        record = read_run(folder).changed(status="completed", result={"loss": 2.5})
        write_json(folder / "run.json", record.plain())
    assert here.run() == 0
    capsys.readouterr()
    return here


def piped(study: Path) -> str:
    """The name of a pipe that gives the study once."""
    out, into = os.pipe()
    os.write(into, study.read_bytes())
    os.close(into)
    return f"/dev/fd/{out}"


def test_a_study_from_a_pipe_is_planned(here: Here, capsys: pytest.CaptureFixture[str]) -> None:
    assert here.scaling("plan", here.study) == 0
    wanted = capsys.readouterr().out.splitlines()
    assert here.scaling("plan", piped(here.study)) == 0
    assert capsys.readouterr().out.splitlines()[:-1] == wanted[:-1]


def test_a_study_from_a_pipe_is_trained_and_kept_as_it_came(here: Here) -> None:
    here.run(piped(here.study))
    assert (here.folder / "study.toml").read_bytes() == here.study.read_bytes()
    manifest = read_manifest(here.folder)
    # The digest of the bytes that are kept, and parsed: the runs are those of the file.
    here.run()
    assert read_manifest(here.folder) == manifest


def edit(study: Path, before: str, after: str) -> None:
    assert before in study.read_text()
    study.write_text(study.read_text().replace(before, after))


def test_a_second_launch_of_an_edited_study_is_refused_and_told_both_digests(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.run()
    first = read_manifest(here.folder)
    edit(here.study, "learning_rate = 0.02", "learning_rate = 0.03")
    with holding(here.folder):
        assert here.run() == 2
    said = capsys.readouterr().err
    assert first.study_sha256[:12] in said and "stop the others first" in said
    assert read_manifest(here.folder) == first


def test_finished_runs_of_an_earlier_version_of_the_study_are_named(
    trained: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    dropped = read_manifest(trained.folder).runs[-1].run_id
    edit(trained.study, "[1536, 3072]", "[1536]")
    assert trained.run() == 0
    said = capsys.readouterr().out
    assert "the study has changed" in said
    assert f"kept, but are not in the table: {dropped}" in said
    assert trained.scaling("status", trained.folder) == 0
    said = capsys.readouterr().out
    assert "1 completed" in said and dropped in said


def test_the_status_of_a_study_that_is_complete_ends_with_what_comes_next(
    trained: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.scaling("status", trained.folder) == 0
    assert "Next: no fit of chinchilla yet" in capsys.readouterr().out.splitlines()[-1]
    (trained.folder / "runs.parquet").write_bytes(b"cut")
    assert trained.scaling("status", trained.folder) == 0
    said = capsys.readouterr().out.splitlines()[-1]
    assert said == "Next: the same `scaling run`, which writes the run table"


def test_a_study_that_is_not_complete_is_not_said_to_be(
    here: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    here.run()
    capsys.readouterr()
    assert here.scaling("status", here.folder) == 0
    assert "Next:" not in capsys.readouterr().out


def test_a_file_in_the_place_of_a_runs_folder_is_to_be_removed_first(
    trained: Here, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder(trained.folder, read_manifest(trained.folder).runs[0].run_id)
    shutil.rmtree(folder)
    folder.write_text("junk")
    assert trained.scaling("status", trained.folder) == 0
    said = capsys.readouterr().out
    assert f"{folder}/run.json: Not a directory. Remove what is in the place of its" in said


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_a_finished_run_whose_record_is_gone_is_named_by_the_status(
    trained: Here,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
) -> None:
    lost = read_manifest(trained.folder).runs[0].run_id
    damage(run_folder(trained.folder, lost) / "run.json")
    out = tmp_path / "status.json"
    assert trained.scaling("status", trained.folder, "--json", out) == 0
    said = capsys.readouterr().out
    assert "1 completed" in said and lost in said
    assert "1 runs of the plan have no readable record" in said
    assert list(json.loads(out.read_text())["unreadable"]) == [lost]


# --- of another version ---


def newer(folder: Path) -> None:
    plan = folder / "plan.json"
    write_json(plan, sealed({**read_json(plan), "format": FORMAT + 1, "note": "of tomorrow"}))
    for path in folder.glob("runs/*/run.json"):
        write_json(path, sealed({**read_json(path), "format": FORMAT + 1, "note": "of tomorrow"}))


def first(folder: Path) -> None:
    (folder / "plan.json").unlink()
    for path in folder.glob("runs/*/run.json"):
        record = read_json(path)
        del record["format"], record["files"], record["sha256"]
        write_json(path, {**record, "counts": {"tokens": 20}})


@pytest.mark.parametrize(
    "wrote, words", [(newer, "which a newer version"), (first, "which an earlier version")]
)
@pytest.mark.parametrize("command", ["run", "worker", "status", "eval"])
def test_no_command_touches_the_folder_of_another_version(
    trained: Here,
    capsys: pytest.CaptureFixture[str],
    wrote: Callable[[Path], None],
    words: str,
    command: str,
) -> None:
    wrote(trained.folder)
    before = {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")}
    if command == "run":
        assert trained.run() == 2
    else:
        assert trained.scaling(command, trained.folder) == 2
    said = capsys.readouterr().err
    assert words in said and len(said.strip().splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in trained.folder.rglob("*")} == before


@pytest.mark.parametrize("wrote", [newer, first])
def test_the_run_table_of_another_version_can_still_be_fitted(
    trained: Here, capsys: pytest.CaptureFixture[str], wrote: Callable[[Path], None]
) -> None:
    params, tokens = [1e6, 3e6, 1e7, 3e7], [1e8, 3e8, 1e9, 3e9]
    rows = [(n, d, 1.8 + 400 / n**0.35 + 400 / d**0.36) for n in params for d in tokens]
    table = pd.DataFrame(rows, columns=["params_total", "tokens", "loss"])
    table.to_parquet(trained.folder / "runs.parquet")
    wrote(trained.folder)
    # In the folder of a newer version nothing is written, so its table is given by its name.
    assert trained.scaling("fit", trained.folder, "--bootstrap", "0") == 2 * (wrote is newer)
    named = shutil.copy(trained.folder / "runs.parquet", trained.folder.parent)
    assert trained.scaling("fit", named, "--bootstrap", "0") == 0
    assert "chinchilla" in capsys.readouterr().out


def test_status_names_what_killed_processes_left_and_the_next_launch_removes_what_it_may(
    trained: Here,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setenv("SCALING_CACHE", str(cache))
    half, table = cache / "corpora" / ".making.0123456789ab", f".runs.parquet.{'0a' * 16}"
    half.mkdir(parents=True)
    ended = next(trained.folder.glob("runs/*"))
    claim, record = ended / "claims" / f".000001.{'0b' * 16}", ended / f".run.json.{'0c' * 16}"
    claim.parent.mkdir()
    for path in (half / "lock", half / "part.npy", trained.folder / table, claim, record):
        path.write_bytes(b"half")
    for path in (trained.folder / table, claim, record):
        os.utime(path, (0, 0))
    capsys.readouterr()
    assert trained.scaling("status", trained.folder, "--json", tmp_path / "status.json") == 0
    said = capsys.readouterr().out
    assert "left by processes that were killed" in said and f"{half}: 0 MB of a corpus" in said
    assert f"{trained.folder / table}: half written" in said
    assert {*read_json(tmp_path / "status.json")["left_behind"]} == {
        str(half), str(trained.folder / table), str(claim), str(record),
    }  # fmt: skip
    assert trained.run() == 0
    capsys.readouterr()
    trained.scaling("status", trained.folder)
    said = capsys.readouterr().out
    assert str(half) in said and table not in said and str(ended) not in said
    assert not claim.exists() and not record.exists()


def test_a_half_made_corpus_that_is_gone_meanwhile_ends_no_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, there = tmp_path / "gone", tmp_path / "there"
    for folder in (gone, there):
        folder.mkdir()
    rglob = Path.rglob

    def removed(folder: Path, pattern: str) -> Iterator[Path]:
        if folder == gone:
            raise FileNotFoundError(folder)
        return rglob(folder, pattern)

    monkeypatch.setattr("scaling.data.making.half_made", lambda _: [gone, there])
    monkeypatch.setattr(Path, "rglob", removed)
    assert [*status._left_behind(Folder(tmp_path))] == [str(there)]
