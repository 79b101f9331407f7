"""The run-table contract: how a table of runs is read, and which of its rows a fit may use.

A run table is a results folder or a file with one row per run. A cell that is no number, not finite
or not positive is refused with its line, or left out with the reason where the user asks for that;
no row disappears without a reason. Real runs that no law describes (a trunk whose learning rate had
not decayed, a run that diverged) are left out with the reason too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from analysis.arguments import as_names, as_path
from analysis.plain import plain
from analysis.runs import status
from analysis.runs.checks.duplicates import REPEATED, duplicates_named, first_equal
from analysis.runs.columns.units import LossUnit
from analysis.runs.files.load import load
from analysis.runs.messages import listing, name_of, shown
from analysis.runs.quantities import CORE, Asked, read
from analysis.runs.status import LEFT_OUT
from scaling.store.records import Refusal, did_you_mean, refuse_newer

ASKED = "asked"  # attrs of a table that was read: how it was to be read, and of its file
OF_FILE = ("file", "sha256")  # the name and the digest


@dataclass(frozen=True)
class Selection:
    """The rows that a fit may use, and the others."""

    rows: pd.DataFrame
    excluded: pd.DataFrame  # with a column `reason`
    warnings: tuple[str, ...] = ()  # which rows are duplicates


def read_runs(
    path: Path | str,
    *,
    params_column: str | None = None,
    tokens_column: str | None = None,
    loss_column: str | None = None,
    loss_set: str | None = None,
    flops_column: str | None = None,
    units: Mapping[str, float] | None = None,
    loss_unit: LossUnit | None = None,
    drop_invalid: bool = False,
    require: Sequence[str] = CORE,
    signed: Sequence[str] = (),
    where: Sequence[str] = (),
    completed: Sequence[str] = (),
) -> pd.DataFrame:
    """The run table at `path`, with float64 columns `params`, `tokens`, `loss` and all others.

    path: a CSV, JSON lines, JSON, Parquet or spreadsheet file, or a results folder, which means its
        `runs.parquet`, else its `runs.csv`.
    params_column, tokens_column, loss_column: where each is read from. By default params is
        `params`, else `params_total`, else the only column of a usual name (`n_params`,
        `model_size`, ...); likewise tokens and loss.
    loss_set: the validation set of a study whose loss is read, from the column `loss_NAME`; by
        default it is the loss on the study's own held-out text.
    flops_column: FLOPs C, from which D = C / (6 N) is computed.
    units: numbers that plain cells of params, tokens and flops are multiplied by, {"tokens": 1e9},
        where the column's name does not give its unit (`tokens_B`).
    loss_unit: the unit of the loss. The result is in nats, per token unless it was per byte or
        character.
    drop_invalid: do not refuse the table for rows with bad cells. They stay in the result, with the
        reason in its column `left_out` (empty for good rows), so that nothing is lost unseen:
        `fit` and `compare` leave them out, and a fit lists them in `excluded`.
    require: columns that must be there; a law over other columns needs others.
    signed: those of them that may be zero or negative, such as a loss that is fitted as it is.
    where: only rows that meet all of these, such as "loss>0". There params, tokens and loss
        are in the units of the result, and every other column is as the file has it.
    completed: further words for the status of a completed run.

    `attrs` of the result: `file`; `columns`, which column each quantity was read from;
    `params_column`; `loss_unit`, such as nats/token; `loss_set`; `notes`, sentences about what was
    taken for what; `asked`, the file's name and digest and the arguments that are not the defaults.
    Raises one Refusal for all that is wrong, with columns, lines of the file and remedies.
    """
    require, signed = as_names("require", require), as_names("signed", signed)
    where, completed = as_names("where", where), as_names("completed", completed)
    given = {
        name: value
        for name, value in locals().items()
        if name in _DEFAULTS and value != _DEFAULTS[name]
    }
    path = as_path("path", path, "A table can be fitted as it is; else give the path of a file.")
    if path.is_dir():
        refuse_newer(path)
        tables = [path / "runs.parquet", path / "runs.csv"]  # a reference study has the second
        path = next(filter(Path.is_file, tables), path)
        if path.is_dir():
            raise Refusal(
                f"{path} holds no runs.parquet. Give a results folder in which a run has "
                "finished (`scaling status` shows), or a CSV, JSON lines or Parquet file."
            )
    if loss_set is not None:
        if loss_column is not None:
            raise Refusal(
                f"--loss-set {loss_set} and --loss-column {loss_column} both name the loss to "
                "read. Give one of them."
            )
        loss_column, loss_unit = f"loss_{loss_set}", loss_unit or "nats"
    asked = Asked(
        {"params": params_column, "tokens": tokens_column, "loss": loss_column,
         "flops": flops_column},
        units or {}, loss_unit, drop_invalid, require, signed, where, foreign=True,
    )  # fmt: skip
    table = load(path)
    table.attrs[status.COMPLETED_ATTR] = completed
    table.attrs[ASKED] = plain({**given, "file": path.name, "sha256": table.attrs.pop("sha256")})
    if loss_set is not None and loss_column not in table:
        raise Refusal(_not_judged(table, loss_set))
    result = read(table, asked)
    result.attrs["loss_set"] = loss_set
    return result


_DEFAULTS: Mapping[str, Any] = MappingProxyType(read_runs.__kwdefaults__ or {})


def _not_judged(table: pd.DataFrame, loss_set: str) -> str:
    """Why no loss on a validation set can be read, and on which one could."""
    names = [str(name) for name in table.columns]
    sets = [
        name.removeprefix("loss_")
        for name in names
        if name.startswith("loss_") and f"{name}_stderr" in names
    ]
    remedy = f"Give one of {listing(sets)}, or name" if sets else "Name"
    return (
        f"--loss-set {shown(loss_set)}: {name_of(table)} has no column loss_{shown(loss_set)}."
        f"{did_you_mean(loss_set, sets)} {remedy} the text in [evaluation] sets of the study and "
        "give `scaling run` again: finished runs are judged on it, and none is trained."
    )


def standardise(
    table: pd.DataFrame, *, require: Sequence[str] = CORE, signed: Sequence[str] = ()
) -> pd.DataFrame:
    """A copy with the required columns as float64, finite and, unless `signed`, positive.

    Raises Refusal otherwise.
    """
    return read(table, Asked(require=tuple(require), signed=tuple(signed)))


def usable(table: pd.DataFrame) -> Selection:
    """The rows that are the end of a completed run, each run once. Without a column that says
    otherwise every row is one.

    Raises Refusal with the reasons where no row is left.
    """
    reason = status.reasons(table)
    ended = reason.eq("")
    if len(table) and not ended.any():
        tally = reason.value_counts().head(8)
        why = ", ".join(f"{count} with {each}" for each, count in tally.items())
        said = f"{name_of(table)}: all {len(table)} rows are left out: {why}."
        raise Refusal(said, status.remedy(table))
    first = first_equal(table[ended])
    again = np.flatnonzero(ended)[first != np.arange(len(first))]
    reason.iloc[again] = REPEATED
    return _selection(table, reason, duplicates_named(table[ended], first))


def valid(table: pd.DataFrame) -> Selection:
    """The rows without the bad cells that `drop_invalid` left out, completed runs or not."""
    return _selection(table, table.get(LEFT_OUT, pd.Series("", index=table.index, dtype=object)))


def _selection(table: pd.DataFrame, reason: pd.Series, *warnings: str) -> Selection:
    """The rows without a reason to leave them out, and those with one."""
    out = reason.ne("")
    excluded = table[out].assign(reason=reason[out])
    return Selection(table[~out].copy(), excluded, tuple(filter(None, warnings)))
