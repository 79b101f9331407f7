"""Calls on many items, several at once, whose results come in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def together(
    call: Callable[[_Item], _Result], items: Iterable[_Item], most: int
) -> Iterator[_Result]:
    """The results of a call on each item, in order, of which so many run at once."""
    rest = iter(items)
    with ThreadPoolExecutor(most) as pool:
        running: deque[Future[_Result]] = deque(
            pool.submit(call, item) for item in islice(rest, 2 * most)
        )
        try:
            while running:
                yield running.popleft().result()
                running.extend(pool.submit(call, item) for item in islice(rest, 1))
        finally:
            for each in running:
                each.cancel()


def batches(items: Iterable[_Item], most: int) -> Iterator[tuple[_Item, ...]]:
    """The items, by so many."""
    rest = iter(items)
    while some := tuple(islice(rest, most)):
        yield some
