"""What asks a process to stop, and how a launch hears it: as an interrupt, at whatever it is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(KeyboardInterrupt):
    """A signal asked to stop.

    Not KeyboardInterrupt itself: where that passes through code that an extension module runs, as
    while it is imported, Python ends as by SIGINT whatever exit code it is given.
    """


@contextmanager
def stops_interrupt() -> Iterator[None]:
    """Within, each of these signals raises Stopped."""
    before = {number: signal.signal(number, _stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(*_: object) -> NoReturn:
    raise Stopped
