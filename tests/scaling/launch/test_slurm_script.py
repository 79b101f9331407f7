"""The script of a Slurm job array: what it asks for, and what it does with a worker that ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from scaling.engines import SlurmSection
from scaling.launch.slurm_script import TEMPLATE, Array, script_of
from scaling.store.records import Refusal

LOGS = Path("/shared/results/s/logs")
FOUR = Array(4, 4)


def script(section: SlurmSection, array: Array = FOUR, results: str = "/shared/s") -> str:
    return script_of(section, array, "s", results, LOGS, "cheapest-first")


def asked(text: str) -> list[str]:
    return re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)


def test_a_script_asks_for_what_the_study_says_and_for_nothing_else() -> None:
    plain = asked(script(SlurmSection()))
    assert plain == [
        *("--requeue", "--job-name=scaling-s", "--array=0-3"),
        *("--output=/shared/results/s/logs/slurm-%A_%a.log", "--open-mode=append"),
        *("--signal=B:TERM@120", "--nodes=1", "--ntasks-per-node=1"),
    ]
    section = SlurmSection(
        **{"partition": "gpu", "account": "me", "qos": "high", "constraint": "a100|h100"},
        **{"time": "04:00:00", "cpus": 8, "mem": "32G", "gpus": 2},
    )
    more = ["--partition=gpu", "--account=me", "--qos=high", "--constraint=a100|h100"]
    more += ["--time=04:00:00", "--cpus-per-task=8", "--mem=32G", "--gres=gpu:2"]
    assert asked(script(section)) == plain + more


def test_where_no_task_may_come_back_spare_ones_wait() -> None:
    options = asked(script(SlurmSection(requeue=False), Array(20, 4)))
    assert options[0] == "--no-requeue" and "--array=0-19%4" in options


def test_the_worker_is_this_installations_or_the_containers_on_all_its_hosts() -> None:
    def worker(section: SlurmSection) -> str:
        text = script(section, results="/shared/my study")
        return next(line.strip() for line in text.splitlines() if "cheapest-first" in line)

    here = shlex.join([sys.executable, "-P", "-m", "experiments.cli"])
    rest = "worker '/shared/my study' --order cheapest-first &"
    assert worker(SlurmSection()) == f"{here} {rest}"
    inside = "apptainer exec --nv jax.sif"
    assert worker(SlurmSection(container=inside)) == f"{inside} scaling {rest}"
    several, one_each = rest.replace(" &", " --together &"), "srun --ntasks-per-node=1"
    assert worker(SlurmSection(nodes=2)) == f"{one_each} {here} {several}"
    with_cores = SlurmSection(nodes=2, cpus=8, container=inside)
    assert worker(with_cores) == f"{one_each} --cpus-per-task=8 {inside} scaling {several}"


def test_odd_paths_stay_one_value() -> None:
    text = script_of(SlurmSection(), Array(1, 1), "s", "/r", Path('/a "b%c'), "cheapest-first")
    assert r'--output="/a \"b%%c/slurm-%A_%a.log"' in asked(text)


def test_a_template_of_the_users_is_filled_in(tmp_path: Path) -> None:
    own = tmp_path / "own.sh"
    own.write_text("#!/bin/sh\n{{options}}\n{{setup}}\nexec {{worker}}\n")
    section = SlurmSection(template=str(own), setup=("module load cuda", "export A=1"))
    lines = script(section).splitlines()
    assert lines[-3:-1] == ["module load cuda", "export A=1"]
    assert lines[-1].startswith("exec ") and "{{" not in "".join(lines)


@pytest.mark.parametrize(
    "text, said",
    [
        ("{{options}} {{setup}}", r"has no \{\{worker\}\}.* the command that trains\. Add it"),
        ("{{options}} {{worker}}", r"has no \{\{setup\}\}"),
        ("{{setup}} {{worker}}", r"has no \{\{options\}\}, .*#SBATCH lines"),
        ("{{options}} {{setup}} {{worker}} {{wroker}}", r"has \{\{wroker\}\}.*Did you mean worker"),
        (None, "cannot be read"),
    ],
)
def test_a_template_that_would_drop_something_is_refused(
    tmp_path: Path, text: str | None, said: str
) -> None:
    own = tmp_path / "own.sh"
    if text is not None:
        own.write_text(text)
    with pytest.raises(
        Refusal, match=rf"^\[launch.slurm\] template = '.*own.sh' {said}"
    ) as refusal:
        script(SlurmSection(template=str(own)))
    assert "\n" not in str(refusal.value)


# --- what the script does, run by bash, with a Slurm that only writes down what it is asked ---

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Starts the script with a worker of these shell lines, in a queue where its task is so."""

    def start(worker: str, state: str = "RUNNING", restarts: int = 0) -> subprocess.Popen[str]:
        (tmp_path / "worker").write_text(f"#!/bin/bash\necho begun >>{tmp_path}/workers\n{worker}")
        for name, line in (
            ("squeue", f"echo {state}"),
            ("scontrol", f'echo "$@" >>{tmp_path}/requeued'),
        ):
            (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        for name in ("worker", "squeue", "scontrol"):
            (tmp_path / name).chmod(0o755)
        text = TEMPLATE.read_text()
        text = text.replace("{{options}}", "").replace("{{setup}}", "")
        text = text.replace("{{worker}}", str(tmp_path / "worker"))
        environment = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}
        if restarts:  # as Slurm does
            environment["SLURM_RESTART_COUNT"] = str(restarts)
        return subprocess.Popen(
            ["bash", "-c", text],
            env={**os.environ, **environment, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            text=True,
        )

    return start


def noted(folder: Path, name: str) -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("code", [0, 1, 2])
def test_a_worker_that_ends_ends_its_task(run: Run, tmp_path: Path, code: int) -> None:
    assert run(f"exit {code}").wait() == code
    assert len(noted(tmp_path, "workers")) == 1 and noted(tmp_path, "requeued") == []


def test_a_task_whose_worker_was_interrupted_puts_itself_back(run: Run, tmp_path: Path) -> None:
    assert run("exit 75").wait() == 75
    assert noted(tmp_path, "requeued") == ["requeue 7_3"]


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", ""])
def test_a_task_that_is_cancelled_does_not_come_back(run: Run, tmp_path: Path, state: str) -> None:
    assert run("exit 75", state).wait() == 75
    assert noted(tmp_path, "requeued") == []


def test_a_signal_reaches_the_worker_which_is_waited_for(run: Run, tmp_path: Path) -> None:
    checkpoint = f"trap 'sleep 0.3; echo written >{tmp_path}/checkpoint; exit 75' USR1\n"
    task = run(checkpoint + f"echo >{tmp_path}/listens\nwhile :; do sleep 0.05; done")
    while not (tmp_path / "listens").exists():
        time.sleep(0.01)
    task.send_signal(signal.SIGTERM)
    assert task.wait() == 75
    assert noted(tmp_path, "checkpoint") == ["written"]
    assert noted(tmp_path, "requeued") == ["requeue 7_3"]


@pytest.mark.parametrize("restarts, again", [(0, True), (19, True), (20, False)])
def test_a_worker_that_does_not_listen_yet_is_started_again_by_slurm_but_not_for_ever(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str], restarts: int, again: bool
) -> None:
    task = run(f"echo >{tmp_path}/begun\nexec sleep 60", restarts=restarts)
    while not (tmp_path / "begun").exists():
        time.sleep(0.01)
    task.send_signal(signal.SIGTERM)
    assert task.wait() > 128
    assert noted(tmp_path, "requeued") == ["requeue 7_3"] * again
    assert ("give a longer [launch.slurm] time" in capfd.readouterr().err) == (not again)
    assert len(noted(tmp_path, "workers")) == 1


