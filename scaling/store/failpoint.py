"""Places where tests kill a process, one beside every write that a crash could cut in two."""

from __future__ import annotations

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die as by `kill -9` on the k-th pass where SCALING_FAILPOINT is `name:k`; else nothing."""
    wanted, _, count = os.environ.get("SCALING_FAILPOINT", "").partition(":")
    if name == wanted:
        _passed[name] += 1
        if _passed[name] == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)
