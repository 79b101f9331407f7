"""What asks a process to stop: a launch hears it as an interrupt, a worker at its next step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

# Exit codes of a worker that may not train here, and of one that was asked to stop (EX_TEMPFAIL):
# start me again.
REFUSED, REQUEUE = 2, 75
STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(KeyboardInterrupt):
    """A signal asked to stop.

    Not KeyboardInterrupt itself: where that passes through code that an extension module runs, as
    while it is imported, Python ends as by SIGINT whatever exit code it is given.
    """


@contextmanager
def stops_interrupt() -> Iterator[None]:
    """Within, each of these signals raises Stopped."""
    with _handled(_stop):
        yield


@contextmanager
def stops_noted() -> Iterator[threading.Event]:
    """Within, each of these signals sets the event, at once, whatever the main thread is at.

    Python runs a handler when the main thread next returns to it, which a step of a large model
    holds up for minutes. What the interpreter writes to this pipe comes before that.
    """
    asked = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def note() -> None:
        while number := os.read(reading, 1):
            if number[0] in STOPS:
                asked.set()
        os.close(reading)

    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=note, daemon=True).start()
    try:
        with _handled(lambda *_: None):
            yield asked
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)


@contextmanager
def _handled(handler: Any) -> Iterator[None]:
    """Each of these signals has this handler; one that `nohup` ignores stays ignored."""
    heard = [each for each in STOPS if not _is_ignored_hangup(each)]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _is_ignored_hangup(number: signal.Signals) -> bool:
    return number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN


def _stop(*_: object) -> NoReturn:
    raise Stopped
