"""Hugging Face data sets, by the `datasets` library, which is an extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from scaling.data.documents import SourceMissing, utf8
from scaling.remedies import remedy
from scaling.store.records import Refusal


def texts(name: str, subset: str | None, split: str, field: str) -> Callable[[], Iterator[bytes]]:
    """A reader of the texts of a data set: a name on the hub, or a local folder.

    A folder holds data files, or what `Dataset.save_to_disk` wrote. Raises SourceMissing where
    the library is not installed or the hub not reached, Refusal for a split, subset or field
    that is not there.
    """
    rows = _load(name, subset, split)
    if field not in rows.column_names:
        raise Refusal(
            f"[data] text_field = {field!r}: hf:{name} has {', '.join(rows.column_names)}. "
            "Name the column that holds the text."
        )
    rows = rows.select_columns([field])

    def read() -> Iterator[bytes]:
        for number, row in enumerate(rows):
            yield utf8(row[field], field, f"hf:{name}, row {number}")

    return read


def _load(name: str, subset: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SourceMissing(
            f"[data] source = 'hf:{name}' needs the datasets package. "
            "Install it with pip install 'scaling-laws[hf]'."
        ) from error
    folder = Path(name)
    try:
        if (folder / "state.json").exists():  # a saved Dataset is one split
            return datasets.load_from_disk(name)
        if (folder / "dataset_dict.json").exists():
            return datasets.load_from_disk(name)[split]
        return datasets.load_dataset(name, subset, split=split)
    except (OSError, datasets.exceptions.DatasetNotFoundError) as error:
        raise SourceMissing(
            f"[data] source = 'hf:{name}' cannot be had ({_first_line(error)}). "
            + remedy(error, "Check the name and the network, or give a local folder.")
        ) from error
    except (KeyError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise Refusal(
            f"[data] source = 'hf:{name}', subset = {subset!r}, split = {split!r}: "
            f"{_first_line(error)}. Correct them."
        ) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
