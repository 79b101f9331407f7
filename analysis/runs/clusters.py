"""Clusters: which rows are checkpoints of one run, and which of them had not decayed their rate.

A run whose learning rate has not decayed has a higher loss than a run that ends there (Hägele et
al. 2024, arXiv:2405.18392), so L(N, D) is fitted to the ends of decays. And the points of one run
share its noise, so intervals count runs, not rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.runs.columns.kinds import RUNS, STEPS, is_number, is_plain, is_rate, is_seed
from analysis.runs.columns.units import word_set, words
from scaling.store.records import Refusal

COLUMN = "trunk_id"  # names the run that a row belongs to, in every table that is fitted
AUTO, NONE = "auto", "none"
IDS = word_set("id ids uid uuid guid")
BESIDE = IDS | word_set("name names key group config meta")
# Words of a name of runs, or of what several runs have in common, such as a size.
NAMES = word_set("model name label id exp experiment")
NUMBERED = word_set("exp experiment")  # where plain numbers are no sizes
ABOVE = 1.5  # × the last rate of its run: a higher rate had not decayed
DECAYED = 0.05  # of the run's highest rate: a lower rate has decayed, whatever follows
FALL = 3.0  # factor from the highest to the last rate of a schedule, at least
# A rate that in the end falls faster than D^-1.5, over a factor of two in D or more, follows a
# schedule: a cosine or a line to a tenth falls as D^-2.5. Rules for the best rate of a run of D
# tokens fall as D^-0.1 to D^-0.5 (Bi et al. 2024, arXiv:2401.02954; Bjorck et al. 2024,
# arXiv:2409.19913).
STEEP = 1.5
EVEN = 5  # rows at even distances in D: the log of a run, or a plan of several
MANY = 10  # such rows: the log of a run
RESTARTS = 0.1  # largest share of the rows of a log that repeat a step after a restart
_SIZE = re.compile(r"\d[\d.,]*\s*[kmbt]?(illion)?", re.IGNORECASE)


@dataclass(frozen=True)
class Clusters:
    """Which rows belong to one run."""

    column: str | None  # that names the runs
    runs: pd.Series | None  # the run of each row, missing for a run of one row; None: not known
    cautions: tuple[str, ...] = ()  # doubts that every answer from the runs repeats
    warnings: tuple[str, ...] = ()


def find_clusters(rows: pd.DataFrame, cluster: str = AUTO) -> Clusters:
    """Which rows belong to one run, by the column `cluster`.

    `auto`: by `trunk_id`, else by a column that names runs as far as its name and cells show. One
    that may name runs or sizes counts as runs, which can only widen intervals. `none`: every row is
    a run of its own. Raises Refusal for a column that the table does not have.
    """
    if cluster == NONE:
        return Clusters(None, None, warnings=("every row counts as independent, as requested",))
    if cluster in (AUTO, COLUMN):
        cluster = COLUMN if COLUMN in rows and rows[COLUMN].notna().any() else AUTO
    if cluster != AUTO:
        if cluster not in rows:
            raise Refusal(f"--cluster {cluster}: there is no such column. Give another, or none.")
        return Clusters(cluster, rows[cluster], _undecayed(rows, cluster))
    found = _found(rows)
    if found is None:
        return Clusters(None, None, warnings=(_independent(rows),))
    column, runs = found.column, rows[found.column]
    count = runs.nunique()
    warning = f"{column} names {count} runs ({found.why}): they are the clusters of the rows."
    if not found.why:
        warning = (
            f"{column} may name {count} runs or {count} sizes: rows of one count as one cluster."
        )
    if (empty := int(runs.isna().sum())) > 0:
        warning += f" {empty} rows without one count as runs of their own."
    warning += " If every row is a run of its own: --cluster none"
    unknown = (
        f"{column} has several rows per run, and no column shows whether the learning rate "
        "had decayed at each: if not, their losses lie above those of runs that end there. Fit "
        "only the ends of decays"
    )
    cautions = (_undecayed(rows, column) or (unknown,)) if found.why else ()
    return Clusters(column, runs, cautions, (warning,))


def _independent(rows: pd.DataFrame) -> str:
    """That every row counts as a run, why, and what to do if that is wrong."""
    if name := _own_name(rows):
        return f"{name} names every row: each counts as independent"
    said = f"no {COLUMN} column: every row counts as independent"
    if _counted(rows) and (rate := _falling(rows, "params", steep=0.0)):
        said += (
            f". {rate} falls with tokens at every params, as a rule for its best value may do. If "
            "the rows of one params are checkpoints of one run: --cluster params"
        )
    return said


class _Found(NamedTuple):
    """The column that names runs."""

    column: str
    why: str = ""  # how it is known; "" where it may name sizes instead


def _found(rows: pd.DataFrame) -> _Found | None:
    """The column that names runs, if there is one."""
    if not _counted(rows):
        return None
    named = [column for column in map(str, rows.columns) if _names_runs(column, rows[column])]
    if any(rows[column].is_unique for column in named):
        return None
    for column in named:
        if _one_size(rows, column) and not _seeded(rows, column):
            return _Found(column, "by its name")
    shared = [c for c in [*_texts(rows), "params"] if rows[c].notna().all() and _one_size(rows, c)]
    for column in shared:
        if why := _logged(rows, column):
            return _Found(column, why)
    if _own_name(rows):
        return None
    for column in shared:
        if _may_name(column, rows[column]) and not _seeded(rows, column):
            return _Found(column)
    even = _even(rows, "params", EVEN) and not _rates(rows)
    return _Found("params") if even else None


def _counted(rows: pd.DataFrame) -> bool:
    """Whether the rows have params, and tokens as numbers."""
    return {"params", "tokens"} <= set(rows) and is_number(rows["tokens"])


def _names_runs(column: str, cells: pd.Series) -> bool:
    """Whether a column's name is one of runs: `run`, `wandb_run_id`; not `run_time`."""
    own = words(column)
    return bool(own & RUNS) and own <= RUNS | BESIDE and is_plain(cells)


