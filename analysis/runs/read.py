"""From the columns of a file to those of a run table, or all that is wrong with them at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis.runs import numbers, status
from analysis.runs.columns import (
    IN_NATS,
    Column,
    LossUnit,
    Unclear,
    beside,
    beyond,
    candidates,
    find,
)
from analysis.runs.contradictions import compute, contradictions
from analysis.runs.filter import meets
from analysis.runs.limits import listing, shown
from analysis.runs.problems import Bad, bad_cells, left_out, missing_columns
from scaling.store.records import Refusal

CORE = ("params", "tokens", "loss")


@dataclass(frozen=True)
class Asked:
    """What to read of a table, and how; see `analysis.runs.table.read_runs`."""

    columns: Mapping[str, str | None] = field(default_factory=dict)
    units: Mapping[str, float] = field(default_factory=dict)
    loss_unit: LossUnit | None = None
    drop_invalid: bool = False
    require: tuple[str, ...] = CORE
    signed: tuple[str, ...] = ()
    foreign: bool = False  # a file, of which nobody knows who named its columns


@dataclass(frozen=True)
class _Quantity:
    """One column of the result: its numbers in the result's units, and the cells they are from."""

    column: Column
    numbers: pd.Series
    name: str  # of the column, as the file has it
    counted: str = ""  # the column of N, for tokens that are derived from FLOPs

    def good(self, signed: bool) -> pd.Series:
        finite = pd.Series(np.isfinite(self.numbers), index=self.numbers.index)
        return finite if signed else finite & (self.numbers > 0)


def read(table: pd.DataFrame, asked: Asked, conditions: Sequence[str] = ()) -> pd.DataFrame:
    """A copy with the quantities asked for as float64, and only rows that meet the conditions.

    Raises one Refusal for everything that is wrong.
    """
    name = shown(str(table.attrs.get("file", "the table")), 400)
    if len(table) == 0:
        raise Refusal(f"{name} has no rows. Give a table with a row a run.")
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise Refusal(f"{name} has two columns named {repeated[0]!r}. Rename or drop one.")
    problems: list[str] = []
    unclear: list[Unclear] = []
    found: dict[str, _Quantity] = {}
    for quantity in dict.fromkeys([*asked.require, *CORE]):
        try:
            found[quantity] = _quantity(table, quantity, asked)
        except Unclear as error:
            if quantity in asked.require or asked.columns.get(quantity):
                unclear.append(error)
        except numbers.Unreadable as error:
            if quantity in asked.require:
                problems.append(f"{name}: column {error}")
    if unclear:
        problems.insert(0, missing_columns(name, table, unclear))
    try:
        kept = meets(table, conditions, {each: q.numbers for each, q in found.items()})
    except Refusal:
        if not problems:
            raise
        kept = pd.Series(True, index=table.index)
    table = table[kept]
    found = {each: replace(q, numbers=q.numbers[kept]) for each, q in found.items()}
    believed = status.reasons(table).eq("")
    bad = [
        Bad(
            q.name, q.column.name, each, believed & ~q.good(each in asked.signed),
            positive=each not in asked.signed,
        )
        for each, q in found.items()
        if each in asked.require
    ]  # fmt: skip
    bad = [each for each in bad if each.rows.any()]
    if problems or (bad and not asked.drop_invalid):
        raise Refusal("\n".join([*problems, *bad_cells(name, table, bad)]))
    return _result(table, found, asked, bad)


def _quantity(table: pd.DataFrame, quantity: str, asked: Asked) -> _Quantity:
    """The numbers of one quantity. Raises Unclear, or Unreadable beginning with the column."""
    names = [str(each) for each in table.columns]
    given = asked.columns.get(quantity)
    if given is None and quantity in names and not asked.foreign:
        given = quantity  # nothing is a guess in a table that a program made, or was read before
    if quantity == "tokens" and given is None and asked.columns.get("flops"):
        flops = _numbers(
            table, find("flops", names, asked.columns["flops"], asked.units.get("flops"))
        )
        params = _quantity(table, "params", asked)
        column = Column(quantity, flops.name, guessed=True)
        return _Quantity(column, flops.numbers / (6.0 * params.numbers), flops.name, params.name)
    column = find(quantity, names, given, asked.units.get(quantity), asked.loss_unit)
    return _numbers(table, column)


