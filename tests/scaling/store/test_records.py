"""Files are whole or absent, and rows neither lost nor doubled."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaling.store import records
from scaling.store.records import (
    Refusal,
    canonical_json,
    fingerprint,
    read_json,
    write_bytes,
    write_json,
    write_table,
)
from scaling.store.scores import scored_steps, write_scores
from scaling.store.steps import (
    STEP_COLUMNS,
    forget_steps_after,
    merge_steps,
    read_steps,
    write_segment,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{**dict.fromkeys(STEP_COLUMNS, 0.5), "step": step} for step in range(first, last + 1)]


def steps(run: Path) -> list[int]:
    return read_steps(run)["step"].tolist()


# --- identity ---


@given(JSON)
def test_canonical_json_loses_nothing(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value


def test_the_order_of_keys_is_no_part_of_an_identity() -> None:
    assert fingerprint({"a": 1, "b": [2.5, None]}) == fingerprint({"b": (2.5, None), "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": "1"})


def test_a_fingerprint_is_the_start_of_the_sha256() -> None:
    """echo -n '{"a":1}' | sha256sum"""
    assert fingerprint({"a": 1}) == "015abd7f5cc5"


@pytest.mark.parametrize(
    "value",
    [{1, 2}, float("nan"), float("-inf"), object(), b"x", Path(), np.int64(3), {1: 2}, [[{3}]]],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_stable_text_has_no_identity(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical_json({"field": value})


# --- atomic files ---


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(tmp_path / "file", b"old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Refusal, match=r"cannot write .*file: No space left on device"):
        write_bytes(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path: Path) -> None:
    """A real refusal by the kernel: files may not grow beyond 4 kB."""
    code = (
        "import resource, sys; from pathlib import Path; from scaling.store.records import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); path = Path(sys.argv[1])\n"
        "write_bytes(path, b'old')\n"
        "try: write_bytes(path, b'n' * 5000)\n"
        "except Refusal as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "File too large" in said
    assert (tmp_path / "file").read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"shared")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot write"):
        write_bytes(tmp_path / "file" / "inside", b"")


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [float("nan"), {"y": float("inf")}, 1.5]})
    assert read_json(tmp_path / "a.json") == {"x": [None, {"y": None}, 1.5]}


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"\xff", b"[" * 100_000, b"9" * 5000],
    ids=lambda content: repr(content)[:9],
)
def test_json_that_cannot_be_read_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(Refusal, match=r"a\.json"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_tables_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"params": [1, 2], "loss": [1 / 3, np.nan], "name": ["a", "b,c"]})
    write_table(tmp_path / name, table)
    read = pd.read_csv if name.endswith("csv") else pd.read_parquet
    pd.testing.assert_frame_equal(read(tmp_path / name), table)


# --- steps ---


def test_segments_merge_into_one_file_in_order(tmp_path: Path) -> None:
    for first, last in ((9, 12), (1, 4), (5, 8)):
        write_segment(tmp_path, rows(first, last))
    merge_steps(tmp_path)
    assert steps(tmp_path) == list(range(1, 13))
    assert list((tmp_path / "steps").iterdir()) == []


def test_merging_twice_or_adding_more_loses_and_doubles_nothing(tmp_path: Path) -> None:
    write_segment(tmp_path, rows(1, 4))
    merge_steps(tmp_path)
    merge_steps(tmp_path)
    write_segment(tmp_path, rows(5, 8))
    assert steps(tmp_path) == list(range(1, 9))


def test_a_merge_killed_before_it_deletes_segments_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segment(tmp_path, rows(1, 4))
    write_segment(tmp_path, rows(5, 8))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        merge_steps(tmp_path)
    assert steps(tmp_path) == list(range(1, 9))
    merge_steps(tmp_path)
    assert steps(tmp_path) == list(range(1, 9))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("last", [0, 3, 4, 6, 8, 99])
def test_rows_past_a_checkpoint_are_forgotten_and_no_others(
    tmp_path: Path, merged: bool, last: int
) -> None:
    write_segment(tmp_path, rows(1, 4))
    if merged:
        merge_steps(tmp_path)
    write_segment(tmp_path, rows(5, 8))
    forget_steps_after(tmp_path, last)
    assert steps(tmp_path) == list(range(1, min(last, 8) + 1))


def bits_flipped(content: bytes, count: int) -> Iterator[bytes]:
    """The content with one bit or another changed."""
    for bit in np.random.default_rng(0).integers(8 * len(content), size=count):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def test_no_segment_is_read_in_which_a_bit_flipped(tmp_path: Path) -> None:
    write_segment(tmp_path, rows(1, 40))
    (segment,) = (tmp_path / "steps").iterdir()
    for damaged in bits_flipped(segment.read_bytes(), 300):
        segment.write_bytes(damaged)
        with pytest.raises(Refusal, match=r"000000001-.* has changed since it was written"):
            read_steps(tmp_path)


def test_rows_and_answers_of_another_run_are_refused(tmp_path: Path) -> None:
    """Each file is whole and sealed: it lies in another run's folder."""
    mine, other = tmp_path / "0123456789ab", tmp_path / "ba9876543210"
    attempt = other / "attempts" / "000001-0123456789ab"
    score = {"run": other.name, "step": 8, "task": "t", "metric": "m", "n": 20}
    write_segment(attempt, rows(1, 4))
    write_scores(attempt, 8, pd.DataFrame([{**score, "value": 0.5, "stderr": 0.1}]))
    assert read_steps(attempt)["step"].tolist() == [1, 2, 3, 4] and scored_steps(attempt) == {8}
    shutil.copytree(attempt, mine)
    with pytest.raises(Refusal, match=r"steps/.*it is of run ba9876543210\)"):
        read_steps(mine)
    assert scored_steps(mine) == set()
    merge_steps(attempt)
    shutil.copy(attempt / "steps.parquet", mine / "steps.parquet")
    shutil.rmtree(mine / "steps")
    with pytest.raises(Refusal, match=r"steps.parquet.*it is of run ba9876543210\)"):
        read_steps(mine)