def test_a_worker_that_is_killed_is_followed_by_another_but_not_for_ever(
    run: Run, tmp_path: Path
) -> None:
    once = f"[ -e {tmp_path}/died ] && exit 0\ntouch {tmp_path}/died\nkill -KILL $$"
    assert run(once).wait() == 0
    assert len(noted(tmp_path, "workers")) == 2
    assert run("kill -KILL $$").wait() == 128 + signal.SIGKILL
    assert len(noted(tmp_path, "workers")) == 2 + 5 and noted(tmp_path, "requeued") == []


def test_a_section_is_taken_whole() -> None:
    """No field of [launch.slurm] is forgotten: each changes the script, or the array."""
    base = SlurmSection(time="01:00:00")
    changed = {
        **{"partition": "p", "account": "a", "qos": "q", "constraint": "c", "time": "02:00:00"},
        **{"cpus": 2, "mem": "1G", "gpus": 1, "nodes": 2, "setup": ("module load x",)},
        **{"container": "c", "template": str(TEMPLATE), "requeue": False},
        **{"checkpoint_seconds": 60, "workers": 3, "spares": 1},
    }
    assert set(changed) == set(vars(base))
    of_the_array = {"workers", "spares"}  # tests/experiments/cli/test_slurm.py
    same = {"template"} | of_the_array
    for name, value in changed.items():
        text = script(replace(base, **{name: value}))
        assert (text == script(base)) == (name in same), name
