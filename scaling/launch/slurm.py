"""Workers as the tasks of a Slurm job array, which Slurm starts, stops and brings back.

No process of ours waits for them: they find their runs in the results folder, put themselves back
into the queue near their time limit (scaling/launch/slurm.sh), and the last of them writes the run
table.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scaling.engines import SlurmSection
from scaling.launch.queue import Order
from scaling.launch.slurm_queue import (
    RUNNING,
    WAITING,
    Submission,
    Task,
    files_of,
    queued,
    record,
    slurm,
    submissions,
)
from scaling.launch.slurm_script import Array, script_of
from scaling.store.paths import cache_folder
from scaling.store.records import Refusal, did_you_mean, write_bytes
from scaling.store.results import Results

MOST_WORKERS = 8  # unless the study or the command line says how many: a first use of a cluster
# Tasks that wait to take over from each worker, where none may go back into the queue. One that
# finds nothing left ends at once.
SPARES = 4
# Folders that are each host's own.
OWN = ("/tmp", "/var/tmp", "/dev/shm", "/run")


@dataclass(frozen=True)
class Grid:
    """What workers are asked for."""

    name: str  # of the study
    results: Results  # a folder that all hosts see under its path, or an address
    order: Order
    left: int  # runs that are not finished


class Slurm:
    """The tasks of job arrays, at one results folder."""

    def __init__(self, section: SlurmSection, grid: Grid, workers: int | None = None) -> None:
        """`workers` is how many at once; null: as the section says."""
        self.section, self.grid = section, grid
        wanted = workers or section.workers or MOST_WORKERS
        self.workers = min(wanted, grid.left)  # a run is one worker's

    def refuse_wrong(self) -> None:
        """Raise Refusal for what would not run, in Slurm's own words where it is Slurm's to say.

        Nothing is queued, and nothing written.
        """
        if self.section.nodes > 1 and "://" in str(self.grid.results):
            raise Refusal(
                f"[launch.slurm] nodes = {self.section.nodes}: a worker on several hosts needs its "
                f"results in a folder that all share, and {self.grid.results} is an address. Give "
                "such a folder by --results, or nodes = 1."
            )
        array = self._array(self.workers)
        said = slurm("sbatch", "--test-only", given=self._script(array))
        if said.code:
            raise self._refused(array, said.words)
        self._refuse_own_folders()

    def live(self) -> list[Task]:
        """The tasks of this folder that wait or run now."""
        jobs = [each.job for each in submissions(self.grid.results)]
        return [task for task in queued(jobs) if task.state in (*WAITING, *RUNNING)]

    def start(self) -> None:
        """Submit the workers that are missing, with their spares; none where as many wait or run.

        Raises Refusal where Slurm refuses them.
        """
        with self.grid.results.changing():  # of two commands at once, the second finds the first's
            missing = self.workers - len(self.live())
            if missing > 0:
                self._submit(self._array(missing))

    def _array(self, workers: int) -> Array:
        """So many workers at once, and the tasks that take over from them."""
        spares = self.section.spares
        if spares is None:
            spares = 0 if self.section.requeue else SPARES * workers
        return Array(workers + spares, workers)

    def _script(self, array: Array) -> str:
        grid = self.grid
        named = str(grid.results)
        place = named if "://" in named else str(Path(named).resolve())
        logs = grid.results.logs.resolve()
        return script_of(self.section, array, grid.name, place, logs, grid.order)

    def _submit(self, array: Array) -> None:
        text = self._script(array).encode()
        digest = hashlib.sha256(text).hexdigest()
        folder = files_of(self.grid.results)
        # The folder of logs must be there: Slurm makes none, and such a task dies without a word.
        for each in (folder, self.grid.results.logs):
            each.mkdir(parents=True, exist_ok=True)
        script = folder / f"{digest[:12]}.sh"
        write_bytes(script, text)
        said = slurm("sbatch", "--parsable", str(script))
        job = said.out.strip().split(";")[0]  # "id" or "id;cluster"
        if said.code or not job.isdigit():
            raise self._refused(array, said.words)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        made = Submission(int(job), script.name, digest, array.tasks, array.at_once, now)
        record(self.grid.results, made)

    def _refused(self, array: Array, words: str) -> Refusal:
        """What Slurm refuses, by the field that it is about where that can be told."""
        section, lower = self.section, words.lower()
        asked = {
            "partition": ("invalid partition", section.partition),
            "time": ("requested time limit", section.time),
            "account": ("invalid account", section.account),
            "qos": ("invalid qos", section.qos),
            "gpus": ("gres", section.gpus),
            "constraint": ("feature", section.constraint),
            "workers and spares": ("job array", array.tasks),
        }
        for name, (word, value) in asked.items():
            if value is not None and word in lower:
                about = f"[launch.slurm] {name} = {value!r}"
                remedy = _REMEDIES.get(name, _no_remedy)(str(value))
                return Refusal(f"{about}: Slurm says: {words}. {remedy}")
        given = ", ".join(
            f"{name} = {value!r}"
            for name in _REFUSABLE
            if (value := getattr(section, name)) is not None
        )
        return Refusal(f"[launch.slurm] {given}: Slurm says: {words}. Ask for what it has.")

    def _refuse_own_folders(self) -> None:
        """Raise Refusal if results or corpora lie where no other host sees them."""
        said = slurm("sinfo", "--noheader", "--Node", "--format=%n")
        if said.code:
            raise Refusal(f"sinfo: {said.words}. Give the command again when Slurm answers.")
        hosts = set(said.out.split())
        if hosts <= {os.uname().nodename, os.uname().nodename.split(".")[0]}:
            return
        for what, path, remedy in (
            ("--results", self.grid.results.logs.parent, "Give a folder that all hosts see"),
            ("SCALING_CACHE", cache_folder(), "Set it to a folder that all hosts see"),
        ):
            place = path.resolve()
            own = (*OWN, tempfile.gettempdir())
            if any(place.is_relative_to(Path(each).resolve()) for each in own):
                raise Refusal(
                    f"{what} {path} is this host's own: the workers on {len(hosts)} other hosts "
                    f"would not see it. {remedy}."
                )


def _partitions(given: str) -> str:
    said = slurm("sinfo", "--noheader", "--format=%R")
    names = sorted(set(said.out.split()))
    if not names:
        return "Give one that `sinfo` lists."
    return f"Give one of {', '.join(names)}.{did_you_mean(given, names)}"


def _largest_array(given: str) -> str:
    said = slurm("scontrol", "show", "config")
    sizes = [line.split()[-1] for line in said.out.splitlines() if line.startswith("MaxArraySize")]
    return f"Give fewer workers or spares: MaxArraySize is {sizes[0]}." if sizes else _no_remedy("")


def _no_remedy(given: str) -> str:
    return "Correct it, or leave it out for the site's default."


# Fields that Slurm may refuse together, without a word that tells which.
_REFUSABLE = (
    *("account", "qos", "cpus", "mem", "gpus", "nodes", "constraint", "partition", "time"),
)
_REMEDIES: dict[str, Callable[[str], str]] = {
    "partition": _partitions,
    "workers and spares": _largest_array,
}