def _own_name(rows: pd.DataFrame) -> str:
    """The column that has a different name or id for every row; "" where none has."""
    for column in map(str, rows.columns):
        own = words(column)
        named = own & (RUNS | NAMES | IDS) and own <= RUNS | NAMES | BESIDE
        if named and is_plain(rows[column]) and rows[column].is_unique and len(rows) > 1:
            return column
    return ""


def _may_name(column: str, cells: pd.Series) -> bool:
    """Whether the cells may be names of runs: `model` may, except for sizes such as 70M."""
    own = words(column)
    if not own & NAMES:
        return False
    return bool(own & NUMBERED) or not all(_SIZE.fullmatch(str(cell)) for cell in cells.unique())


def _texts(rows: pd.DataFrame) -> list[str]:
    """The columns of names."""
    return [
        column for column in map(str, rows.columns)
        if (not is_number(rows[column]) or words(column) <= NUMBERED) and is_plain(rows[column])
        and not is_seed(column)
    ]  # fmt: skip


def _one_size(rows: pd.DataFrame, column: str) -> bool:
    """Whether several rows share a value of the column, and all rows of a value have one N."""
    runs = rows.groupby(column)
    return bool(runs["params"].nunique().max() == 1 and runs["tokens"].nunique().max() > 1)


def _seeded(rows: pd.DataFrame, column: str) -> bool:
    """Whether one value has several runs: rows of several seeds, or several rows at one D."""
    seeds = [c for c in rows.columns if is_seed(str(c))]
    if any(rows.groupby(column)[seed].nunique().max() > 1 for seed in seeds):
        return True
    return bool(rows.dropna(subset=column).duplicated([column, "tokens"]).mean() > RESTARTS)


def _logged(rows: pd.DataFrame, column: str) -> str:
    """What shows that the rows of one value are the log of a run; "" where nothing does."""
    if rate := _falling(rows, column, STEEP):
        return f"{rate} falls along each as a schedule does"
    return "its rows lie at even distances in tokens" if _even(rows, column, MANY) else ""


def _rates(rows: pd.DataFrame) -> list[str]:
    return [str(c) for c in rows.columns if is_rate(str(c)) and is_number(rows[c])]


def _in_order(rows: pd.DataFrame, column: str) -> list[pd.DataFrame]:
    return [of.sort_values("tokens") for _, of in rows.groupby(column) if len(of) > 1]


def _falling(rows: pd.DataFrame, column: str, steep: float) -> str:
    """The learning rate that falls along the rows of every value, as D^-steep or faster in the
    end; "" without one."""
    for rate in _rates(rows):
        runs = [of[["tokens", rate]].to_numpy(dtype=float).T for of in _in_order(rows, column)]
        if runs and all(_falls(tokens, rates, steep) for tokens, rates in runs):
            return rate
    return ""


def _falls(tokens: np.ndarray, rates: np.ndarray, steep: float) -> bool:
    top = int(np.argmax(rates))
    tokens, rates = tokens[top:], rates[top:]
    if len(rates) < 3 or not (np.diff(rates) <= 0).all() or rates[-1] * FALL > rates[0]:
        return False
    before = 2 * tokens <= tokens[-1]
    return bool((rates[before] >= rates[-1] * (tokens[-1] / tokens[before]) ** steep).any())


def _even(rows: pd.DataFrame, column: str, least: int) -> bool:
    """Whether the rows of every value, `least` or more, lie at even distances in tokens."""
    if not any(words(str(c)) and words(str(c)) <= STEPS for c in rows.columns):
        return False
    steps = [np.diff(of["tokens"].to_numpy(dtype=float)) for of in _in_order(rows, column)]
    return bool(steps) and all(
        len(step) >= least - 1 and np.ptp(step) <= 0.01 * step.max() for step in steps
    )


def _undecayed(rows: pd.DataFrame, column: str) -> tuple[str, ...]:
    """A caution about rows whose learning rate is well above the last rate of their run."""
    if not _rates(rows) or "tokens" not in rows:
        return ()
    rate = _rates(rows)[0]
    known = rows[rows[rate].notna() & rows[column].notna()].sort_values("tokens", kind="stable")
    run = known.groupby(column)
    high = known[rate] > np.maximum(
        ABOVE * run[rate].transform("last"), DECAYED * run[rate].transform("max")
    )
    if not high.any():
        return ()
    ends = run.tail(1)
    remedy = "Fit the last row of each run alone"
    if ends["tokens"].nunique() < 2:
        remedy = (
            "The last rows of all runs have the same number of tokens, so they alone do not show "
            "what D does: train runs of other lengths, or cool down from checkpoints of these"
        )
    elif not high[known[rate] <= ends[rate].max()].any():
        remedy += f": --where '{rate}<={_above(float(ends[rate].max()))}'"
    return (
        f"{int(high.sum())} of {len(rows)} rows had not decayed their learning rate ({rate} is "
        f"more than {ABOVE:g} times that at the end of their run). Their losses lie above those of "
        "runs that end there, so coefficients, N* and forecasts are further off than any interval "
        f"shows. {remedy}",
    )


def _above(value: float) -> str:
    """The value rounded up to four digits."""
    place = 10.0 ** (np.floor(np.log10(value)) - 3) if value > 0 else 1.0
    return f"{np.ceil(value / place - 1e-9) * place:.4g}"
