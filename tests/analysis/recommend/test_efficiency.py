"""A share of the peak between two measured sizes lies between theirs, and outside it is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis.recommend.efficiency import Efficiency, efficiency_in
from scaling.store.records import Refusal

MEASURED = Efficiency((1e7, 1e9), (0.2, 0.5), "x")


def write(path: Path, *rows: dict[str, Any], **more: Any) -> Path:
    usual = {
        **{"variant": "default", "dtype": "bfloat16", "device_kind": "NVIDIA H200"},
        **{"params_total": 1e8, "mfu": 0.4},
    }
    found = {
        "date": "2026-11-29T10:00:00+00:00",
        "versions": {"jax": "0.11.2"},
        "rows": [{**usual, **row} for row in rows],
    }
    path.write_text(json.dumps({**found, **more}))
    return path


def test_between_sizes_it_is_linear_in_their_logarithm() -> None:
    assert [MEASURED.at(n) for n in (1e7, 1e8, 1e9)] == pytest.approx([0.2, 0.35, 0.5], rel=1e-12)
    assert not MEASURED.is_beyond(1e7) and not MEASURED.is_beyond(1e9)


def test_outside_it_is_the_nearest_and_said_to_be_outside() -> None:
    assert (MEASURED.at(1e6), MEASURED.at(1e11)) == (0.2, 0.5)
    assert MEASURED.is_beyond(9.9e6) and MEASURED.is_beyond(1.1e9)


def test_one_size_gives_one_share() -> None:
    one = Efficiency((1e8,), (0.4,), "x")
    assert (one.at(1e7), one.at(1e8), one.at(1e9)) == (0.4, 0.4, 0.4)


def test_rows_of_the_device_as_shipped_count_alone(tmp_path: Path) -> None:
    rows = (
        {"params_total": 1e9, "mfu": 0.5},
        {"mfu": 0.4},
        {"params_total": 2e8, "variant": "scanned"},
        {"params_total": 3e8, "device_kind": "NVIDIA B200"},
        {"params_total": 4e8, "dtype": "float32"},
        {"params_total": 6e8, "dtype": None},  # a file that does not say
        {"params_total": 5e8, "mfu": None},  # a case that ran out of time
    )
    found = efficiency_in(write(tmp_path / "accelerator.json", *rows), ["NVIDIA H200"], "bfloat16")
    assert found == Efficiency((1e8, 1e9), (0.4, 0.5), "accelerator.json, 2026-11-29, jax 0.11.2")
    assert efficiency_in(tmp_path / "accelerator.json", ["NVIDIA L4"], "bfloat16") is None
    float32 = efficiency_in(tmp_path / "accelerator.json", ["NVIDIA H200"], "float32")
    assert float32 is not None and float32.params == (4e8,)


def test_the_device_may_be_said_once_for_all_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", device={"kind": "NVIDIA H200"})
    row = {"variant": "default", "dtype": "bfloat16", "params_total": 1e8, "mfu": 0.4}
    path.write_text(json.dumps({**json.loads(path.read_text()), "rows": [row]}))
    assert efficiency_in(path, ["NVIDIA H200"], "bfloat16") is not None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"mfu": 40}, "mfu = 40"),
        ({"mfu": "0.4"}, "mfu = '0.4'"),
        ({"params_total": 0}, "total = 0"),
    ],
)
def test_a_row_that_cannot_be_is_refused(tmp_path: Path, row: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        efficiency_in(write(tmp_path / "a.json", row), ["NVIDIA H200"], "bfloat16")


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"has no rows.*accelerator\.py --json"):
        efficiency_in(write(tmp_path / "a.json", rows=3), ["NVIDIA H200"], "bfloat16")
