"""Whether results can be kept at an address: tried before anything of a study is written there."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

from scaling.store.objects import Missing, Store
from scaling.store.records import Refusal


def probe(store: Store) -> None:
    """Raise Refusal unless objects can be made there exactly once, and replaced only as seen.

    And be read, listed and deleted.
    """
    key = f".probe-{uuid4().hex}/once"
    try:
        won = [store.create(key, b"first"), store.create(key, b"second")]
        same = store.read(key) == b"first" and [each.key for each in store.list(key[:-5])] == [key]
        tries: list[bytes] = []

        def overtaken() -> None:
            """Another writes before our first try."""
            tries.append(store.read(key))
            if len(tries) == 1:
                store.write(key, b"other")

        store.replace(key, b"ours", overtaken)
        same = same and tries == [b"first", b"other"]
    except Missing:
        won, same = [], False
    finally:
        with suppress(Refusal):
            store.delete([key])
    if won != [True, False] or not same:
        raise Refusal(
            f"{store.address}: its server let an object be made twice, or replaced unseen, or did "
            "not return what was written, so that two workers could train one run. Results need a "
            "server with conditional writes (If-None-Match, If-Match): update it, or give "
            "the address of another."
        )
