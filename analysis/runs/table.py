"""Which rows of a run table may be believed.

A run table is any results folder, CSV or Parquet with a row a run. It is read defensively:
a cell that is no number, not finite or not positive is named with its row and refused, never
dropped in silence. Rows that are real but belong to no law (a trunk whose learning rate had
not decayed, a run that diverged) are set aside with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.runs.filter import CONDITION, as_number, where
from analysis.runs.load import listing, load, shown
from analysis.runs.repeats import REPEATED, first_told, which_repeat
from scaling.records import Refusal

CORE = ("params", "tokens", "loss")


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
    require: Sequence[str] = CORE,
    signed: Sequence[str] = (),
    conditions: Sequence[str] = (),
) -> pd.DataFrame:
    """The run table at `path` with float64 columns `params`, `tokens`, `loss` and all others.

    Only rows that meet every condition of `where`.

    A folder means its `runs.parquet`, else its `runs.csv`. `params` is taken from
    `params_column`, else `params`, else `params_total`; the choice is kept in
    `table.attrs["params_column"]`. `require` names the columns that must be there (a law over
    other columns needs others), `signed` those of them that may be zero or negative (a loss whose
    logarithm nobody takes). Conditions may name the file's columns, and then keep bad cells of
    other rows from being refused, or `params`,
    `tokens` and `loss`. Raises Refusal naming column, row and remedy.
    """
    path = Path(path)
    if path.is_dir():
        tables = [path / "runs.parquet", path / "runs.csv"]  # a reference study has the second
        found = next((each for each in tables if each.is_file()), None)
        if found is None:
            raise Refusal(
                f"{path} holds no runs.parquet. Give a results folder in which a run has "
                "finished (`scaling status` shows), or a CSV or Parquet file."
            )
        path = found
    raw = load(path)
    early = [each for each in conditions if (c := CONDITION.fullmatch(each)) and c["column"] in raw]
    raw.attrs["file"] = str(path)
    table = standardise(
        where(raw, early), params_column, tokens_column, loss_column,
        require=require, signed=signed,
    )  # fmt: skip
    return where(table, [each for each in conditions if each not in early])


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
    name = name_of(table)
    if len(table) == 0:
        raise Refusal(f"{name} has no rows. Give a table with a row a run.")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise Refusal(f"{name} has two columns named {repeated[0]!r}. Rename or drop one.")
    if params_column is None and "params" not in table and "params_total" in table:
        params_column = "params_total"
    chosen = {"params": params_column, "tokens": tokens_column, "loss": loss_column}
    result = table.copy()
    result.attrs = dict(table.attrs)
    believed = _believed(table)
    for column in dict.fromkeys([*require, *(c for c in CORE if c in table or chosen.get(c))]):
        source = chosen.get(column) or column
        if source not in table:
            raise Refusal(
                f"{name} has no column {source!r}; it has {listing(table.columns)}. "
                f"Name the one that holds {column} with --{column}-column."
                if column in CORE
                else f"{name} has no column {source!r}; it has {listing(table.columns)}."
            )
        numbers = _as_numbers(table[source], source, name)
        if column in require:
            _refuse_bad(numbers, table[source], believed, column in signed, name)
        elif numbers.isna().ne(table[source].isna()).any():
            numbers = table[source]  # whoever requires it says which cell is no number
        result[column] = numbers
    if params_column is not None or "params_column" not in result.attrs:
        result.attrs["params_column"] = params_column or "params"
    return result


def name_of(table: pd.DataFrame) -> str:
    """The file that a table was read from, for whoever refuses it."""
    return shown(str(table.attrs.get("file", "the table")), 400)


def usable(table: pd.DataFrame) -> Selection:
    """Rows that are ends of a completed run, each once; a table without these columns is all
    usable."""
    reason = pd.Series("", index=table.index, dtype=object)
    if "run_kind" in table:
        reason[table["run_kind"].eq("trunk")] = "a trunk: its learning rate had not decayed"
    if "status" in table:
        unfinished = table["status"].notna() & table["status"].ne("completed")
        reason[unfinished] = "status " + table["status"].astype(str)[unfinished]
    told = reason.eq("")
    first = first_told(table[told])
    again = np.flatnonzero(told)[first != np.arange(len(first))]
    reason.iloc[again] = REPEATED
    out = reason.ne("")
    said = which_repeat(table[told], first)
    return Selection(
        table[~out].copy(), table[out].assign(reason=reason[out]), (said,) if said else ()
    )


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


# --- cells ---------------------------------------------------------------------------------------


def _believed(table: pd.DataFrame) -> pd.Series:
    """Rows whose numbers must be right: not those that are set aside by status anyway."""
    if "status" not in table:
        return pd.Series(True, index=table.index)
    return table["status"].isna() | table["status"].eq("completed")


def _as_numbers(cells: pd.Series, column: str, name: str) -> pd.Series:
    """Cells as float64; NaN for one that is no number."""
    types = pd.api.types
    if types.is_bool_dtype(cells):
        raise Refusal(f"{name}: column {column!r} holds true and false, not numbers.")
    real = types.is_numeric_dtype(cells) and not types.is_complex_dtype(cells)
    decimal = isinstance(cells.dtype, pd.ArrowDtype)
    if not (real or decimal or types.is_object_dtype(cells) or types.is_string_dtype(cells)
            or isinstance(cells.dtype, pd.CategoricalDtype)):  # fmt: skip
        raise Refusal(f"{name}: column {column!r} holds {cells.dtype}, not numbers.")
    try:
        return pd.to_numeric(cells, errors="coerce").astype(float)
    except (OverflowError, TypeError):  # integers beyond 1.8e308 among the cells
        return cells.map(_float).astype(float)


def _float(cell: object) -> float:
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return float("inf")
    except (TypeError, ValueError):
        return float("nan")


def _refuse_bad(
    numbers: pd.Series, cells: pd.Series, believed: pd.Series, signed: bool, name: str
) -> None:
    good = np.isfinite(numbers) if signed else np.isfinite(numbers) & (numbers > 0)
    bad = believed & ~good
    if bad.any():
        at = int(np.argmax(bad.to_numpy()))
        cell = shown(_text(cells.iloc[at]))
        meant = as_number(cell)
        remedy = "Correct or remove it (--where drops rows)."
        if meant is not None and math.isfinite(meant) and meant > 0:
            remedy = f"Write {_plain(meant)}, and the others likewise."
        raise Refusal(
            f"{name}: {cells.name} = {cell} in row {at + 1} of {len(cells)} ({int(bad.sum())} such "
            f"rows) is not a {'' if signed else 'positive '}finite number. {remedy}"
        )


def _plain(value: float) -> str:
    """All digits of a number, as 5e7."""
    text = np.format_float_scientific(value, trim="-", exp_digits=1)
    return text.replace("e+", "e")


def _text(cell: object) -> str:
    try:
        return str(cell)
    except ValueError:  # an integer of more than 4,300 digits
        return "an integer of thousands of digits"
