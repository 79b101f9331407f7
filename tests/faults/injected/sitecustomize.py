"""Strikes the process that loads it before its n-th write: kills, stops or freezes it, or fails it.

Python loads this by its name wherever its folder is on PYTHONPATH, so programs know nothing of it.
SCALING_FAULT says in JSON what is to befall whom (fault_driver.py); waiting is made short besides.
"""

import errno
import json
import os
import signal
import sys
import threading
from importlib.machinery import PathFinder

FAULT = json.loads(os.environ["SCALING_FAULT"])
WRITING = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"}
READING = {"os.listdir", "os.scandir"}
BELOW = tuple(FAULT["below"])
_WRITES = os.O_WRONLY | os.O_RDWR
# Of a launch everyone sees to the same things; a worker is started by the path of a file.
_WHO = "worker" if any(word.endswith("start.py") for word in sys.orig_argv) else "launcher"

_lock, _count, _left = threading.Lock(), 0, None


def operation(writes, path):
    """Count one that is about to be done; the fault is done to this process where it is due."""
    global _count, _left
    if writes == FAULT["reads"]:
        return
    with _lock:
        _count += 1
        if _left is None and _count >= FAULT["at"]:
            _left = FAULT["times"] if _first() else 0
            due = _left > 0
        else:
            due = bool(_left) and FAULT["what"] == "error"
        if not due:
            return
        _left -= 1
    match FAULT["what"]:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "power cut":  # of the launch with all its workers
            os.killpg(0, signal.SIGKILL)
        case "freeze":
            os.kill(os.getpid(), signal.SIGSTOP)
        case "stop":
            os.kill(os.getppid() if _WHO == "worker" else os.getpid(), signal.SIGTERM)
        case "error":
            raise Failed(path)


class Failed(Exception):
    """To be told in the words of whoever was asked."""


def _first():
    """Whether no other process of this launch was struck; it is told outside who was."""
    try:
        mark = os.open(FAULT["mark"], os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    os.write(mark, str(os.getpid()).encode())
    os.close(mark)
    return True


def _audited(event, arguments):
    if event == "open":
        writes = bool((arguments[2] or 0) & _WRITES)
    elif event in WRITING or event in READING:
        writes = event in WRITING
    else:
        return
    path = arguments[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, str) and path.startswith(BELOW) and not path.endswith(".log"):
        try:
            operation(writes, path)
        except Failed:
            number = getattr(errno, FAULT["error"])
            raise OSError(number, os.strerror(number), path) from None


def _with_faults(obstore):
    """Ask a bucket through `operation`; every other request that fails was done for all that.

    Not in a folder: its answers are not lost.
    """
    from obstore.exceptions import GenericError

    def faulty(name, writes):
        ask = getattr(obstore, name)

        def asked(store, *arguments, **more):
            try:
                operation(writes, name)
            except Failed:
                if _count % 2 and type(store).__name__ != "LocalStore":
                    ask(store, *arguments, **more)
                raise GenericError("Generic error: status code: 503 (injected)") from None
            return ask(store, *arguments, **more)

        setattr(obstore, name, asked)

    for name in ("put", "copy", "delete"):
        faulty(name, writes=True)
    for name in ("get", "head"):
        faulty(name, writes=False)


def _setting(**values):
    def change(module):
        assert values.keys() <= vars(module).keys(), module
        vars(module).update(values)

    return change


AFTER_IMPORT = {
    "scaling.store.claims": _setting(STALE_SECONDS=5.0),
    "scaling.store.leftovers": _setting(OLD_SECONDS=0.0),
    "scaling.store.waiting": _setting(WAIT_SECONDS=15.0),
    "scaling.store.bucket.bucket": lambda module: setattr(module.Bucket, "pause", 0.5),
    "scaling.store.bucket.leases": _setting(BEAT_SECONDS=0.5),
    "scaling.store.objects": _setting(PATIENCE=3.0),
}


class _Changed:
    """Finds modules as always, and changes some of them when they have been loaded."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in AFTER_IMPORT:
            return None
        found = PathFinder.find_spec(name, path)
        load = found.loader.exec_module

        def exec_module(module):
            load(module)
            AFTER_IMPORT[name](module)

        found.loader.exec_module = exec_module
        return found


sys.meta_path.insert(0, _Changed)
if FAULT["who"] == _WHO:
    AFTER_IMPORT["obstore"] = _with_faults
    sys.addaudithook(_audited)
