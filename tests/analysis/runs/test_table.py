from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.identifiability import condition_number, refuse_line
from analysis.runs.table import read_runs, standardise, usable
from scaling.store.records import Refusal

ROOT = Path(__file__).resolve().parents[3]


def csv(folder: Path, text: str | bytes) -> Path:
    path = folder / "runs.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_plain_csv_is_a_run_table(tmp_path: Path) -> None:
    table = read_runs(csv(tmp_path, "params,tokens,loss,name\n1000000,20000000,4.5,a\n"))
    assert table.loc[0, ["params", "tokens", "loss"]].tolist() == [1e6, 2e7, 4.5]
    assert table["tokens"].dtype == np.float64
    assert table.loc[0, "name"] == "a"


def test_a_results_folder_is_read_from_its_parquet(tmp_path: Path) -> None:
    runs = pd.DataFrame({"params_total": [1000], "tokens": [2000], "loss": [3.0]})
    runs.to_parquet(tmp_path / "runs.parquet")
    table = read_runs(tmp_path)
    assert table["params"].tolist() == [1000.0]
    assert table.attrs["params_column"] == "params_total"


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,n,d,nll\n7,1e6,1e8,3.2\n")
    table = read_runs(path, params_column="n", tokens_column="d", loss_column="nll")
    assert table.loc[0, ["params", "tokens", "loss"]].tolist() == [1e6, 1e8, 3.2]
    assert table.attrs["params_column"] == "n"


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    table = read_runs(csv(tmp_path, b"\xef\xbb\xbfparams,tokens,loss\n1e6,1e8,3\n"))
    assert table["params"].tolist() == [1e6]


def test_integers_beyond_64_bits_are_read(tmp_path: Path) -> None:
    table = read_runs(csv(tmp_path, f"params,tokens,loss\n1000,{10**25},3\n"))
    assert table["tokens"].tolist() == [1e25]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "empty"),
        ("params,tokens,loss\n", "no rows"),
        ("params,tokens\n1,2\n", "'loss'"),
        ("params,tokens,loss,loss\n1,2,3,4\n", "two columns named 'loss'"),
        (
            "params,tokens,loss\n1,2,3\n1,2,nan\n",
            "loss is not a positive finite number in 1 of 2 rows: line 3 (nan)",
        ),
        ("params,tokens,loss\n1,2,inf\n", "line 2 (inf)"),
        (
            "params,tokens,loss\n1,-2,3\n",
            "tokens is not a positive finite number in 1 of 1 rows: line 2 (-2)",
        ),
        (
            "params,tokens,loss\n0,2,3\n",
            "params is not a positive finite number in 1 of 1 rows: line 2 (0)",
        ),
        ("params,tokens,loss\n=1+1,2,3\n", "line 2 (=1+1)"),
        ("params,tokens,loss\nTrue,2,3\n", "true and false"),
        ("params,tokens,loss\n1,2,3,4,5\n1,2\n", "more cells than its header"),
        ("params,tokens,loss\n0,1,2,3\n1,4,5,6\n", "more cells than its header"),
        (
            "params,tokens,loss\n1,2,\n",
            "loss is not a positive finite number in 1 of 1 rows: line 2 (empty)",
        ),
        ("params,tokens,loss\n1,2,3\x00\n", "line 2 (3\\x00)"),
        ("params,tokens,loss\n1,2,\x1b[31m3\n", "line 2 (\\x1b[31m3)"),
        (f"params,tokens,loss\n1,2,1{'0' * 400}\n", "line 2 (1"),
        (f"params,tokens,loss\n1,2,1{'0' * 5000}\n", "not a positive finite number"),
        ('params,tokens,loss\n1,2,"3\n4,5,6\n', "EOF inside string"),
        (b"\x00\xff\xfeparams", "UTF-8"),
        (b"params,tokens,loss\n1,2,\xff\n", "UTF-8"),
    ],
)
def test_what_is_no_run_table_is_refused_by_name(
    tmp_path: Path, text: str | bytes, named: str
) -> None:
    with pytest.raises(Refusal) as caught:
        read_runs(csv(tmp_path, text))
    assert named in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_missing_file_and_a_folder_without_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="No such file"):
        read_runs(tmp_path / "nothing.csv")
    with pytest.raises(Refusal, match=r"runs\.parquet"):
        read_runs(tmp_path)


def test_a_parquet_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs.parquet").write_bytes(b"not parquet")
    with pytest.raises(Refusal, match="Parquet"):
        read_runs(tmp_path)


def test_a_diverged_run_without_a_loss_is_set_aside_not_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens,loss,status\n1e6,1e8,3,completed\n1e6,1e9,,diverged\n")
    selection = usable(read_runs(path))
    assert selection.rows["loss"].tolist() == [3.0]
    assert selection.excluded["reason"].tolist() == ["status diverged"]


