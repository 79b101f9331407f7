"""Which rows are checkpoints of one run: they share its noise, and most had not decayed.

The loss of a run whose learning rate has not decayed lies above that of a run which ends there
(Hägele et al. 2024, arXiv:2405.18392), so that L(N, D) wants the ends of decays. And all points of
one run are high or low together, so that intervals count runs, not rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.runs.vocabulary import SEEDS, STEPS, is_number, is_plain, is_rate, words
from scaling.records import Refusal

COLUMN = "trunk_id"  # names the run that a row belongs to, in every table that is fitted
AUTO, NONE = "auto", "none"
RUNS = frozenset(["run", "runs", "job", "exp", "experiment", "trajectory", "trunk", "wandb"])
BESIDE = frozenset(["id", "ids", "uid", "uuid", "name", "names", "key", "group", "config", "meta"])
NAMES = frozenset(["model", "name", "label", "id"])  # of runs, or of sizes that several runs have
ABOVE = 1.5  # × the last rate of its run: it had not decayed
DECAYED = 0.05  # of the run's highest rate is nothing, whatever follows
FALL = 3.0  # from the highest to the last rate: a schedule, not a choice
EVEN = 5  # rows of a run that lie evenly in D: logged, not planned
_SIZE = re.compile(r"\d[\d.,]*\s*[kmbt]?(illion)?", re.IGNORECASE)


@dataclass(frozen=True)
class Trajectories:
    """`runs`: a key of each row's run, empty for a row of its own; None where no column tells."""

    column: str | None
    runs: pd.Series | None
    cautions: tuple[str, ...] = ()  # what every answer repeats
    warnings: tuple[str, ...] = ()


def trajectories(rows: pd.DataFrame, cluster: str = AUTO) -> Trajectories:
    """Which rows belong to one run, by the column `cluster`.

    `auto`: by `trunk_id`; else by a column that names runs, as far as name and cells tell; where
    it may name runs or sizes, it counts as runs, which can only widen intervals. `none`: every row
    is a run of its own. Raises Refusal for a column that is not there.
    """
    if cluster == NONE:
        return Trajectories(None, None, warnings=("every row counts as independent, as asked",))
    if cluster not in (AUTO, COLUMN):
        if cluster not in rows:
            raise Refusal(f"--cluster {cluster}: there is no such column. Give another, or none.")
        return Trajectories(cluster, rows[cluster], tuple(_undecayed(rows, cluster)))
    if COLUMN in rows and not rows[COLUMN].isna().all():
        return Trajectories(COLUMN, rows[COLUMN], tuple(_undecayed(rows, COLUMN)))
    found = _found(rows)
    if found is None:
        said = f"no {COLUMN} column: every row counts as independent"
        return Trajectories(None, None, warnings=(said,))
    count = rows[found.column].nunique()
    if found.sure:
        said = (
            f"{found.column} names {count} runs ({found.why}): they are the clusters of the rows. "
            "If every row is a run of its own: --cluster none"
        )
    else:
        said = (
            f"{found.column} may name {count} runs or {count} sizes: rows of one count as one "
            "cluster. If every row is a run of its own: --cluster none"
        )
    cautions = _undecayed(rows, found.column) or _unknown(rows, found)
    return Trajectories(found.column, rows[found.column], tuple(cautions), (said,))


class _Found(NamedTuple):
    column: str
    sure: bool
    why: str


def _found(rows: pd.DataFrame) -> _Found | None:
    """The column that names runs, if there is one."""
    if not {"params", "tokens"} <= set(rows):
        return None
    named = [column for column in map(str, rows.columns) if _names_runs(column, rows[column])]
    if any(rows[column].is_unique for column in named):
        return None  # every row has a name of its own
    for column in named:
        if _one_size(rows, column):
            return _Found(column, True, "by its name")
    for column in [*_texts(rows), "params"]:
        if _one_size(rows, column) and (why := _logged(rows, column)):
            return _Found(column, True, why)
    for column in _texts(rows):
        ambiguous = words(column) & NAMES and _one_size(rows, column)
        if ambiguous and not _seeded(rows, column) and not _sizes(rows[column]):
            return _Found(column, False, "")
    return None


def _names_runs(column: str, cells: pd.Series) -> bool:
    """By its name: `run`, `wandb_run_id`; not `run_time`."""
    own = words(column)
    return bool(own & RUNS) and own <= RUNS | BESIDE and is_plain(cells)


