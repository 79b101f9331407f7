"""Whether a cached corpus is still what was written there: a flipped bit is another token.

All of it is hashed once a launch; its workers look at the files' stamps alone.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from scaling.data.corpus import Corpus
from scaling.store.checksums import CHECKSUMS, Damaged, checksums, files_in, verify
from scaling.store.records import Refusal, read_json, write_json

# Two seconds is FAT's granularity, the coarsest of file systems in use; a write within it of one
# before may leave no trace in the times.
RACY_NS = 2_000_000_000

Stamps = tuple[tuple[int, ...], ...]


def note_checksums(folder: Path) -> None:
    """Note what the files of a corpus are, beside them."""
    write_json(folder / CHECKSUMS, {"files": checksums(_files(folder))})


def check(corpus: Corpus) -> None:
    """Raise Damaged unless its files are those that were written; unchanged ones are not read."""
    for part in corpus.parts:
        note, seen = _note(part), stamps(tuple(_files(part.folder).values()))
        known = None
        with suppress(Refusal, KeyError, TypeError):
            known = read_json(note)["stamps"]
        if known is None or known != [list(stamp) for stamp in seen or ()]:
            _hash(part)


def check_afresh(corpus: Corpus) -> None:
    """As `check`, and everything is read."""
    for part in corpus.parts:
        _hash(part)


def _hash(corpus: Corpus) -> None:
    folder = corpus.folder
    files, began = _files(folder), time.time_ns()
    seen = stamps(tuple(files.values()))
    try:
        if not (folder / CHECKSUMS).exists():  # made by an earlier version
            with suppress(Refusal):  # in a cache that is read-only
                note_checksums(folder)
            return
        verify(f"corpus {folder}", files, read_json(folder / CHECKSUMS)["files"])
    except (Refusal, KeyError, TypeError) as error:
        _note(corpus).unlink(missing_ok=True)
        raise Damaged(f"{error}. Delete {folder}: it is made again from its text.") from error
    if seen is not None and settled(seen, began):
        with suppress(Refusal):
            write_json(_note(corpus), {"stamps": seen})


def _note(corpus: Corpus) -> Path:
    return corpus.folder.parent / "known" / f"{corpus.folder.name}.whole.json"


def _files(folder: Path) -> dict[str, Path]:
    files = files_in(folder)
    files.pop(CHECKSUMS, None)
    return dict(sorted(files.items()))


def stamps(files: tuple[Path, ...]) -> Stamps | None:
    """What of each file changes when it is written; null if one cannot be looked at."""
    try:
        found = [file.stat() for file in files]
    except OSError:
        return None
    return tuple((s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found)


def settled(seen: Stamps, when_ns: int) -> bool:
    """Whether the stamps, taken then, tell of every write since."""
    return max((ns for stamp in seen for ns in stamp[-2:]), default=0) + RACY_NS < when_ns
