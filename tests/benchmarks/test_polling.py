"""The simulation of workers that poll a bucket: it does all work, and counts what it says."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from scaling.launch import queue, worker
from scaling.store import objects
from scaling.store.bucket import bucket, leases

Script = Callable[[str], ModuleType]


@pytest.fixture
def polling(script: Script) -> ModuleType:
    return script("polling")


def test_it_follows_the_constants_of_the_program(polling: ModuleType) -> None:
    assert (polling.TOGETHER, polling.PAGE) == (objects.READS, objects._PAGE)
    assert (polling.PAUSE, polling.SHARE) == (bucket.PAUSE_SECONDS, worker.WAIT_SHARE)
    as_it_is = polling.Policy(
        "pauses up to 1 min", longest=queue.LONGEST_PAUSE, beat=leases.BEAT_SECONDS
    )
    assert polling.POLICIES[1] == as_it_is


def test_one_worker_takes_every_run_one_after_another(polling: ModuleType) -> None:
    trunks = polling.grid(2, 2, 3)
    policy = polling.Policy("alone")
    done = polling.Simulation(trunks, 1, policy, seed=0).run()
    runs = [each for trunk in trunks for each in (trunk, *(one for _, one in trunk.branches))]
    assert len(runs) == 16 and sum(run.seconds for run in runs) == pytest.approx(16 * 360)
    assert done.left == 0 and done.claimed == 16 and done.waited == 0
    assert 0 < done.now - 16 * 360 < 60  # looks and claims take the rest
    assert done.requests.total["claims", "write"] == 16
    assert done.requests.total["claims", "list"] == 4 * 16
    beats = sum(int(run.seconds / policy.beat) for run in runs)
    assert done.requests.total["beats", "write"] == done.requests.total["beats", "read"] == beats


def test_no_run_is_trained_twice_however_many_want_it(polling: ModuleType) -> None:
    done = polling.Simulation(polling.grid(1, 3, 4), 50, polling.Policy("many"), seed=1).run()
    assert done.left == 0 and done.claimed == 15 == done.requests.total["claims", "write"]
    assert done.requests.total["claims", "list"] > 4 * 15  # some came too late


def test_the_same_seed_gives_the_same_row_and_longer_pauses_fewer_looks(
    polling: ModuleType,
) -> None:
    trunks = polling.grid(1, 4, 6)
    short, long = polling.Policy("short"), polling.Policy("long", longest=300)
    rows = [polling.measure(policy, trunks, 20) for policy in (short, short, long)]
    assert rows[0] == rows[1]
    assert rows[2]["dollars_per_day"]["lists"] < rows[0]["dollars_per_day"]["lists"] / 2
    ratios = polling.ratios_of(rows)
    assert ratios["dollars: 20 workers, short / short"] == 1
    assert ratios["hours: 20 workers, long / short"] >= 1


def test_dollars_are_requests_times_their_price(polling: ModuleType) -> None:
    requests = polling.Requests()
    requests.add(3.0, "lists", "list", 2000)
    requests.add(12.0, "lists", "list", 500)
    assert requests.peak("list") == 200 and requests.peak("read") == 0
    assert polling.PRICES == {"list": 0.005 / 1000, "write": 0.005 / 1000, "read": 0.0004 / 1000}
