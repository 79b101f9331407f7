"""Every kind of file that holds runs is read alike, and rows are numbered as an editor does."""

from __future__ import annotations

import json
import os
import sys
import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from analysis.runs.files import limits, parquet
from analysis.runs.table import read_runs
from scaling.store.records import Refusal

RUNS = [
    {"params": 1e6, "tokens": 2e7, "loss": 4.5},
    {"params": 2e6, "tokens": 4e7, "loss": 4.0},
]


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_columns_may_stand_between_any_of_the_usual_marks(tmp_path: Path, mark: str) -> None:
    text = f"params{mark} tokens {mark}loss\n1000{mark}2e9{mark} 3.5 \n"
    table = read_runs(written(tmp_path, "runs.csv", text))
    assert table.loc[0, ["params", "tokens", "loss"]].tolist() == [1000.0, 2e9, 3.5]


@pytest.mark.parametrize("name", ["runs.jsonl", "runs.json", "runs.csv"])
def test_json_is_an_object_a_line_or_a_list_of_them(tmp_path: Path, name: str) -> None:
    lines = "\n".join(json.dumps(run) for run in RUNS) + "\n"
    for text in (lines, json.dumps(RUNS, indent=1)):
        table = read_runs(written(tmp_path, name, text))
        assert table[["params", "tokens", "loss"]].to_dict("records") == RUNS


def test_what_is_nested_is_named_by_dots(tmp_path: Path) -> None:
    nested = [{"size": {"n_params": "1M"}, "tokens": 2e7, "eval": {"loss": 4.5}, "curve": [1, 2]}]
    table = read_runs(written(tmp_path, "runs.json", json.dumps(nested)), loss_column="eval.loss",
                      params_column="size.n_params")  # fmt: skip
    assert table[["params", "loss"]].to_numpy().tolist() == [[1e6, 4.5]]
    assert table["curve"].tolist() == ["[1, 2]"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"params": 1}\n{"params": \n', "line 2 is not one whole object"),
        ('{\n "params": 1\n}', "line 1 is not one whole object"),
        ("[1, 2]", "element 1 of the list is 1, not an object"),
        ("[1, 2", "not valid JSON"),
        ("[]", "no rows"),
        ("{" + '"a": {' * 50 + "}" * 51, "nests objects more than 20 deep"),
    ],
)
def test_json_of_another_shape_is_refused_in_words(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(Refusal, match=named):
        read_runs(written(tmp_path, "runs.jsonl", text))


def test_objects_without_a_name_in_common_are_no_table(tmp_path: Path) -> None:
    lines = "\n".join(f'{{"k{i}": 1}}' for i in range(12_000))
    with pytest.raises(Refusal, match="at most 10000 columns"):
        read_runs(written(tmp_path, "runs.jsonl", lines))


@pytest.mark.parametrize(
    ("name", "text", "places"),
    [
        ("a.csv", "params,tokens,loss\n1,2,3\n1,2,x\n", "line 3"),
        ("a.csv", "\nparams,tokens,loss\n\n1,2,3\n\n\n1,2,x", "line 7"),
        ("a.csv", 'params,tokens,loss,note\n1,2,3,"two\nlines"\n1,2,x,\n', "line 4"),
        ("a.csv", "params,tokens,loss\r\n1,2,3\r\n,,\r\n1,2,x\r\n", "line 4"),
        ("a.jsonl", '\n{"params": 1, "tokens": 2, "loss": "x"}\n', "line 2"),
        ("a.json", '[{"params": 1, "tokens": 2, "loss": "x"}]', "object 1"),
    ],
)
def test_rows_are_numbered_as_an_editor_numbers_them(
    tmp_path: Path, name: str, text: str, places: str
) -> None:
    with pytest.raises(Refusal, match=rf"rows: {places} \(x\)"):
        read_runs(written(tmp_path, name, text))


def test_rows_keep_their_lines_past_a_condition(tmp_path: Path) -> None:
    path = written(tmp_path, "a.csv", "params,tokens,loss\n1,2,3\n5,2,3\n5,2,x\n")
    with pytest.raises(Refusal, match=r"in 1 of 2 rows: line 4 \(x\)"):
        read_runs(path, where=["params>2"])


def test_a_sheet_is_a_table_and_its_rows_are_those_of_the_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = pd.DataFrame({"Params": [1e6, None, 2e6], "Tokens": [2e7, None, 4e7],
                          "Loss": ["4.5", None, "x"]})  # fmt: skip
    with zipfile.ZipFile(tmp_path / "runs.xlsx", "w") as parts:
        parts.writestr("xl/workbook.xml", "<workbook/>")
    monkeypatch.setattr(pd, "read_excel", lambda path: sheet)
    with pytest.raises(Refusal, match=r"Loss is not .* in 1 of 2 rows: row 4 \(x\)"):
        read_runs(tmp_path / "runs.xlsx")


def test_a_sheet_without_its_package_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "runs.xlsx", "w") as parts:
        parts.writestr("xl/workbook.xml", "<workbook/>")
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(Refusal, match=r"needs the package openpyxl. Install it"):
        read_runs(tmp_path / "runs.xlsx")
    (tmp_path / "runs.xlsx").write_bytes(b"no archive")
    with pytest.raises(Refusal, match="cannot be read as a spreadsheet"):
        read_runs(tmp_path / "runs.xlsx")


