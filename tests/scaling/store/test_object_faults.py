"""A Store whose network and server fail."""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from uuid import uuid4

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from scaling.store import objects
from scaling.store.objects import Unreachable, open_store
from scaling.store.probe import probe
from scaling.store.records import Refusal


@pytest.fixture
def memory():
    return open_store(f"memory://{uuid4().hex}")


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE", 1.0)


# --- without a server: answers that are lost on their way --------------------------------------


def loses(monkeypatch, name, *, before=0, after=0, error=GenericError):
    """obstore's function fails so many times before it is done, then so many times after."""
    real, calls = getattr(obstore, name), count()

    def failing(*args, **options):
        turn = next(calls)
        if turn < before:
            raise error("Generic S3 error: connection closed")
        result = real(*args, **options)
        if turn < before + after:
            raise error("Generic S3 error: connection closed")
        return result

    monkeypatch.setattr(obstore, name, failing)
    return calls


def test_who_made_an_object_wins_though_the_answer_was_lost(memory, monkeypatch):
    loses(monkeypatch, "put", before=1, after=2)
    assert memory.create("claim", b"ours")
    assert not memory.create("claim", b"ours")
    assert memory.read("claim") == b"ours"


def test_who_comes_second_loses_though_it_writes_the_same_and_is_asked_again(memory, monkeypatch):
    assert memory.create("claim", b"same")
    loses(monkeypatch, "put", before=2)
    assert not memory.create("claim", b"same")


def test_a_conflict_over_an_object_that_is_not_there_is_no_loss(memory, monkeypatch):
    # S3 answers 409 while another's request for the key is under way, even if that one fails.
    real, turns = obstore.put, count()

    def conflicting(*args, **options):
        if next(turns) == 0:
            raise obstore.exceptions.AlreadyExistsError("409 Conflict")
        return real(*args, **options)

    monkeypatch.setattr(obstore, "put", conflicting)
    assert memory.create("claim", b"ours")


@pytest.mark.parametrize("name", ["put", "get", "copy", "delete"])
def test_what_fails_for_a_while_is_done_again(memory, monkeypatch, name):
    memory.write("a", b"1")
    calls = loses(monkeypatch, name, before=1, after=1)
    memory.write("b", b"2")
    memory.copy("a", "c")
    assert (memory.read("b"), memory.read("c")) == (b"2", b"1")
    memory.delete(["a", "b"])
    assert [each.key for each in memory.list("")] == ["c"]
    assert next(calls) > 2


def test_an_upload_whose_answer_was_lost_is_made_again(memory, monkeypatch, tmp_path):
    # S3: the client aborts what the server has completed, and is told that there is no such upload.
    (tmp_path / "big").write_bytes(b"content")
    real, turns = obstore.put, count()

    def lost(*args, **options):
        real(*args, **options)
        if next(turns) == 0:
            raise FileNotFoundError("<Error><Code>NoSuchUpload</Code>")

    monkeypatch.setattr(obstore, "put", lost)
    memory.upload(tmp_path / "big", "big")
    assert memory.read("big") == b"content" and next(turns) == 2


def test_a_server_that_stays_away_is_said_in_one_line(memory, monkeypatch, impatient, capsys):
    monkeypatch.setattr(objects, "SILENCE", 0.2)
    loses(monkeypatch, "get", before=1000)
    with pytest.raises(
        Unreachable, match=r"memory://.*no answer for 'a' in 1 s .*closed"
    ) as caught:
        memory.read("a")
    assert "\n" not in str(caught.value)
    # It was said before that it is waited for, once for several calls.
    with pytest.raises(Unreachable):
        memory.read("b")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and "memory://" in told[0] and "no answer yet" in told[0], told


def test_what_breaks_off_after_longer_than_the_patience_is_asked_for_again(memory, monkeypatch):
    monkeypatch.setattr(objects, "PATIENCE", 0.3)
    monkeypatch.setattr(objects, "_FIRST_WAIT", 0.01)
    real, calls = obstore.put, count()

    def slow(*args, **options):
        if next(calls) == 0:
            time.sleep(0.5)
            raise GenericError("Generic S3 error: connection closed")
        return real(*args, **options)

    monkeypatch.setattr(obstore, "put", slow)
    memory.write("a", b"1")
    assert memory.read("a") == b"1" and next(calls) == 2


