"""What others hold is waited for, and not without a word."""

from __future__ import annotations

import errno
import fcntl
import sys
import time
from contextlib import suppress
from pathlib import Path

from scaling.store.records import Refusal

SILENCE = 5.0  # seconds until it is said what is waited for
WAIT_SECONDS = 120.0  # for a lock; ten thousand runs are planned or collected in ten
LOOK_SECONDS = 0.05


def say_waiting(what: str) -> None:
    """Say on standard error what is waited for."""
    print(f"waiting: {what}; Ctrl-C ends that", file=sys.stderr, flush=True)


def wait_for_lock(file: int, kind: int, path: Path) -> None:
    """Take a lock (`fcntl.LOCK_SH` or `LOCK_EX`) of an open file, of which this is the path.

    Who has it is waited for, which is said after SILENCE. Raises Refusal after WAIT_SECONDS.
    Returns without a lock where the file system has none.
    """
    began, said = time.monotonic(), False
    with suppress(OSError):
        while not taken(file, kind):
            waited = time.monotonic() - began
            if waited > WAIT_SECONDS:
                raise Refusal(
                    f"{path}: another process has had this lock for {WAIT_SECONDS:g} s. `fuser "
                    f"{path}` names it: end it if it stands still; then give the command again."
                )
            if waited > SILENCE and not said:
                say_waiting(f"another process has the lock {path} (`fuser {path}` names it)")
                said = True
            time.sleep(LOOK_SECONDS)


def taken(file: int, kind: int) -> bool:
    """Whether a lock was free, and is now this process's. Raises OSError where there are none."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
        return True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
