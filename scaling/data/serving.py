"""What a process does that helps to prepare a corpus: `python -P start.py --prepare`."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

from scaling.data.encoding import encode_from
from scaling.data.indexing import make_part_from
from scaling.data.processes import Task, serve
from scaling.data.reading import cut_from, remember_from

TASKS: Mapping[str, Callable[[Mapping[str, Any]], Task[Any]]] = {
    "remember": remember_from,
    "cut": cut_from,
    "encode": encode_from,
    "index": make_part_from,
}


def main() -> int:
    """Do what comes in until nothing more does; returns the exit code."""
    # They reach all processes of a terminal or a job: the one that was started ends the others.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    return serve(TASKS)
