"""What every Store promises."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from scaling.store.objects import Missing, Read, is_address, open_store
from scaling.store.probe import probe
from scaling.store.records import Refusal

KEYS = [
    *("plain", "a/b/c.json", "with space", "ünï/ço∂é/模型", "100%", "a%20b", "a+b&c=d", "q?x#y"),
    *("[a]*", "~{x}^|", "-x", "a..b", ".hidden", "con:x", "'quoted\"", "x" * 200),
]


def test_what_was_written_is_read(store):
    for key in KEYS:
        store.write(key, key.encode())
    assert {each.key for each in store.list("")} == set(KEYS)
    assert list(store.read_many(KEYS)) == [Read(key, key.encode()) for key in KEYS]
    store.write("plain", b"")
    assert store.read("plain") == b""


@pytest.mark.parametrize("key", ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\nb", "a\\b"])
def test_what_is_no_key_is_refused(store, key):
    for call in (store.read, lambda key: store.create(key, b""), lambda key: store.delete([key])):
        with pytest.raises(ValueError, match="no key"):
            call(key)


def test_one_of_many_callers_makes_an_object(store):
    for turn in range(10):
        with ThreadPoolExecutor(12) as pool:  # all write the same: only its maker may be told so
            won = list(
                pool.map(lambda _, key=f"claims/{turn}": store.create(key, b"me"), range(12))
            )
        assert sorted(won) == [False] * 11 + [True]
    assert not store.create("claims/3", b"late")
    assert store.read("claims/3") == b"me"
    store.delete(["claims/3"])
    assert store.create("claims/3", b"again")


def test_what_another_wrote_after_the_check_is_not_replaced_unseen(store):
    seen = []

    def check():
        seen.append(next((read.data for read in store.read_many(["a"])), None))
        if len(seen) == 1:
            store.write("a", b"of another")

    for before in (None, b"first"):
        seen.clear()
        store.delete(["a"])
        if before:
            store.write("a", before)
        store.replace("a", b"ours", check)
        assert seen == [before, b"of another"]
        assert store.read("a") == b"ours"


def test_who_fails_its_check_replaces_nothing(store):
    class Lost(Exception):
        pass

    store.write("a", b"1")

    def check():
        if store.read("a") == b"2":
            raise Lost
        store.write("a", b"2")

    with pytest.raises(Lost):
        store.replace("a", b"3", check)
    assert store.read("a") == b"2"


def test_of_many_that_add_to_an_object_each_is_heard(store):
    store.write("count", b"")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda each: _add(store, b"%d" % each), range(8)))
    assert sorted(store.read("count")) == sorted(b"01234567")


def _add(store, more):
    """Read, and replace what was read: `replace` is told what to write before it looks."""

    class Changed(Exception):
        pass

    while True:
        before = store.read("count")

        def check(before=before):
            if store.read("count") != before:
                raise Changed

        try:
            return store.replace("count", before + more, check)
        except Changed:
            continue


def test_a_listing_tells_what_lies_below_a_folder(store):
    for key in ("a/1", "a/b/2", "ab/3", "a", "4"):
        if key != "a":
            store.write(key, b"xyz")
    assert {each.key for each in store.list("a")} == {"a/1", "a/b/2"}
    assert {each.key for each in store.list("a/b/")} == {"a/b/2"}
    assert list(store.list("none")) == []
    assert {each.bytes for each in store.list("")} == {3}


def test_a_version_changes_with_its_object_alone(store):
    def versions() -> dict[str, str]:
        return {each.key: each.version for each in store.list("")}

    store.write("a", b"1")
    store.write("b", b"1")
    before = versions()
    assert versions() == before
    store.write("a", b"2")  # of the same size, at once
    after = versions()
    assert after["a"] != before["a"]
    assert after["b"] == before["b"]


def test_more_objects_than_a_page_are_listed_and_deleted(store):
    keys = [f"many/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda key: store.write(key, b""), keys))
    assert sorted(each.key for each in store.list("many")) == keys
    assert [each.key for each in store.read_many(keys)] == keys
    store.delete(keys)
    assert list(store.list("")) == []


def test_missing_objects(store, tmp_path):
    store.write("here", b"x")
    for call in (
        lambda: store.read("gone"),
        lambda: store.copy("gone", "to"),
        lambda: store.download("gone", tmp_path / "file"),
    ):
        with pytest.raises(Missing, match="gone"):
            call()
    assert not any(tmp_path.glob("*file*"))
    assert list(store.read_many(["gone", "here"])) == [Read("gone", None), Read("here", b"x")]
    store.delete(["gone", "here", "also/gone"])
    assert list(store.list("")) == []


def test_a_copy_replaces(store):
    store.write("from", b"new")
    store.write("deep/to", b"old")
    store.copy("from", "deep/to")
    assert (store.read("from"), store.read("deep/to")) == (b"new", b"new")


@pytest.mark.parametrize("size", [0, 1, 50 << 20])
def test_a_file_goes_there_and_back(store, tmp_path, size):
    (tmp_path / "from").write_bytes(os.urandom(size))
    (tmp_path / "to").write_bytes(b"old")
    store.write("a/file", b"old")
    store.upload(tmp_path / "from", "a/file")
    store.download("a/file", tmp_path / "to")
    store.download("a/file", tmp_path / "new/folder/to")
    for copy in ("to", "new/folder/to"):
        assert (tmp_path / copy).read_bytes() == (tmp_path / "from").read_bytes()
    assert [each.bytes for each in store.list("")] == [size]


def test_a_store_that_keeps_its_word_passes_the_probe(store):
    probe(store)
    assert list(store.list("")) == []


def test_two_prefixes_are_two_stores():
    one, other = open_store("memory://shared/one/"), open_store("memory://shared/other")
    one.write("key", b"1")
    assert list(other.list("")) == []
    assert open_store("memory://shared").read("one/key") == b"1"
    assert (one.address, other.address) == ("memory://shared/one", "memory://shared/other")


def test_addresses():
    assert all(map(is_address, ("s3://b/p", "gs://b", "az://c/p", "file:///x", "http://x")))
    assert not any(map(is_address, ("results", "/a/b", "c:/x", "a:b", "s3:/x", "")))


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("gcs://bucket/x", "Did you mean gs"),
        ("http://bucket/x", "Give s3://"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("gs://bucket/a//b", "without empty parts"),
        ("az://bucket/../b", "without empty parts"),
        ("file://relative", "absolute"),
    ],
)
def test_what_is_no_address_is_refused_in_one_line(address, says):
    with pytest.raises(Refusal, match=says) as caught:
        open_store(address)
    assert "\n" not in str(caught.value)