def test_trunk_rows_are_set_aside_because_their_rate_had_not_decayed() -> None:
    table = pd.DataFrame({"loss": [3.0, 2.9, 3.1], "run_kind": ["full", "cooldown", "trunk"]})
    selection = usable(table)
    assert selection.rows["loss"].tolist() == [3.0, 2.9]
    assert "decayed" in selection.excluded["reason"].iloc[0]


def test_a_grid_is_far_better_conditioned_than_runs_near_one_ray(grid: pd.DataFrame) -> None:
    params = grid["params"].to_numpy()
    wobble = np.where(np.arange(len(params)) % 2, 1.15, 1 / 1.15)
    on_grid = condition_number(params, grid["tokens"].to_numpy())
    assert on_grid < 2e3
    assert condition_number(params, 20 * params * wobble) > 50 * on_grid


def test_the_condition_number_belongs_to_the_design_whatever_its_scale(grid: pd.DataFrame) -> None:
    params, tokens = grid["params"].to_numpy(), grid["tokens"].to_numpy()
    here = condition_number(params, tokens)
    assert condition_number(params / 1e4, tokens / 1e3) == pytest.approx(here, rel=1e-9)


@pytest.mark.parametrize(
    ("tokens", "named"),
    [
        (lambda n: 20 * n, "tokens = 20·params"),
        (lambda n: 3 * n**0.5, r"params\^0.50"),
        (lambda n: 0 * n + 1e9, "one distinct value"),
    ],
)  # type: ignore[misc]
def test_a_design_that_cannot_separate_the_exponents_is_refused(tokens, named: str) -> None:  # type: ignore[no-untyped-def]
    params = np.geomspace(1e6, 1e9, 9)
    with pytest.raises(Refusal, match=named):
        refuse_line({"params": params, "tokens": tokens(params)})
    assert condition_number(params, tokens(params)) > 1e8


@pytest.mark.parametrize(
    "cells", [[1 + 2j, 3], pd.to_datetime(["2020-01-01"] * 2), pd.to_timedelta([1, 2], "s")]
)
def test_a_column_of_what_is_no_real_number_is_refused(cells: Any) -> None:
    with pytest.raises(Refusal, match=r"'loss' holds (complex|datetime|timedelta)"):
        standardise(pd.DataFrame({"params": [1e8, 2e8], "tokens": 1e9, "loss": cells}))


