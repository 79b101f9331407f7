"""Whether a results folder's study and run table are those of its plan."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from analysis.runs.files.load import load
from analysis.text import counted

if TYPE_CHECKING:
    from scaling.store.manifest import Manifest

# Not from where they are written, which takes long to import.
RUN_TABLE, PLAN = "runs.parquet", "plan.json"


def is_planned(folder: Path) -> bool:
    """Whether a folder has a plan, or had one: a reference study has none."""
    return any((folder / name).exists() for name in (PLAN, "plan.csv", "runs"))


def other_study(folder: Path, toml: bytes, manifest: Manifest) -> str:
    """That the bytes of study.toml are not those that were planned; empty if they are."""
    planned = manifest.study_sha256
    if hashlib.sha256(toml).hexdigest() == planned:
        return ""
    return (
        f"{folder / 'study.toml'} is not the study {planned[:12]} that was planned: it has "
        "changed since"
    )


def other_table(folder: Path, manifest: Manifest) -> str:
    """That the run table has runs which are not of the plan; empty if it has none."""
    table = load(folder / RUN_TABLE)
    runs = table.get("run_id", [None] * len(table))
    strays = sum(each not in manifest.by_id for each in runs)
    if not strays:
        return ""
    return (
        f"{strays} of {counted(len(table), 'run')} in {folder / RUN_TABLE} are not in "
        f"{folder / PLAN}: the table is of another grid, or of the study before it was changed"
    )
