"""The script of a job array whose tasks are workers, from a template that the user may replace."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from scaling.engines import SlurmSection
from scaling.launch.queue import Order
from scaling.store.records import Refusal, did_you_mean

TEMPLATE = Path(__file__).with_name("slurm.sh")
LOG = "slurm-%A_%a.log"  # of a task, by the array's id and the task's number
# What a template says in braces, and what for. All three are needed: without one of them a part of
# the study would be dropped without a word.
PLACES = {
    "options": "the #SBATCH lines",
    "setup": "the lines of [launch.slurm] setup",
    "worker": "the command that trains",
}


@dataclass(frozen=True)
class Array:
    """The tasks of one submission."""

    tasks: int
    at_once: int  # of them, at most

    @property
    def option(self) -> str:
        """As sbatch reads it."""
        limit = f"%{self.at_once}" if self.at_once < self.tasks else ""
        return f"0-{self.tasks - 1}{limit}"


def script_of(
    section: SlurmSection, array: Array, name: str, results: str, logs: Path, order: Order
) -> str:
    """The script of a job array of workers at `results`, which print to files in `logs`.

    `name` is the study's. Raises Refusal for a template that cannot be read or lacks a place.
    """
    filled = {
        "options": "\n".join(f"#SBATCH {option}" for option in options(section, array, name, logs)),
        "setup": "\n".join(section.setup),
        "worker": worker_line(section, results, order),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda at: filled[at[1]], _template(section))


def options(section: SlurmSection, array: Array, name: str, logs: Path) -> list[str]:
    """What is asked of sbatch, an option each."""
    log = str(logs / "x").removesuffix("x").replace("%", "%%") + LOG
    asked = {
        "job-name": f"scaling-{name}",
        "array": array.option,
        "output": _quoted(log),
        "open-mode": "append",  # a task that comes back adds to its log
        "signal": f"B:TERM@{section.checkpoint_seconds}",
        "nodes": section.nodes,
        "ntasks-per-node": 1,
        "partition": section.partition,
        "account": section.account,
        "qos": section.qos,
        "constraint": section.constraint,
        "time": section.time,
        "cpus-per-task": section.cpus,
        "mem": section.mem,
        "gres": None if section.gpus is None else f"gpu:{section.gpus}",
    }
    given = [f"--{option}={value}" for option, value in asked.items() if value is not None]
    return ["--requeue" if section.requeue else "--no-requeue", *given]


def worker_line(section: SlurmSection, results: str, order: Order) -> str:
    """The command of a worker, in a shell's words.

    In a container it is the `scaling` that is installed there, else this very installation's. One
    on several hosts is a process on each (scaling/launch/hosts.py).
    """
    # -P: the working directory is not searched for modules.
    ours = [sys.executable, "-P", "-m", "experiments.cli"]
    command = shlex.join([*(["scaling"] if section.container else ours), "worker", results])
    parts = [f"{command} --order {order}"]
    if section.container:
        parts.insert(0, section.container)
    if section.nodes > 1:
        # Since Slurm 22.05 a step no longer has the cores that its job asked for a task.
        cores = "" if section.cpus is None else f" --cpus-per-task={section.cpus}"
        parts = [f"srun --ntasks-per-node=1{cores}", *parts, "--together"]
    return " ".join(parts)


def _template(section: SlurmSection) -> str:
    path = TEMPLATE if section.template is None else Path(section.template)
    said = f"[launch.slurm] template = {str(path)!r}"
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"{said} cannot be read: {error}. Give the path of a script such as {TEMPLATE}."
        ) from error
    places = set(re.findall(r"\{\{(\w+)\}\}", text))
    for place, meant in PLACES.items():
        if place not in places:
            raise Refusal(
                f"{said} has no {{{{{place}}}}}, in whose place come {meant}. Add it, as in "
                f"{TEMPLATE}."
            )
    if unknown := sorted(places - set(PLACES)):
        near = did_you_mean(unknown[0], PLACES)
        raise Refusal(
            f"{said} has {{{{{unknown[0]}}}}}, which is none of {', '.join(PLACES)}. Remove "
            f"it.{near}"
        )
    return text


def _quoted(text: str) -> str:
    """As sbatch reads one value of an #SBATCH line, which spaces would end."""
    if re.fullmatch(r"[\w./%@:+=-]+", text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
