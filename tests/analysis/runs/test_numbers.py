"""Cells are numbers as people write them, and what reads in two ways is refused with both."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from analysis.runs.columns import numbers as columns
from analysis.runs.columns.numbers import Ambiguous, read
from analysis.runs.table import read_runs
from scaling.store.records import Refusal


def numbers(*cells: object) -> list[float]:
    return read(pd.Series(cells)).numbers.tolist()


@pytest.mark.parametrize(
    ("cell", "value"),
    [("125M", 1.25e8), ("1.3B", 1.3e9), ("1.3 b", 1.3e9), ("2e9", 2e9), ("1_000_000", 1e6),
     ("1 000 000", 1e6), ("1'000", 1e3), (" 57k ", 5.7e4), ("1,000,000", 1e6), ("1,000.5", 1000.5),
     ("3,1", 3.1), ("0,125", 0.125), ("1.000.000", 1e6), ("1.000,5", 1000.5), ("2,5M", 2.5e6),
     ("1.5 billion", 1.5e9), ("3.125", 3.125), ("-0.5", -0.5), (".5", 0.5)],
)  # fmt: skip
def test_a_number_is_read_as_people_write_it(cell: str, value: float) -> None:
    assert numbers(cell, None)[0] == pytest.approx(value, rel=1e-15)


@pytest.mark.parametrize(
    "cell",
    ["12,34,567", "1__000", "0x10", "１０", "1.2.3", "57MM", "5 %", "e9", "k", "1e", "+", ","],
)
def test_what_is_no_number_is_unknown(cell: str) -> None:
    assert pd.isna(numbers(cell)[0])


def test_all_cells_of_a_column_decide_what_its_comma_is() -> None:
    assert numbers("1,234", "12,345,678") == [1234.0, 12345678.0]
    assert numbers("1,234", "5,5") == [1.234, 5.5]
    assert numbers("1,234", "0.5") == [1234.0, 0.5]
    assert numbers("1,234", "5,5", "crashed")[:2] == [1.234, 5.5]


def test_a_cell_that_is_a_number_already_is_itself() -> None:
    assert numbers(3.125, 2.987, "4,21") == [3.125, 2.987, 4.21]
    assert numbers(1000, "1.5M", None)[:2] == [1000.0, 1.5e6]
    with pytest.raises(Ambiguous, match=r"'1,234', which may be 1234 or 1\.234"):
        numbers(3.125, 0.5, "1,234")


def test_a_comma_among_points_is_refused_with_both_readings() -> None:
    with pytest.raises(Ambiguous, match=r"'3\.125', which may be 3\.125 or 3125, since '4,21' has"):
        numbers("3.125", "2.987", "4,21")
    assert numbers("3.125", "2.987,5", "4,21") == [3125.0, 2987.5, 4.21]


def test_one_that_reads_in_two_ways_is_refused_with_both(tmp_path: Path) -> None:
    with pytest.raises(Ambiguous):
        numbers("1,234", "5,678")
    path = tmp_path / "runs.csv"
    path.write_text('params,tokens,loss\n"1,234",1e9,3\n"5,678",2e9,2.9\n')
    with pytest.raises(Refusal, match=r"'params' has '1,234', which may be 1234 or 1\.234"):
        read_runs(path)


@pytest.mark.parametrize(
    ("text", "params", "loss"),
    [
        ("params;tokens;loss\n1000000;2000000;3,125\n", 1e6, 3.125),  # by the delimiter
        ("params;tokens;loss\n1.500;2.000;3,12\n", 1500.0, 3.12),  # by another column
        ("params;tokens;loss\n1.5e6;2e6;3.12\n", 1.5e6, 3.12),
        ("params\ttokens\tloss\n57.000.000\t1.500\t3,12\n", 5.7e7, 3.12),
        ('params,tokens,loss\n"57,000,000",2e9,3.12\n', 5.7e7, 3.12),
    ],
)
def test_the_file_decides_where_a_column_does_not(
    tmp_path: Path, text: str, params: float, loss: float
) -> None:
    (tmp_path / "runs.csv").write_text(text)
    table = read_runs(tmp_path / "runs.csv")
    assert (table["params"].iloc[0], table["loss"].iloc[0]) == (params, loss)


def test_a_semicolon_beside_points_leaves_a_comma_unclear(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("params;tokens;loss\n1,234;2e9;3.12\n")
    with pytest.raises(Refusal, match=r"may be 1234 or 1\.234"):
        read_runs(tmp_path / "runs.csv")


def test_a_word_that_a_column_repeats_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of some kilobytes may hold one twenty million times."""
    parsed: list[int] = []
    known = columns._parsed

    def counted(words: pd.Series, mark: columns.Mark) -> columns.Array:
        parsed.append(len(words))
        return known(words, mark)

    monkeypatch.setattr(columns, "_parsed", counted)
    cells = pd.Series(["x", "1,5", "", None, "2M"] * 1000, dtype="str")
    found = read(cells, ",")
    assert max(parsed) <= 4
    assert found.numbers.dropna().unique().tolist() == [1.5, 2e6]
    assert found.suffixed.sum() == 1000 and found.numbers.isna().sum() == 3000
