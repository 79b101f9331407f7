"""Which corpus a study's files made, so that files which have not changed are not read to plan.

A file is taken for unchanged while its path, inode, size, time of modification and time of change
are as they were. The last is the kernel's: to write a file and keep all five, somebody must set
the clock. Only a network file system whose times are those of another machine can be fooled, by a
write within its own granularity of time; a file is remembered only when older than that. A note has
a seal: one that is not as it was written, or that an earlier version wrote without, is made again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from scaling.data.corpus import Corpus, CorpusInfo, load
from scaling.data.verified import Stamps, settled, stamps
from scaling.store.records import Refusal, fingerprint, read_sealed, sealed, write_json
from scaling.study import DataSection


@dataclass(frozen=True)
class Memory:
    """What is known of one [data] section over files as they are now."""

    note: Path  # where the cache has it
    files: tuple[Path, ...]
    stamps: Stamps
    seen_ns: int  # when the stamps were taken

    def recall(self) -> Corpus | None:
        """The corpus that these very files made, if the cache still has it."""
        if not self.note.exists():
            return None
        with suppress(Refusal, TypeError, ValueError):
            info = TypeAdapter(CorpusInfo).validate_python(read_sealed(self.note))
            # The cache knows content alone; the source's name is the study's.
            return Corpus(load(info.fingerprint, self.note.parents[1]).folder, info)
        return None

    def keep(self, corpus: Corpus) -> None:
        """Remember the corpus that reading the files gave, unless one may have changed since."""
        if settled(self.stamps, self.seen_ns) and stamps(self.files) == self.stamps:
            with suppress(Refusal):  # a cache that others filled may be read-only
                write_json(self.note, sealed(asdict(corpus.info)))


def memory(
    section: DataSection,
    files: tuple[Path, ...],
    form: int,
    cache: Path,
    objects: Sequence[Any] = (),
) -> Memory | None:
    """What `cache` may know of a section that reads `files`; null if one cannot be looked at.

    `form` is the version of what is made of them; `objects` says as plain values what is read from
    elsewhere.
    """
    seen, found = time.time_ns(), stamps(files)
    if found is None:
        return None
    named = [[str(file.absolute()), *stamp] for file, stamp in zip(files, found, strict=True)]
    identity = {"format": form, "section": asdict(section), "files": named}
    if objects:
        identity["objects"] = list(objects)
    key = fingerprint(identity)
    return Memory(cache / "known" / f"{key}.json", files, found, seen)
