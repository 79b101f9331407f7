"""A corpus that changes under a run fails that run, and all that would have grown from it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scaling.data import chunks, verified
from scaling.data.corpus import Corpus, load
from scaling.data.prepare import prepare as prepare_corpus
from scaling.data.verified import digest_of
from scaling.launch.prepare import prepare
from scaling.launch.worker import train_run, work
from scaling.planning.plan import Plan, make_plan
from scaling.store.attempt import last_checkpoint
from scaling.store.checksums import CHECKSUMS, checksums
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, read_json, write_json
from scaling.store.run_record import RunRecord, read_run
from scaling.study import DataSection, Study

CHANGED = 4 * chunks.CHUNK + 10  # a byte of a file


@pytest.fixture
def corpus(section: Callable[..., DataSection], tmp_path: Path, cache: Path) -> Corpus:
    """Tokens in nine chunks, of which a run reads all but in no order of theirs."""
    tokens = np.random.default_rng(0).integers(1, 200, 9 * chunks.CHUNK // 2)
    tokens[49::50] = 0
    tokens.astype("<u2").tofile(tmp_path / "tokens.bin")
    given = {"token_dtype": "uint16", "vocab_size": 200, "end_token": 0}
    return prepare_corpus(section(tmp_path / "tokens.bin", 0.01, **given), cache / "corpora")


@pytest.fixture
def small(study: Callable[..., Study], corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A trunk of 24 steps and its branch, on a corpus too large to be read at a launch."""
    monkeypatch.setattr(verified, "WHOLE", 0)
    return make_plan(study(grid={"tokens": [1536]}), corpus.info)


def flip(corpus: Corpus) -> None:
    with corpus.files[0].path.open("r+b") as file:
        file.seek(CHANGED)
        (old,) = file.read(1)
        file.seek(CHANGED)
        file.write(bytes([old ^ 1]))


def train(folder: Path, stop_after: int | None = None) -> RunRecord:
    """Train a run as another process would, which has checked nothing."""
    chunks._checked.cache_clear()
    asked: list[None] = []

    def stopping() -> bool:
        asked.append(None)
        return stop_after is not None and len(asked) > stop_after

    train_run(folder, stopping)
    return read_run(folder)


def test_a_run_fails_where_its_corpus_has_changed_and_begins_anew(
    small: Plan, corpus: Corpus, tmp_path: Path
) -> None:
    undisturbed, results = tmp_path / "undisturbed", tmp_path / "results"
    for place in (undisturbed, results):
        trunk, branch = (run_folder(place, run.run_id) for run in prepare(place, small, b""))
        if place == undisturbed:
            assert train(trunk).status == train(branch).status == "completed"

    assert train(trunk, stop_after=2).status == "planned"
    assert last_checkpoint(trunk) > 0
    flip(corpus)
    record = train(trunk)
    assert record.status == "failed"
    words = f"chunk 4 (bytes {4 * chunks.CHUNK} to {5 * chunks.CHUNK}) of {corpus.files[0].path}"
    assert record.reason and words in record.reason and "Restore it, and give" in record.reason
    assert last_checkpoint(trunk) == 0
    assert f"its trunk {trunk.name} failed: [data] chunk 4" in str(train(branch).reason)

    flip(corpus)  # restored
    prepare(results, small, b"", retry=["failed"])
    for folder in (trunk, branch):
        record = train(folder)
        assert record.status == "completed"
        assert record.result is not None
        assert record.loss == read_run(undisturbed / "runs" / folder.name).loss
    assert record.provenance[-1]["corpus_sha256"] == digest_of(corpus)


def test_a_run_that_came_from_elsewhere_keeps_nothing_either(
    small: Plan, corpus: Corpus, tmp_path: Path
) -> None:
    """From a bucket, say, where what was trained lies in the run's own folder."""
    trunk, _ = (run_folder(tmp_path, run.run_id) for run in prepare(tmp_path, small, b""))
    train(trunk, stop_after=2)
    (made,) = (trunk / "attempts").iterdir()
    for name in ("checkpoints", "steps", "evals"):
        (made / name).rename(trunk / name)
    shutil.rmtree(trunk / "attempts")
    assert last_checkpoint(trunk) > 0
    flip(corpus)
    assert train(trunk).status == "failed"
    assert last_checkpoint(trunk) == 0
    assert not list(trunk.glob("steps/*")) and not list(trunk.glob("attempts/*"))


def test_a_corpus_of_other_tokens_is_not_trained_on(
    small: Plan, corpus: Corpus, tmp_path: Path
) -> None:
    """As one that another version of `tokenizers` made of the same text, whole in itself."""
    prepare(tmp_path, small, b"")
    index = corpus.index
    assert index is not None
    noted = read_json(index / CHECKSUMS)
    with (index / "digests").open("r+b") as digests:
        digests.write(bytes(32))
    noted["files"] |= checksums({"digests": index / "digests"})
    write_json(index / CHECKSUMS, noted)
    with pytest.raises(Refusal, match=r"corpus .* has tokens of digest .* Bring here"):
        work(tmp_path, "cheapest-first")
    with pytest.raises(Refusal, match=r"the runs in .* read those of .* Bring back"):
        prepare(tmp_path, small, b"")


def test_where_a_corpus_lies_is_no_part_of_its_digest(
    small: Plan, corpus: Corpus, tmp_path: Path
) -> None:
    before, index = digest_of(corpus), corpus.index
    assert index is not None
    moved = corpus.files[0].path.rename(tmp_path / "elsewhere.bin")
    files = read_json(index / "files.json")
    files["files"][0]["path"] = str(moved)
    write_json(index / "files.json", files)
    noted = read_json(index / CHECKSUMS)
    noted["files"] |= checksums({"files.json": index / "files.json"})
    write_json(index / CHECKSUMS, noted)
    assert digest_of(load(corpus.info.fingerprint, corpus.folder.parent)) == before


def test_a_file_that_is_away_fails_a_run_that_goes_on_where_it_was(
    small: Plan, corpus: Corpus, tmp_path: Path
) -> None:
    """The file system that it lies on may not be there, say: nothing that was read was wrong."""
    trunk, _ = (run_folder(tmp_path, run.run_id) for run in prepare(tmp_path, small, b""))
    train(trunk, stop_after=2)
    step = last_checkpoint(trunk)
    path = corpus.files[0].path
    path.rename(path.with_suffix(".away"))
    record = train(trunk)
    assert record.status == "failed" and f"{path} cannot be read" in str(record.reason)
    path.with_suffix(".away").rename(path)
    assert last_checkpoint(trunk) == step > 0


def test_a_corpus_that_changed_is_another_plan(
    small: Plan, corpus: Corpus, section: Callable[..., DataSection]
) -> None:
    flip(corpus)
    given = {"token_dtype": "uint16", "vocab_size": 200, "end_token": 0}
    source = corpus.files[0].path
    changed = prepare_corpus(section(source, 0.01, **given), corpus.folder.parent)
    assert changed.info.fingerprint != corpus.info.fingerprint
    assert not {run.run_id for run in small.runs} & {
        run.run_id for run in make_plan(small.study, changed.info).runs
    }
    assert load(changed.info.fingerprint, corpus.folder.parent).info == changed.info
