"""A plan and the records of its runs make one table, and nothing that changed is believed."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from analysis.runs.table import read_runs
from scaling.store.folder import Folder
from scaling.store.manifest import Manifest, read_manifest, write_manifest
from scaling.store.records import FORMAT, Refusal, read_json, sealed, write_json
from scaling.store.run_record import RunRecord, read_run
from scaling.store.sealed import OtherFormat
from scaling.store.table import Collected, collect, publish_missing, publish_table

COLUMNS = {
    **{"seed": 0, "n_layers": 1, "d_model": 2, "params_total": 10, "params_non_embedding": 5},
    **{"tokens": 20, "steps": 2, "flops_6nd": 1200.0, "flops": 1300.0, "learning_rate": 0.5},
}
CONFIG = {"schedule": {"steps": 2}, "tasks": None}
TRUNK, OTHER = "0" * 12, "1" * 12
STATUSES = ("completed", "diverged", "failed", "running", "planned")


def planned(run_id: str, **fields: Any) -> dict[str, Any]:
    """A run of a plan, as its file has it."""
    kind = "trunk" if run_id == TRUNK else "cooldown"
    return {
        **{"run_id": run_id, "trunk_id": TRUNK, "run_kind": kind, "first_step": 0, "steps": 2},
        **{"flops": 1e3, "config": CONFIG, "columns": COLUMNS, **fields},
    }


def manifest(*runs: dict[str, Any]) -> Manifest:
    return Manifest.made(study="s", study_sha256="a" * 64, source_sha256="b" * 64, runs=runs)


def record(results: Path, run_id: str, status: str, **fields: Any) -> None:
    """Write the record of a run."""
    made = RunRecord.made(
        **{"run_id": run_id, "trunk_id": TRUNK, "run_kind": "cooldown", "study": "s"},
        **{"status": status, "config": CONFIG, **fields},
    )
    write_json(results / "runs" / run_id / "run.json", made.plain())


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A run of each status."""
    runs = [planned(str(number) * 12) for number in range(len(STATUSES))]
    write_manifest(tmp_path, manifest(*runs))
    for run, status in zip(runs, STATUSES, strict=True):
        result = {"loss": 2.5} if status == "completed" else None
        record(tmp_path, run["run_id"], status, result=result)
    (tmp_path / "runs" / "notes").mkdir()
    return tmp_path


def collected(results: Path) -> Collected:
    return collect(results, read_manifest(results))


def flipped(content: bytes, step: int) -> list[bytes]:
    """The content with one bit or another changed, every so many bits."""
    found = []
    for bit in range(0, 8 * len(content), step):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        found.append(bytes(changed))
    return found


# --- the table ---


def test_the_run_table_has_a_row_a_run_that_ended(results: Path) -> None:
    table = collected(results).table
    assert table["status"].tolist() == ["completed", "diverged", "failed"]
    assert table["params_total"].tolist() == [10, 10, 10]
    assert table["study"].tolist() == ["s", "s", "s"]


def test_a_missing_loss_is_null_never_a_number(results: Path) -> None:
    assert collected(results).table["loss"].isna().tolist() == [False, True, True]


def test_a_table_of_failures_alone_still_has_its_columns(tmp_path: Path) -> None:
    write_manifest(tmp_path, manifest(planned(TRUNK)))
    record(tmp_path, TRUNK, "failed")
    assert collected(tmp_path).table["loss"].isna().all()


def test_runs_that_the_plan_does_not_name_are_counted_and_in_no_table(results: Path) -> None:
    record(results, "e" * 12, "completed", result={"loss": 1.0})
    record(results, "f" * 12, "planned")
    published = publish_table(results)
    assert published.orphans == ("e" * 12,)
    assert "e" * 12 not in set(published.table["run_id"])


def test_a_trunk_that_ended_before_it_is_long_enough_has_not_ended(results: Path) -> None:
    write_manifest(results, manifest(planned(TRUNK, steps=4), planned(OTHER)))
    assert collected(results).table["run_id"].tolist() == [OTHER]


def test_no_row_says_of_one_length_what_was_trained_to_another(results: Path) -> None:
    write_manifest(results, manifest(planned(TRUNK, steps=1), planned(OTHER)))
    found = collected(results)
    assert found.table["run_id"].tolist() == [OTHER]
    assert "2 steps where the plan asks for 1" in found.damaged[TRUNK]