def test_only_logarithms_need_a_positive_loss(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens,loss\n1,2,-0.5\n1,2,0\n")
    assert read_runs(path, signed=["loss"])["loss"].tolist() == [-0.5, 0.0]
    with pytest.raises(
        Refusal,
        match=r"loss is not a positive .* in 2 of 2 rows: line 2 \(-0\.5\), line 3 \(0\)",
    ):
        read_runs(path)
    with pytest.raises(Refusal, match=r"not a finite number in 1 of 1 rows: line 2 \(inf\)"):
        read_runs(csv(tmp_path, "params,tokens,loss\n1,2,inf\n"), signed=["loss"])


def test_a_space_after_a_comma_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert read_runs(csv(tmp_path, "params, tokens, loss\n1, 2, 3\n"))["loss"].tolist() == [3.0]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_of_too_many_cells_is_refused_before_it_is_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"long.{kind}"
    if kind == "csv":
        path.write_text("params,tokens,loss\n" + "\n" * 7_000_000)
    else:  # a few kilobytes hold seven million rows
        pd.DataFrame({c: np.ones(7_000_000) for c in ("params", "tokens", "loss")}).to_parquet(path)
    with pytest.raises(Refusal, match=r"3 columns and about 7000\d+ rows"):
        read_runs(path)


# What a reader in a process of its own spends: the peak of memory is the process's.
SPENT = """
import resource, sys, time
from analysis.runs.table import read_runs
from scaling.store.records import Refusal
start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    told = len(read_runs(sys.argv[1]))
except Refusal as refusal:
    told = str(refusal)
seconds = time.process_time() - start
print(seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
print(told)
"""
DIRT = ["=1+1", "nan", "inf", "-1", "", "x", "1" + "0" * 400, "TRUE", "2020-01-01"]
HOSTILE: dict[str, tuple[Callable[[], str], str]] = {
    "a million clean rows": (
        lambda: (
            "params,tokens,loss\n"
            + "".join(f"{10**6 + i},{10**9 + i},{3 + i / 1e5}\n" for i in range(10**6))
        ),
        "1000000",
    ),
    "a million dirty rows": (
        lambda: (
            "params,tokens,loss\n"
            + "".join(
                f"{10**6 + i},{10**9 + i},{DIRT[i % 9] if i % 3 else 3}\n" for i in range(10**6)
            )
        ),
        "loss is not a positive finite number in 666666 of 1000000 rows: line 3 (nan)",
    ),
    "a cell of ten megabytes": (
        lambda: f"params,tokens,loss\n1e8,1e9,{'x' * 10**7}\n",
        "line 2 (xxx",
    ),
    "a header of 200 megabytes": (lambda: "a" * (200 << 20), "field larger than field limit"),
    "a file of 257 MiB": (lambda: "params,tokens,loss\n" * (15 << 20), "has at most 256"),
    "nineteen million rows": (lambda: "params\n" + "x\n" * 19_000_000, "5000000 rows"),
    "twenty million cells in ten thousand columns": (
        lambda: (
            ",".join(["params", "tokens", "loss", *(f"c{i}" for i in range(9_990))])
            + "\n"
            + (",".join(["1"] * 9_993) + "\n") * 1_990
        ),
        "1990",
    ),
    "a hundred thousand columns": (
        lambda: ",".join(f"c{i}" for i in range(100_000)) + "\n" + "1," * 99_999 + "1\n",
        "at most 10000 columns",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_read_or_refused_in_bounded_time_and_memory(
    tmp_path: Path, name: str
) -> None:
    make, told = HOSTILE[name]
    path = tmp_path / "hostile.csv"
    path.write_text(make())
    done = subprocess.run(
        [sys.executable, "-c", SPENT, path], check=True, capture_output=True, text=True, cwd=ROOT
    )
    spent, answer = done.stdout.splitlines()
    seconds, gigabytes = map(float, spent.split())
    assert told in answer and len(answer) < 600
    assert seconds < 15  # 2.5 s, measured
    assert gigabytes < 1.0  # 0.55, measured


def test_a_hundred_thousand_columns_are_answered_quickly(tmp_path: Path) -> None:
    names = [f"c{i}" for i in range(100_000)]
    path = csv(tmp_path, ",".join([*names, "c0"]) + "\n" + ",".join(["1"] * 100_001) + "\n")
    start = time.process_time()
    with pytest.raises(Refusal, match="two columns named 'c0'"):
        read_runs(path)
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    "cell", ['=HYPERLINK("http://x")', "@SUM(1)", "1e999", "0x10", "1_00", "１０", "--", "None"]
)
def test_a_cell_that_is_no_plain_number_is_named(tmp_path: Path, cell: str) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    with pytest.raises(Refusal, match="tokens is not a positive finite number") as caught:
        read_runs(csv(tmp_path, f"params,tokens,loss\n1e6,1e8,3\n1e6,{quoted},3\n"))
    assert f"in 1 of 2 rows: line 3 ({cell})" in str(caught.value)


def test_a_cell_of_a_megabyte_is_not_printed_back(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        read_runs(csv(tmp_path, f"params,tokens,loss\n{'x' * 100_000},1e8,3\n"))
    assert len(str(caught.value)) < 400


def test_rows_that_a_condition_leaves_out_may_hold_anything(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("N,D,val_loss\n1e8,1e9,3.0\n2e8,2e9,diverged\n3e8,,\n4e8,4e9,2.5\n")
    columns = {"params_column": "N", "tokens_column": "D", "loss_column": "val_loss"}
    with pytest.raises(
        Refusal,
        match=r"D is not .*: line 4 \(empty\)[\s\S]*val_loss is not .*: line 3 \(diverged\)",
    ):
        read_runs(path, **columns)
    kept = read_runs(path, **columns, where=["val_loss!=diverged", "D>0"])
    assert kept["params"].tolist() == [1e8, 4e8]
    assert kept["loss"].tolist() == [3.0, 2.5]
    assert read_runs(path, **columns, where=["N<2e8", "tokens>=1e9"])["params"].tolist() == [1e8]


def test_a_cell_that_is_no_number_is_shown_as_written_by_whoever_needs_it(tmp_path: Path) -> None:
    """A first reader needs the losses alone; a law needs the sizes too."""
    path = csv(tmp_path, "params,tokens,loss\nbig,1e9,3\n20M,1e9,2.9\n")
    read = read_runs(path, require=("loss",))
    assert read["loss"].tolist() == [3.0, 2.9]
    with pytest.raises(
        Refusal, match=r"runs\.csv: params is not .* in 1 of 2 rows: line 2 \(big\)"
    ):
        standardise(read)


def test_who_refuses_a_table_later_names_the_file_it_was_read_from(tmp_path: Path) -> None:
    read = read_runs(csv(tmp_path, "width,D,val_loss\n64,1e8,3\n"), require=())
    for table in (read, read[read["width"] > 1].copy()):
        with pytest.raises(Refusal, match=r"^\S*runs\.csv has no column 'params'"):
            standardise(table)
    with pytest.raises(Refusal, match=r"^the table has no columns 'params', 'tokens' and 'loss'"):
        standardise(pd.DataFrame({"width": [64]}))


def test_a_folder_with_a_table_as_csv_is_a_results_folder_too(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n1e6,1e9,3\n")
    assert read_runs(tmp_path)["loss"].tolist() == [3.0]
