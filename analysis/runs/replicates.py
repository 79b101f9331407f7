"""Which runs are replicates: equal in N, D and every setting, different in their seed alone.

Five learning rates at one N and D are no replicates: they differ by the effect of the rate, not by
the noise between seeds. So the settings that vary at equal N and D are found too.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.array import Array, Index
from analysis.runs.clusters import COLUMN
from analysis.runs.columns.kinds import SETTINGS, is_number, is_seed, may_be_setting
from analysis.runs.columns.units import words
from analysis.runs.messages import listed, name_of
from scaling.store.records import Refusal

# Tokens are counted in whole batches, so runs of one D with batches of 96, 160 and 224 sequences
# differ in it by less than a batch; sizes that were read off a figure repeat to about a millionth.
SAME_SIZE = 1e-3  # relative
SAME_TOKENS = 1e-2  # relative: a batch of a run of a hundred steps
NEAR = {"params": SAME_SIZE, "tokens": SAME_TOKENS, "unique_tokens": SAME_TOKENS}
_NO_COUNT = -1e4  # in place of a logarithm where there is none; below all others
NO_SPREAD = 1e-9  # relative: below, losses are equal but for rounding
MIN_SWEPT = 3  # values at one point: with fewer none lies between others


@dataclass(frozen=True)
class Setting:
    """A column that varies at equal N and D."""

    column: str
    count: int  # of its values
    usual: str  # the commonest value, as --where takes it
    swept: bool  # three or more positive numbers at some point: --best-of can find the best

    @property
    def remedy(self) -> str:
        """The option that selects one value."""
        return f"--where '{self.column}=={self.usual}'"


def replicates(rows: pd.DataFrame, features: Collection[str] = (), target: str = "loss") -> Index:
    """The number of each row's cell, (n,), whose rows differ in their seed alone, as far as known.

    Without a column of seeds N and D must be exactly equal: runs of nearly one D may be planned.
    A row of the same run at the same point (a step logged again after a restart) is a cell alone.
    """
    several = [setting.column for setting in settings(rows, features, target)]
    cell = cells(rows, [*_point(features), "variant", *several])
    if not any(is_seed(str(column)) for column in rows):
        counts = rows[[column for column in NEAR if column in rows]].assign(cell=cell)
        cell = _numbered(counts, [*counts])
    if COLUMN in rows:
        run = pd.DataFrame({"cell": cell, "run": rows[COLUMN].to_numpy()})
        again = (run.duplicated() & run["run"].notna()).to_numpy()
        cell[again] = cell.max() + 1 + np.arange(int(again.sum()))
    return cell


def settings(
    rows: pd.DataFrame, features: Collection[str] = (), target: str = "loss"
) -> list[Setting]:
    """The settings that vary at equal N, D and `features`, without those that others determine.

    `variant`, the settings of a swept study, is not among them.
    """
    return _varying(rows, [*_point(features), "variant"], target)


def _varying(rows: pd.DataFrame, base: list[str], target: str) -> list[Setting]:
    """The settings that vary where the columns of `base` are equal."""
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
    # A column with the name of a setting, and one of few values, comes before those that follow it.
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
        swept = swept and int(shared.groupby(cell)[column].nunique().max()) >= MIN_SWEPT
        found.append(Setting(column, int(shared[column].nunique()), usual, swept))
        cell = finer
    return found


def pooled(rows: pd.DataFrame, features: Collection[str] = (), target: str = "loss") -> list[str]:
    """Warnings about settings that vary at equal N and D, and optima at the edge of a sweep."""
    warnings = []
    point = _point(features)
    if found := settings(rows, features, target):
        named = listed([f"{each.column} ({each.count} values)" for each in found[:3]])
        differ = "differs" if len(found) == 1 else "differ"
        best = f" or the best of each with --best-of {found[0].column}" if found[0].swept else ""
        warnings.append(
            f"{named} {differ} among rows of equal {listed([c for c in point if c in rows])}: "
            "these are no replicate seeds. The law is fitted through all of them, and no interval "
            f"shows what selecting one would change. Select one: {found[0].remedy}{best}"
        )
    swept = [each.column for each in _varying(rows, point, target)]
    for column in swept:
        others = [each for each in swept if each != column]
        warnings += _edges(rows, column, [*point, *others], target)
    return warnings


def refuse_pooled(rows: pd.DataFrame) -> None:
    """Raises Refusal for runs of several settings, whose losses would be averaged as replicates."""
    if variants(rows) > 1:
        raise Refusal(f"{several_variants(rows)}, whose losses would be averaged as replicates")
    if found := settings(rows):
        raise Refusal(
            f"{name_of(rows)} has {found[0].count} values of {found[0].column} at equal params and "
            f"tokens (select one: {found[0].remedy}), whose losses would be averaged as replicates"
        )


def variants(table: pd.DataFrame) -> int:
    """The number of variants of a swept study: values of `variant`, an empty one included."""
    return int(table["variant"].nunique(dropna=False)) if "variant" in table else 1


def labels(table: pd.DataFrame) -> list[str]:
    """The variants of a swept study by name."""
    return [str(label) for label in table["variant"].dropna().unique()]


def several_variants(table: pd.DataFrame) -> str:
    """That the table has several variants, and how to select one."""
    remedy = f"--where 'variant=={labels(table)[0]}'"
    return f"{name_of(table)} has {variants(table)} variants of the study (select one: {remedy})"


def _edges(rows: pd.DataFrame, column: str, base: list[str], target: str) -> list[str]:
    """A warning about points whose least loss is at the lowest or highest value tried there."""
    if target != "loss" or not is_number(rows[column]):
        return []
    at = cells(rows, base)
    swept = lowest = highest = 0
    for _, sweep in rows[[column, "loss"]].groupby(at):
        means = sweep.groupby(column)["loss"].mean()
        if len(means) >= MIN_SWEPT:
            swept += 1
            lowest += bool(means.idxmin() == means.index[0] != 0)  # nothing lies below 0
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


# --- rows at one N and D ---


def chained(values: ArrayLike, tolerance: float) -> Index:
    """The number of each value's group; gaps over `tolerance` in rising order start one."""
    logs = np.log(np.asarray(values, dtype=float))
    order = np.argsort(logs, kind="stable")
    group = np.empty(len(logs), dtype=np.intp)
    group[order] = np.cumsum(np.diff(logs[order], prepend=logs[order[:1]]) > tolerance)
    return group