@pytest.mark.parametrize("values", [(1.5, "a"), (True, 1.0)])
def test_runs_that_disagree_on_what_a_column_holds_make_no_table(
    tmp_path: Path, values: tuple[Any, Any]
) -> None:
    runs = [
        planned(run_id, columns={**COLUMNS, "variant": value})
        for run_id, value in zip((TRUNK, OTHER), values, strict=True)
    ]
    write_manifest(tmp_path, manifest(*runs))
    with pytest.raises(Refusal, match=r"plan\.json: 'variant' is .* of run 1{12} and .* of 0{12}"):
        collected(tmp_path)


# --- records ---


def change(path: Path, **fields: Any) -> None:
    """Change fields of a record, and seal it as if it had always been so."""
    write_json(path, sealed({**read_json(path), **fields}))


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"run_id": "../../../etc"}, "run_id"),
        ({"run_id": OTHER}, "1{12} is not the name of its folder"),
        ({"trunk_id": "../0123456789"}, "trunk_id"),
        ({"trunk_id": 7}, "trunk_id: .*string"),
        ({"status": ["completed"]}, "status: .*'planned', 'running'"),
        ({"run_kind": None}, "run_kind: .*'full', 'trunk'"),
        ({"reason": {"x": 1}}, "reason: .*string"),
        ({"config": {}}, "config: .*how many steps"),
        ({"config": {"schedule": {"steps": "2"}}}, "config: .*how many steps"),
        ({"result": 3}, "result: .*object"),
        ({"result": {"loss": "low"}}, "result: loss: .*number"),
        ({"result": {"loss": True}}, "result: loss: .*number"),
        ({"result": {"loss": 10**400}}, "result: loss: .*number"),
        ({"result": {"status": 1}}, "'status' is no column of a result"),
        ({"note": 1}, "note: "),
        ({"files": 1}, "files: .*object"),
        ({"files": {"../../x": {"bytes": 1, "sha256": ""}}}, r"files: \.\./\.\./x: .*steps"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_run_record_of_another_kind_is_refused_by_name(
    results: Path, fields: dict[str, Any], words: str
) -> None:
    path = results / "runs" / TRUNK / "run.json"
    change(path, **fields)
    with pytest.raises(Refusal, match=rf"0{{12}}/run\.json cannot be used: .*{words}"):
        read_run(path.parent)
    found = collected(results)  # the others are in the table
    assert list(found.damaged) == [TRUNK] and len(found.table) == 2


def test_a_record_that_was_not_sealed_or_not_so_is_refused(results: Path) -> None:
    path = results / "runs" / TRUNK / "run.json"
    written = read_json(path)
    write_json(path, {**written, "result": {"loss": 2.4}})
    with pytest.raises(Refusal, match="it has changed since it was written"):
        read_run(path.parent)
    write_json(path, {name: value for name, value in written.items() if name != "sha256"})
    with pytest.raises(Refusal, match="sha256: Field required"):
        read_run(path.parent)


@pytest.mark.parametrize("status", STATUSES)
def test_any_bit_that_flips_in_a_record_is_found_whatever_its_status(
    results: Path, status: str
) -> None:
    path = results / "runs" / (str(STATUSES.index(status)) * 12) / "run.json"
    written, wanted = path.read_bytes(), read_run(path.parent)
    for damaged in flipped(written, 13):
        path.write_bytes(damaged)
        with suppress(Refusal):
            assert read_run(path.parent) == wanted  # as of a space that became another


def test_a_run_folder_that_is_a_link_is_refused(results: Path) -> None:
    (results / "runs" / ("5" * 12)).symlink_to(results / "runs" / TRUNK)
    with pytest.raises(Refusal, match=r"5{12} is a link to another place"):
        publish_table(results)


# --- the plan ---


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    columns = {**COLUMNS, "whole": 1.0, "none": None, "yes": True, "text": "a\nb", "small": 1e-300}
    made = manifest(planned(TRUNK, columns=columns), planned(OTHER))
    write_manifest(tmp_path, made)
    read = read_manifest(tmp_path)
    assert read == made
    kinds = [type(value) for value in read.runs[0].columns.values()]
    assert kinds == [type(value) for value in columns.values()]


def test_any_bit_that_flips_in_a_plan_is_found(results: Path) -> None:
    path = results / "plan.json"
    written, wanted = path.read_bytes(), read_manifest(results)
    for damaged in flipped(written, 101):
        path.write_bytes(damaged)
        with suppress(Refusal):
            assert read_manifest(results) == wanted


@pytest.mark.parametrize(
    "runs, words",
    [
        ([planned(TRUNK), planned(TRUNK)], "it has a run twice"),
        ([planned(OTHER)], "1{12} goes on from 0{12}, which it has not"),
        ([planned(TRUNK, columns={**COLUMNS, "tokens": "many"})], "column tokens is no number"),
        ([planned(TRUNK, columns={**COLUMNS, "tokens": True})], "column tokens is no number"),
        ([planned(TRUNK, columns={**COLUMNS, "status": "completed"})], "0{12} has a column status"),
        ([planned("../../../x")], "runs: 0: run_id"),
        ([planned(TRUNK, columns={"variant": [1]})], "runs: 0: columns"),
        ([planned(TRUNK, note=1)], "runs: 0: note"),
    ],
    ids=str,
)
def test_a_plan_of_another_kind_is_refused_by_name(
    tmp_path: Path, runs: list[dict[str, Any]], words: str
) -> None:
    value = {**manifest().plain(), "runs": runs}
    (tmp_path / "plan.json").write_text(json.dumps(sealed(value)))
    with pytest.raises(Refusal, match=rf"plan\.json cannot be used: .*{words}"):
        read_manifest(tmp_path)


def test_a_folder_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="holds no plan"):
        read_manifest(tmp_path)


