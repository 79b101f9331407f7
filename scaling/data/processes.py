"""Work on a corpus by several processes of this installation, which are told what to do in JSON.

They are started afresh, so that nothing of this process, such as the threads of jax, is in them.
They end when this process does: their input ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, Self, TypeVar

from scaling.data.documents import Changed
from scaling.store.records import Refusal

# Started by its path, as workers are: the search path may have others of our packages' names first.
START = Path(__file__).parents[1] / "launch" / "start.py"

# Each process uses one core; the tokenizers library would use them all in each.
ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "OPENBLAS_NUM_THREADS": "1"}

MOST = 1000  # processes of one host

Answer = TypeVar("Answer", covariant=True)


class Task(Protocol[Answer]):
    """Something to be done, here or in another process, with the same result."""

    @property
    def name(self) -> str:
        """By which the other process knows it."""

    def plain(self) -> Mapping[str, Any]:
        """What another process must know to do it, as values of JSON."""

    def do(self) -> Any:
        """Do it in this process; what came out, as values of JSON."""

    def answer(self, came_out: Any) -> Answer:
        """The result, of what came out."""


Result = TypeVar("Result")


class Processes:
    """Processes that take one task after another; use it in a `with`."""

    def __init__(self, number: int = 1) -> None:
        """`number` of 1 does everything in this process. Raises Refusal for fewer."""
        if number < 1:
            raise Refusal(f"--processes {number}: at least one must do the work.")
        if number > MOST:
            raise Refusal(f"--processes {number}: give at most {MOST:,}.")
        self.number = number
        self._none_yet()

    def _none_yet(self) -> None:
        self.idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        self.every: list[subprocess.Popen[str]] = []
        self.threads = ThreadPoolExecutor(self.number) if self.number > 1 else None
        self.stopping = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End them all, whatever they are doing: they write nothing more; others may be started."""
        if self.threads is None:
            return
        self.stopping = True
        for process in self.every:
            process.kill()
        self.threads.shutdown(cancel_futures=True)
        for process in self.every:
            process.communicate()
        self._none_yet()

    def map(self, tasks: Iterable[Task[Result]]) -> Iterator[Result]:
        """The results of tasks, in their order.

        Raises Refusal for what a task refuses, what cannot be written, and where a process dies.
        """
        if self.threads is None:
            return (task.answer(task.do()) for task in tasks)
        return self.threads.map(self._ask, tasks)

    def _ask(self, task: Task[Result]) -> Result:
        try:
            process = self.idle.get_nowait()
        except Empty:
            process = self._started()
        assert process.stdin is not None and process.stdout is not None
        line = ""
        try:
            print(json.dumps({"do": task.name, **task.plain()}), file=process.stdin, flush=True)
            line = process.stdout.readline()
        except BrokenPipeError:
            pass
        if not line:
            raise Refusal(_death(process.wait()))
        self.idle.put(process)
        return task.answer(_value(json.loads(line)))

    def _started(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", str(START), "--prepare"],
            env={**os.environ, **ENVIRONMENT},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for this process, which ends them
            text=True,
            encoding="utf-8",
        )
        self.every.append(process)
        if self.stopping:  # since just now, and this one was not seen
            process.kill()
        return process


def _death(code: int) -> str:
    how = f"by signal {-code} (out of memory sends 9)" if code < 0 else f"with exit code {code}"
    return (
        f"a process that prepares the corpus ended {how}. Give the command again, which goes on "
        "from here, with fewer --processes if memory is short."
    )


def _value(answer: Mapping[str, Any]) -> Any:
    if answer.get("changed"):
        raise Changed
    if "refused" in answer:
        raise Refusal(answer["refused"])
    if "failed" in answer:
        raise OSError(*answer["failed"])
    return answer["done"]


def serve(known: Mapping[str, Callable[[Mapping[str, Any]], Task[Any]]]) -> int:
    """Do the tasks that come in by stdin, a line each, and print what came out; the exit code.

    `known` makes a task of what is plain of it.
    """
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        given = json.loads(line)
        answer: dict[str, Any]
        try:
            answer = {"done": known[given["do"]](given).do()}
        except Changed:
            answer = {"changed": True}
        except Refusal as error:
            answer = {"refused": str(error)}
        except OSError as error:
            answer = {"failed": [error.errno, error.strerror, str(error.filename or "")]}
        try:
            print(json.dumps(answer), file=answers, flush=True)
        except BrokenPipeError:  # who asked has ended
            break
    return 0
