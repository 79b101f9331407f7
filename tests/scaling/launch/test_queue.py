"""What a worker takes next: a run that nobody has and that can be trained now."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scaling.launch.prepare import prepare
from scaling.launch.queue import Order, Queue
from scaling.planning.plan import Plan
from scaling.store import claims
from scaling.store.attempt import attempt
from scaling.store.checksums import CHECKSUMS
from scaling.store.claims import claimed
from scaling.store.folder import Folder
from scaling.store.manifest import PlannedRun
from scaling.store.ready import run_folder
from scaling.store.records import write_json


def prepared(results: Path, plan: Plan) -> list[PlannedRun]:
    return prepare(results, plan, b"")


def end(results: Path, run: PlannedRun, status: str = "completed") -> None:
    with attempt(run_folder(results, run.run_id)) as mine:
        mine.record(status)


def checkpoint(results: Path, run: PlannedRun, step: int) -> None:
    folder = run_folder(results, run.run_id)
    write_json(folder / "checkpoints" / str(step) / CHECKSUMS, {})


def test_a_branch_is_free_once_its_branch_point_is_there(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    trunk, short, long = prepared(tmp_path, plan())
    queue = Queue(tmp_path, "cheapest-first")
    assert queue.next() == trunk
    with claimed(run_folder(tmp_path, trunk.run_id)):
        assert queue.next() is None
        checkpoint(tmp_path, trunk, long.first_step)
        assert queue.next() == long
        checkpoint(tmp_path, trunk, short.first_step)
        assert queue.next() == short
        with claimed(run_folder(tmp_path, short.run_id)):
            assert queue.next() == long
    assert queue.left() == [trunk, short, long]


@pytest.mark.parametrize("status", ["failed", "diverged", "completed"])
def test_so_it_is_when_its_trunk_ended_far_enough(
    plan: Callable[..., Plan], tmp_path: Path, status: str
) -> None:
    trunk, short, _ = prepared(tmp_path, plan())
    end(tmp_path, trunk, status)
    queue = Queue(tmp_path, "cheapest-first")
    assert queue.next() == short
    longer = plan(grid={"tokens": [1536, 3072, 4096]})
    trunk, *_ = prepared(tmp_path, longer)
    if status == "completed":
        assert queue.next() == trunk, "the plan was replaced, and needs it longer"


@pytest.mark.parametrize("order", ["cheapest-first", "longest-first"])
def test_the_order_is_that_of_cost(plan: Callable[..., Plan], tmp_path: Path, order: Order) -> None:
    runs = prepared(tmp_path, plan(grid={"params": [3400, 9000], "seeds": [0, 1]}))
    queue, taken = Queue(tmp_path, order), []
    while (run := queue.next()) is not None:
        taken.append(run)
        end(tmp_path, run)
    assert {run.run_id for run in taken} == {run.run_id for run in runs}
    assert queue.left() == []
    trunks = [run.flops for run in taken if run.run_kind == "trunk"]
    assert trunks == sorted(trunks, reverse=order == "longest-first")
    if order == "cheapest-first":
        # The branches of a trunk cost less than any trunk, and come before the next.
        assert [run.run_kind for run in taken] == ["trunk", "cooldown", "cooldown"] * 4


def test_of_equal_cost_one_comes_first_whose_program_is_compiled(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    first, *_ = prepared(tmp_path, plan(grid={"seeds": [0, 1]}))
    trunks = [run for run in Queue(tmp_path, "longest-first").left() if run.run_kind == "trunk"]
    for trunk in trunks:
        end(tmp_path, trunk)
    queue, taken = Queue(tmp_path, "longest-first"), []
    while (run := queue.next()) is not None:
        taken.append(run.trunk_id)
        end(tmp_path, run)
    # Two long ones, the second of another trunk, whose short one then is next.
    assert taken[1] == taken[2] != taken[0]
    assert first in trunks


def test_who_stands_still_for_long_has_no_run_any_more(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, *_ = prepared(tmp_path, plan())
    queue = Queue(tmp_path, "cheapest-first")
    with claimed(run_folder(tmp_path, trunk.run_id)):
        assert queue.next() is None
        monkeypatch.setattr(claims, "STALE_SECONDS", 0.0)
        assert queue.next() == trunk


def test_pauses_after_looks_in_vain_grow_where_a_look_has_its_price(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trunk, *_ = prepared(tmp_path, plan())
    queue = Queue(tmp_path, "cheapest-first")
    with claimed(run_folder(tmp_path, trunk.run_id)):
        assert queue.next() is None
        assert queue.pause() == 0
        monkeypatch.setattr(Folder, "pause", 5.0)
        for middle in (5, 10, 20, 40, 60, 60):
            assert middle / 2 <= queue.pause() <= middle * 1.5
            assert queue.next() is None
    assert queue.next() == trunk
    with claimed(run_folder(tmp_path, trunk.run_id)):
        assert queue.next() is None
        assert queue.pause() <= 7.5, "from the beginning again"