def _numbers(table: pd.DataFrame, column: Column) -> _Quantity:
    # A table that was read before keeps what its file called a column.
    source = _sources(table).get(column.quantity, column.name)
    name = source if column.name == column.quantity else column.name
    try:
        cells = numbers.read(table[column.name], table.attrs.get("decimal"))
    except numbers.Unreadable as error:
        raise numbers.Unreadable(f"{shown(name)!r} {error}") from None
    values = cells.numbers
    if column.scale != 1.0:
        values = values.where(cells.suffixed, values * column.scale)
        most = values.where(~cells.suffixed).max()
        wrong = beyond(column.quantity, name, most, column.scale)
        if column.scale_named and wrong:
            raise numbers.Unreadable(
                f"{wrong}. Give --unit {column.quantity}=1 for "
                f"{numbers.plain(most / column.scale)}, --unit {column.quantity}="
                f"{numbers.plain(column.scale)} for {most:.3g}."
            )
    if column.quantity == "loss" and column.loss_unit == "perplexity":
        with np.errstate(all="ignore"):
            values = np.log(values)
    elif column.quantity == "loss" and column.loss_unit != "nats":
        values = values * math.log(2)
    return _Quantity(column, values, name)


def _result(
    table: pd.DataFrame, found: Mapping[str, _Quantity], asked: Asked, bad: Sequence[Bad]
) -> pd.DataFrame:
    result = table.copy()
    result.attrs = dict(table.attrs)
    sources = _sources(table)
    notes = []
    for quantity, each in found.items():
        named = asked.columns.get(quantity) is not None
        if not (quantity in asked.require or named or _whole(each, table)):
            continue  # whoever requires it says which cell is no number
        result[quantity] = each.numbers
        if quantity in CORE and (named or quantity not in sources or each.column.guessed):
            sources[quantity] = each.column.name
            if quantity == "loss":
                result.attrs["loss_unit"] = IN_NATS[each.column.loss_unit]
            notes += _said(table, each)
    result.attrs |= {"units": table.attrs.get("units", {}) | dict(asked.units)}
    result.attrs |= {"columns": sources, "params_column": sources.get("params", "params")}
    if bad:
        result[status.LEFT_OUT] = left_out(table, bad)
    if "notes" not in table.attrs:  # it is read for the first time
        unit, ends = asked.units.get("flops"), status.reasons(result).eq("")
        checked = contradictions(result[ends], compute(table[ends], unit))
        notes += _recognised(result, compute(table, unit))
        result.attrs |= {"notes": notes, "doubts": checked}
        _at_most_tokens(result)
    return result


def _sources(table: pd.DataFrame) -> dict[str, str]:
    """What a table that was read before has from which column of its file."""
    counted = table.attrs.get("params_column")
    return ({"params": str(counted)} if counted else {}) | dict(table.attrs.get("columns", {}))


def _whole(each: _Quantity, table: pd.DataFrame) -> bool:
    return bool(each.numbers.isna().eq(table[each.column.name].isna()).all())


def _said(table: pd.DataFrame, each: _Quantity) -> list[str]:
    """What was taken for a quantity, and what a reader should know was not."""
    column = each.column
    names = [str(name) for name in table.columns]
    said = [column.said] if column.said else []
    if each.counted:
        made = f"C from {shown(column.name)} and N from {shown(each.counted)}"
        unused = candidates("tokens", names)
        more = f"; not used: {listing(unused)}" if unused else ""
        said = [f"tokens is D = C / (6 N), with {made}{more}"]
    others = beside(column.quantity, column.name, names)
    if others == ["loss"] and column.guessed:
        said = [
            f"loss is read from {shown(column.name)}; loss beside it is taken for the training "
            "loss (--loss-column loss reads it)"
        ]
    elif others:
        said.append(f"{column.quantity} is {shown(column.name)}, not {listing(others)}")
    return said


def _at_most_tokens(result: pd.DataFrame) -> None:
    """No run sees more different tokens than tokens, however many there were to be had."""
    if {"unique_tokens", "tokens"} <= set(result.columns):
        unique, tokens = result["unique_tokens"], result["tokens"]
        if pd.api.types.is_numeric_dtype(unique) and (unique > tokens).any():
            result["unique_tokens"] = unique.where(~(unique > tokens), tokens)


def _recognised(result: pd.DataFrame, declared: Mapping[str, pd.Series]) -> list[str]:
    """Notes on the status and budgets of a table under other names; adds `budget_flops` to it."""
    said = []
    name = status.column(result)
    if name not in (None, "status"):
        said.append(f"status is read from {shown(str(name))}")
    names = [str(each) for each in result.columns]
    labelled = candidates("budget_flops", names)
    if "budget_flops" not in names and len(labelled) == 1 and labelled[0] in declared:
        result["budget_flops"] = declared[labelled[0]]
        said.append(find("budget_flops", names).said)
    return said