def _texts(rows: pd.DataFrame) -> list[str]:
    return [
        str(column) for column in rows.columns
        if not is_number(rows[column]) and is_plain(rows[column])
        and not words(str(column)) & SEEDS
    ]  # fmt: skip


def _one_size(rows: pd.DataFrame, column: str) -> bool:
    """Whether several rows have a value in common, and never several N."""
    if rows[column].isna().any() or rows[column].is_unique:
        return False
    sizes = rows.groupby(column)["params"]
    return bool(sizes.nunique().max() == 1 and rows.groupby(column)["tokens"].nunique().max() > 1)


def _sizes(cells: pd.Series) -> bool:
    """Whether every cell reads as a size, `70M`, which several runs may have."""
    return all(_SIZE.fullmatch(str(cell)) for cell in cells.unique())


def _seeded(rows: pd.DataFrame, column: str) -> bool:
    """Whether one value has rows of several seeds, or several at one D: those are several runs."""
    seeds = [c for c in rows.columns if words(str(c)) & SEEDS]
    several = any(rows.groupby(column)[seed].nunique().max() > 1 for seed in seeds)
    return several or bool(rows.duplicated([column, "tokens"]).any())


def _logged(rows: pd.DataFrame, column: str) -> str:
    """What shows that rows of one value are the log of a run; empty where nothing does."""
    groups = [each.sort_values("tokens") for _, each in rows.groupby(column) if len(each) > 1]
    for rate in (str(c) for c in rows.columns if is_rate(str(c)) and is_number(rows[c])):
        if all(_falls(each[rate].to_numpy(dtype=float)) for each in groups):
            return f"{rate} falls along each"
    stepped = any(words(str(c)) <= STEPS for c in rows.columns if words(str(c)))
    if stepped and all(_even(each["tokens"].to_numpy(dtype=float)) for each in groups):
        return "its rows lie at even distances in tokens"
    return ""


def _falls(rates: np.ndarray) -> bool:
    after = rates[int(np.argmax(rates)) :]
    falling = bool((np.diff(after) <= 0).all())
    return len(after) > 2 and falling and bool(after[-1] * FALL <= after[0])


def _even(tokens: np.ndarray) -> bool:
    steps = np.diff(tokens)
    return len(tokens) >= EVEN and bool(np.ptp(steps) <= 0.01 * steps.max())


def _undecayed(rows: pd.DataFrame, column: str) -> list[str]:
    """Rows whose learning rate lies well above what their run came to, and what to do."""
    rates = [str(c) for c in rows.columns if is_rate(str(c)) and is_number(rows[c])]
    if not rates or "tokens" not in rows:
        return []
    rate = rates[0]
    known = rows[rows[rate].notna() & rows[column].notna()]
    last = known.sort_values("tokens", kind="stable").groupby(column)[rate]
    end = known[column].map(last.last())
    high = (known[rate] > ABOVE * end) & (known[rate] > DECAYED * known[column].map(last.max()))
    if not high.any():
        return []
    ends = known.sort_values("tokens", kind="stable").groupby(column).tail(1)
    low = known[known[rate] <= ends[rate].max()]
    remedy = "Fit the last row of each run alone"
    if ends["tokens"].nunique() < 2:
        remedy = (
            "The last rows of the runs alone tell nothing of D, for all have one number of tokens: "
            "train runs of other lengths, or cool down from checkpoints of these"
        )
    elif not high[low.index].any():
        remedy += f": --where '{rate}<={_above(float(ends[rate].max()))}'"
    return [
        f"{int(high.sum())} of {len(rows)} rows had not decayed their learning rate ({rate} is "
        f"more than {ABOVE:g} times that at the end of their run). Their losses lie above those of "
        "runs that end there, so coefficients, N* and forecasts are off by more than any interval "
        f"says. {remedy}"
    ]


def _unknown(rows: pd.DataFrame, found: _Found) -> list[str]:
    """Checkpoints of which no column says whether the rate had decayed."""
    if not found.sure:
        return []
    return [
        f"{found.column} has several rows a run, and no column says whether the learning rate had "
        "decayed at each: if not, their losses lie above those of runs that end there. Fit the "
        "ends of decays alone"
    ]


def _above(value: float) -> str:
    """Four digits of it, not below it."""
    place = 10.0 ** (np.floor(np.log10(value)) - 3) if value > 0 else 1.0
    return f"{np.ceil(value / place - 1e-9) * place:.4g}"