def test_limits_of_the_client_are_not_said_beside_ours():
    said = (
        "Generic S3 error: Error performing GET http://a/b in 2.83ms, after 0 retries, "
        "max_retries: 0, retry_timeout: 180s  - HTTP error: error sending request\n\nDebug source:"
    )
    expected = (
        "Generic S3 error: Error performing GET http://a/b - HTTP error: error sending request"
    )
    assert objects._first_line(GenericError(said)) == expected
    once = "Generic S3 error: Error performing GET http://a/b in 623.525µs - HTTP error: error"
    assert objects._first_line(GenericError(f"{once} sending request")) == expected


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionDeniedError, "no"),
        (GenericError, "Server returned non-2xx status code: 400 Bad Request: no"),
    ],
)
def test_what_is_refused_for_good_is_not_asked_again(memory, monkeypatch, error, text):
    calls = count()

    def refusing(*args, **options):
        next(calls)
        raise error(text)

    monkeypatch.setattr(obstore, "put", refusing)
    for call in (memory.create, memory.write):
        with pytest.raises(Refusal, match="refused 'a'") as caught:
            call("a", b"")
        assert not isinstance(caught.value, Unreachable)
    assert next(calls) == 2


def test_a_file_that_changes_while_it_is_fetched_is_of_one_version(memory, tmp_path, monkeypatch):
    old, new = (bytes([value]) * (40 << 20) for value in (1, 2))
    memory.write("file", old)
    real, turns = obstore.get, count()

    def changing(*args, **options):
        if next(turns) == 1:
            memory.write("file", new)
        return real(*args, **options)

    monkeypatch.setattr(obstore, "get", changing)
    memory.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == new


def test_a_server_that_lets_two_make_an_object_is_refused(memory, monkeypatch):
    real = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *args, mode=None, **options: real(*args, **options))
    with pytest.raises(Refusal, match="made twice") as caught:
        probe(memory)
    assert "\n" not in str(caught.value)
    assert list(memory.list("")) == []


def test_without_obstore_the_remedy_is_one_command(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "obstore", None)
    with pytest.raises(Refusal, match=r"pip install 'scaling-laws\[bucket\]'"):
        open_store("s3://bucket/x")


# --- S3 by way of a proxy that fails ------------------------------------------------------------

# A third of all requests fails, half of them after the server has done what they ask.
SHARES = dict.fromkeys(
    ("lost: 500", "lost: 503", "lost: cut", "done: 500", "done: cut", "done: cut within answer"),
    0.05,
) | {"slow": 0.03}


@pytest.mark.servers
def test_every_operation_comes_to_its_end_behind_a_network_that_fails(faulty, tmp_path):
    store = open_store(faulty.server.address)
    faulty.proxy.shares = SHARES
    big = os.urandom(40 << 20)
    (tmp_path / "big").write_bytes(big)
    with ThreadPoolExecutor(12) as pool:
        won = [
            Counter(pool.map(lambda _, key=f"claims/{turn}": store.create(key, b"me"), range(12)))
            for turn in range(5)
        ]
        list(pool.map(lambda number: store.write(f"a/{number}", b"%d" % number), range(40)))
    store.upload(tmp_path / "big", "big")
    store.copy("big", "copied")
    store.download("copied", tmp_path / "back")
    read = {each.key: each.data for each in store.read_many(f"a/{number}" for number in range(40))}
    listed = {each.key: each.bytes for each in store.list("")}
    store.delete(key for key in listed if key.startswith("a/"))
    left = {each.key for each in store.list("")}

    assert won == [{True: 1, False: 11}] * 5
    assert read == {f"a/{number}": b"%d" % number for number in range(40)}
    assert (tmp_path / "back").read_bytes() == big
    claims = {f"claims/{turn}" for turn in range(5)}
    assert listed.keys() == {*read, *claims, "big", "copied"}
    assert listed["copied"] == len(big)
    assert left == {*claims, "big", "copied"}
    assert faulty.proxy.seen.keys() == SHARES.keys()  # all of them did befall


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["done: 500", "done: cut", "done: cut within answer", "lost: cut"])
def test_a_claim_whose_answer_was_lost_is_its_makers(faulty, kind):
    store = open_store(faulty.server.address)
    faulty.proxy.next_writes.extend([kind] * 3)
    assert store.create("claim", b"me")
    assert faulty.proxy.seen == {kind: 3}
    assert not store.create("claim", b"me")


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["done: 500", "done: cut", "done: cut within answer", "lost: cut"])
def test_a_replacement_whose_answer_was_lost_is_made_once(faulty, kind):
    store, checks = open_store(faulty.server.address), []
    store.write("plan", b"old")
    faulty.proxy.next_writes.extend([kind] * 3)
    store.replace("plan", b"new", lambda: checks.append(kind))
    assert faulty.proxy.seen == {kind: 3}
    assert checks == [kind], "no other was taken for having been faster"
    assert store.read("plan") == b"new"


