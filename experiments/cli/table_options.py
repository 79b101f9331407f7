"""The options that say how a run table is read, which all commands share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments.cli.app import Column, Conditions, described
from experiments.cli.text import say
from experiments.cli.words import pairs
from scaling.store.records import Refusal, printable

if TYPE_CHECKING:
    import pandas as pd

Units = Annotated[tuple[str, ...], tyro.conf.arg(metavar="QUANTITY=UNIT …")]
SetName = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD …")]


@dataclass(frozen=True)
@described
class TableOptions:
    """Which column of the run table is what, in which unit, and which rows to use.

    Args:
        params_column: Column that holds N. The default is `params`, else `params_total`, else the
            only column with a usual name, such as n_params or model_size. The same holds for the
            other columns.
        tokens_column: Column that holds D.
        loss_column: Column that holds the loss.
        loss_set: Validation set of the study, such as web, whose loss is used instead of the one on
            its own held-out text: the column loss_web.
        flops_column: Column that holds C, to compute D = C / (6 N) instead of reading a column of
            tokens.
        unit: Units of the columns of params, tokens or flops, such as tokens=1e9 or
            params=millions. They are also read from a column's name (tokens_B) and from a cell
            (57M).
        loss_unit: Unit of the loss; the default is nats per token, or what the column's name says
            (val_bpb, ppl).
        drop_invalid: Leave out rows with cells that are empty or not a number, and report how many
            and why.
        completed: Further words for the status of a finished run, besides completed, done,
            finished, success, ok, true and the exit code 0. Rows with another status are left out.
        where: Use only rows that meet these conditions: column, operator, value, such as
            'tokens>=5e8', 'loss>0', 'status==done' or "note!=''" (not empty).
    """

    params_column: Column = None
    tokens_column: Column = None
    loss_column: Column = None
    loss_set: SetName = None
    flops_column: Column = None
    unit: Units = ()
    loss_unit: (
        Literal["nats", "bits", "perplexity", "bits_per_byte", "bits_per_character"] | None
    ) = None
    drop_invalid: bool = False
    completed: Words = ()
    where: Conditions = ()

    def read(self, path: Path, require: Sequence[str], signed: Sequence[str] = ()) -> pd.DataFrame:
        """`load`, and print how its columns were read.

        They go to standard error, where a pipe that closes cannot stop the work.
        """
        table = self.load(path, require, signed)
        for note in table.attrs["notes"]:
            say(printable(f"{path.name}: {note}"), sys.stderr)
        return table

    def load(self, path: Path, require: Sequence[str], signed: Sequence[str] = ()) -> pd.DataFrame:
        """The run table at `path` with the columns that are required; flops may be computed as 6ND.

        `signed` names columns that may be negative. Raises Refusal as `read_runs` does.
        """
        from analysis.runs.columns.numbers import unit_words
        from analysis.runs.table import read_runs

        if not path.exists():
            raise Refusal(f"{path} does not exist. Give a results folder or a run table.")
        try:
            units = unit_words(word for word, _, _ in pairs("--unit", self.unit))
        except ValueError as error:
            raise Refusal(f"--unit {error}.") from None
        read = partial(
            read_runs,
            path,
            params_column=self.params_column,
            tokens_column=self.tokens_column,
            loss_column=self.loss_column,
            loss_set=self.loss_set,
            flops_column=self.flops_column,
            units=units,
            loss_unit=self.loss_unit,
            drop_invalid=self.drop_invalid,
            signed=signed,
            where=self.where,
            completed=self.completed,
        )
        if "flops" in require and {"params", "tokens"} <= set(read(require=())):
            require = [*dict.fromkeys([*require, "params", "tokens"])]
            require.remove("flops")
        return read(require=require)


def say_left_out(excluded: pd.DataFrame) -> None:
    """Print one line for each reason why rows were left out."""
    from analysis.text import counted

    for reason, count in excluded["reason"].value_counts().items():
        say(printable(f"left out: {counted(count, 'row')}, {reason}"), sys.stderr)


Options = Annotated[TableOptions, tyro.conf.OmitArgPrefixes]
AS_NAMED = TableOptions()  # columns and units by the names in the file
