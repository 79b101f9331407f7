"""A process that makes a run's task windows while the run trains.

Making them is Python, which would hold the interpreter that asks the devices for the next steps.
It goes before its run through the files in order; a run that needs one that is not there yet
waits for it, and makes it itself where there is no such process.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from scaling.data.corpus import Corpus, load
from scaling.store.records import Refusal
from scaling.tasks.made import MixedBatches, made_windows
from scaling.tasks.mix import TaskMix

# Fewer files than these are made by the run itself: a process takes two seconds to begin.
MANY_FILES = 16
ROOT = Path(__file__).parents[2]
# -P: neither the working directory nor that of a script is searched for modules.
COMMAND = (
    *(sys.executable, "-P", "-c"),
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from scaling.tasks.making import main; main(*sys.argv[1:])",
    str(ROOT),
)


@contextmanager
def windows_made_beside(
    batches: MixedBatches, mix: TaskMix, corpus: Corpus, first: int, last: int
) -> Iterator[None]:
    """Let a process make the files that the steps from `first` to `last` need, if many are missing.

    It has ended when the context is left.
    """
    windows = batches.windows
    files = windows.files_of(*batches.places(first, last - first)) if last > first else range(0)
    missing = sum(not windows.is_made(number) for number in files)
    if missing < MANY_FILES:
        yield
        return
    asked = {
        "mix": asdict(mix),
        "corpus": [corpus.info.fingerprint, str(corpus.folder.parent)],
        "sequence_length": windows.windows.sequence_length,
        "seed": windows.windows.seed,
        "cache": str(windows.folder.parent),
        "files": [files.start, files.stop],
    }
    process = subprocess.Popen(
        [*COMMAND, json.dumps(asked), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    windows.others_make = lambda: process.poll() is None
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def main(asked_json: str, parent: str) -> None:
    """Make the files, in order, until all are there or the run that asked for them has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the run ends this process
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # which deletes what is half written
    asked = json.loads(asked_json)
    mix = TypeAdapter(TaskMix).validate_python(asked["mix"])
    corpus = load(asked["corpus"][0], Path(asked["corpus"][1]))
    windows = made_windows(
        mix, corpus, asked["sequence_length"], asked["seed"], Path(asked["cache"])
    )
    for number in range(*asked["files"]):
        if os.getppid() != int(parent):
            return
        if not windows.is_made(number):
            try:
                windows.make(number)
            except Refusal:  # the run meets it too, and says so
                return