@pytest.mark.servers
@pytest.mark.parametrize(
    "address", ["s3://no-such-bucket/x", "az://no-such-bucket/x", "gs://none/x"]
)
def test_a_bucket_that_does_not_exist_is_refused_at_once(
    s3_server, azure_server, gcs_server, address
):
    store = open_store(address)
    calls = [lambda: probe(store), lambda: store.write("a", b"")]
    if not address.startswith("gs"):  # the emulator, unlike Google, answers 500
        calls.append(lambda: list(store.list("")))
    for call in calls:
        with pytest.raises(Refusal, match="there is no such bucket") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.servers
def test_a_wrong_key_is_refused_by_the_names_of_its_variables(azure_server, monkeypatch):
    right = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    monkeypatch.setenv(
        "AZURE_STORAGE_CONNECTION_STRING", right.replace("AccountKey=E", "AccountKey=F")
    )
    with pytest.raises(Refusal, match="AZURE_STORAGE_KEY") as caught:
        probe(open_store(azure_server.address))
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, Unreachable)


@pytest.mark.servers
@pytest.mark.parametrize("faulty", ["s3", "gcs"], indirect=True)  # Azure signs its conditions
@pytest.mark.parametrize("known", ["none", "if-none-match"])
def test_a_server_without_conditional_puts_is_refused(faulty, known):
    asked = faulty.proxy.ask

    def careless(request):
        conditions = {"if-none-match", "if-match", "x-goog-if-generation-match"} - {known}
        headers = {k: v for k, v in request.headers.items() if k.lower() not in conditions}
        return asked(replace(request, headers=headers))

    faulty.proxy.ask = careless
    with pytest.raises(Refusal, match="made twice"):
        probe(open_store(faulty.server.address))


@pytest.mark.servers
def test_what_each_operation_costs_in_requests(faulty_s3, tmp_path):
    store, asked = open_store(faulty_s3.server.address), faulty_s3.proxy.requests
    (tmp_path / "file").write_bytes(b"x")

    def costs(call):
        asked.clear()
        call()
        return dict(asked)

    assert costs(lambda: store.create("a", b"")) == {"PUT": 1}
    assert costs(lambda: store.create("a", b"")) == {"PUT": 1, "GET": 1}  # is it ours?
    assert costs(lambda: store.write("a", b"")) == {"PUT": 1}
    assert costs(lambda: store.read("a")) == {"GET": 1}
    assert costs(lambda: store.copy("a", "b")) == {"PUT": 1}
    assert costs(lambda: store.upload(tmp_path / "file", "c")) == {"PUT": 1}
    assert costs(lambda: store.download("c", tmp_path / "back")) == {"HEAD": 1, "GET": 1}
    assert costs(lambda: list(store.list(""))) == {"GET": 1}  # of each 1,000 objects
    assert costs(lambda: store.delete("abc")) == {"POST": 1}  # of 1,000, at S3
