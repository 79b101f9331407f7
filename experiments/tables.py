"""How a run table of any names and units is read: the options that all commands share."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from experiments.cli import Conditions
from experiments.text import say
from scaling.store.records import Refusal

if TYPE_CHECKING:
    import pandas as pd

Units = Annotated[tuple[str, ...], tyro.conf.arg(metavar="QUANTITY=UNIT …")]
Words = Annotated[tuple[str, ...], tyro.conf.arg(metavar="WORD …")]


@dataclass(frozen=True)
class TableOptions:
    """Which column of the run table is what, in which unit, and which rows to use."""

    params_column: str | None = None
    """Column that holds N. By default `params`, else `params_total`, else the only one of a usual
    name, such as n_params or model_size; so for the others."""
    tokens_column: str | None = None
    """Column that holds D."""
    loss_column: str | None = None
    """Column that holds the loss."""
    flops_column: str | None = None
    """Column that holds C, to read D = C / (6 N) instead of a column of tokens."""
    unit: Units = ()
    """What columns of params, tokens or flops are in, such as tokens=1e9 or params=millions. A
    name such as tokens_B says it too, and so does a cell such as 57M."""
    loss_unit: (
        Literal["nats", "bits", "perplexity", "bits_per_byte", "bits_per_character"] | None
    ) = None
    """What the loss is in, if not nats per token; a name such as val_bpb or ppl says it too."""
    drop_invalid: bool = False
    """Leave rows out whose cells are empty or no number, with a count and the reasons."""
    completed: Words = ()
    """Words of the status of a run that came to its end, besides completed, done, finished,
    success, ok, true and the exit code 0; rows with another status are left out."""
    where: Conditions = ()
    """Use only rows that meet these: column, operator, literal, such as 'tokens>=5e8', 'loss>0',
    'status==done' or "note!=''" (not empty)."""

    def read(self, path: Path, require: Sequence[str], signed: Sequence[str] = ()) -> pd.DataFrame:
        """`load` with what was taken for what said on standard error, where no pipe that closes
        can stop what comes after.
        """
        table = self.load(path, require, signed)
        for note in table.attrs["notes"]:
            say(f"{path.name}: {note}", sys.stderr)
        return table

    def load(self, path: Path, require: Sequence[str], signed: Sequence[str] = ()) -> pd.DataFrame:
        """The run table at `path` with the columns required; FLOPs may be 6 N D of others.

        Raises Refusal.
        """
        from analysis.runs.columns import unit_words
        from analysis.runs.table import read_runs

        try:
            units = unit_words(self.unit)
        except ValueError as error:
            raise Refusal(f"--unit {error}.") from None
        read = partial(
            read_runs,
            path,
            params_column=self.params_column,
            tokens_column=self.tokens_column,
            loss_column=self.loss_column,
            flops_column=self.flops_column,
            units=units,
            loss_unit=self.loss_unit,
            drop_invalid=self.drop_invalid,
            signed=signed,
            conditions=self.where,
            completed=self.completed,
        )
        if "flops" in require and {"params", "tokens"} <= set(read(require=())):
            require = [*dict.fromkeys([*require, "params", "tokens"])]
            require.remove("flops")
        return read(require=require)


def say_left_out(excluded: pd.DataFrame) -> None:
    """A line for each reason why rows were left out."""
    from analysis.units import counted

    for reason, count in excluded["reason"].value_counts().items():
        say(f"left out: {counted(count, 'row')}, {reason}", sys.stderr)


Options = Annotated[TableOptions, tyro.conf.OmitArgPrefixes]
AS_NAMED = TableOptions()  # columns and units as the file's names say
