"""`scaling run --launcher slurm` and `scaling status`, with a Slurm that only says what it is told.

tests/slurm has a real one.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest

from experiments.cli import status
from experiments.cli.__main__ import main
from scaling.launch import slurm_queue
from scaling.store.manifest import read_manifest
from scaling.store.ready import run_folder
from scaling.store.records import write_json
from scaling.store.results import Results
from scaling.store.run_record import read_run

# What each command does: answers with the file of its name, or refuses with the words in `refused`.
COMMANDS = {
    "sbatch": """
        echo "$@" >>$at/sbatch.said
        [ -e $at/refused ] && { cat $at/refused >&2; exit 1; }
        case "$1" in --test-only) cat >$at/tested; exit 0;; esac
        echo $((100 + $(grep -c parsable $at/sbatch.said)))
    """,
    "squeue": """
        [ -e $at/silent ] && { cat $at/silent >&2; exit 1; }
        cat $at/queue
    """,
    "sinfo": """
        case "$*" in *%n*) cat $at/hosts;; *) printf 'cpu\\ngpu\\n';; esac
    """,
    "scontrol": "echo 'MaxArraySize            = 1001'",
}


@dataclass(frozen=True)
class Fake:
    """The Slurm, and the command line."""

    at: Path
    study: Path
    folder: Path

    def scaling(self, *words: object) -> int:
        before = sys.argv
        sys.argv = ["scaling", *map(str, words)]
        try:
            return main()
        finally:
            sys.argv = before

    def run(self, *words: object) -> int:
        results = ("--results", self.folder.parent)
        return self.scaling("run", self.study, "--launcher", "slurm", *results, *words)

    def ask(self, section: str) -> None:
        """Add these lines to [launch.slurm] of the study."""
        self.study.write_text(f"{self.study.read_text()}\n[launch.slurm]\n{section}\n")

    def queue(self, *tasks: Sequence[object]) -> None:
        """Have squeue say this: array, number, state, restarts, reason."""
        widths = (16, 16, 20, 8, 200)
        lines = (
            "".join(str(word).ljust(width) for word, width in zip(task, widths, strict=True))
            for task in tasks
        )
        (self.at / "queue").write_text("\n".join(lines))

    @property
    def submitted(self) -> list[str]:
        said = self.at / "sbatch.said"
        return [line for line in said.read_text().splitlines() if "parsable" in line]

    def script(self, job: int) -> str:
        record = json.loads((self.folder / "slurm" / f"{job}.json").read_text())
        text = (self.folder / "slurm" / record["script"]).read_text()
        assert sha256(text.encode()).hexdigest() == record["sha256"]
        return text

    def end(self, status: str, count: int) -> None:
        """Have the first runs of the plan end."""
        for run in read_manifest(self.folder).runs[:count]:
            folder = run_folder(self.folder, run.run_id)
            result = {"loss": 2.5} if status == "completed" else None
            write_json(
                folder / "run.json", read_run(folder).changed(status=status, result=result).plain()
            )


@pytest.fixture
def slurm(
    write_study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Fake:
    at = tmp_path / "slurm"
    at.mkdir()
    for name, lines in COMMANDS.items():
        (at / name).write_text(f"#!/bin/bash\nat={at}\n{lines}")
        (at / name).chmod(0o755)
    (at / "queue").write_text("")
    (at / "hosts").write_text(os.uname().nodename)
    monkeypatch.setenv("PATH", f"{at}:{os.environ['PATH']}")
    return Fake(at, write_study("[1536, 3072, 6144]"), tmp_path / "results" / "grid")


def test_a_study_is_planned_and_its_workers_are_asked_of_slurm(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    slurm.ask('partition = "gpu"\ngpus = 1\nworkers = 2')
    assert slurm.run() == 0
    said = capsys.readouterr().out
    assert "2 workers at once on Slurm, each with GPUs 1, partition gpu\n" in said
    assert "submitted Slurm job 101: 2 tasks, 2 at once\n" in said
    assert f"Follow: scaling status {slurm.folder} --watch\nStop: scancel 101\n" in said
    assert len(read_manifest(slurm.folder).runs) == 3
    assert (slurm.folder / "logs").is_dir()
    assert "#SBATCH --array=0-1\n" in slurm.script(101)
    assert f"worker {slurm.folder} --order" in slurm.script(101)
    assert (slurm.at / "tested").read_text() == slurm.script(101)


@pytest.mark.parametrize(
    "section, words, array",
    [
        ("", (), "0-2"),  # no more than there are runs
        ("workers = 2", ("--workers", 1), "0-0"),  # the command line wins
        ("workers = 1\nspares = 3\nrequeue = false", (), "0-3%1"),
        ("workers = 2\nrequeue = false", (), "0-9%2"),
    ],
)
def test_how_many_tasks_are_asked_for(
    slurm: Fake, section: str, words: tuple[object, ...], array: str
) -> None:
    slurm.ask(section)
    assert slurm.run(*words) == 0
    assert f"#SBATCH --array={array}\n" in slurm.script(101)


def test_what_waits_or_runs_is_not_submitted_again(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.run() == 0
    slurm.queue(
        (101, 0, "RUNNING", 0, "None"),
        (101, 1, "PENDING", 0, "Resources"),
        (101, 2, "PENDING", 1, "BeginTime"),
    )
    assert slurm.run() == 0
    assert "nothing was submitted: as many workers" in capsys.readouterr().out
    assert len(slurm.submitted) == 1

    slurm.queue((101, 0, "COMPLETING", 0, "None"), (101, 1, "RUNNING", 0, "None"))
    assert slurm.run() == 0
    assert "#SBATCH --array=0-1\n" in slurm.script(102)  # two of three are missing


def test_a_list_of_runs_with_nothing_to_do_submits_nothing(slurm: Fake) -> None:
    assert slurm.run() == 0
    slurm.end("completed", 3)
    assert slurm.run() == 0
    assert len(slurm.submitted) == 1


def test_a_dry_run_says_where_and_writes_nothing(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.run("--dry-run") == 0
    assert "3 workers at once on Slurm" in capsys.readouterr().out
    assert not slurm.folder.exists() and slurm.submitted == []


@pytest.mark.parametrize(
    "section, refused, said",
    [
        (
            'partition = "gup"',
            "sbatch: error: invalid partition specified: gup",
            "[launch.slurm] partition = 'gup': Slurm says: sbatch: error: invalid partition "
            "specified: gup. Give one of cpu, gpu. Did you mean gpu?",
        ),
        (
            "workers = 2\nspares = 2000\nrequeue = false",
            "allocation failure: Invalid job array specification",
            "[launch.slurm] workers and spares = 2002: Slurm says: allocation failure: Invalid "
            "job array specification. Give fewer workers or spares: MaxArraySize is 1001.",
        ),
        (
            "gpus = 9",
            "sbatch: error: Invalid generic resource (gres) specification",
            "[launch.slurm] gpus = 9: Slurm says: sbatch: error: Invalid generic resource (gres) "
            "specification. Correct it, or leave it out for the site's default.",
        ),
        (
            'mem = "9T"\ncpus = 4',
            "allocation failure: Requested node configuration is not available",
            "[launch.slurm] cpus = 4, mem = '9T', nodes = 1: Slurm says: allocation failure: "
            "Requested node configuration is not available. Ask for what it has.",
        ),
        (  # what is about no field alone names them all
            'time = "01:00:00"\naccount = "me"',
            "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
            "[launch.slurm] account = 'me', nodes = 1, time = '01:00:00': Slurm says: Job violates",
        ),
        ('time = "4h"', "", "[launch.slurm] time = '4h': is no time that Slurm reads; give"),
        ('template = "none.sh"', "", "[launch.slurm] template = 'none.sh' cannot be read"),
    ],
)
def test_what_slurm_would_refuse_is_refused_before_anything_is_written(
    slurm: Fake, capsys: pytest.CaptureFixture[str], section: str, refused: str, said: str
) -> None:
    slurm.ask(section)
    if refused:
        (slurm.at / "refused").write_text(refused)
    assert slurm.run() == 2
    shown = capsys.readouterr().err
    assert said in shown and shown.count("\n") == 1
    assert not slurm.folder.exists()


@pytest.mark.parametrize(
    "option, value",
    [("--devices-per-run", 2), ("--runs-per-device", 2), ("--max-hours", 3), ("--workers", 0)],
)
def test_options_of_this_machine_are_refused(
    slurm: Fake, capsys: pytest.CaptureFixture[str], option: str, value: int
) -> None:
    assert slurm.run(option, value) == 2
    assert f"{option} {value}" in capsys.readouterr().err


def test_a_worker_on_several_hosts_needs_a_folder(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    at = f"file://{slurm.folder.parent}"
    slurm.ask("nodes = 2")
    assert slurm.scaling("run", slurm.study, "--launcher", "slurm", "--results", at) == 2
    said = capsys.readouterr().err
    assert "[launch.slurm] nodes = 2: " in said and said.count("\n") == 1
    assert not (slurm.at / "sbatch.said").exists()


def test_a_folder_that_other_hosts_do_not_see_is_refused(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    (slurm.at / "hosts").write_text("node1\nnode2\n")
    assert slurm.run() == 2
    said = capsys.readouterr().err
    assert f"--results {slurm.folder} is this host's own: the workers on 2 other hosts" in said
    assert "Give a folder that all hosts see." in said and not slurm.folder.exists()


def test_without_slurm_nothing_is_written_and_the_records_are_shown_all_the_same(
    slurm: Fake, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm.run() == 0
    monkeypatch.setenv("PATH", "/nowhere")
    assert slurm.run("--workers", 1) == 2
    assert "sbatch is not on the path" in (said := capsys.readouterr().err) or "sinfo" in said
    assert slurm.scaling("status", slurm.folder) == 0
    said = capsys.readouterr().out
    assert "3 planned\nSlurm job 101: squeue is not on the path" in said


def test_status_joins_the_queue_with_the_records(
    slurm: Fake, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert slurm.run() == 0
    slurm.queue(
        (101, 0, "RUNNING", 2, "None"),
        (101, 1, "PENDING", 0, "Nodes required for job are DOWN"),
        (101, 2, "PENDING", 1, "BeginTime"),
        (101, 3, "COMPLETING", 0, "None"),
    )
    assert slurm.scaling("status", slurm.folder, "--json", tmp_path / "status.json") == 0
    tasks = "1 task running, waiting 1 (BeginTime), 1 (Nodes required for job are DOWN)"
    assert f"3 planned\nSlurm job 101: {tasks}, 2 of them requeued\n" in capsys.readouterr().out
    assert json.loads((tmp_path / "status.json").read_text())["slurm"] == {
        **{"jobs": [101], "running": 1, "requeued": 2, "unknown": None},
        "waiting": {"Nodes required for job are DOWN": 1, "BeginTime": 1},
    }


def test_workers_that_are_gone_with_runs_left_are_said_with_the_way_on(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.run() == 0
    slurm.end("completed", 1)
    (slurm.folder / "logs" / "slurm-101_0.log").write_text("slurmstepd: error: CANCELLED\n")
    (slurm.at / "silent").write_text("slurm_load_jobs error: Invalid job id specified")
    capsys.readouterr()
    assert slurm.scaling("status", slurm.folder) == 0
    said = capsys.readouterr().out
    again = (
        f"scaling run {slurm.folder}/study.toml --launcher slurm --results {slurm.folder.parent}"
    )
    assert f"No task of Slurm job 101 waits or runs any more; 2 runs left. Go on: {again}\n" in said
    assert said.endswith("log: slurmstepd: error: CANCELLED\n")

    (slurm.at / "silent").unlink()
    slurm.study.unlink()  # it is kept in the results
    assert slurm.scaling(*again.split()[1:]) == 0
    assert "#SBATCH --array=0-1\n" in slurm.script(102)


def test_a_controller_that_does_not_answer_hides_no_records(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.run() == 0
    (slurm.at / "silent").write_text("slurm_load_jobs error: Unable to contact slurm controller")
    assert slurm.scaling("status", slurm.folder) == 0
    said = capsys.readouterr().out
    assert "3 planned\nSlurm job 101: squeue --jobs=101: slurm_load_jobs error: Unable" in said


def test_a_record_of_a_submission_that_is_damaged_is_refused_by_name(
    slurm: Fake, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slurm.run() == 0
    (slurm.folder / "slurm" / "101.json").write_text('{"job": "x"}')
    assert slurm.scaling("status", slurm.folder) == 2
    assert f"{slurm.folder}/slurm/101.json is damaged" in capsys.readouterr().err


@pytest.fixture
def before_each_look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has each of some things happen before a look at the queue."""

    def happen(*things: Callable[[], None]) -> None:
        left, look = iter(things), slurm_queue.in_queue

        def looked(results: Results) -> slurm_queue.InQueue | None:
            next(left)()
            return look(results)

        monkeypatch.setattr(slurm_queue, "in_queue", looked)

    monkeypatch.setattr(status, "WATCH_SECONDS", 0.01)
    return happen


