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


Watch = Callable[[Step], None]


def unwatched(step: Step) -> None:
    """Show nothing."""


def counted(
    documents: Iterable[Document], doing: str, of: int | None, watch: Watch
) -> Iterator[Document]:
    """The documents, and a report at the start and of every megabyte that passed."""
    done = reported = 0
    watch(Step(doing, 0, of))
    for document in documents:
        yield document
        done += len(document)
        if done >= reported + OFTEN:
            reported = done
            watch(Step(doing, done, of))
