"""JSON as a table: an object a line, or a list of objects; what is nested is named by dots."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs.limits import MAX_OBJECT_BYTES, refuse_heavy, refuse_huge, shown
from scaling.store.records import Refusal

MOST_NESTED = 20


def looks_like_json(path: Path) -> bool:
    """Whether a file of any name begins as JSON does."""
    with path.open("rb") as file:
        start = file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return start in (b"{", b"[")


def load_objects(path: Path) -> pd.DataFrame:
    """A row an object, `{"optim": {"lr": 1}}` in the column `optim.lr`, lists as text.

    Rows are labelled so that `attrs["first_row"]` more is their line, or their number in the list.
    Raises Refusal for what is neither lines of objects nor a list of them.
    """
    refuse_heavy(
        path, path.stat().st_size, MAX_OBJECT_BYTES,
        "Keep a row a run and what a fit needs, or save it as CSV or Parquet.",
    )  # fmt: skip
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip().startswith("["):
        rows, labels, word = _listed(path, text), None, "object"
    else:
        rows, labels = _lines(path, text)
        word = "line"
    if not rows:
        raise Refusal(f"{path} has no rows. Give a table with a row a run.")
    names = dict.fromkeys(name for row in rows for name in row)
    refuse_huge(path, len(rows), len(names))
    table = pd.DataFrame({name: [row.get(name) for row in rows] for name in names}, index=labels)
    table.attrs = {"first_row": 1, "row": word}
    return table


def _listed(path: Path, text: str) -> list[dict[str, Any]]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise Refusal(
            f"{path} is not valid JSON ({error.msg}, line {error.lineno}). Give a list of objects, "
            "one a run, or an object a line."
        ) from None
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise Refusal(
                f"{path}: element {number} of the list is {shown(json.dumps(value))}, no object. "
                "Give a list of objects, one a run."
            )
    return [dict(_flat(value, path)) for value in values]


def _lines(path: Path, text: str) -> tuple[list[dict[str, Any]], list[int]]:
    rows, labels = [], []
    for label, line in enumerate(text.split("\n")):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            value = error.msg
        if not isinstance(value, dict):
            raise Refusal(
                f"{path} holds JSON, and line {label + 1} is no object of its own. Give an object "
                "a line, one a run, or a list of objects."
            )
        rows.append(dict(_flat(value, path)))
        labels.append(label)
    return rows, labels


def _flat(value: dict[str, Any], path: Path, before: str = "") -> Iterator[tuple[str, Any]]:
    if before.count(".") > MOST_NESTED:
        raise Refusal(f"{path} nests objects more than {MOST_NESTED} deep. Keep a row a run.")
    for name, each in value.items():
        match each:
            case dict():
                yield from _flat(each, path, f"{before}{name}.")
            case list():
                yield f"{before}{name}", json.dumps(each)
            case _:
                yield f"{before}{name}", each