def test_a_watch_says_what_changes_and_ends_with_the_runs(
    slurm: Fake, capsys: pytest.CaptureFixture[str], before_each_look: Callable[..., None]
) -> None:
    assert slurm.run() == 0
    capsys.readouterr()
    slurm.queue((101, 0, "RUNNING", 0, "None"))

    def nothing() -> None:
        pass

    before_each_look(
        nothing,
        nothing,
        lambda: slurm.end("completed", 2),
        nothing,
        lambda: slurm.end("failed", 3),
        nothing,
    )
    assert slurm.scaling("status", slurm.folder, "--watch") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "3 planned; Slurm job 101: 1 task running",
        "1 planned, 2 completed; Slurm job 101: 1 task running",
    ]
    assert lines[-2:] == ["3 failed", "Slurm job 101: 1 task running"]


def test_a_watch_ends_where_no_worker_is_left(
    slurm: Fake, capsys: pytest.CaptureFixture[str], before_each_look: Callable[..., None]
) -> None:
    assert slurm.run() == 0
    before_each_look(lambda: slurm.queue((101, 0, "PENDING", 0, "Priority")), slurm.queue)
    assert slurm.scaling("status", slurm.folder, "--watch") == 0
    said = capsys.readouterr().out
    assert "waiting 1 (Priority)" in said and "No task of Slurm job 101 waits" in said
