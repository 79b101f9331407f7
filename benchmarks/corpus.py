"""What does it cost to use token files where they lie, and to plan on a corpus of a terabyte?

    python benchmarks/corpus.py [--megabytes N] [--gigabytes N] [--json FILE]

Indexing: so many megabytes of tokens in documents of about a thousand are read and indexed by one
process, and hashed by plain SHA-256, in turns; the ratio is of seconds of CPU. The files are in
memory by then: where a disk gives less than a core can hash, the disk is what one waits for.

Planning: a corpus of so many gigabytes whose files are sparse, with the index that reading them
would have left behind, and one of one gigabyte. Each is planned on (`scaling plan`),
checked as a launch does, and gives a run its first batch, each in a process of its own, with the
seconds of CPU and the peak memory that the system counts for it, and how much of the files was
read. The ratios are of seconds at the two sizes: near 1 where only the index grows.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from scaling.data import prepare as preparing
from scaling.data.chunks import CHUNK, RACY_NS
from scaling.data.columns import Column
from scaling.data.corpus import Corpus, CorpusInfo
from scaling.data.in_place import TokenIndex, place
from scaling.data.making import making
from scaling.data.progress import unwatched
from scaling.data.remembered import memory
from scaling.data.tokens import TokenFile
from scaling.store.records import write_json
from scaling.study import DataSection, read_study

ROUNDS = 3
SMALL = 1.0  # gigabytes of the corpus to compare with: enough for the study
FILE = 8192 * CHUNK  # bytes of a sparse file: 2 GiB
DOCUMENT = 1000  # tokens, with the end token
HELD = 1000  # one document in so many is held out
STUDY = """
name = "large"
[model]
head_dim = 64
aspect_ratio = 64
[data]
source = "{source}"
token_dtype = "uint16"
vocab_size = 50257
end_token = 50256
sequence_length = 512
holdout_fraction = 0.001
[training]
schedule = "wsd"
batch_sequences = 256
learning_rate = 0.003
warmup_tokens = "10M"
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
[grid]
kind = "product"
params = ["10M", "30M"]
tokens = ["200M", "400M"]
[evaluation]
tokens = "1M"
every_tokens = "100M"
"""
CODE = {
    "check": """
from scaling.data.verified import check_afresh
check_afresh(corpus)
""",
    "batch": """
