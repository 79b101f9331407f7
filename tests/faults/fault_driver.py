"""Drives one grid through a schedule of faults, and on until it is trained.

However that went, it must end as the undisturbed grid does, to the bit. On the way no launch may
say that it is done when it is not, end without a word, leave a process behind, or go on for ever.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from fault_schedule import Damage, Launch, Schedule, Strike

from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.carry import pull
from scaling.store.objects import open_store
from scaling.store.ready import run_folder
from scaling.store.table import RUN_TABLE

INJECTED = Path(__file__).with_name("injected")
PATIENCE = 300.0  # seconds for a launch to end
BRIEFLY, FOR_LONG = 1.0, 12.0  # seconds that a process is frozen; its lease is 5 here
MOST_LAUNCHES = 3  # until a grid is done that nothing befalls any more
ADVICE = re.compile(r"Delete (/[^\s:]+?)[:.] |(?<=error: )(/\S+) .*\. Delete it\.")
ENDS = {0, 1, 2, 75}  # codes of a launch that ends in order
KINDS = re.compile(r"[0-9a-f]{12,}|[0-9]+")  # what of a file's name tells it from those of its kind


class NotSurvived(Exception):
    """What a schedule did to a grid."""


@dataclass
class Course:
    """One grid on its way through a schedule."""

    schedule: Schedule
    grid: Any  # conftest.py
    truth: Any  # the same one, that nothing befell
    address: str  # of its results, which the study's name is added to
    cache: Path  # its own, warm
    marks: Path  # a folder for notes of who was struck
    shim: Path | None = None  # through which strikes are done below Python
    befell: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    harmed: set[str] = field(default_factory=set)  # runs with a checkpoint that was

    @property
    def store(self) -> Any:
        """The results as objects, in a folder too."""
        address = self.address if "://" in self.address else f"file://{self.address}"
        return open_store(f"{address}/grid")

    def run(self) -> None:
        """All of the schedule, and launches until the grid is done."""
        for number, launch in enumerate(self.schedule.launches):
            self._launch(launch, self.marks / f"struck-{number}")
            if launch.damage is not None:
                self._damage(launch.damage)
        for _ in range(MOST_LAUNCHES):
            if self._ended(self._started(1)) == 0:
                return
            self._follow_advice(self.told[-1])
        raise NotSurvived("it is not trained by launches that nothing befalls")

    def _launch(self, launch: Launch, mark: Path) -> None:
        strike = launch.strike
        process = self._started(launch.workers, strike, mark)
        until = time.monotonic() + PATIENCE
        if strike is not None and strike.moment is not None:
            until = time.monotonic() + strike.moment * self.truth.seconds
        while process.poll() is None and not mark.exists() and time.monotonic() < until:
            time.sleep(0.05)
        if strike is not None and strike.moment is not None and process.poll() is None:
            self._strike(strike, process, mark)
        if strike is not None and mark.exists():
            while not (victim := mark.read_text()):  # it is about to be written
                time.sleep(0.01)
            self.befell.append(f"{strike.what} of a {strike.who}")
            self.told.append(f"struck process {victim} of launch {process.pid}")
            if strike.what == "freeze":
                self._frozen(strike, int(victim))
        self._ended(process, killed=strike is not None and strike.what in ("kill", "power cut"))

    def _strike(self, strike: Strike, process: Any, mark: Path) -> None:
        """As `injected/sitecustomize.py` does it, from outside."""
        with suppress(OSError, IndexError):  # it has just ended
            victim = process.pid if strike.who == "launcher" else children_of(process.pid)[0]
            match strike.what:
                case "power cut":
                    os.killpg(process.pid, signal.SIGKILL)
                case "stop":
                    process.terminate()
                case "kill" | "freeze":
                    name = "SIGKILL" if strike.what == "kill" else "SIGSTOP"
                    os.kill(victim, signal.Signals[name])
            mark.write_text(str(victim))

    def _frozen(self, strike: Strike, frozen: int) -> None:
        if strike.freeze == "beside a rival":
            self.befell.append("rival launch")
            self._ended(self._started(1))
        else:
            time.sleep(BRIEFLY if strike.freeze == "briefly" else FOR_LONG)
        with suppress(ProcessLookupError):  # its launch has killed it
            os.kill(frozen, signal.SIGCONT)

    def _started(
        self, workers: int, strike: Strike | None = None, mark: Path | None = None
    ) -> subprocess.Popen[str]:
        below = [str(self.cache), *([] if "://" in self.address else [self.address])]
        fault = {"what": "", "who": "nobody", "below": below, "mark": str(mark)}
        environment = {}
        if strike is not None and strike.moment is None:
            if self.shim is None:
                fault |= vars(strike)
            else:
                environment = self._below_python(strike, mark, below)
        return self.grid.launch(
            "--retry",
            "failed",
            at=self.address,
            workers=workers,
            SCALING_FAULT=json.dumps(fault),
            SCALING_CACHE=str(self.cache),
            PYTHONPATH=str(INJECTED),
            **environment,
        )

    def _below_python(self, strike: Strike, mark: Path | None, below: list[str]) -> dict[str, str]:
        """The same as injected/shim.c has it, which counts about twice as many operations."""
        what, number = strike.what.replace(" ", "-"), getattr(errno, strike.error)
        words = [what, strike.who, 2 * strike.at, strike.times, number, mark, below[0], below[-1]]
        fault = " ".join(map(str, words))
        return {"LD_PRELOAD": str(self.shim), "SCALING_FAULT_SHIM": fault}

    def _ended(self, process: subprocess.Popen[str], killed: bool = False) -> int:
        """The exit code of a launch that has ended, with all its workers, and said why."""
        try:
            said = process.communicate(timeout=PATIENCE)[0]
        except subprocess.TimeoutExpired:
            raise NotSurvived(f"launch {process.pid} does not end") from None
        code = process.returncode
        self.told.append(f"launch {process.pid} ended with {code}:\n{said[-2000:]}")
        if not killed and code not in ENDS:
            raise NotSurvived(f"launch {process.pid} ended with {code}")
        if "Traceback" in said:
            raise NotSurvived(f"launch {process.pid} ended with a traceback")
        if code in (1, 2) and not re.search(r"(?m)error:|failed", said):
            raise NotSurvived(f"launch {process.pid} ended with {code}, and did not say why")
        if code == 0:
            self._assert_done()
        until = time.monotonic() + PATIENCE
        while members := members_of(process.pid):
            if time.monotonic() > until:
                raise NotSurvived(f"launch {process.pid} left processes {members}")
            time.sleep(0.05)
        return code

    def _follow_advice(self, said: str) -> None:
        """Delete what a launch says that it would make again."""
        for found in ADVICE.finditer(said):
            path = Path(found[1] or found[2])
            if path.is_relative_to(self.cache) or path.is_relative_to(self.grid.folder):
                self.told.append(f"as it says, {path} is deleted")
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)

    def _damage(self, damage: Damage) -> None:
        store = self.store if damage.of == "results" else open_store(f"file://{self.cache}")
        kinds: dict[str, list[str]] = {}
        for each in store.list(""):
            if each.bytes and not each.key.endswith((".lock", ".log")):
                kinds.setdefault(KINDS.sub("#", each.key), []).append(each.key)
        if not kinds:
            return
        kind = sorted(kinds)[int(damage.kind * len(kinds))]
        key = sorted(kinds[kind])[int(damage.file * len(kinds[kind]))]
        data = bytearray(store.read(key))
        if damage.what == "flipped":
            at = int(damage.bit * len(data) * 8)
            data[at // 8] ^= 1 << at % 8
        store.delete([key])  # hard links would be damaged too
        if damage.what == "flipped":
            store.write(key, bytes(data))
        self.befell.append(f"{damage.what} file of {damage.of}")
        self.told.append(f"{damage.what}: {key}")
        if "/checkpoints/" in key:
            self.harmed |= set(key.split("/"))

    def _assert_done(self) -> None:
        """The run table is the undisturbed one already."""
        tables = [
            pd.read_parquet(BytesIO(data)).drop(columns="tokens_per_s").sort_values("run_id")
            for data in (self.store.read(RUN_TABLE), (self.truth.folder / RUN_TABLE).read_bytes())
        ]
        pd.testing.assert_frame_equal(*(each.reset_index(drop=True) for each in tables))

    def assert_equal(self) -> None:
        """The grid is the undisturbed one."""
        if "://" in self.address:
            self._bring()
        self.grid.assert_equal(self.truth, self.harmed)

    def remove(self) -> None:
        """Delete what it left in a place that is the user's."""
        if "://" in self.address:
            self.store.delete([each.key for each in self.store.list("")])
        else:
            shutil.rmtree(self.address)

    def _bring(self) -> None:
        """What a bucket holds, as a folder has it; without what is found to be damaged."""
        bucket = Bucket(self.store)
        bucket.look()
        for run_id in bucket.run_ids():
            found = bucket.states.found(run_id)
            pull(self.store, found, run_folder(self.grid.folder, run_id), found.state.files)
        (self.grid.folder / RUN_TABLE).write_bytes(self.store.read(RUN_TABLE))


def members_of(group: int) -> list[int]:
    """The processes of a group that have not ended, as Linux has them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
            if int(of) == group and state != "Z":
                found.append(int(stat.parent.name))
    return found


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def linked(source: Path, target: Path) -> Path:
    """A copy of a folder of files that are replaced and not written to."""
    return Path(shutil.copytree(source, target, copy_function=os.link))
