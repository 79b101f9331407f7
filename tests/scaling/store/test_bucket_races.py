"""Results in a bucket, where an owner is overtaken and an object is harmed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest

from scaling.launch.prepare import prepare
from scaling.planning.plan import Plan
from scaling.store import claims
from scaling.store.bucket import leases
from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.carry import Carrier, fetch, pull
from scaling.store.objects import open_store
from scaling.store.ready import make_ready, run_folder
from scaling.store.records import Refusal
from scaling.store.results import results_at


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid4().hex}/runs/tiny"


def test_who_was_paused_while_it_held_the_plan_does_not_replace_a_newer_one(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 1000.0)  # it stands still
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    paused, other = (Bucket(open_store(memory)) for _ in range(2))
    with paused.changing():
        with other.changing():  # waits until the first is known to stand still
            other.write("study.toml", b"newer")
        with pytest.raises(Refusal, match="stood still"):
            paused.write("study.toml", b"older")
    assert other.read("study.toml") == b"newer"


def test_who_is_paused_on_the_verge_of_writing_the_plan_does_not_replace_a_newer_one(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "BEAT_SECONDS", 1000.0)  # it stands still
    monkeypatch.setattr(claims, "STALE_SECONDS", 0.5)
    paused, other = (Bucket(open_store(memory)) for _ in range(2))
    paused.write("study.toml", b"oldest")
    with paused.changing():
        assert paused._changing is not None
        passes = paused._changing.check
        checks = iter([True])

        def check() -> None:
            passes()
            if next(checks, False):
                with other.changing():
                    other.write("study.toml", b"newer")

        monkeypatch.setattr(paused._changing, "check", check)
        with pytest.raises(Refusal, match="stood still"):
            paused.write("study.toml", b"older")
    assert other.read("study.toml") == b"newer"


def test_a_file_that_was_harmed_in_the_bucket_and_is_made_again_to_the_bit_is_whole_again(
    plan: Callable[..., Plan], memory: str, tmp_path: Path
) -> None:
    # A table of scores holds nothing from a clock: trained again, it is the same bytes.
    study = plan()
    prepare(results_at(memory), study, b"")
    bucket = Bucket(open_store(memory))
    bucket.look()
    manifest, run = bucket.manifest(), bucket.manifest().runs[0]
    scores = "evals/000000048.parquet"

    def trained(place: Path) -> Path:
        folder = run_folder(place, run.run_id)
        make_ready(place, manifest, run)
        (folder / "evals").mkdir(exist_ok=True)
        (folder / scores).write_bytes(b"the same scores")
        return folder

    with bucket.leases.held(run.run_id) as lease:
        first = Carrier(bucket.store, lease, trained(tmp_path / "one"), None).push()
    assert scores in first.state.files
    bucket.store.write(first.key(scores), b"the samE scores")

    with bucket.leases.held(run.run_id) as lease:
        whole = pull(bucket.store, first, tmp_path / "pulled", first.state.files)
        again = Carrier(bucket.store, lease, trained(tmp_path / "two"), whole).push()
    assert fetch(bucket.store, again, scores, tmp_path / "three").read_bytes() == b"the same scores"
