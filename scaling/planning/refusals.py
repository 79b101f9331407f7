"""What is wrong with a study, gathered, so that a user reads all of it at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from scaling.store.records import Refusal

SHOWN = 12  # cells, budgets or sizes that one refusal lists; more are counted
MOST = 30  # lines of a message, which is a screen; a study of many mistakes has others first


class Refusals:
    """The refusals so far, each once, in order."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """A Refusal raised inside is kept instead."""
        try:
            yield
        except Refusal as error:
            self.add(*error.lines)

    def add(self, *lines: str) -> None:
        """Keep what a Refusal says."""
        self._lines |= dict.fromkeys(lines)

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def raise_any(self) -> None:
        """Raises one Refusal that says all of them, if there are any."""
        if not self._lines:
            return
        lines = list(self._lines)
        more = [f"and {len(lines) - MOST:,} more."] if len(lines) > MOST else []
        raise Refusal([*lines[:MOST], *more])


def listed(names: Iterable[str], separator: str = ", ") -> str:
    """The names, of very many the first."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return separator.join(names[:SHOWN]) + more
