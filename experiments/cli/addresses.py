"""Where a command may be given an address such as s3://bucket/runs/tiny, and what becomes of it.

`run`, `worker`, `status` and `sync` work there. What only reads results reads a mirror of their
small files on this machine instead, and what it writes beside them goes up afterwards. What plans a
study reads its file from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.cli.text import show_as
from scaling.store.objects import is_address
from scaling.store.paths import refuse_address
from scaling.store.records import Refusal

ARGUMENT = "argument"  # where it is given, if not with an option
WORK_THERE = {
    "run": ("--results",),
    "worker": (ARGUMENT,),
    "status": (ARGUMENT,),
    "sync": (ARGUMENT,),
}
READ_A_STUDY = ("plan", "simulate", "prepare", "run")  # as its argument
READ_A_MIRROR = ("fit", "show", "compare", "plot", "recommend", "predict", "emergence")
NEED_RUNS = ("plot",)  # of these, what reads every run's steps


@contextmanager
def addresses_read(command: str, words: Sequence[str]) -> Iterator[list[str]]:
    """The words of a command, with mirrors in place of addresses that it reads.

    Raises Refusal for an address where a command takes none: as a path it would name a folder on
    this machine.
    """
    with ExitStack() as life:
        yield [life.enter_context(_at_hand(command, *each)) for each in _given(words)]


def _given(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each word, and where it is given."""
    for before, word in pairwise(["", *words]):
        option = word.partition("=")[0] if word.startswith("--") else before
        yield option if option.startswith("--") else ARGUMENT, word


@contextmanager
def _at_hand(command: str, given_as: str, word: str) -> Iterator[str]:
    option, is_option, value = word.partition("=") if word.startswith("--") else ("", "", word)
    if not is_address(value) or given_as in WORK_THERE.get(command, ()):
        yield word
    elif command in READ_A_MIRROR and given_as not in ("--json", "--out"):
        from scaling.store.bucket.bucket import Bucket
        from scaling.store.bucket.mirror import mirrored, study_of
        from scaling.store.objects import open_store

        study, path = study_of(value)
        with mirrored(Bucket(open_store(study)), command in NEED_RUNS) as folder:
            show_as(str(folder), study)
            show_as(folder.name, study.rpartition("/")[2])
            yield f"{option}{is_option}{folder / path}"
    elif command in READ_A_STUDY and given_as == ARGUMENT:
        with _study_here(value) as file:
            show_as(str(file), value)
            yield str(file)
    else:
        refuse_address(given_as, value)
        yield word


@contextmanager
def _study_here(address: str) -> Iterator[Path]:
    """The file of a study at an address, on this machine. Raises Refusal where there is none."""
    from scaling.store.objects import Missing, open_store

    place, _, name = address.rpartition("/")
    with TemporaryDirectory() as folder:
        file = Path(folder) / (name or "study.toml")
        try:
            open_store(place).download(name, file)
        except (Missing, ValueError):
            raise Refusal(
                f"there is no study at {address}. Give the address of its TOML file, which is "
                "study.toml in results."
            ) from None
        yield file
