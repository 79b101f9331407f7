"""Columns that differ among runs of equal N and D: these runs are variants, not replicate seeds.

Five learning rates at one N and D differ by what the rate does, not by the noise between seeds.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.rows import listed
from analysis.runs.table import name_of, several_variants, variants
from analysis.runs.trajectories import COLUMN
from analysis.runs.vocabulary import SETTINGS, is_number, may_be_setting, words
from scaling.records import Refusal

Index = NDArray[np.intp]
POINT = ("params", "tokens", "unique_tokens")  # what a replicate must have equal
NO_SPREAD = 1e-9  # relative: the rounding of equal losses, no scatter between seeds
SWEEP = 3  # values at one point, from which one of them lies inside


@dataclass(frozen=True)
class Setting:
    """A column that varies at equal N and D."""

    column: str
    count: int  # of its values
    usual: str  # the commonest value, as --where takes it

    @property
    def remedy(self) -> str:
        return f"--where '{self.column}=={self.usual}'"


def points(rows: pd.DataFrame, features: Collection[str] = ()) -> Index:
    """The number of each row's point: rows of one have equal N, D, unique tokens and `features`."""
    return _numbered(rows, [*dict.fromkeys([*POINT, *features])])


def replicates(rows: pd.DataFrame, features: Collection[str] = ()) -> Index:
    """The number of each row's cell: rows of one differ in their seed alone, as far as known.

    A row of the same run at the same point (a step logged again after a restart) has its own.
    """
    several = [setting.column for setting in settings(rows, features)]
    cell = _numbered(rows, [*dict.fromkeys([*POINT, *features, "variant", *several])])
    if COLUMN in rows:
        run = pd.DataFrame({"cell": cell, "run": rows[COLUMN].to_numpy()})
        again = (run.duplicated() & run["run"].notna()).to_numpy()
        cell[again] = cell.max() + 1 + np.arange(int(again.sum()))
    return cell


def settings(rows: pd.DataFrame, features: Collection[str] = ()) -> list[Setting]:
    """The columns that vary at a point, without those that others of them determine.

    `variant`, the settings of a swept study, is none of them: it is known to be one.
    """
    point = _numbered(rows, [*dict.fromkeys([*POINT, *features, "variant"])])
    shared = rows[np.bincount(point)[point] > 1]
    if shared.empty:
        return []
    cell = point[np.bincount(point)[point] > 1]
    known = {*POINT, *features, "variant"}
    candidates = [
        str(c) for c in shared.columns if c not in known and may_be_setting(str(c), shared[c])
    ]
    # One whose name says what it is, and of few values, speaks for those that follow it.
    candidates.sort(key=lambda c: (not words(c) & SETTINGS, shared[c].nunique()))
    found = []
    for column in candidates:
        code = pd.factorize(shared[column].map(_plain))[0]
        seen = code >= 0
        both = pd.factorize(cell[seen] * (code.max() + 2) + code[seen])[0]
        if len(np.unique(both)) == len(np.unique(cell[seen])):
            continue
        modes = shared[column].mode()
        usual = modes.iloc[len(modes) // 2]
        found.append(Setting(column, int(shared[column].nunique()), str(usual)))
        cell = pd.factorize(cell * (code.max() + 2) + code + 1)[0]
    return found


def pooled(rows: pd.DataFrame, features: Collection[str] = ()) -> list[str]:
    """A warning of the columns that vary at equal N and D, and of bests at the edge of a sweep."""
    found = settings(rows, features)
    if not found:
        return []
    named = listed([f"{each.column} ({each.count} values)" for each in found[:3]])
    differ = "differs" if len(found) == 1 else "differ"
    said = [
        f"{named} {differ} among rows of equal params and tokens: these are no replicate seeds. "
        "The law is fitted through all of them, and no interval says what choosing one would "
        f"change. Choose: {found[0].remedy}"
    ]
    for each in found:
        said += _edges(rows, each.column, [c.column for c in found if c != each], features)
    return said


def refuse_pooled(rows: pd.DataFrame) -> None:
    """Raises Refusal for a table of several variants, whose losses would be averaged as seeds'."""
    if variants(rows) > 1:
        raise Refusal(f"{several_variants(rows)}, whose losses would be averaged as if of seeds")
    for each in settings(rows)[:1]:
        raise Refusal(
            f"{name_of(rows)} has {each.count} values of {each.column} at equal params and tokens "
            f"(select one: {each.remedy}), whose losses would be averaged as if of seeds"
        )


def _edges(
    rows: pd.DataFrame, column: str, others: list[str], features: Collection[str]
) -> list[str]:
    """Points whose least loss is at the lowest or highest value tried there."""
    if "loss" not in rows or not is_number(rows[column]):
        return []
    at = _numbered(rows, [*dict.fromkeys([*POINT, *features, "variant", *others])])
    swept = lowest = highest = 0
    for _, sweep in rows[[column, "loss"]].dropna().groupby(at):
        means = sweep.groupby(column)["loss"].mean()
        if len(means) >= SWEEP:
            swept += 1
            lowest += bool(means.idxmin() == means.index[0])
            highest += bool(means.idxmin() == means.index[-1])
    ends = [f"the {side} at {n}" for side, n in (("lowest", lowest), ("highest", highest)) if n]
    if not ends:
        return []
    return [
        f"the best {column} is the edge of its sweep at {lowest + highest} of {swept} points "
        f"({' and '.join(ends)}): a better one may lie beyond. Sweep further"
    ]


def _numbered(rows: pd.DataFrame, columns: list[str]) -> Index:
    known = [column for column in columns if column in rows]
    if not known or rows.empty:
        return np.arange(len(rows))
    number = rows.groupby(known, dropna=False, sort=False).ngroup().to_numpy()
    return np.array(number, dtype=np.intp)


def _plain(cell: object) -> object:
    return cell if cell.__hash__ is not None else repr(cell)