# --- far more than the file has bytes ---


@pytest.mark.parametrize("nested", [False, True])
def test_a_text_that_many_rows_share_is_counted_as_often_as_it_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nested: bool
) -> None:
    monkeypatch.setattr(parquet, "MAX_BYTES", 8 << 20)
    text = "x" * 20_000
    table = pa.table({"params": [1e6] * 1000, "note": [[text] if nested else text] * 1000})
    pq.write_table(table, tmp_path / "runs.parquet")
    assert (tmp_path / "runs.parquet").stat().st_size < 20_000
    with pytest.raises(Refusal, match=r"has 19 MiB; a run table has at most 8"):
        read_runs(tmp_path / "runs.parquet")


def test_lists_of_many_numbers_are_counted_by_the_footer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (parquet, limits):
        monkeypatch.setattr(module, "MAX_CELLS", 10_000)
    pq.write_table(pa.table({"params": [[0.0] * 10_001]}), tmp_path / "runs.parquet")
    with pytest.raises(Refusal, match="about 10001 rows"):
        read_runs(tmp_path / "runs.parquet")


def test_a_parquet_file_may_have_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"r\xff.parquet")
    pd.DataFrame(RUNS).to_parquet(tmp_path / "r.parquet")
    (tmp_path / "r.parquet").rename(path)
    assert read_runs(path)["loss"].tolist() == [4.5, 4.0]


@pytest.mark.parametrize("suffix", ["zip", "gz", "bz2", "xz", "zst", "tar", "tar.gz"])
def test_a_name_makes_no_archive_of_a_csv(tmp_path: Path, suffix: str) -> None:
    text = "params,tokens,loss\n1e6,2e7,4.5\n"
    assert len(read_runs(written(tmp_path, f"runs.csv.{suffix}", text))) == 1


@pytest.mark.parametrize("cell", ["1e200", "1e-300", "1e34"])
@pytest.mark.parametrize("column", range(3))
def test_numbers_that_no_measurement_gives_are_refused(
    tmp_path: Path, cell: str, column: int
) -> None:
    cells = ["1e6", "2e7", "4.5"]
    cells[column] = cell
    path = written(tmp_path, "runs.csv", f"params,tokens,loss\n{','.join(cells)}\n1e6,2e7,4\n")
    name = ("params", "tokens", "loss")[column]
    beyond = rf"{name} is beyond 1e-30 to 1e\+33, .* in 1 of 2 rows: line 2 \({cell}\)"
    with pytest.raises(Refusal, match=beyond):
        read_runs(path)
    assert read_runs(path, drop_invalid=True)["left_out"].ne("").sum() == 1


# --- what is nearly a table ---

ROWS = {"params": [1e6, 2e6], "tokens": [1e8, 2e8], "loss": [3.0, 2.9]}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", "# my runs\n{csv}", r"begins with '# my runs', not with its header. Remove"),
        ("t.csv", "# a, b\n{csv}", r"begins with '# a', not with its header. Remove such"),
        ("t.csv", "sep=,\n{csv}", r"begins with 'sep=', not with its header. Remove such"),
        ("t.txt", "{spaces}", r"it has params tokens loss\. That is one column: put a comma"),
        ("t.json", '{{"runs": {records}}}', r"holds all runs in runs\. Give a list"),
        ("t.json", "{columns}", r"holds all runs in params, tokens, loss\. Give a list of objects"),
        ("t.json", "{split}", r"holds all runs in columns, index, data\. .*orient='records'"),
    ],
)
def test_what_is_nearly_a_table_is_refused_with_what_is_in_its_way(
    tmp_path: Path, name: str, content: str, said: str
) -> None:
    table = pd.DataFrame(ROWS)
    text = content.format(
        csv=table.to_csv(index=False),
        spaces=table.to_csv(index=False, sep=" "),
        records=table.to_json(orient="records"),
        columns=table.to_json(),
        split=table.to_json(orient="split"),
    )
    (tmp_path / name).write_text(text)
    with pytest.raises(Refusal, match=said):
        read_runs(tmp_path / name)


def test_one_run_of_objects_is_a_run(tmp_path: Path) -> None:
    nested = {"config": {"params": 1e6, "tokens": 1e8}, "summary": {"loss": 3.0}}
    (tmp_path / "t.jsonl").write_text(json.dumps(nested))
    assert len(read_runs(tmp_path / "t.jsonl", loss_column="summary.loss")) == 1
