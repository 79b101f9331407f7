"""From the columns of a file to params, tokens and loss, or all that is wrong with them at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from analysis.arguments import usable
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs import status
from analysis.runs.checks.compute import at_most_tokens, contradictions, declared_flops
from analysis.runs.columns import numbers
from analysis.runs.columns.names import Column, Unclear, candidates, find, passed_over
from analysis.runs.columns.units import LossUnit, in_nats
from analysis.runs.filter import meets
from analysis.runs.messages import listing, name_of, plain, shown
from analysis.runs.refusals import BadCells, bad_cells, left_out, missing_columns
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
    where: tuple[str, ...] = ()
    foreign: bool = False  # a file: it may name its columns as it likes


@dataclass(frozen=True)
class _Quantity:
    """The numbers of one quantity, in the units of the result, and where they are from."""

    column: Column
    numbers: pd.Series
    name: str  # of the column, as the file has it
    params_name: str = ""  # the column of N, for tokens that are derived from FLOPs

    def bad(self, believed: pd.Series, positive: bool) -> list[BadCells]:
        """The cells of the rows in `believed` that are not finite, of no size that is meant or, if
        asked, not positive."""
        finite = np.isfinite(self.numbers) & ((self.numbers > 0) | (not positive))
        sized = usable(self.numbers, positive)
        found = [
            BadCells(self.name, self.column, believed & ~finite, positive),
            BadCells(self.name, self.column, believed & finite & ~sized, positive, beyond=True),
        ]
        return [each for each in found if each.rows.any()]


def read(table: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """A copy of the rows that meet the conditions, with the quantities asked for as float64.

    Raises one Refusal for everything that is wrong.
    """
    name = name_of(table)
    if len(table) == 0:
        raise Refusal(f"{name} has no rows. Give a table with one row per run.")
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
        problems[:0] = missing_columns(name, table, unclear)
    try:
        kept = meets(table, asked.where, {each: q.numbers for each, q in found.items()})
        table = table[kept]
        found = {each: replace(q, numbers=q.numbers[kept]) for each, q in found.items()}
    except Refusal:
        if not problems:
            raise
    believed = status.reasons(table).eq("")
    required = [q for each, q in found.items() if each in asked.require]
    bad = [
        each for q in required for each in q.bad(believed, q.column.quantity not in asked.signed)
    ]
    if problems or (bad and not asked.drop_invalid):
        raise Refusal([*problems, *bad_cells(name, table, bad)])
    return _result(table, found, asked, bad)


def _quantity(table: pd.DataFrame, quantity: str, asked: Asked) -> _Quantity:
    """The numbers of one quantity. Raises Unclear, or Unreadable, which begins with the column."""
    names = [str(each) for each in table.columns]
    given = asked.columns.get(quantity)
    if given is None and quantity in names and not asked.foreign:
        given = quantity  # a program made the table, or it was read before: no guess is needed
    if quantity == "tokens" and given is None and asked.columns.get("flops"):
        spent = find("flops", names, asked.columns["flops"], asked.units.get("flops"))
        flops, params = _numbers(table, spent), _quantity(table, "params", asked)
        column = Column(quantity, flops.name, guessed=True)
        tokens = flops.numbers / (FLOPS_PER_PARAM_TOKEN * params.numbers)
        return _Quantity(column, tokens, flops.name, params.name)
    column = find(quantity, names, given, asked.units.get(quantity), asked.loss_unit)
    return _numbers(table, column)


def _numbers(table: pd.DataFrame, column: Column) -> _Quantity:
    """The numbers of a column in the units of the result. Raises Unreadable."""
    # A table that was read before keeps the names of the columns in its file.
    source = _sources(table).get(column.quantity, column.name)
    name = source if column.name == column.quantity else column.name
    try:
        cells = numbers.read(table[column.name], table.attrs.get("decimal"))
    except numbers.Unreadable as error:
        raise numbers.Unreadable(f"'{shown(name)}' {error}") from None
    values = cells.times(column.scale)
    if column.scale != 1.0:
        most = values.where(~cells.suffixed).max()
        wrong = numbers.beyond(column.quantity, name, most, column.scale)
        if column.scale_named and wrong:
            raise numbers.Unreadable(
                f"{wrong}. Give --unit {column.quantity}=1 for "
                f"{plain(most / column.scale)}, --unit {column.quantity}="
                f"{plain(column.scale)} for {most:.3g}."
            )
    if column.quantity == "loss" and column.loss_unit == "perplexity":
        with np.errstate(all="ignore"):
            values = np.log(values)
    elif column.quantity == "loss" and column.loss_unit != "nats":
        values = values * math.log(2)
    return _Quantity(column, values, name)


def _result(
    table: pd.DataFrame, found: Mapping[str, _Quantity], asked: Asked, bad: Sequence[BadCells]
) -> pd.DataFrame:
    """The table with its quantities, and in `attrs` where they are from and what is doubted."""
    result = table.copy()
    sources = _sources(table)
    notes = []
    for quantity, each in found.items():
        named = asked.columns.get(quantity) is not None
        readable = each.numbers.isna().eq(table[each.column.name].isna()).all()
        if not (quantity in asked.require or named or readable):
            continue  # a fit that requires it later refuses the cells that are no numbers
        result[quantity] = each.numbers
        if quantity in CORE and (named or quantity not in sources or each.column.guessed):
            sources[quantity] = each.column.name
            if quantity == "loss":
                result.attrs["loss_unit"] = in_nats(each.column.loss_unit)
            notes += _notes(table, each)
    result.attrs |= {"units": table.attrs.get("units", {}) | dict(asked.units)}
    result.attrs |= {"columns": sources, "params_column": sources.get("params", "params")}
    if bad:
        result[status.LEFT_OUT] = left_out(table, bad)
    if "notes" not in table.attrs:  # the table is read for the first time
        unit, ends = asked.units.get("flops"), status.reasons(result).eq("")
        doubts = contradictions(result[ends], declared_flops(table[ends], unit))
        doubts += at_most_tokens(result, ends)
        notes += _recognised(result, declared_flops(table, unit))
        result.attrs |= {"notes": notes, "doubts": doubts}
    return result


def _sources(table: pd.DataFrame) -> dict[str, str]:
    """By quantity, the column of the file that a table which was read before has it from."""
    counted = table.attrs.get("params_column")
    return ({"params": str(counted)} if counted else {}) | dict(table.attrs.get("columns", {}))


def _notes(table: pd.DataFrame, each: _Quantity) -> list[str]:
    """What was taken for a quantity, and what a reader should know was not taken."""
    column, name = each.column, shown(each.column.name)
    names = [str(name) for name in table.columns]
    notes = [column.note] if column.note else []
    if each.params_name:
        notes = [
            f"tokens is D = C / (6 N), with C from {name} and N from {shown(each.params_name)}"
        ]
        if unused := candidates("tokens", names):
            notes[0] += f"; not used: {listing(unused)}"
    others = passed_over(column.quantity, column.name, names)
    if others == ["loss"] and column.guessed:
        return [
            f"loss is read from {name}; the column loss is taken for the training loss "
            "(--loss-column loss reads it)"
        ]
    if others:
        notes.append(f"{column.quantity} is read from {name}, not from {listing(others)}")
    return notes


def _recognised(result: pd.DataFrame, declared: Mapping[str, pd.Series]) -> list[str]:
    """Notes on a status and budgets under other names; adds the column `budget_flops`."""
    notes = []
    name = status.column(result)
    if name not in (None, "status"):
        notes.append(f"status is read from {shown(str(name))}")
    names = [str(each) for each in result.columns]
    labelled = candidates("budget_flops", names)
    if "budget_flops" not in names and len(labelled) == 1 and labelled[0] in declared:
        result["budget_flops"] = declared[labelled[0]]
        notes.append(find("budget_flops", names).note)
    return notes
