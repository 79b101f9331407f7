"""Whatever lies in a results folder, a run table or a saved fit, it is read or refused in words."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.runs.table import read_runs
from experiments.cli import status as status_command
from experiments.cli.render.run import runs_text
from experiments.cli.status import looked_at, status_text
from scaling.store.checksums import checksums
from scaling.store.manifest import Manifest, read_manifest, write_manifest
from scaling.store.records import Refusal, read_json, sealed, write_json, write_table
from scaling.store.run_record import RunRecord, read_run, run_folders
from scaling.store.steps import STEP_COLUMNS, read_steps, write_segment
from scaling.store.table import collect
from scaling.tasks.jsonl import read_items
from scaling.tasks.vocabulary import BYTES

Guard = Callable[[], AbstractContextManager[None]]

hostile = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(
        [
            *(0, -1, 10**9, 2**63, 10**30, 10**400, 0.0, -0.5, 1e-300, 1e300, float("nan")),
            *(float("inf"), "", "x", "nan", "1e999", "../../x", "/etc/passwd", "\x1b[2J\n", "$x$"),
            *("a" * 5000, "completed", "0" * 12, [], {}, [[]], {"x": {}}, [None] * 9, [1, "1"]),
        ]
    ),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.floats(), max_size=4),
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """The paths of all that a JSON value holds."""
    match value:
        case dict():
            inner = list(value.items())
        case list():
            inner = list(enumerate(value))
        case _:
            return []
    return [(key, *rest) for key, each in inner for rest in [(), *places(each)]]


# Changes to a file: what, where (of as many places as there are), and a value to put there. They
# are drawn rather than what comes of them, which would fill the screen where a test fails.
Edit = tuple[str, int, Any]
Edits = st.SearchStrategy[list[Edit]]
anywhere = st.integers(0, 10**6)
to_json = st.lists(
    st.tuples(st.sampled_from(["replace", "replace", "remove"]), anywhere, hostile),
    min_size=1,
    max_size=3,
)
to_bytes = st.lists(
    st.tuples(st.sampled_from(["flip", "flip", "cut", "put"]), anywhere, st.binary(max_size=9)),
    min_size=1,
    max_size=3,
)


def edited(content: bytes, edits: list[Edit]) -> bytes:
    """Bytes with some flipped, cut out or put in; of JSON, with parts replaced or removed."""
    for what, where, new in edits:
        at = where % (len(content) + 1)
        match what:
            case "flip":
                at = where % max(1, len(content))
                flipped = bytes(each ^ 1 << where % 8 for each in content[at : at + 1])
                content = content[:at] + flipped + content[at + 1 :]
            case "cut":
                content = content[:at] + content[at + len(new) :]
            case "put":
                content = content[:at] + new + content[at:]
            case _:
                content = json.dumps(_edited_json(json.loads(content), what, where, new)).encode()
    return content


def _edited_json(value: Any, what: str, where: int, new: Any) -> Any:
    if not (found := places(value)):
        return new
    *parents, name = found[where % len(found)]
    place = value
    for parent in parents:
        place = place[parent]
    if what == "replace":
        place[name] = new
    else:
        del place[name]
    return value


def made(folder: Path) -> Path:
    """A results folder of two runs, its table in both formats, and a fit of more."""
    columns = {"seed": 0, "params_total": 10, "params_non_embedding": 5, "tokens": 20, "steps": 2}
    columns |= {"flops_6nd": 1.2e3, "flops": 1.3e3, "learning_rate": 0.01}
    columns |= {"n_layers": 1, "d_model": 8}
    config = {"schedule": {"steps": 2}, "tasks": None}
    runs = []
    for name, kind, status in (("a" * 12, "trunk", "running"), ("b" * 12, "cooldown", "completed")):
        result = {"loss": 2.5, "loss_stderr": 0.1, "bits_per_byte": 3.0, "tokens_per_s": 1e4}
        of_run = {"run_id": name, "trunk_id": "a" * 12, "run_kind": kind, "config": config}
        runs.append({**of_run, "first_step": 0, "steps": 2, "flops": 1e3, "columns": columns})
        record = RunRecord.made(
            **of_run,
            **{"study": "s", "status": status, "provenance": [{"host": "h"}]},
            result=result if status == "completed" else None,
        )
        write_json(folder / "runs" / name / "run.json", record.plain())
        rows = [{**dict.fromkeys(STEP_COLUMNS, 0.5), "step": step} for step in (1, 2)]
        write_segment(folder / "runs" / name, rows)
        # As of before names held checksums, so that what decodes it meets the damage.
        (segment,) = (folder / "runs" / name / "steps").iterdir()
        segment.rename(segment.with_name("000000001.parquet"))
    digests = {"study_sha256": "0" * 64, "source_sha256": "0" * 64}
    write_manifest(folder, Manifest.made(study="s", runs=runs, **digests))
    grid = pd.DataFrame([(n, d) for n in (1e6, 3e6, 1e7, 3e7) for d in (1e8, 3e8, 1e9)])
    grid.columns = ["params", "tokens"]
    grid["loss"] = 1.8 + 400 / grid["params"] ** 0.35 + 400 / grid["tokens"] ** 0.36
    grid["loss"] *= np.exp(np.random.default_rng(0).normal(0, 0.003, len(grid)))
    table = grid.assign(run_kind="full", status="completed", variant=["a", None] * 6)
    write_table(folder / "runs.csv", table)
    write_table(folder / "runs.parquet", table)
    (folder / "runs.json").write_text(table.to_json(orient="records"))
    save_fit(fit(law("chinchilla"), grid, bootstrap=20), folder / "fit.json")
    for part in folder.glob("fit.*-*.parquet"):
        part.rename(part.with_name(part.name.partition("-")[0] + ".parquet"))
    item = {"prompt": "2+2=", "answer": "4", "choices": ["4", "5"]}
    (folder / "tasks.jsonl").write_text(json.dumps(item))
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("results"))


def read_results(folder: Path) -> pd.DataFrame:
    """All that `scaling status` and the end of `scaling run` read, as it is and sealed again."""
    with suppress(Refusal):
        read_as_it_is(folder)
    for path in (folder / "plan.json", *folder.glob("runs/*/run.json")):
        with suppress(Refusal, TypeError, ValueError, RecursionError):
            write_json(path, sealed(read_json(path)))
    return read_as_it_is(folder)


def read_as_it_is(folder: Path) -> pd.DataFrame:
    status_text(looked_at(folder).runs)
    table = collect(folder, read_manifest(folder)).table
    write_table(folder / "collected.parquet", table)
    if len(table):
        runs_text(table)
    for run in run_folders(folder):
        read_steps(run)
    return table


def read_fit(folder: Path) -> Fit:
    """Sealed again after the damage, so that what decodes it meets the damage."""
    path, parts = folder / "fit.json", {p: folder / f"fit.{p}.parquet" for p in ("draws", "rows")}
    with suppress(Refusal, TypeError, ValueError, RecursionError):
        digests = {p: hashlib.sha256(file.read_bytes()).hexdigest() for p, file in parts.items()}
        names = {p: file.name for p, file in parts.items()}
        write_json(path, sealed({**read_json(path), **names, "digests": digests}))
    return load_fit(path)


def read_tasks(folder: Path) -> list[list[int]]:
    items, _ = read_items(folder / "tasks.jsonl")
    return [BYTES.example(item) for item in items if item.held_out in (True, False)]


# What is damaged, and what reads it.
FILES: dict[str, Callable[[Path], object]] = {
    "plan.json": read_results,
    f"runs/{'a' * 12}/run.json": read_results,
    f"runs/{'b' * 12}/run.json": read_results,
    f"runs/{'b' * 12}/steps/000000001.parquet": read_results,
    "runs.csv": lambda folder: read_runs(folder / "runs.csv"),
    "runs.parquet": lambda folder: read_runs(folder),
    "runs.json": lambda folder: read_runs(folder / "runs.json", drop_invalid=True),
    "fit.json": read_fit,
    "fit.draws.parquet": read_fit,
    "fit.rows.parquet": read_fit,
    "tasks.jsonl": read_tasks,
}


def check(guard: Guard, results: Path, file: str, edits: list[Edit]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(results, Path(name) / "results")
        (folder / file).write_bytes(edited((results / file).read_bytes(), edits))
        with guard():
            FILES[file](folder)


quick = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
thorough = settings(quick, max_examples=200)
# Every file with its bytes damaged, and those of JSON with their values changed.
DAMAGE = [(file, to_bytes) for file in FILES]
DAMAGE += [(file, to_json) for file in FILES if ".json" in file]
damaged = pytest.mark.parametrize(
    "file, edits",
    DAMAGE,
    ids=[f"{file} {'values' if e is to_json else 'bytes'}" for file, e in DAMAGE],
)


@pytest.mark.parametrize("file", FILES)
def test_what_is_not_damaged_is_read(results: Path, file: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = shutil.copytree(results, Path(name) / "results")
        assert FILES[file](folder) is not None


def test_one_record_that_cannot_be_read_hides_no_other(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(results, tmp_path / "results")
    (folder / "runs" / ("a" * 12) / "run.json").write_text("{")
    status_command.status(folder)
    said = capsys.readouterr().out
    assert "1 completed" in said and "is not valid JSON" in said


def test_damage_to_a_table_of_a_finished_run_is_in_the_status_with_its_reason(
    results: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(results, tmp_path / "results") / "runs" / ("b" * 12)
    (run / "steps.parquet").write_bytes(b"written")
    files = checksums({"steps.parquet": run / "steps.parquet"})
    write_json(run / "run.json", read_run(run).changed(files=files).plain())

    def seen() -> dict[str, Any]:
        return {row["run_id"]: row for row in looked_at(run.parents[1]).runs}[run.name]

    assert seen()["status"] == "completed"
    (run / "steps.parquet").write_bytes(b"wrotten")
    found = seen()
    assert (found["status"], found["loss"]) == ("failed", None)
    assert "steps.parquet has changed since it was written" in found["reason"]


@damaged
@quick
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(
    refused_or_done: Guard, results: Path, file: str, edits: Edits, data: st.DataObject
) -> None:
    check(refused_or_done, results, file, data.draw(edits))


@pytest.mark.slow
@damaged
@thorough
@given(data=st.data())
def test_many_damaged_files_are_read_or_refused(
    refused_or_done: Guard, results: Path, file: str, edits: Edits, data: st.DataObject
) -> None:
    check(refused_or_done, results, file, data.draw(edits))
