"""`scaling curve`: where one run's loss will end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import tyro

from experiments.cli.app import File, LawName, Number, app, number
from experiments.cli.output import TO_TERMINAL, Outputs
from experiments.cli.text import say
from scaling.store.records import Refusal


@app.command
def curve(
    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE|RUN")],
    /,
    *,
    to: Number = None,
    schedule: File = None,
    name: LawName = None,
    loss_column: Annotated[str, tyro.conf.arg(metavar="COLUMN")] = "loss",
    warmup_steps: int | None = None,
    level: float = 0.9,
    output: Outputs = TO_TERMINAL,
) -> None:
    """Carry the loss curve of one run on, and say where it will end.

    The curve so far is averaged over power laws with a floor and up to one break; where the rate
    is to fall, over what a decay gains too. Give the last step, up to which the last rate is kept,
    or the schedule of the rest.

        scaling curve my_curve.csv --to 72000
        scaling curve results/mine/runs/2f8a11c09b3e --schedule rest.csv

    Args:
        source: A table with columns step, lr and loss, or the folder of a run.
        to: The last step.
        schedule: A table of the steps to come: columns step and lr, straight lines between rows.
        name: Of a table with several curves, the one with this name in its column `curve`.
        loss_column: The column of losses, such as val_loss of a run.
        warmup_steps: Over so many steps the rate rose from zero to that of the first row; needed by
            curves that begin after step 1.
        level: Level of the interval.
    """
    from analysis.runs.files.load import load
    from analysis.schedules.carry_on import carry_on
    from scaling.store.steps import read_steps

    rows = read_steps(source) if source.is_dir() else load(source)
    if loss_column not in rows:
        raise Refusal(
            f"--loss-column {loss_column}: {source} has no such column. It has "
            f"{', '.join(map(str, rows))}."
        )
    rows = rows.assign(loss=rows[loss_column])
    if "curve" in rows and (name is not None or rows["curve"].nunique() > 1):
        known = [str(each) for each in rows["curve"].unique()]
        if name not in known:
            raise Refusal(f"--name: {source} has the curves {', '.join(known[:9])}. Give one.")
        rows = rows[rows["curve"].astype(str) == name]
    last = number("--to", to)
    carried = carry_on(
        rows,
        to=None if last is None else int(last),
        schedule=None if schedule is None else load(schedule),
        warmup_steps=warmup_steps,
        level=level,
    )
    low, high = carried.interval
    output.write(
        {
            "step": int(carried.frame["step"].iloc[-1]),
            "loss": carried.loss,
            "interval": {"level": level, "loss": [low, high]},
            "curve": carried.frame.to_dict("records"),
        }
    )
    say(carried.summary())
