"""Any bytes under any name that we read are read, or refused in a line, soon and in little memory.

What lies in a results folder is tried in test_fuzz_files.py, study files in test_fuzz_studies.py.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from analysis.emergence.scores.query import ScoreQuery
from analysis.emergence.scores.read import read_scores
from analysis.fitting.files import law_in, load_fit
from analysis.runs.table import read_runs
from experiments.cli.join.devices import DeviceOptions
from experiments.cli.output import is_answer, is_figure
from scaling.data import prepare as preparing
from scaling.data.sources import open_sources
from scaling.data.tokenizer import vocabulary
from scaling.store.records import MADE_BY, Refusal, json_bytes, read_json, read_sealed, sealed
from scaling.store.steps import STEP_COLUMNS, read_step_file
from scaling.study import DataSection, data_section_of, read_study
from scaling.tasks.jsonl import read_items

SECONDS = 2.0  # of CPU
MEGABYTES = 1000  # beyond what was there before
TEXTS = [f"text {number}: {'word ' * (number % 9)}" for number in range(60)]
ROWS = pd.DataFrame(
    {"params": [1e6, 2e6, 4e6], "tokens": [1e8, 2e8, 4e8], "loss": [4.0, 3.5, 3.2], "s": "abc"}
)
BIN = {"token_dtype": "uint16", "vocab_size": 1000, "end_token": 999}


@contextmanager
def bounded() -> Iterator[None]:
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    yield
    assert time.process_time() - start < SECONDS
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1e3


def section(**given: object) -> DataSection:
    given = {"sequence_length": 8, "holdout_fraction": 0.2, **given}
    return TypeAdapter(DataSection).validate_json(json.dumps(given))


def corpus(path: Path, **more: object) -> None:
    found = section(source=str(path), **more)
    for source in open_sources(found):
        for _ in source.read():
            pass
    preparing.prepare(found, path.parent / "cache")


def mixture(path: Path) -> None:
    other = path.with_name("other.txt")
    other.write_text("\0".join(TEXTS))
    sources = [{"source": str(each), "weight": 1} for each in (path, other)]
    preparing.prepare(section(sources=sources), path.parent / "cache")


def tokenizer(path: Path) -> None:
    (path.parent / "t.txt").write_text("\0".join(TEXTS))
    corpus(path.parent / "t.txt", tokenizer=str(path))


def packages(path: Path) -> None:
    open_sources(section(source=f"packages:{path}"))


# Every kind of file by its name, and what reads it.
LOADERS: Mapping[str, Callable[[Path], object]] = {
    "runs.csv": read_runs,
    "runs.json": read_runs,
    "runs.jsonl": read_runs,
    "runs.parquet": read_runs,
    "runs.xlsx": read_runs,
    "runs": read_runs,
    "scores.csv": lambda path: read_scores(path, ScoreQuery("params")),
    "scores.parquet": lambda path: read_scores(path, ScoreQuery("params")),
    "fit.json": load_fit,
    "study.toml": read_study,
    "data.toml": lambda path: data_section_of(path.read_bytes(), path.name),
    "packages.toml": packages,
    "t.txt": corpus,
    "t.jsonl": corpus,
    "t.jsonl.gz": corpus,
    "t.jsonl.zst": corpus,
    "t.parquet": corpus,
    "t.bin": lambda path: corpus(path, **BIN),
    "t.idx": lambda path: corpus(_beside(path), **BIN),
    "mixed.jsonl": mixture,
    "tokenizer.json": tokenizer,
    "alone/tokenizer.json": lambda path: vocabulary(section(source="sotu", tokenizer=str(path))),
    "tasks.jsonl": read_items,
    "devices.toml": lambda path: DeviceOptions(("h200",), devices=path).named(),
    "scores.json": lambda path: read_scores(path, ScoreQuery("params")),
    "join.csv": lambda path: read_scores(scores_beside(path), ScoreQuery("params", join=path)),
    "figure.png": is_figure,
    "answer.json": is_answer,
    "law.json": law_in,
    "record.json": read_json,
    "sealed.json": read_sealed,
    "steps.parquet": read_step_file,
}
# Whose refusals may be several lines: one a field, or a column.
SEVERAL = ("study.toml", "data.toml", *(name for name in LOADERS if name.startswith("runs")))


def _beside(index: Path) -> Path:
    tokens = index.with_suffix(".bin")
    np.arange(600, dtype="<u2").tofile(tokens)
    return tokens


def scores_beside(path: Path) -> Path:
    scores = ROWS[["s"]].assign(task="t", metric="exact_match", value=[0.1, 0.5, 0.9])
    scores.to_csv(path.with_name("scores.csv"), index=False)
    return path.with_name("scores.csv")


@cache
def whole(name: str) -> bytes:
    """A file of that kind as it should be, if it is short to make."""
    lines = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in TEXTS)
    out = io.BytesIO()
    match name:
        case "devices.toml":
            return b'[h200]\npeak = { bf16 = 1e14 }\nmemory = 1e11\nsource = "m"\n'
        case "steps.parquet":
            rows = {name: [0.5, 0.25] for name in STEP_COLUMNS}
            return pd.DataFrame({**rows, "step": [1, 2]}).to_parquet()
        case "sealed.json" | "answer.json":
            return json_bytes(sealed({"written_by": MADE_BY}))
        case "scores.json":
            return ROWS.assign(task="t", metric="exact_match", value=0.5).to_json().encode()
        case "join.csv":
            return ROWS.to_csv(index=False).encode()
        case "runs.csv" | "runs":
            return ROWS.to_csv(index=False).encode()
        case "runs.json":
            return ROWS.to_json(orient="records").encode()
        case "runs.jsonl":
            return ROWS.to_json(orient="records", lines=True).encode()
        case "runs.parquet":
            return ROWS.to_parquet()
        case "runs.xlsx":
            with zipfile.ZipFile(out, "w") as parts:
                parts.writestr("[Content_Types].xml", "<Types/>")
            return out.getvalue()
        case "scores.csv" | "scores.parquet":
            scores = ROWS.assign(task="t", metric="exact_match", value=[0.1, 0.5, 0.9])
            return scores.to_csv().encode() if name.endswith("csv") else scores.to_parquet()
        case "t.txt":
            return "\0".join(TEXTS).encode()
        case "t.jsonl" | "mixed.jsonl":
            return lines
        case "t.jsonl.gz":
            return gzip.compress(lines)
        case "t.jsonl.zst":
            return bytes(pa.compress(lines, codec="zstd", asbytes=True))
        case "t.parquet":
            return pd.DataFrame({"text": TEXTS}).to_parquet()
        case "t.bin":
            tokens = np.random.default_rng(0).integers(0, 900, 800).astype("<u2")
            tokens[::37] = 999
            return tokens.tobytes()
        case "t.idx":
            header = b"MMIDIDX\0\0" + (1).to_bytes(8, "little") + b"\x08"
            counts = (2).to_bytes(8, "little") + (3).to_bytes(8, "little")
            rest = np.array([300, 300], "<i4").tobytes() + np.array([0, 600], "<i8").tobytes()
            return header + counts + rest + np.array([0, 1, 2], "<i8").tobytes()
        case "tokenizer.json" | "alone/tokenizer.json":
            model = {"type": "WordLevel", "vocab": {"word": 0, "<|endoftext|>": 1, "[UNK]": 2}}
            model["unk_token"] = "[UNK]"
            return json.dumps({"version": "1.0", "added_tokens": [], "model": model}).encode()
        case "tasks.jsonl":
            return json.dumps({"prompt": "2+2=", "answer": "4", "choices": ["4", "5"]}).encode()
        case "packages.toml":
            return b'[[package]]\nname = "sotu"\nversion = "0"\nsha256 = "00"\n'
        case _:
            return b'{"law": "chinchilla", "formula": "x", "draws": "d", "rows": "r"}'


PIECES = [
    *(b"", b"\0", b"\n", b'"', b"{", b"}", b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"9" * 5000),
    *(b"\xff\xfe", b"\xef\xbb\xbf", b"\x1b[2J\r\n", "\u202e".encode(), b",", b";", b"\t", b"1e999"),
    *(b"PK\x03\x04", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\x93NUMPY", b"MMIDIDX\0\0"),
    *((20240520).to_bytes(4, "little"), b"\xff" * 8, b"NaN", b"null", b"-", b"a" * 10_000),
]


@st.composite
def contents(draw: st.DrawFn, name: str) -> bytes:
    """Any bytes, or a whole file of the kind with some flipped, cut out or put in."""
    content = draw(st.just(whole(name)) | st.binary(max_size=300) | st.sampled_from(PIECES))
    for _ in range(draw(st.integers(0, 3))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
        match draw(st.sampled_from(["put", "cut", "flip", "repeat"])):
            case "put":
                content = content[:at] + draw(st.sampled_from(PIECES) | st.binary()) + content[at:]
            case "cut":
                content = content[:at] + content[end:]
            case "flip" if at < len(content):
                flipped = content[at] ^ 1 << draw(st.integers(0, 7))
                content = content[:at] + bytes([flipped]) + content[at + 1 :]
            case "repeat":
                content = content[:end] + content[at:]
    return content


def attempt(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with bounded():
            try:
                LOADERS[name](path)
            except Refusal as error:
                assert len(error.lines) == 1 or name in SEVERAL
                assert all(line.isprintable() for line in error.lines)
                assert 0 < len(str(error)) < 10_000


quick = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(quick, max_examples=300)


@pytest.mark.parametrize("name", ["runs.csv", "runs.parquet", "t.jsonl.zst", "t.bin", "t.idx"])
def test_what_is_whole_is_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(whole(name))
    LOADERS[name](tmp_path / name)


@pytest.mark.parametrize("name", LOADERS)
@quick
@given(data=st.data())
def test_any_bytes_are_read_or_refused_in_one_line(name: str, data: st.DataObject) -> None:
    attempt(name, data.draw(contents(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADERS)
@thorough
@given(data=st.data())
def test_any_more_bytes_are_read_or_refused_in_one_line(name: str, data: st.DataObject) -> None:
    attempt(name, data.draw(contents(name)))
