"""Whether a cached corpus is still what was written there: a flipped bit is another token.

One of up to WHOLE bytes is hashed once a launch; its workers look at the files' stamps alone. Of a
larger one only the index is, and each chunk of its tokens as it is read (scaling/data/chunks.py).
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

from scaling.data.chunks import Stamp, is_settled, stamp, write_digests
from scaling.data.corpus import Corpus, load, made_again
from scaling.remedies import is_damage, remedy
from scaling.store.checksums import CHECKSUMS, Damaged, checksums, files_in, verify
from scaling.store.records import Refusal, read_json, write_json

WHOLE = 1 << 30  # bytes of tokens, about a second's reading
PLACES = {"info.json", "files.json"}  # which say where the text or its tokens lie
CHUNKED = ("train.bin", "holdout.bin")  # of which each chunk has a digest

Stamps = tuple[Stamp, ...]


def note_checksums(folder: Path) -> None:
    """Note what the files of a corpus are, beside them: of those of tokens, chunk by chunk."""
    for name in CHUNKED:
        if (folder / name).exists():
            write_digests(folder / name, folder / f"{name}.digests")
    files = {name: file for name, file in files_in(folder).items() if name not in CHUNKED}
    files.pop(CHECKSUMS, None)
    write_json(folder / CHECKSUMS, {"files": checksums(files)})


def loaded(fingerprint: str, cache: Path) -> Corpus:
    """A corpus of `cache`. Raises Refusal as `load` does, and Damaged as `check`."""
    corpus = load(fingerprint, cache)
    check(corpus)
    return corpus


def check(corpus: Corpus) -> None:
    """Raise Damaged unless its files are those that were written; unchanged ones are not read."""
    for part in corpus.parts:
        note, seen = _note(part), stamps(_stamped(part))
        known = None
        with suppress(Refusal, KeyError, TypeError):
            known = read_json(note)["stamps"]
        if known is None or known != [list(each) for each in seen or ()]:
            _hash(part)


def check_afresh(corpus: Corpus) -> None:
    """As `check`, and everything is read."""
    for part in corpus.parts:
        _hash(part)


def digest_of(corpus: Corpus) -> str:
    """The SHA-256 of all that its tokens are checked against; of a mixture, of its parts'.

    It does not depend on where the files lie. Empty where an earlier version noted nothing.
    """
    found = hashlib.sha256()
    try:
        for part in corpus.parts:
            files = read_json(_noted_in(part) / CHECKSUMS)["files"]
            for name in sorted(files.keys() - PLACES):
                found.update(f"{name} {files[name]['sha256']}\n".encode())
    except (Refusal, KeyError, TypeError):
        return ""
    return found.hexdigest()


def _hash(corpus: Corpus) -> None:
    folder = _noted_in(corpus)
    files, began = _files(folder), time.time_ns()
    seen = stamps(_stamped(corpus))
    try:
        verify(f"corpus {folder}", files, read_json(folder / CHECKSUMS)["files"])
    except (Refusal, KeyError, TypeError) as error:
        if is_damage(error):
            _note(corpus).unlink(missing_ok=True)
        what = remedy(error, made_again(corpus.folder))
        cause = error.cause if isinstance(error, Refusal) else str(error)
        raise Damaged(f"{cause.rstrip('.')}. {what}") from error
    if sum(file.bytes for file in corpus.files) <= WHOLE:
        try:
            for file in corpus.files:
                file.check_all()
        except Damaged as error:
            if is_damage(error):
                _note(corpus).unlink(missing_ok=True)
            raise
    if seen is not None and settled(seen, began):
        with suppress(Refusal):
            write_json(_note(corpus), {"stamps": seen})


def _noted_in(corpus: Corpus) -> Path:
    """The folder whose files are noted as they were written."""
    return corpus.index or corpus.folder


def _stamped(corpus: Corpus) -> tuple[Path, ...]:
    """All files that a change of the corpus would be a change of."""
    own = _files(_noted_in(corpus))
    elsewhere = () if corpus.index is None else tuple(file.path for file in corpus.files)
    return (*own.values(), *elsewhere)


def _note(corpus: Corpus) -> Path:
    return corpus.folder.parent / "known" / f"{corpus.folder.name}.whole.json"


def _files(folder: Path) -> dict[str, Path]:
    files = files_in(folder)
    files.pop(CHECKSUMS, None)
    return dict(sorted(files.items()))


def stamps(files: tuple[Path, ...]) -> Stamps | None:
    """What of each file changes when it is written; null if one cannot be looked at."""
    try:
        return tuple(stamp(file.stat()) for file in files)
    except OSError:
        return None


def settled(seen: Stamps, when_ns: int) -> bool:
    """Whether the stamps, taken then, tell of every write since."""
    return all(is_settled(each, when_ns) for each in seen)
