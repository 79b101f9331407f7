"""What the columns that a law does not use say of the rows, before it is fitted to them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pandas as pd

from analysis.runs.checks import suspicious
from analysis.runs.settings import pooled
from analysis.runs.trajectories import AUTO, COLUMN, trajectories


@dataclass(frozen=True)
class Examined:
    """`rows` with the run that each belongs to in the column `trunk_id`, if any is known."""

    rows: pd.DataFrame
    cautions: tuple[str, ...]  # doubts about the runs, which every answer from them repeats
    warnings: tuple[str, ...]  # what was decided about them


def examine(
    rows: pd.DataFrame, features: Collection[str], target: str, cluster: str = AUTO
) -> Examined:
    """Standardised `rows`, looked through for what a law of `features` would not notice.

    What was doubted when they were read, checkpoints of one run and rates that had not decayed
    (`cluster` as in `trajectories`), settings that vary at equal N and D, and odd units.
    """
    known = trajectories(rows, cluster)
    owned = rows.drop(columns=COLUMN, errors="ignore")
    if known.runs is not None:
        names = known.runs if known.column == COLUMN else known.runs.astype(str)
        owned = owned.assign(**{COLUMN: names.where(known.runs.notna(), None)})
    owned.attrs = dict(rows.attrs)
    return Examined(
        owned,
        (
            *rows.attrs.get("doubts", ()),
            *known.cautions,
            *pooled(rows, features, target),
            *suspicious(rows, features),
        ),
        known.warnings,
    )
