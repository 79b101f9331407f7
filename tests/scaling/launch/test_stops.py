"""What asks a process to stop is heard at once, and a hang-up that is ignored stays so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from scaling.launch.stops import STOPS, Stopped, stops_interrupt, stops_noted


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_is_noted_and_the_handlers_before_come_back(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in STOPS}
    with stops_noted() as asked:
        assert not asked.is_set()
        os.kill(os.getpid(), number)
        assert asked.wait(10)
    assert {each: signal.getsignal(each) for each in STOPS} == before
    assert signal.set_wakeup_fd(-1) == -1


# As a step of a large model, this lets other threads work and does not return for long.
HELD_UP = """
import hashlib, os, signal, threading
from scaling.launch.stops import stops_noted
with stops_noted() as asked:
    order = []
    threading.Thread(target=lambda: order.append(asked.wait(60))).start()
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    hashlib.pbkdf2_hmac('sha256', b'', b'', 3_000_000)
    order.append("the main thread is back")
print(order)
"""


def test_a_signal_is_noted_while_the_main_thread_is_held_up() -> None:
    done = subprocess.run([sys.executable, "-c", HELD_UP], capture_output=True, text=True)
    assert done.stdout == "[True, 'the main thread is back']\n", done.stderr


@pytest.mark.parametrize("within", [stops_noted, stops_interrupt])
def test_a_hang_up_that_is_ignored_stays_ignored(within: object) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with within():  # type: ignore[operator]
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_launch_is_interrupted() -> None:
    with pytest.raises(Stopped), stops_interrupt():
        os.kill(os.getpid(), signal.SIGHUP)