def test_answers_in_which_a_bit_flipped_count_as_not_given(tmp_path: Path) -> None:
    score = {"run": tmp_path.name, "step": 8, "task": "t", "value": 0.5, "stderr": 0.1, "n": 20}
    write_scores(tmp_path, 8, pd.DataFrame([{**score, "metric": name} for name in "abcdefgh"]))
    (file,) = (tmp_path / "evals").iterdir()
    assert scored_steps(tmp_path) == {8}
    for damaged in bits_flipped(file.read_bytes(), 50):
        file.write_bytes(damaged)
        assert scored_steps(tmp_path) == set()


def test_segments_of_before_their_names_held_checksums_are_read_and_forgotten_alike(
    tmp_path: Path,
) -> None:
    for first, last in ((1, 4), (5, 8)):
        write_segment(tmp_path, rows(first, last))
        (segment,) = (tmp_path / "steps").glob("*-*")
        segment.rename(segment.with_name(f"{first:09d}.parquet"))
    write_segment(tmp_path, rows(9, 12))
    assert steps(tmp_path) == list(range(1, 13))
    forget_steps_after(tmp_path, 4)
    assert steps(tmp_path) == list(range(1, 5))


def test_a_run_without_steps_has_the_columns_and_no_rows(tmp_path: Path) -> None:
    assert tuple(read_steps(tmp_path).columns) == STEP_COLUMNS
    assert steps(tmp_path) == []


# --- what is no record ---


def test_a_pipe_or_a_device_is_no_json(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(Refusal, match=r"a\.json: it is no regular file.* Give a file that"):
        read_json(tmp_path / "a.json")
    with pytest.raises(Refusal, match="/dev/zero: it is no regular file"):
        read_json(Path("/dev/zero"))


def test_a_file_too_large_for_a_record_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text('"0123456789"')
    monkeypatch.setattr(records, "MAX_JSON", 8)
    with pytest.raises(Refusal, match=r"a\.json has 12 bytes, more than any file of ours .*\(8\)"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    "column, values",
    [
        ("step", [1.5, 2.0]),
        ("step", [1, None]),
        ("loss", ["a", "b"]),
        ("loss", [b"a", b"b"]),
        ("loss", pd.Categorical(["a", "b"])),
        ("loss", [[1.0], [2.0]]),
        ("loss", pd.period_range("2020", periods=2, freq="D")),
    ],
    ids=lambda value: str(value)[:20],
)
def test_steps_that_are_no_numbers_are_refused(tmp_path: Path, column: str, values: Any) -> None:
    table = pd.DataFrame(rows(1, 2))
    table[column] = values
    write_table(tmp_path / "steps.parquet", table)
    with pytest.raises(Refusal, match=r"steps\.parquet cannot be read"):
        read_steps(tmp_path)


def test_columns_that_are_not_of_a_step_are_not_read(tmp_path: Path) -> None:
    table = pd.DataFrame(rows(1, 2)).assign(note=["a", "b"])
    write_table(tmp_path / "steps.parquet", table)
    assert tuple(read_steps(tmp_path).columns) == STEP_COLUMNS


def test_steps_of_versions_that_did_not_count_causally_are_read_with_nulls(tmp_path: Path) -> None:
    """And go on in segments that have that column."""
    earlier = pd.DataFrame(rows(1, 2)).drop(columns="mfu_causal")
    write_table(tmp_path / "steps.parquet", earlier)
    write_segment(tmp_path, rows(3, 4))
    found = read_steps(tmp_path)
    assert tuple(found.columns) == STEP_COLUMNS
    assert found["mfu_causal"].isna().tolist() == [True, True, False, False]
    assert found["mfu"].notna().all()


def test_more_steps_than_a_run_has_are_counted_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_segment(tmp_path, rows(1, 3))
    monkeypatch.setattr("scaling.store.steps.MAX_STEPS", 2)
    with pytest.raises(Refusal, match="3 rows; no run has more than 2"):
        read_steps(tmp_path)


def test_records_are_read_without_jax() -> None:
    code = "import sys; sys.modules['jax'] = None; import scaling.store.records"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert records.RUN_ID.fullmatch(fingerprint({}))


def test_the_columns_of_a_step_are_those_of_the_contract(tmp_path: Path) -> None:
    write_segment(tmp_path, rows(1, 2))
    assert tuple(read_steps(tmp_path).columns) == STEP_COLUMNS
