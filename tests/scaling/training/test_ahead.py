"""What is made ahead comes in order, fails where it is asked for, and leaves no thread behind."""

from __future__ import annotations

import threading
import traceback
from queue import Queue

import pytest

from scaling.training.ahead import AHEAD, made_ahead


def test_values_come_in_the_order_of_their_keys_each_made_once() -> None:
    made = []

    def double(key: int) -> int:
        made.append(key)
        return 2 * key

    with made_ahead(double, range(100)) as values:
        assert list(values) == list(range(0, 200, 2))
    assert made == list(range(100))


def test_no_more_is_made_than_was_asked_for_and_a_bounded_number_ahead() -> None:
    made: Queue[int] = Queue()
    with made_ahead(made.put, range(100)) as values:
        for _ in range(3):
            next(values)
        for _ in range(3 + AHEAD):
            made.get(timeout=60)
    assert made.empty()


def test_another_thread_makes_the_values() -> None:
    with made_ahead(lambda key: threading.current_thread(), range(3)) as values:
        makers = set(values)
    assert len(makers) == 1 and threading.current_thread() not in makers


def refuse(key: int) -> int:
    if key == 2:
        raise ValueError("the third is bad")
    return key


def test_an_error_comes_out_where_its_value_is_asked_for_with_its_traceback() -> None:
    with made_ahead(refuse, range(5)) as values:
        assert [next(values), next(values)] == [0, 1]
        with pytest.raises(ValueError, match="the third is bad") as found:
            next(values)
    assert "refuse" in {frame.name for frame in traceback.extract_tb(found.value.__traceback__)}


class Killed(BaseException):
    pass


@pytest.mark.parametrize("error", [None, ValueError, Killed])
def test_the_thread_ends_with_the_context_however_that_ends(
    error: type[BaseException] | None,
) -> None:
    before = set(threading.enumerate())
    if error is None:
        with made_ahead(refuse, range(2)) as values:
            next(values)
    else:
        with pytest.raises(error), made_ahead(refuse, range(2)) as values:
            next(values)
            raise error
    assert set(threading.enumerate()) == before
