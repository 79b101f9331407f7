"""How far the preparation of a corpus is, for whoever shows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from scaling.data.documents import Document

OFTEN = 1 << 20  # bytes (tokens of a .bin) between two reports


@dataclass(frozen=True)
class Step:
    """What is being done, and how much of it is done."""

    doing: str
    done: int  # bytes; tokens of a .bin
    of: int | None  # null where nobody knows yet
    tokens: int | None = None  # made now; null where none are
    kept: int = 0  # of what is done, what had been done before


Watch = Callable[[Step], None]


def unwatched(step: Step) -> None:
    """Show nothing."""


class Count:
    """How much of one thing is done; `watch` is told at the start and of every megabyte."""

    def __init__(self, doing: str, of: int | None, watch: Watch) -> None:
        self.doing, self.of, self.watch = doing, of, watch
        self.done = self.reported = self.kept = 0
        self.tokens: int | None = None
        self._report()

    def keep(self, size: int) -> None:
        """So much was done before."""
        self.done += size
        self.kept += size
        self._report()

    def add(self, size: int, tokens: int | None = None) -> None:
        """So much more is done, which made so many tokens."""
        self.done += size
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if self.done >= self.reported + OFTEN:
            self._report()

    def over(self, documents: Iterable[Document]) -> Iterator[Document]:
        """The documents, each counted when it has passed."""
        for document in documents:
            yield document
            self.add(len(document))

    def _report(self) -> None:
        self.reported = self.done
        self.watch(Step(self.doing, self.done, self.of, self.tokens, self.kept))


def counted(
    documents: Iterable[Document], doing: str, of: int | None, watch: Watch
) -> Iterator[Document]:
    """The documents, and a report at the start and of every megabyte that passed."""
    return Count(doing, of, watch).over(documents)
