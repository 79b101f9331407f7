"""Read JSON: one object per line, or a list of objects. Nested names are joined by dots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.files.limits import MAX_OBJECT_BYTES, refuse_heavy, refuse_huge
from analysis.runs.messages import listing, shown
from scaling.store.records import Refusal

MOST_NESTED = 20


def looks_like_json(path: Path) -> bool:
    """Whether a file, whatever its name, begins as JSON does."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return start in (b"{", b"[")


def load_objects(path: Path) -> pd.DataFrame:
    """One row per object; `{"optim": {"lr": 1}}` fills the column `optim.lr`, lists become text.

    A row's label plus `attrs["first_row"]` is its line, or its number in the list. Raises Refusal
    for a file that is neither lines of objects nor a list of them.
    """
    refuse_heavy(
        path, path.stat().st_size, MAX_OBJECT_BYTES,
        "Keep one row per run and what a fit needs, or save it as CSV or Parquet.",
    )  # fmt: skip
    text = path.read_text(encoding="utf-8-sig")
    listed = text.lstrip().startswith("[")
    objects = _listed(path, text) if listed else _by_line(path, text)
    if not objects:
        raise Refusal(f"{path} has no rows. Give a table with one row per run.")
    if len(objects) == 1 and not listed:
        _refuse_wrapped(path, *objects.values())
    rows = [dict(_flat(each, path)) for each in objects.values()]
    names = dict.fromkeys(name for row in rows for name in row)
    refuse_huge(path, len(rows), len(names))
    columns = {name: [row.get(name) for row in rows] for name in names}
    table = pd.DataFrame(columns, index=list(objects))
    table.attrs = {"first_row": 1, "row": "object" if listed else "line"}
    return table


def _listed(path: Path, text: str) -> dict[int, dict[str, Any]]:
    """The objects of a list, by their place in it."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refusal(
            f"{path} is not valid JSON ({error.msg}, line {error.lineno}). Give a list of objects, "
            "one per run, or one object per line."
        ) from None
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise Refusal(
                f"{path}: element {number} of the list is {shown(json.dumps(value))}, not an "
                "object. Give a list of objects, one per run."
            )
    return dict(enumerate(values))


def _by_line(path: Path, text: str) -> dict[int, dict[str, Any]]:
    """The object of each line that is not empty, by the place of the line."""
    objects = {}
    for label, line in enumerate(text.split("\n")):
        if line.strip():
            try:
                objects[label] = json.loads(line)
            except json.JSONDecodeError:
                objects[label] = None
            if not isinstance(objects[label], dict):
                raise Refusal(
                    f"{path} contains JSON, and line {label + 1} is not one whole object. Give one "
                    "object per line and run, or a list of objects."
                )
    return objects


def _refuse_wrapped(path: Path, only: dict[str, Any]) -> None:
    """Raises Refusal for one object that holds all runs: in lists, or columns by number of row."""
    numbered = all(isinstance(each, dict) and "0" in each for each in only.values())
    lists = all(isinstance(each, list) for each in only.values())
    if only and (numbered or lists):
        raise Refusal(
            f"{path} is one object that holds all runs in {listing(list(only))}. Give a list of "
            "objects, one per run (pandas writes it by to_json(orient='records'))."
        )


def _flat(value: dict[str, Any], path: Path, before: str = "") -> Iterator[tuple[str, Any]]:
    if before.count(".") > MOST_NESTED:
        raise Refusal(f"{path} nests objects more than {MOST_NESTED} deep. Keep one row per run.")
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _flat(each, path, f"{before}{name}.")
        else:
            yield f"{before}{name}", json.dumps(each) if isinstance(each, list) else each
