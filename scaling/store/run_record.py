"""The record of a run, run.json: what it is, what became of it, and where its folder lies."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from scaling.store.checksums import Damaged, verify
from scaling.store.records import RUN_ID, Refusal, check_seal, read_json

RunKind = Literal["full", "trunk", "cooldown"]
Status = Literal["planned", "running", "completed", "diverged", "failed"]

RESULT_COLUMNS = ("loss", "loss_stderr", "bits_per_byte", "train_loss", "tokens_per_s")

RUN_FIELDS = (
    "run_id",
    "trunk_id",  # the run whose trajectory it continues; its own id if none
    "run_kind",
    "study",
    "status",
    "reason",  # of a failure or divergence; null otherwise
    "config",  # everything that determines the result
    "counts",  # columns of the run table that follow from the configuration
    "provenance",  # where and with what it was trained, one entry a session
    "result",  # columns of the run table that training found; null before
)
TABLES = ("steps.parquet", "evals.parquet")  # of a run that completed
# Of a run that completed: what its tables were when it was published, and the seal of the record.
PUBLISHED_FIELDS = ("files", "sha256")
# The columns that every run's counts have, and numbers.
COUNTED = (
    *("seed", "n_layers", "d_model", "params_total", "params_non_embedding"),
    *("tokens", "steps", "flops_6nd", "learning_rate"),
)
MAX_COUNTS = 1000  # columns; a run of ours has 50


def run_folders(results: Path) -> list[Path]:
    """The run folders of a study's results: those named by a run id that hold a run.json.

    Raises Refusal for one that is a link: what is written and deleted here belongs here.
    """
    runs = results / "runs"
    if not runs.is_dir():
        raise Refusal(
            f"{results} holds no runs. Give the folder that `scaling run` wrote, "
            "such as results/quickstart."
        )
    found = []
    with os.scandir(runs) as entries:
        for entry in entries:
            if RUN_ID.fullmatch(entry.name):
                if entry.is_symlink():
                    raise Refusal(
                        f"{runs / entry.name} is a link to another place. Put the run's folder "
                        "itself there, or remove it."
                    )
                if os.path.exists(os.path.join(entry.path, "run.json")):  # noqa: PTH110, PTH118
                    found.append(entry.name)
    return [runs / name for name in sorted(found)]


def read_run(run: Path) -> dict[str, Any]:
    """The run.json of a run's folder.

    Raises Refusal if a field is missing or of another kind, or the record of a run that completed
    is not as it was written.
    """
    record = read_json(run / "run.json")
    if wrong := _wrong(record, run):
        raise Refusal(
            f"{run / 'run.json'} is no run record: {wrong}. "
            "Restore it, or delete the run's folder and run the study again."
        )
    return dict(record)


def _wrong(record: Any, run: Path) -> str | None:
    """What of a run record is not as it must be; null if all is."""
    if not isinstance(record, dict) or not set(RUN_FIELDS) <= set(record):
        return f"it needs {', '.join(RUN_FIELDS)}"
    if unknown := sorted(set(record) - {*RUN_FIELDS, *PUBLISHED_FIELDS}):
        return f"{unknown[0][:40]!r} is none of its fields"
    try:
        check_seal(record)
    except (TypeError, ValueError, RecursionError) as error:
        return str(error)
    for name in ("run_id", "trunk_id", "study"):
        if not isinstance(record[name], str):
            return f"{name} is no text"
    if not RUN_ID.fullmatch(record["trunk_id"]):
        return f"trunk_id = {record['trunk_id'][:40]!r} is no run id"
    if record["run_id"] != run.absolute().name:
        return f"run_id = {record['run_id'][:40]!r} is not the name of its folder"
    for name, choices in (("status", get_args(Status)), ("run_kind", get_args(RunKind))):
        if record[name] not in choices:
            return f"{name} is none of {', '.join(choices)}"
    if not isinstance(record["reason"], str | None):
        return "reason is no text"
    counts, result = record["counts"], record["result"]
    if not isinstance(counts, dict) or len(counts) > MAX_COUNTS:
        return "counts is no table of counts"
    if clash := {*RUN_FIELDS, *RESULT_COLUMNS} & set(counts):
        return f"counts has {', '.join(sorted(clash))}"
    for name, value in counts.items():
        if not isinstance(value, str | float | None) and not _is_whole(value):
            return f"counts: {name[:40]!r} is no text or number"
    for name in COUNTED:
        if not _is_number(counts.get(name)):
            return f"counts: {name} is no number"
    if result is not None and not isinstance(result, dict):
        return "result is no table"
    for name, value in (result or {}).items():
        if name not in RESULT_COLUMNS or not (value is None or _is_number(value)):
            return f"result: {name[:40]!r} is no column of a result, or no number"
    files = record.get("files")
    if files is not None and not (isinstance(files, dict) and set(files) <= set(TABLES)):
        return f"files is no table of {', '.join(TABLES)}"
    return None


def _is_whole(value: Any) -> bool:
    """Whether it fits a column of whole numbers, as true and false do."""
    return isinstance(value, int) and abs(value) < 2**63


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and (
        _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
    )


def damage(run: Path, record: Mapping[str, Any]) -> dict[str, str]:
    """Of the tables of a run that completed, those that are not as they were published, and why.

    Of runs from before there were checksums, none is found.
    """
    found = {}
    if record["status"] == "completed":
        for name, noted in (record.get("files") or {}).items():
            try:
                verify(f"run {run.name}", {each: run / each for each in TABLES}, {name: noted})
            except Damaged as error:
                found[name] = f"{error}; scaling run STUDY --retry failed trains it again"
    return found