# --- of another version ---

OF_BEFORE = {"run_id": TRUNK, "status": "completed", "counts": {"tokens": 20}, "config": CONFIG}


def newer_plan(results: Path) -> None:
    change(results / "plan.json", format=FORMAT + 1, note="of tomorrow")


def newer_run(results: Path) -> None:
    change(results / "runs" / TRUNK / "run.json", format=FORMAT + 1, note="of tomorrow")
    (results / "plan.json").unlink()


def first_format(results: Path) -> None:
    write_json(results / "runs" / TRUNK / "run.json", OF_BEFORE)
    (results / "plan.json").unlink()


@pytest.mark.parametrize(
    "wrote, words",
    [
        (
            newer_plan,
            rf"plan\.json is of format {FORMAT + 1}, which a newer .*Update the program",
        ),
        (
            newer_run,
            rf"run\.json is of format {FORMAT + 1}, which a newer .*Update the program",
        ),
        (first_format, r"run\.json is of format 1, which an earlier version.*can still be fitted"),
    ],
)
def test_a_folder_of_another_version_is_refused_as_such(
    results: Path, wrote: Callable[[Path], None], words: str
) -> None:
    wrote(results)
    with pytest.raises(OtherFormat, match=words):
        read_manifest(results)


# --- its seal ---


def test_any_bit_that_flips_in_the_run_table_is_found(results: Path) -> None:
    path = results / "runs.parquet"
    publish_table(results)
    written, wanted = path.read_bytes(), read_runs(path, require=())
    assert len(pq.read_table(path)) == len(wanted)  # Parquet for others too
    for damaged in flipped(written, 61):
        path.write_bytes(damaged)
        with suppress(Refusal):
            pd.testing.assert_frame_equal(read_runs(path, require=()), wanted)


def test_a_table_that_another_program_made_of_ours_is_the_users_own(results: Path) -> None:
    publish_table(results)
    table = pq.read_table(results / "runs.parquet")
    pq.write_table(table.slice(0, 1), results / "mine.parquet")
    assert len(read_runs(results / "mine.parquet", require=())) == 1
    (results / "runs.parquet").write_bytes((results / "runs.parquet").read_bytes()[:-9] + b"?PAR1")
    with pytest.raises(Refusal, match=r"runs\.parquet is not as this program wrote it"):
        read_runs(results, require=())
    publish_missing(results)  # it is written again
    assert len(read_runs(results, require=())) == len(table)


# --- written once, by workers that no launch waits for ---


def test_a_table_is_written_once_by_workers_that_end_together(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, status in enumerate(STATUSES):  # those that had not ended have failed
        if status in ("running", "planned"):
            record(results, str(number) * 12, "failed")
    written: list[str] = []
    write = Folder.write

    def noted(self: Folder, name: str, data: bytes) -> str:
        written.append(name)
        return write(self, name, data)

    monkeypatch.setattr(Folder, "write", noted)
    workers = [threading.Thread(target=publish_missing, args=[results]) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert written == ["runs.parquet"]

    record(results, TRUNK, "completed", result={"loss": 2.25})  # trained again
    publish_missing(results)
    assert pd.read_parquet(results / "runs.parquet")["loss"][0] == 2.25
    publish_missing(results)
    assert written == ["runs.parquet"] * 2


def test_a_table_that_is_damaged_or_unlike_its_runs_for_good_is_written_and_waited_for_no_more(
    results: Path,
) -> None:
    (results / "runs.parquet").write_bytes(b"no table")
    publish_missing(results)
    assert len(pd.read_parquet(results / "runs.parquet")) == 3  # two have not ended
    publish_missing(results)
