"""What processes tell each other, by a store that is in this one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from scaling.store.records import Refusal
from scaling.training.processes import Abandoned, Processes, here


class Store:
    """As the client of jax's coordination service."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.changed = threading.Condition()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self.changed:
            assert allow_overwrite or key not in self.values
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, 0.01):
                raise RuntimeError("DEADLINE_EXCEEDED: as jax says it")
            return self.values[key]

    def key_value_dir_get(self, key: str) -> list[tuple[str, str]]:
        return [(name, value) for name, value in self.values.items() if name.startswith(key)]


def all_do(what: Callable[[Processes], Any]) -> list[Any]:
    """What each of three processes comes to, in their order: a value or an error."""
    store = Store()
    threads = ThreadPoolExecutor(3)
    with threads:
        each = [threads.submit(what, Processes(index, 3, store)) for index in range(3)]
    return [one.exception() or one.result() for one in each]


def test_what_process_0_does_all_know() -> None:
    done: list[int] = []

    def what(processes: Processes) -> list[int]:
        return [
            processes.lead("count", lambda: done.append(processes.index) or len(done))
            for _ in range(2)
        ]

    assert all_do(what) == [[1, 2]] * 3
    assert done == [0, 0]


def test_what_process_0_cannot_do_stops_all() -> None:
    def refuse() -> None:
        raise Refusal("the disk is full")

    first, *others = all_do(lambda processes: processes.lead("write", refuse))
    assert type(first) is Refusal
    assert [type(each) for each in others] == [Abandoned, Abandoned]
    assert {str(each) for each in (first, *others)} == {"the disk is full"}


def test_what_each_gives_all_have_in_their_order() -> None:
    given = all_do(lambda processes: processes.gather("index", processes.index))
    assert given == [[0, 1, 2]] * 3


def test_a_failure_is_noted_for_process_0_unless_all_meet_it() -> None:
    store = Store()
    first, second = Processes(0, 2, store), Processes(1, 2, store)
    for error in (ValueError("as all"), OSError("alone")):
        with pytest.raises(type(error)), second.failures_noted("run", but=(ValueError,)):
            raise error
    (noted,) = first.notes("run")
    assert noted.kind == "OSError"
    assert noted.said.startswith("process 1 of 2 on ")
    assert noted.said.endswith("OSError: alone")


def test_a_process_by_itself_asks_nobody() -> None:
    alone = here()
    assert (alone.index, alone.count, alone.leads) == (0, 1, True)
    assert alone.lead("what", lambda: {1, 2}) == {1, 2}
    assert alone.gather("what", {3}) == [{3}]
    with pytest.raises(OSError, match="gone"), alone.failures_noted("run"):
        raise OSError("gone")
