"""The documents of a source: whole texts, as UTF-8."""

from __future__ import annotations

import glob
import hashlib
import lzma
from pathlib import Path

from scaling.records import Refusal, read_json

CORPORA = Path(__file__).parents[1] / "corpora"


def read_documents(source: str) -> list[bytes]:
    """The documents of a source as UTF-8, none empty.

    A text file is one document, unless NUL bytes divide it into several. Raises Refusal for a
    source that is missing, empty, not UTF-8, or an embedded corpus whose checksum is wrong.
    """
    if source == "sotu":
        manifest = read_json(CORPORA / "sotu.json")
        packed = (CORPORA / "sotu.txt.xz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != manifest["sha256_xz"]:
            raise Refusal(
                f"[data] source = 'sotu': {CORPORA / 'sotu.txt.xz'} does not match its SHA-256. "
                f"Reinstall, or rebuild it with `{manifest['rebuild']}`."
            )
        return lzma.decompress(packed).split(b"\0")
    # Path.glob takes no absolute patterns.
    found = [Path(name) for name in glob.glob(source, recursive=True)]  # noqa: PTH207
    paths = sorted(path for path in found if path.is_file())
    if not paths:
        raise Refusal(
            f"[data] source = {source!r} names no file. "
            "Give 'sotu', a text file, or a glob such as 'corpus/**/*.txt'."
        )
    documents: list[bytes] = []
    for path in paths:
        try:
            raw = path.read_bytes()
            raw.decode("utf-8")
        except OSError as error:
            raise Refusal(f"[data] source: cannot read {path}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise Refusal(
                f"[data] source: {path} is not UTF-8 text (byte {error.start}). Convert it first."
            ) from error
        documents += [part for part in raw.split(b"\0") if part.strip()]
    if not documents:
        raise Refusal(f"[data] source = {source!r} holds no text. Give files that are not empty.")
    return documents
