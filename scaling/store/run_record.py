"""The record of a run, run.json: what it is, what became of it, and where its folder lies."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import ConfigDict, Field, ValidationInfo, field_validator

from scaling.store.checksums import Damaged, verify
from scaling.store.records import RUN_ID, Refusal
from scaling.store.sealed import Sealed, damaged

RunKind = Literal["full", "trunk", "cooldown"]
Status = Literal["planned", "running", "completed", "diverged", "failed"]
ENDED: tuple[Status, ...] = ("completed", "diverged", "failed")

RESULT_COLUMNS = ("loss", "loss_stderr", "bits_per_byte", "train_loss", "tokens_per_s")

# Fields of a configuration that say how a run is judged, and nothing of what it is.
JUDGED = ("holdout_tokens", "holdout_windows", "tasks", "sets")

Table = Literal["steps.parquet", "evals.parquet"]
TABLES: tuple[str, ...] = get_args(Table)  # of a run that completed

RunId = Annotated[str, Field(pattern=rf"^{RUN_ID.pattern}$")]


@dataclass(frozen=True, slots=True)  # a large grid in a bucket has a million
class Checksum:
    """What a file was when it was written."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    bytes: int
    sha256: str


class RunRecord(Sealed):
    """The run.json of a run's folder, sealed whatever its status."""

    run_id: RunId
    trunk_id: RunId  # the run whose trajectory it continues; its own id if none
    run_kind: RunKind
    study: str
    status: Status
    reason: str | None = None  # of a failure or divergence, or why it was stopped
    config: dict[str, Any]  # its RunSpec as plain values: everything that determines the result
    provenance: tuple[dict[str, Any], ...] = ()  # where and with what, one entry a session
    result: dict[str, float | None] | None = None  # columns that training found
    files: dict[Table, Checksum] | None = None  # its tables, when it was published

    @field_validator("config")
    @classmethod
    def _has_steps(cls, config: dict[str, Any]) -> dict[str, Any]:
        try:
            if isinstance(config["schedule"]["steps"], int):
                return config
        except (KeyError, TypeError):
            pass
        raise ValueError("it does not say how many steps are asked for")

    @field_validator("result")
    @classmethod
    def _has_columns(
        cls, result: dict[str, float | None] | None, info: ValidationInfo
    ) -> dict[str, float | None] | None:
        known = result_columns(info.data.get("config", {}))
        if unknown := sorted(set(result or {}) - {*known}):
            raise ValueError(f"{unknown[0][:40]!r} is no column of a result")
        return result

    @property
    def loss(self) -> float | None:
        """The held-out loss at its end, nats a token; null where it has none."""
        return (self.result or {}).get("loss")

    @property
    def steps(self) -> int:
        """How many steps were asked for, the trunk's included."""
        return int(self.config["schedule"]["steps"])

    def judged_as(self, config: Mapping[str, Any]) -> bool:
        """Whether it was, or is to be, judged on the held-out windows and questions of another."""
        return is_judged_alike(self.config, config)

    @property
    def ended(self) -> bool:
        """Whether it completed, diverged or failed."""
        return self.status in ENDED


def is_judged_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two configurations ask for the same held-out windows, sets and questions."""
    # What an earlier version did not write was not asked for.
    return all((one.get(name) or None) == (other.get(name) or None) for name in JUDGED)


def set_columns(name: str) -> tuple[str, str, str]:
    """The columns of a validation set: its loss, the standard error of that, bits per byte."""
    return f"loss_{name}", f"loss_{name}_stderr", f"bits_per_byte_{name}"


def result_columns(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The columns that training a run of this configuration finds."""
    sets = (set_columns(name) for name, _ in config.get("sets") or ())
    return (*RESULT_COLUMNS, *chain.from_iterable(sets))


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
                if has_record(entry.path):
                    found.append(entry.name)
    return [runs / name for name in sorted(found)]


def has_record(run: str | Path) -> bool:
    """Whether a run's folder holds a run.json, or may: one that cannot be entered is not left out.

    Whoever reads the record then says why it cannot.
    """
    try:
        os.stat(os.path.join(run, "run.json"))  # noqa: PTH116, PTH118
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def run_of(place: Path) -> str:
    """The id of the run whose folder, or whose attempt's folder, this is."""
    place = place.absolute()
    return place.parent.parent.name if place.parent.name == "attempts" else place.name


def read_run(run: Path) -> RunRecord:
    """The record in a run's folder.

    Raises OtherFormat for one of a newer or older version, and Refusal where it is missing, is
    not as it was written, or is of another run.
    """
    record = RunRecord.read(run / "run.json")
    if record.run_id != run_of(run):
        raise damaged(run / "run.json", f"{record.run_id} is not the name of its folder")
    return record


def damage(run: Path, record: RunRecord) -> dict[str, str]:
    """Of the tables of a run that completed, those that are not as they were published, and why."""
    found: dict[str, str] = {}
    if record.status != "completed":
        return found
    for name, noted in (record.files or {}).items():
        try:
            verify(f"run {run.name}", {name: run / name}, {name: asdict(noted)})
        except Damaged as error:
            found[name] = f"{error}; scaling run STUDY --retry failed trains it again"
    return found