from scaling.data import chunks
good, read = chunks.CheckedFile._is_good, []
chunks.CheckedFile._is_good = lambda *given: (read.append(given), good(*given))[1]
assert corpus.batches(512, 256, 0).at(0).shape == (256, 513)
print(len(read) * chunks.CHUNK / 1e6)
""",
}
LOAD = """
import sys; from pathlib import Path
from scaling.data.corpus import load
corpus = load(sys.argv[1], Path(sys.argv[2]))
"""
INDEX = """
import sys; from pathlib import Path
from scaling.data import in_place
from scaling.data.prepare import prepare
from scaling.study import read_study
in_place.WHOLE = 0  # it is named as a corpus of more than 2**30 tokens is
prepare(read_study(Path(sys.argv[1])).data, Path(sys.argv[2]))
"""
HASH = """
import hashlib, sys
print(hashlib.file_digest(open(sys.argv[1], "rb"), "sha256").hexdigest())
"""
IMPORTS = """
import scaling.data.prepare, scaling.study
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=1000)
    parser.add_argument("--gigabytes", type=float, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        rows += indexing(Path(name), round(options.megabytes * 1e6))
    for gigabytes in (SMALL, options.gigabytes):
        with tempfile.TemporaryDirectory() as name:
            rows += planning(Path(name), gigabytes)
    ratios = ratios_of(rows)
    for what, ratio in ratios.items():
        print(f"{what}: {ratio:.2f}")
    if options.json:
        write_json(options.json, {"rows": rows, "ratios": ratios})


def ratios_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of indexing over those of hashing, and of the large corpus over the small one."""
    seconds = {(row["what"], row["gigabytes"]): row["seconds"] for row in rows}
    sizes = sorted({row["gigabytes"] for row in rows if row["what"] == "plan"})
    found = {"indexing / SHA-256": _only(rows, "index") / _only(rows, "sha256")}
    for what in ("plan", *CODE):
        found[f"{what}: {sizes[1]:g} GB / {sizes[0]:g} GB"] = (
            seconds[what, sizes[1]] / seconds[what, sizes[0]]
        )
    return found


def _only(rows: list[dict[str, Any]], what: str) -> float:
    (seconds,) = (float(row["seconds"]) for row in rows if row["what"] == what)
    return seconds


def indexing(folder: Path, size: int) -> list[dict[str, Any]]:
    """The CPU of indexing and of hashing the same file, least of the rounds."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 50256, size // 2, np.uint16)
    tokens[
        np.cumsum(random.integers(1, 2 * DOCUMENT, size // DOCUMENT)).clip(max=len(tokens) - 1)
    ] = 50256
    tokens.tofile(folder / "tokens.bin")
    (folder / "study.toml").write_text(STUDY.format(source=folder / "tokens.bin"))
    found: dict[str, list[float]] = {"index": [], "sha256": []}
    for number in range(ROUNDS):
        begun = used([sys.executable, "-c", IMPORTS])[0].seconds
        cache = folder / f"cache-{number}"
        index = [sys.executable, "-c", INDEX, str(folder / "study.toml"), str(cache)]
        found["index"].append(used(index)[0].seconds - begun)
        found["sha256"].append(
            used([sys.executable, "-c", HASH, str(folder / "tokens.bin")])[0].seconds
        )
    rows = []
    for what, seconds in found.items():
        row: dict[str, Any] = {"what": what, "gigabytes": size / 1e9, "seconds": min(seconds)}
        row["tokens_per_s"] = size / 2 / row["seconds"]
        print(
            "{what}: {gigabytes:g} GB, {seconds:.2f} s of CPU, {tokens_per_s:,.0f} tokens/s".format(
                **row
            )
        )
        rows.append(row)
    return rows


def planning(folder: Path, gigabytes: float) -> list[dict[str, Any]]:
    """The CPU and the memory of what is done with a corpus once it is indexed."""
    study = folder / "study.toml"
    source = folder / "shards" / "*.bin"
    study.write_text(STUDY.format(source=source))
    cache = folder / "cache"
    began = time.perf_counter()
    corpus = simulated(read_study(study).data, source.parent, cache / "corpora", gigabytes)
    print(f"{gigabytes:g} GB: simulated in {time.perf_counter() - began:.0f} s")
    loaded = [corpus.info.fingerprint, str(cache / "corpora")]
    commands = {"plan": ["-P", "-m", "experiments.cli", "plan", str(study)]}
    commands |= {what: ["-c", LOAD + code, *loaded] for what, code in CODE.items()}
    rows = []
    for what, arguments in commands.items():
        found, said = used([sys.executable, *arguments], SCALING_CACHE=str(cache))
        row = {"what": what, "gigabytes": gigabytes, **vars(found)}
        if what == "batch":
            row["read_mb"] = float(said)
        text = "{what}: {gigabytes:g} GB, {seconds:.2f} s of CPU, {peak_mb:.0f} MB of memory"
        print((text + (", {read_mb:.0f} MB read" if what == "batch" else "")).format(**row))
        rows.append(row)
    return rows


def simulated(section: DataSection, shards: Path, cache: Path, gigabytes: float) -> Corpus:
    """A corpus of sparse files, in the cache as if they had been read.

    Every token is 0; where documents end is the index's word alone.
    """
    shards.mkdir()
    count = max(1, round(gigabytes * 1e9 / FILE))
    size = FILE if gigabytes * 1e9 >= FILE else round(gigabytes * 1e9 / CHUNK) * CHUNK
    files = []
    for number in range(count):
        path = shards / f"{number:05d}.bin"
        with path.open("wb") as file:
            file.truncate(size)
        files.append(TokenFile(path, "uint16", 0, size // 2))
    chunk = np.frombuffer(hashlib.sha256(bytes(CHUNK)).digest(), np.uint8)
    digests = np.tile(chunk, count * size // CHUNK).view([("sha256", "u1", 32)])
    column = Column(digests.dtype, lambda: cache / f"{uuid4().hex}")
    column.add(digests)
    # Documents one by one where one is held out, the others as one long piece between two of them.
    tokens = count * size // 2
    ends = np.arange(HELD * DOCUMENT, tokens, HELD * DOCUMENT)
    bounds = np.unique(np.concatenate([[0], ends - DOCUMENT, ends, *_ends(files)]))
    held = np.isin(bounds[:-1], ends - DOCUMENT)
    index = TokenIndex(
        digest="0" * 64,
        longest=float("inf"),
        shared={},
        lots=np.zeros(len(held)),
        sizes=np.diff(bounds) - 1,
        files=tuple(files),
        digests=column,
        starts=bounds[:-1],
        followed=np.ones(len(held), bool),
    )
    info = CorpusInfo(
        fingerprint="0" * 12,
        source=str(section.source),
        vocab_size=50257,
        train_documents=tokens // DOCUMENT - len(ends),
        train_tokens=0,
        holdout_documents=len(ends),
        holdout_tokens=0,
        holdout_bytes=None,
        end_token=50256,
    )
    with making(cache, None, unwatched) as made:
        place(cache / info.fingerprint, index, held, info, made)
    corpus = preparing.load(info.fingerprint, cache)
    time.sleep(1.5 * RACY_NS / 1e9)  # files are remembered only when no later write can hide
    known = memory(section, tuple(file.path for file in files), preparing.FORMAT, cache)
    assert known is not None
    known.keep(corpus)
    return corpus


def _ends(files: list[TokenFile]) -> list[np.ndarray]:
    """Where each file ends, with all of them put one after another."""
    return [np.cumsum([file.tokens for file in files])]


class Used:
    """What a process used."""

    def __init__(self, used: resource.struct_rusage) -> None:
        self.seconds = used.ru_utime + used.ru_stime
        self.peak_mb = used.ru_maxrss / 1024  # kilobytes on Linux


def used(command: list[str], **environment: str) -> tuple[Used, str]:
    """What a process used, and what it printed."""
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    said = process.stdout.read()
    process.stdout.close()
    _, status, found = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return Used(found), said


if __name__ == "__main__":
    main()