def cells(rows: pd.DataFrame, columns: list[str]) -> Index:
    """The number of each row's cell, (n,): rows of a cell are equal in every column, up to `NEAR`.

    Counts that all lie closer than that, as the steps of a log do, must be exactly equal. Without
    any of the columns every row is a cell of its own.
    """
    known = [column for column in dict.fromkeys(columns) if column in rows]
    if not known or rows.empty:
        return np.arange(len(rows))
    near = [column for column in NEAR if column in known and is_number(rows[column])]
    exact = [column for column in known if column not in near]
    cell = _numbered(rows, exact) if exact else np.zeros(len(rows), dtype=np.intp)
    for column in near:
        cell = _parted(cell, rows[column].to_numpy(dtype=float), NEAR[column])
    return cell


def _numbered(rows: pd.DataFrame, columns: list[str]) -> Index:
    """The number of each row's group, (n,): rows of a group are equal in every column."""
    return np.array(rows.groupby(columns, dropna=False, sort=False).ngroup(), dtype=np.intp)


def levelled(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with one N and one D for all rows of a cell: the middle one of those it has."""
    cell = pd.Series(cells(rows, ["params", "tokens"]), index=rows.index)
    middle = rows.groupby(cell)[["params", "tokens"]].quantile(0.5, interpolation="lower")
    return rows.assign(params=cell.map(middle["params"]), tokens=cell.map(middle["tokens"]))


def _parted(cell: Index, values: Array, tolerance: float) -> Index:
    """The cells divided further by values that differ by more than the tolerance."""
    logs = np.full(len(values), _NO_COUNT)
    np.log(values, out=logs, where=np.isfinite(values) & (values > 0))
    order = np.lexsort((logs, cell))
    gap = np.diff(logs[order])
    starts = np.append(True, (np.diff(cell[order]) != 0) | (gap > tolerance))
    chain = pd.Series(logs[order]).groupby(np.cumsum(starts))
    long = (chain.transform("max") - chain.transform("min") > tolerance).to_numpy()
    starts[1:] |= long[1:] & (gap > 0)
    found = np.empty(len(values), dtype=np.intp)
    found[order] = np.cumsum(starts) - 1
    return found
