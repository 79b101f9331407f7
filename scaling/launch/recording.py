"""The environment of a launch's workers, and the record of algorithms that deterministic ones need.

The record lies in the results folder, so that whoever goes on with a run, on whatever host, takes
the same algorithms. It is of one kind of device, one jaxlib, so many devices a run, and the
programs of a plan as they are laid out there; where a plan gets new programs, the choices for the
old ones are kept.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from uuid import uuid4

from scaling.launch.slots import Host
from scaling.planning.deriving import layout_of
from scaling.spec import RunSpec, config_of
from scaling.store.records import Refusal, fingerprint
from scaling.store.results import Results, results_at
from scaling.training.autotuning import programs_of
from scaling.training.flags import Slot, worker_environment

FOLDER = "algorithms"  # of a results folder
Environment = Callable[[Slot], Mapping[str, str]]


def environment_for(
    place: Path | Results,
    runs: Iterable[RunSpec],
    host: Host,
    slot: Slot,
    say: Callable[[str], None],
) -> Environment:
    """What environment the workers of these runs start in, by slot; `slot` is one of theirs.

    Where a run asks a GPU for the same bits every time, this records its algorithms first, which
    compiles every program of the runs once; `say` is told so. Raises Refusal where that fails, and
    for a TPU, of which nothing is promised.
    """
    if host.platform == "cpu":
        return worker_environment
    runs = list(runs)
    if not any(run.hardware.deterministic for run in runs):
        return worker_environment
    if host.platform == "tpu":
        raise Refusal(
            "[hardware] deterministic = true: of a TPU that cannot be promised. Leave it out."
        )
    file = None
    if slot.alone:
        with results_at(place).shared_files(FOLDER) as folder:
            file = _recorded(folder, runs, host, slot, say)
    else:  # one process cannot compile what several run
        say("of several processes no algorithms are recorded: XLA takes the first, a slower one")
    return partial(worker_environment, algorithms="deterministic", file=file)


def _recorded(
    folder: Path, runs: Sequence[RunSpec], host: Host, slot: Slot, say: Callable[[str], None]
) -> Path | None:
    """The file of the fastest algorithms; null where XLA writes none, and then takes the first."""
    programs = programs_of(runs)
    devices = len(slot.devices or host.devices)
    kind = re.sub(r"\W+", "-", f"{devices}-{host.kind}-jaxlib-{version('jaxlib')}")
    # What is compiled is a run as it is laid out, which depends on the memory that a worker has.
    target = host.target(devices, slot.sharing)
    layouts = {name: asdict(layout_of(run, target)) for name, run in programs.items()}
    file = folder / f"{kind}-{fingerprint({'programs': layouts})}.textproto"
    if file.exists():
        return file
    say(f"recording the algorithms of {len(programs)} programs, for deterministic = true")
    folder.mkdir(parents=True, exist_ok=True)
    earlier = sorted(folder.glob(f"{kind}-*.textproto"), key=lambda path: path.stat().st_mtime)
    mine = folder / f".{uuid4().hex}.textproto"  # as process ids are not, of containers
    if earlier:
        shutil.copyfile(earlier[-1], mine)
    try:
        _record(list(programs.values()), slot, mine)
        if not mine.exists():
            say("XLA recorded none: it takes the first algorithm that compiles, a slower one")
            return None
        with suppress(FileExistsError):  # another launch was first; its record is everybody's
            os.link(mine, file)
    finally:
        mine.unlink(missing_ok=True)
    return file


def _record(runs: Sequence[RunSpec], slot: Slot, file: Path) -> None:
    """Compile these runs in a process of its own: XLA reads its flags once."""
    start = str(Path(__file__).with_name("start.py"))
    done = subprocess.run(
        [sys.executable, "-P", start, "--record"],
        input=json.dumps([config_of(run) for run in runs]),
        env=worker_environment(slot, "recorded", file),
        capture_output=True,
        text=True,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Refusal(
            f"[hardware] deterministic = true: the algorithms cannot be recorded: {said[-1]}. Free "
            "the device, give a smaller microbatch_tokens, or leave deterministic out."
        )
