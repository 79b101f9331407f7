"""Columns that differ among runs of equal N and D: these runs are variants, not replicate seeds.

Five learning rates at one N and D differ by what the rate does, not by the noise between seeds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.runs.cells import NEAR, Index, cells
from analysis.runs.rows import listed
from analysis.runs.table import name_of, several_variants, variants
from analysis.runs.trajectories import COLUMN
from analysis.runs.vocabulary import SETTINGS, is_number, is_seed, may_be_setting, words
from scaling.store.records import Refusal

NO_SPREAD = 1e-9  # relative: the rounding of equal losses, no scatter between seeds
SWEEP = 3  # values at one point, from which one of them lies inside


@dataclass(frozen=True)
class Setting:
    """A column that varies at equal N and D."""

    column: str
    count: int  # of its values
    usual: str  # the commonest value, as --where takes it
    swept: bool  # positive numbers, three or more at some point: --best-of finds the best

    @property
    def remedy(self) -> str:
        return f"--where '{self.column}=={self.usual}'"


def replicates(rows: pd.DataFrame, features: Collection[str] = (), target: str = "loss") -> Index:
    """The number of each row's cell: rows of one differ in their seed alone, as far as known.

    Without a column of seeds N and D must be equal: runs of nearly one D are no known repeats.
    A row of the same run at the same point (a step logged again after a restart) has its own.
    """
    several = [setting.column for setting in settings(rows, features, target)]
    cell = cells(rows, [*_point(features), "variant", *several])
    if not any(is_seed(str(column)) for column in rows):
        counts = rows[[column for column in NEAR if column in rows]].assign(cell=cell)
        number = counts.groupby([*counts], dropna=False, sort=False).ngroup()
        cell = np.array(number, dtype=np.intp)
    if COLUMN in rows:
        run = pd.DataFrame({"cell": cell, "run": rows[COLUMN].to_numpy()})
        again = (run.duplicated() & run["run"].notna()).to_numpy()
        cell[again] = cell.max() + 1 + np.arange(int(again.sum()))
    return cell


def settings(
    rows: pd.DataFrame, features: Collection[str] = (), target: str = "loss"
) -> list[Setting]:
    """The columns that vary at a point, without those that others of them determine.

    `variant`, the settings of a swept study, is none of them: it is known to be one.
    """
    return _varying(rows, [*_point(features), "variant"], target)


def _varying(rows: pd.DataFrame, base: list[str], target: str) -> list[Setting]:
    """The columns that vary where those of `base` are equal."""
    cell = cells(rows, base)
    several = np.bincount(cell)[cell] > 1
    cell, shared = cell[several], rows[several]
    if shared.empty:
        return []
    known = {*base, "variant", target}
    candidates = [
        column for column in map(str, rows.columns)
        if column not in known and may_be_setting(column, shared[column], cell)
    ]  # fmt: skip
    # One whose name says what it is, and of few values, speaks for those that follow it.
    candidates.sort(key=lambda c: (not words(c) & SETTINGS, shared[c].nunique()))
    found = []
    for column in candidates:
        code = pd.factorize(shared[column])[0]
        seen = code >= 0
        finer = pd.factorize(cell * (code.max() + 2) + code + 1)[0]
        if len(np.unique(finer[seen])) == len(np.unique(cell[seen])):
            continue
        modes = shared[column].mode()
        usual = str(modes.iloc[(len(modes) - 1) // 2])
        swept = is_number(shared[column]) and bool((shared[column].dropna() > 0).all())
        swept = swept and int(shared.groupby(cell)[column].nunique().max()) >= SWEEP
        found.append(Setting(column, int(shared[column].nunique()), usual, swept))
        cell = finer
    return found


def pooled(rows: pd.DataFrame, features: Collection[str] = (), target: str = "loss") -> list[str]:
    """Warnings of columns that vary at equal N and D, and of bests at the edge of a sweep."""
    said = []
    if found := settings(rows, features, target):
        named = listed([f"{each.column} ({each.count} values)" for each in found[:3]])
        differ = "differs" if len(found) == 1 else "differ"
        said.append(
            f"{named} {differ} among rows of equal {_equal(rows, features)}: "
            "these are no replicate seeds. The law is fitted through all of them, and no interval "
            "says what choosing one would change. Choose: "
            f"{found[0].remedy}{_or_best(found[0])}"
        )
    swept = [each.column for each in _varying(rows, _point(features), target)]
    for column in swept:
        others = [each for each in swept if each != column]
        said += _edges(rows, column, [*_point(features), *others], target)
    return said


def _or_best(setting: Setting) -> str:
    if setting.swept:
        return f", or the best of each with --best-of {setting.column}"
    return ""


def refuse_pooled(rows: pd.DataFrame) -> None:
    """Raises Refusal for a table of several variants, whose losses would be averaged as seeds'."""
    if variants(rows) > 1:
        raise Refusal(f"{several_variants(rows)}, whose losses would be averaged as if of seeds")
    if found := settings(rows):
        raise Refusal(
            f"{name_of(rows)} has {found[0].count} values of {found[0].column} at equal params and "
            f"tokens (select one: {found[0].remedy}), whose losses would be averaged as if of seeds"
        )


def _edges(rows: pd.DataFrame, column: str, base: list[str], target: str) -> list[str]:
    """Points whose least loss is at the lowest or highest value tried there."""
    if target != "loss" or not is_number(rows[column]):
        return []
    at = cells(rows, base)
    swept = lowest = highest = 0
    for _, sweep in rows[[column, "loss"]].groupby(at):
        means = sweep.groupby(column)["loss"].mean()
        if len(means) >= SWEEP:
            swept += 1
            lowest += bool(means.idxmin() == means.index[0] != 0)  # less than nothing is none
            highest += bool(means.idxmin() == means.index[-1])
    ends = [f"the {side} at {n}" for side, n in (("lowest", lowest), ("highest", highest)) if n]
    if not ends:
        return []
    return [
        f"the best {column} is the edge of its sweep at {lowest + highest} of {swept} points "
        f"({' and '.join(ends)}): a better one may lie beyond. Sweep further"
    ]


def _point(features: Collection[str]) -> list[str]:
    return [*dict.fromkeys([*NEAR, *features])]


def _equal(rows: pd.DataFrame, features: Collection[str]) -> str:
    return listed([column for column in _point(features) if column in rows])
