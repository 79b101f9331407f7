"""What a run needs next, made by a thread while the devices work on what it needs now."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

# Calls made before they are asked for: one for the devices to go on with, one for what a slow disk
# or a busy core takes longer now and then.
AHEAD = 2

K = TypeVar("K")
V = TypeVar("V")


@contextmanager
def made_ahead(make: Callable[[K], V], keys: Iterable[K]) -> Iterator[Iterator[V]]:
    """What `make` makes of each of `keys`, in their order, by one thread, up to `AHEAD` ahead.

    What `make` raises comes out where its value is asked for, with its traceback. The thread has
    ended when the context is left, however it is left.
    """
    left = iter(keys)
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        waiting = deque(thread.submit(make, key) for key in islice(left, AHEAD))

        def values() -> Iterator[V]:
            while waiting:
                value = waiting.popleft().result()
                waiting.extend(thread.submit(make, key) for key in islice(left, 1))
                yield value

        try:
            yield values()
        finally:
            thread.shutdown(cancel_futures=True)
