"""What a schedule is, and that its faults strike where it says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_driver import INJECTED
from fault_schedule import WHAT, schedule

FIVE_WRITES = """
import sys; from pathlib import Path
for name in "abcde":
    try:
        Path(sys.argv[1], name).write_text(name)
    except OSError as error:
        print(name, error.strerror)
"""


def struck(folder: Path, **fault: Any) -> tuple[int, str, list[str]]:
    """A process that writes five files: its code, what it says, and the files that are there."""
    fault = {
        **{"what": "", "who": "launcher", "at": 3, "times": 1, "reads": False, "error": "EIO"},
        **{"below": [str(folder / "files")], "mark": str(folder / "mark")},
        **fault,
    }
    (folder / "files").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", FIVE_WRITES, str(folder / "files")],
        env={**os.environ, "PYTHONPATH": str(INJECTED), "SCALING_FAULT": json.dumps(fault)},
        capture_output=True,
        text=True,
    )
    assert not done.stderr
    return done.returncode, done.stdout, sorted(each.name for each in (folder / "files").iterdir())


def test_a_schedule_is_a_function_of_its_seed_and_number() -> None:
    assert schedule(0, 9) == schedule(0, 9) != schedule(1, 9)
    assert str(schedule(0, 4)) == PINNED


PINNED = """\
schedule 4 of seed 0, in a folder
  launch of 2: freeze beside a rival of the worker at 16% of the time
  then missing in results
  launch of 2: power cut of the worker at write 148
  then flipped in results"""


def test_thirty_schedules_hold_every_fault_and_damage_in_a_folder_and_in_a_bucket() -> None:
    drawn = [schedule(0, number) for number in range(30)]
    for place in ("folder", "bucket"):
        launches = [launch for each in drawn if each.place == place for launch in each.launches]
        strikes = {
            launch.strike and (launch.strike.what, launch.strike.who, launch.strike.freeze)
            for launch in launches
        }
        assert strikes == set(WHAT)
        damages = {(each.damage.what, each.damage.of) for each in launches if each.damage}
        assert {what for what, _ in damages} == {"missing", "flipped"}
        assert {of for _, of in damages} == {"results", "cache"}


def test_a_kill_strikes_before_its_write_and_once(tmp_path: Path) -> None:
    assert struck(tmp_path, what="kill") == (-signal.SIGKILL, "", ["a", "b"])
    assert (tmp_path / "mark").read_text().isdecimal()
    assert struck(tmp_path, what="kill") == (0, "", list("abcde"))


@pytest.mark.parametrize(("times", "fail"), [(1, "c"), (2, "cd"), (1000, "cde")])
def test_so_many_writes_fail_as_are_asked_for(tmp_path: Path, times: int, fail: str) -> None:
    code, said, there = struck(tmp_path, what="error", times=times)
    assert said == "".join(f"{name} Input/output error\n" for name in fail)
    assert (code, there) == (0, sorted({*"abcde"} - {*fail}))


def test_nobody_else_is_struck(tmp_path: Path) -> None:
    for other in ({"who": "worker"}, {"below": [str(tmp_path / "other")]}, {"reads": True}):
        assert struck(tmp_path, what="kill", **other) == (0, "", list("abcde"))
