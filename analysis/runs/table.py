"""Which rows of a run table may be believed.

A run table is any results folder or file with a row a run. It is read defensively: a cell that is
no number, not finite or not positive is named with its line and refused, or left out with the
reason where that is asked for, never dropped in silence. Rows that are real but belong to no law
(a trunk whose learning rate had not decayed, a run that diverged) are set aside with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs import status
from analysis.runs.columns import TOKEN, LossUnit
from analysis.runs.load import load, shown
from analysis.runs.read import CORE, Asked, read
from analysis.runs.repeats import REPEATED, first_told, which_repeat
from analysis.runs.status import LEFT_OUT
from scaling.store.records import Refusal, refuse_newer


@dataclass(frozen=True)
class Selection:
    """`rows` a fit may use; `excluded` ones with a column `reason`."""

    rows: pd.DataFrame
    excluded: pd.DataFrame
    warnings: tuple[str, ...] = ()  # which rows repeat which


def read_runs(
    path: Path | str,
    *,
    params_column: str | None = None,
    tokens_column: str | None = None,
    loss_column: str | None = None,
    flops_column: str | None = None,
    units: Mapping[str, float] | None = None,
    loss_unit: LossUnit | None = None,
    drop_invalid: bool = False,
    require: Sequence[str] = CORE,
    signed: Sequence[str] = (),
    conditions: Sequence[str] = (),
    completed: Sequence[str] = (),
) -> pd.DataFrame:
    """The run table at `path` with float64 columns `params`, `tokens`, `loss` and all others.

    Only rows that meet all of `conditions` ("loss>0"), in which `params`, `tokens` and `loss` are
    in the units of the result, and any other column is as the file has it. A folder means its
    `runs.parquet`, else its `runs.csv`.

    `params` is taken from `params_column`, else `params`, else `params_total`, else the only
    column of a usual name (`n_params`, `model_size`, ...); likewise tokens and loss. With
    `flops_column` D = C / (6 N). `units` are what plain cells of params, tokens and flops are
    multiplied by, {"tokens": 1e9}, if the column's name does not say it (`tokens_B`). `loss_unit`
    is what the loss is in; the result is in nats, of a token unless it was per byte or character.
    `require` names the columns that must be there (a law over other columns needs others),
    `signed` those of them that may be zero or negative (a loss whose logarithm nobody takes).
    `drop_invalid` sets rows with bad cells aside (see `usable`) instead of refusing the table.
    `completed` are further words of the status of a run that may be believed.

    `attrs` of the result: `file`; `columns`, what was read from which column; `params_column`;
    `loss_unit`, such as nats/token; `notes`, sentences about what was taken for what. Raises one
    Refusal for all that is wrong, naming columns, lines of the file and remedies.
    """
    path = Path(path)
    if path.is_dir():
        refuse_newer(path)
        tables = [path / "runs.parquet", path / "runs.csv"]  # a reference study has the second
        found = next((each for each in tables if each.is_file()), None)
        if found is None:
            raise Refusal(
                f"{path} holds no runs.parquet. Give a results folder in which a run has "
                "finished (`scaling status` shows), or a CSV, JSON lines or Parquet file."
            )
        path = found
    asked = Asked(
        {"params": params_column, "tokens": tokens_column, "loss": loss_column,
         "flops": flops_column},
        dict(units or {}), loss_unit, drop_invalid, tuple(require), tuple(signed), foreign=True,
    )  # fmt: skip
    table = load(path)
    table.attrs[status.WORDS] = tuple(completed)
    return read(table, asked, conditions)


def standardise(
    table: pd.DataFrame,
    params_column: str | None = None,
    tokens_column: str | None = None,
    loss_column: str | None = None,
    *,
    require: Sequence[str] = CORE,
    signed: Sequence[str] = (),
) -> pd.DataFrame:
    """A copy with the required columns as float64, finite and, unless `signed`, positive.

    Raises Refusal otherwise.
    """
    given = {"params": params_column, "tokens": tokens_column, "loss": loss_column}
    return read(table, Asked(given, require=tuple(require), signed=tuple(signed)))


def name_of(table: pd.DataFrame) -> str:
    """The file that a table was read from, for whoever refuses it."""
    return shown(str(table.attrs.get("file", "the table")), 400)


def loss_unit_of(table: pd.DataFrame) -> str:
    """What a loss of the table is in: nats/token, unless it was read as something else."""
    return str(table.attrs.get("loss_unit", TOKEN))


def usable(table: pd.DataFrame) -> Selection:
    """Rows that are ends of a completed run, each once; a table without these columns is all
    usable.

    Raises Refusal with the reasons where every row falls out.
    """
    reason = status.reasons(table)
    told = reason.eq("")
    if len(table) and not told.any():
        tally = reason.value_counts().head(8)
        said = ", ".join(f"{count} with {why}" for why, count in tally.items())
        remedy = "" if status.column(table) is None else f" {status.REMEDY}"
        raise Refusal(f"{name_of(table)}: all {len(table)} rows are left out: {said}.{remedy}")
    first = first_told(table[told])
    again = np.flatnonzero(told)[first != np.arange(len(first))]
    reason.iloc[again] = REPEATED
    out = reason.ne("")
    said = which_repeat(table[told], first)
    return Selection(
        table[~out].copy(), table[out].assign(reason=reason[out]), (said,) if said else ()
    )


def valid(table: pd.DataFrame) -> Selection:
    """Rows without the bad cells that `drop_invalid` set aside, whatever became of their runs."""
    reason = table.get(LEFT_OUT, pd.Series("", index=table.index, dtype=object))
    out = reason.ne("")
    return Selection(table[~out].copy(), table[out].assign(reason=reason[out]))


def variants(table: pd.DataFrame) -> int:
    """How many settings of a sweep the table has: values of `variant`, an empty one among them."""
    return int(table["variant"].nunique(dropna=False)) if "variant" in table else 1


def labels(table: pd.DataFrame) -> list[str]:
    """The settings of a sweep, as its column `variant` has them."""
    return [str(label) for label in table["variant"].dropna().unique()]


def several_variants(table: pd.DataFrame) -> str:
    """That the table has several, and how to select one."""
    remedy = f"--where 'variant=={labels(table)[0]}'"
    return f"{name_of(table)} has {variants(table)} variants of the study (select one: {remedy})"
