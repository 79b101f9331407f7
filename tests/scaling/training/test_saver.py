"""A checkpoint is written while the run trains on, and is no less whole for that."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.store import checksums
from scaling.store.records import Refusal
from scaling.store.steps import checkpoint_steps
from scaling.training import checkpoint
from scaling.training.saver import Saver

RUN = "0123456789ab"


def state(step: int) -> dict[str, jax.Array]:
    return {"weights": jnp.arange(100_000.0) + step}


def restored(folder: Path, step: int) -> np.ndarray:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {"weights": jax.ShapeDtypeStruct((100_000,), jnp.float32, sharding=sharding)}
    return np.asarray(checkpoint.restore(folder, step, abstract, RUN)["weights"])


@pytest.fixture
def open_saver(tmp_path: Path) -> Iterator[Callable[..., Saver]]:
    threads = set(threading.enumerate())

    def make(before_commit: Callable[[], None] = lambda: None) -> Saver:
        return Saver(tmp_path, RUN, {4}, before_commit)

    yield make
    ours = [thread for thread in threading.enumerate() if thread not in threads]
    assert not [thread for thread in ours if thread.name.startswith(("saver", "async_save"))]


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Checkpoints are not finished before this is set."""
    event, finish = threading.Event(), checkpoint.Writing.finish

    def finish_late(writing: checkpoint.Writing, before: Callable[[], None]) -> None:
        assert event.wait(60)
        finish(writing, before)

    monkeypatch.setattr(checkpoint.Writing, "finish", finish_late)
    return event


def test_what_was_copied_is_saved_though_the_next_step_overwrites_the_state(
    open_saver: Callable[..., Saver], held: threading.Event, tmp_path: Path
) -> None:
    step = jax.jit(lambda state: jax.tree.map(lambda x: x * 0 - 1, state), donate_argnums=0)
    with open_saver() as saver:
        current = state(4)
        saver.begin(4, current)
        for _ in range(3):
            current = step(current)
        jax.block_until_ready(current)
        saver.commit()
        held.set()
    assert (restored(tmp_path, 4) == np.asarray(state(4)["weights"])).all()


def test_it_is_named_after_the_commit_and_not_before(
    open_saver: Callable[..., Saver], tmp_path: Path
) -> None:
    with open_saver() as saver:
        saver.begin(4, state(4))
        saver.begun[1].checkpointer.wait_until_finished()  # type: ignore[index]
        assert checkpoint_steps(tmp_path) == []
        saver.commit()
        saver.wait()
        assert checkpoint_steps(tmp_path) == [4]


def test_the_loop_goes_on_while_it_is_written_and_the_next_waits_for_it(
    open_saver: Callable[..., Saver], held: threading.Event, tmp_path: Path
) -> None:
    with open_saver() as saver:
        saver.begin(4, state(4))
        saver.commit()
        saver.look()
        assert checkpoint_steps(tmp_path) == []
        threading.Timer(0.2, held.set).start()
        saver.begin(8, state(8))
        assert checkpoint_steps(tmp_path) == [4]
        saver.commit()
    assert checkpoint_steps(tmp_path) == [4, 8]


def test_the_last_two_are_kept_and_the_branch_points(
    open_saver: Callable[..., Saver], tmp_path: Path
) -> None:
    with open_saver() as saver:
        for step in (4, 8, 12, 16):
            saver.begin(step, state(step))
            saver.commit()
    assert checkpoint_steps(tmp_path) == [4, 12, 16]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["12", "16", "4"]


class Replaced(Exception):
    pass


def replaced() -> None:
    raise Replaced


def test_who_lost_the_run_meanwhile_names_none(
    open_saver: Callable[..., Saver], tmp_path: Path
) -> None:
    with pytest.raises(Replaced), open_saver(replaced) as saver:
        saver.begin(4, state(4))
        saver.commit()
    assert list(tmp_path.iterdir()) == []


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("when", ["look", "begin", "wait"])
def test_a_disk_that_is_found_full_later_is_refused_with_its_reason(
    open_saver: Callable[..., Saver],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    when: str,
) -> None:
    with open_saver() as saver:
        saver.begin(4, state(4))
        saver.commit()
        saver.wait()
        monkeypatch.setattr(checksums, "checksums", full)
        saver.begin(8, state(8))
        saver.commit()
        saver.thread.submit(lambda: None).result()  # what was asked for before is done
        ask = {"look": saver.look, "wait": saver.wait, "begin": lambda: saver.begin(12, state(12))}
        with pytest.raises(Refusal, match=r"cannot write checkpoint .*8: .*No space left"):
            ask[when]()
    assert [entry.name for entry in tmp_path.iterdir()] == ["4"]


def test_one_that_was_begun_and_not_committed_is_gone_when_the_run_ends(
    open_saver: Callable[..., Saver], tmp_path: Path
) -> None:
    with pytest.raises(Replaced), open_saver() as saver:
        saver.begin(4, state(4))
        raise Replaced
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_run_is_not_hidden_by_one_of_its_checkpoint(
    open_saver: Callable[..., Saver], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checksums, "checksums", full)
    with pytest.raises(Replaced), open_saver() as saver:
        saver.begin(4, state(4))
        saver.commit()
        raise Replaced
