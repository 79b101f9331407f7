"""What commands read and write on this machine of results at an address."""

from __future__ import annotations

from uuid import uuid4

import pytest

from scaling.store.bucket.bucket import Bucket
from scaling.store.bucket.mirror import mirrored
from scaling.store.objects import open_store
from scaling.store.records import Refusal

FIT = "fits/chinchilla.json"


@pytest.fixture
def bucket() -> Bucket:
    """A study with a fit."""
    made = Bucket(open_store(f"memory://{uuid4().hex}/tiny"))
    made.store.write("study.toml", b"study")
    made.store.write(FIT, b"first")
    return made


def test_a_command_leaves_what_another_has_written_and_not_brought_up_yet(bucket: Bucket) -> None:
    with mirrored(bucket, runs=False) as one:
        (one / "fits" / "new.json").write_text("new")
        with mirrored(bucket, runs=False) as other:
            assert (other / FIT).read_text() == "first"
            assert not (other / "fits" / "new.json").exists()
    assert bucket.store.read("fits/new.json") == b"new"
    with mirrored(bucket, runs=False) as again:
        assert again == one and (again / "fits" / "new.json").read_text() == "new"


def test_a_fit_that_could_not_be_brought_up_is_not_taken_for_that_of_the_bucket(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Refusal("no")

    with (
        monkeypatch.context() as patch,
        pytest.raises(Refusal),
        mirrored(bucket, runs=False) as folder,
    ):
        patch.setattr(bucket.store, "upload", refuse)
        (folder / FIT).write_text("other")
    with mirrored(bucket, runs=False) as folder:
        assert (folder / FIT).read_text() == "first"


def test_a_fit_that_is_as_it_was_is_not_fetched_again(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(bucket, runs=False):
        pass
    monkeypatch.delattr(bucket.store.__class__, "download")
    with mirrored(bucket, runs=False) as folder:
        assert (folder / FIT).read_text() == "first"
