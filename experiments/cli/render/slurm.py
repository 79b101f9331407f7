"""What the terminal shows of the workers that Slurm has for a results folder."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from analysis.text import counted
from scaling.launch.output import log_tail
from scaling.launch.slurm import Slurm
from scaling.launch.slurm_queue import InQueue, Submission
from scaling.store.results import Results


def workers_text(engine: Slurm) -> str:
    """How many workers Slurm would be asked for, and with what."""
    section = engine.section
    asked = {
        "hosts": section.nodes if section.nodes > 1 else None,
        "GPUs": section.gpus,
        "cores": section.cpus,
        "memory": section.mem,
        "partition": section.partition,
        "time": section.time,
    }
    each = ", ".join(f"{name} {value}" for name, value in asked.items() if value is not None)
    what = each or "what the site gives by default"
    return f"{counted(engine.workers, 'worker')} at once on Slurm, each with {what}"


def submitted_text(folder: Results, made: Sequence[Submission], seen: InQueue | None) -> str:
    """What was submitted, what was there before, and how to follow and to stop it."""
    lines = [
        f"submitted Slurm job {each.job}: {counted(each.tasks, 'task')}, {each.at_once} at once"
        for each in made
    ]
    if not made:
        lines.append("nothing was submitted: as many workers as are wanted wait or run")
    jobs = [each.job for each in made] if seen is None else seen.jobs
    if seen is not None:
        lines.append(tasks_text(seen))
    lines += [
        f"Follow: scaling status {shlex.quote(str(folder))} --watch",
        f"Stop: scancel {' '.join(map(str, jobs))}",
        "The same command goes on with what is left.",
    ]
    return "\n".join(lines)


def queue_text(folder: Results, seen: InQueue, left: int) -> str:
    """Where the workers are of a folder of which so many runs are left, and what to do if gone."""
    if not left or not seen.gone:
        return tasks_text(seen)
    study = shlex.quote(f"{folder}/study.toml")
    parent = shlex.quote(str(folder).rpartition("/")[0] or ".")
    logs = sorted(folder.logs.glob("slurm-*.log"), key=lambda path: path.stat().st_mtime)
    last = f"\nIts last {log_tail(folder.logs.parent, logs[-1].name)}" if logs else ""
    return (
        f"{tasks_text(seen)}; {counted(left, 'run')} left. Go on: "
        f"scaling run {study} --launcher slurm --results {parent}{last}"
    )


def tasks_text(seen: InQueue) -> str:
    """How many tasks run, and how many wait for what."""
    if seen.unknown is not None:
        return f"{_jobs(seen)}: {seen.unknown}"
    reasons = [
        f"{count} ({reason})" if reason != "None" else str(count)
        for reason, count in sorted(seen.waiting.items())
    ]
    if seen.gone:
        return f"No task of {_jobs(seen)} waits or runs any more"
    parts = [f"{counted(seen.running, 'task')} running"] * bool(seen.running)
    parts += [f"waiting {', '.join(reasons)}"] * bool(reasons)
    parts += [f"{seen.requeued} of them requeued"] * bool(seen.requeued)
    return f"{_jobs(seen)}: {', '.join(parts)}"


def _jobs(seen: InQueue) -> str:
    """The ids of the arrays, the last ones of many."""
    named = ", ".join(map(str, seen.jobs[-3:]))
    return f"Slurm job{'s' if len(seen.jobs) > 1 else ''} {'… ' * (len(seen.jobs) > 3)}{named}"
