"""A checkpoint is whole and as it was written, or it is not there."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scaling.store.checksums import CHECKSUMS, Damaged
from scaling.store.records import Refusal, read_json
from scaling.store.steps import checkpoint_steps, verify_checkpoint
from scaling.training import checkpoint
from scaling.training.checkpoint import keep, last_steps, set_aside

RUN = "0123456789ab"
restore = partial(checkpoint.restore, run_id=RUN)


def save(folder: Path, step: int, state: Any) -> None:
    checkpoint.begin(folder, step, state, RUN).finish()


class Killed(BaseException):
    pass


def state(step: int) -> dict[str, jax.Array]:
    return {"weights": jnp.arange(2000.0) / 7 + step, "step": jnp.asarray(step)}


def abstract() -> Any:
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), state(0)
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("made")
    for step in (4, 8, 12):
        save(folder, step, state(step))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "checkpoints")


def test_what_was_saved_comes_back_to_the_bit(folder: Path) -> None:
    assert checkpoint_steps(folder) == [4, 8, 12]
    for step in (4, 8, 12):
        found = restore(folder, step, abstract())
        assert (
            np.asarray(found["weights"]).tobytes() == np.asarray(state(step)["weights"]).tobytes()
        )


def test_a_save_may_take_years_by_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = time.time, itertools.count()
    monkeypatch.setattr(time, "time", lambda: now() + 3e8 * (next(looks) % 2))
    save(tmp_path, 4, state(4))
    assert next(looks) > 10 and restore(tmp_path, 4, abstract())["step"] == 4


def test_the_list_of_checksums_names_every_file_of_a_checkpoint(folder: Path) -> None:
    files = {
        str(file.relative_to(folder / "8")) for file in (folder / "8").rglob("*") if file.is_file()
    }
    assert set(read_json(folder / "8" / CHECKSUMS)["files"]) == files - {CHECKSUMS}


def every_file(folder: Path) -> list[Path]:
    return sorted(file for file in (folder / "8").rglob("*") if file.is_file())


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_bit_flipped_in_any_file_is_found_before_it_is_read(folder: Path) -> None:
    random = np.random.default_rng(0)
    for file in every_file(folder):
        content = file.read_bytes()
        file.write_bytes(flipped(content, int(random.integers(8 * len(content)))))
        # In the list itself the bit may be of the name of another file.
        with pytest.raises(Damaged, match="checkpoint" if file.name == CHECKSUMS else file.name):
            restore(folder, 8, abstract())
        file.write_bytes(content)
    assert restore(folder, 8, abstract())["step"] == 8


def test_a_file_cut_short_or_gone_is_found_and_named(folder: Path) -> None:
    for file in every_file(folder):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2])
        with pytest.raises(Damaged, match=file.name):
            restore(folder, 8, abstract())
        file.unlink()
        with pytest.raises(Damaged, match=file.name):
            restore(folder, 8, abstract())
        file.write_bytes(content)


def test_a_list_of_checksums_opens_no_file_outside_its_checkpoint(folder: Path) -> None:
    listed = {"../../secret": {"bytes": 1, "sha256": ""}}
    noted = {"run_id": RUN, "step": 8, "files": listed}
    (folder / "8" / CHECKSUMS).write_text(json.dumps(noted))
    with pytest.raises(Damaged, match="secret is missing"):
        restore(folder, 8, abstract())


OF_8 = f'"run_id": "{RUN}", "step": 8'


@pytest.mark.parametrize(
    "text", ["", "[]", f"{{{OF_8}}}", f'{{{OF_8}, "files": {{"d": 3}}}}', '{"files": {}}', "\udcff"]
)
def test_a_list_of_checksums_that_is_none_is_damage(folder: Path, text: str) -> None:
    (folder / "8" / CHECKSUMS).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Damaged, match="checksums"):
        restore(folder, 8, abstract())


def test_a_checkpoint_of_another_run_or_of_another_step_is_not_used(folder: Path) -> None:
    with pytest.raises(Damaged, match=r"8 is step 8 of run 0123456789ab, not step 8 of run ba98"):
        checkpoint.restore(folder, 8, abstract(), "ba9876543210")
    (folder / "8").rename(folder / "16")
    with pytest.raises(Damaged, match="16 is step 8 of run 0123456789ab, not step 16 of"):
        restore(folder, 16, abstract())


def test_the_last_two_and_the_branch_points_are_kept(folder: Path) -> None:
    assert last_steps(folder, 12) == {8, 12}
    assert last_steps(folder, 11) == {4, 8}  # of a longer run, which has no say here
    keep(folder, last_steps(folder, 12))
    assert checkpoint_steps(folder) == [8, 12]
    assert sorted(entry.name for entry in folder.iterdir()) == ["12", "8"]


def test_a_checkpoint_without_checksums_does_not_count_and_is_not_deleted(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "8" / CHECKSUMS).unlink()
    assert checkpoint_steps(folder) == [4, 12]
    keep(folder, {4, 8, 12})
    assert "8 has no checksums.json" in capsys.readouterr().err
    assert (folder / "8.unreadable" / "_METADATA").is_file()


def test_a_checkpoint_is_written_again_over_one_that_does_not_count(folder: Path) -> None:
    (folder / "8" / CHECKSUMS).unlink()
    save(folder, 8, state(9))
    assert restore(folder, 8, abstract())["step"] == 9


def test_setting_aside_twice_keeps_the_later(folder: Path) -> None:
    set_aside(folder, 4)
    save(folder, 4, state(5))
    set_aside(folder, 4)
    assert checkpoint_steps(folder) == [8, 12]
    (folder / "4.unreadable").rename(folder / "4")
    assert restore(folder, 4, abstract())["step"] == 5


def kills(point: int, action: Callable[[], object]) -> bool:
    """Whether `action` was killed at its `point`-th rename, deletion or flush to disk."""
    left = point
    kept = {name: getattr(os, name) for name in ("replace", "rename", "fsync", "unlink", "rmdir")}

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            return real(*arguments, **more)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name, real in kept.items():
            patch.setattr(os, name, failing(real))
        try:
            action()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("what", ["save anew", "save again", "keep", "set aside"])
def test_killed_anywhere_it_leaves_whole_checkpoints_or_none(
    made: Path, tmp_path: Path, what: str
) -> None:
    actions: dict[str, Callable[[Path], object]] = {
        "save anew": lambda folder: save(folder, 16, state(16)),
        "save again": lambda folder: save(folder, 12, state(12)),
        "keep": lambda folder: keep(folder, {12}),
        "set aside": lambda folder: set_aside(folder, 4),
    }
    surely = {"save anew": {4, 8, 12}, "save again": {4, 8}, "keep": {12}, "set aside": {8, 12}}
    for point in range(1, 200):
        folder = shutil.copytree(made, tmp_path / str(point))
        (folder / "4.unreadable").mkdir()
        (folder / "4.unreadable" / "file").touch()
        killed = kills(point, partial(actions[what], folder))
        steps = checkpoint_steps(folder)
        assert surely[what] <= set(steps)
        for step in steps:
            verify_checkpoint(folder / str(step), RUN)
        if not killed:
            break
        # Whoever comes next sweeps.
        keep(folder, set(steps))
        assert {entry.name for entry in folder.iterdir()} <= {*map(str, steps), "4.unreadable"}
    assert point > 2 and not killed


def test_a_disk_that_fills_up_leaves_the_checkpoints_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match=r"cannot write checkpoint .*16.*No space left"):
        save(folder, 16, state(16))
    assert sorted(entry.name for entry in folder.iterdir()) == ["12", "4", "8"]
