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

from analysis.runs.columns import each
from analysis.runs.vocabulary import RUNS, STEPS, is_number, is_plain, is_rate, is_seed, words
from scaling.store.records import Refusal

COLUMN = "trunk_id"  # names the run that a row belongs to, in every table that is fitted
AUTO, NONE = "auto", "none"
IDS = each("id ids uid uuid guid")
BESIDE = IDS | each("name names key group config meta")
# Of runs, or of what several runs have in common: a size, or an experiment of one size.
NAMES = each("model name label id exp experiment")
NUMBERED = each("exp experiment")  # of which plain numbers are no sizes
ABOVE = 1.5  # × the last rate of its run: it had not decayed
DECAYED = 0.05  # of the run's highest rate is nothing, whatever follows
FALL = 3.0  # from the highest to the last rate: a schedule, not a choice
# A rate that falls faster than D^-1.5 at last, over a factor of two in D or more, is a schedule's:
# a cosine or a line to a tenth falls as D^-2.5. Rules for the best rate of a run of D tokens fall
# as D^-0.1 to D^-0.5 (Bi et al. 2024, arXiv:2401.02954; Bjorck et al. 2024, arXiv:2409.19913).
STEEP = 1.5
EVEN = 5  # rows of a run that lie evenly in D: logged, or planned
MANY = 10  # such rows: hardly planned
RESTARTS = 0.1  # of the rows of a log, at most, are steps that were logged again
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
        return Trajectories(None, None, warnings=(_independent(rows),))
    count = rows[found.column].nunique()
    alone = "If every row is a run of its own: --cluster none"
    if (empty := int(rows[found.column].isna().sum())) > 0:
        alone = f"{empty} rows without one count as runs of their own. {alone}"
    if not found.sure:
        said = f"{found.column} may name {count} runs or {count} sizes: rows of one count as one"
        said = f"{said} cluster. {alone}"
        return Trajectories(found.column, rows[found.column], warnings=(said,))
    said = f"{found.column} names {count} runs ({found.why}): they are the clusters of the rows"
    cautions = _undecayed(rows, found.column) or _unknown(found)
    return Trajectories(found.column, rows[found.column], tuple(cautions), (f"{said}. {alone}",))


def _independent(rows: pd.DataFrame) -> str:
    """That no rows share a run, why, and what to do if they do."""
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
    column: str
    sure: bool
    why: str = ""


def _found(rows: pd.DataFrame) -> _Found | None:
    """The column that names runs, if there is one."""
    if not _counted(rows):
        return None
    named = [column for column in map(str, rows.columns) if _names_runs(column, rows[column])]
    if any(rows[column].is_unique for column in named):
        return None
    for column in named:
        if _one_size(rows, column) and not _seeded(rows, column):
            return _Found(column, True, "by its name")
    shared = [c for c in [*_texts(rows), "params"] if rows[c].notna().all() and _one_size(rows, c)]
    for column in shared:
        if why := _logged(rows, column):
            return _Found(column, True, why)
    if _own_name(rows):
        return None
    for column in shared:
        if _may_name(column, rows[column]) and not _seeded(rows, column):
            return _Found(column, False)
    return _Found("params", False) if _even(rows, "params", EVEN) and not _rates(rows) else None


def _counted(rows: pd.DataFrame) -> bool:
    return {"params", "tokens"} <= set(rows) and is_number(rows["tokens"])


def _names_runs(column: str, cells: pd.Series) -> bool:
    """By its name: `run`, `wandb_run_id`; not `run_time`."""
    own = words(column)
    return bool(own & RUNS) and own <= RUNS | BESIDE and is_plain(cells)


def _own_name(rows: pd.DataFrame) -> str:
    """The column that has a name or an id of its own for every row; empty where none has."""
    for column in map(str, rows.columns):
        own = words(column)
        named = own & (RUNS | NAMES | IDS) and own <= RUNS | NAMES | BESIDE
        if named and is_plain(rows[column]) and rows[column].is_unique and len(rows) > 1:
            return column
    return ""


def _may_name(column: str, cells: pd.Series) -> bool:
    """Names of runs or of sizes: `model`, but for 70M, which several runs may have."""
    own = words(column)
    if not own & NAMES:
        return False
    return bool(own & NUMBERED) or not all(_SIZE.fullmatch(str(cell)) for cell in cells.unique())


def _texts(rows: pd.DataFrame) -> list[str]:
    return [
        column for column in map(str, rows.columns)
        if (not is_number(rows[column]) or words(column) <= NUMBERED) and is_plain(rows[column])
        and not is_seed(column)
    ]  # fmt: skip


def _one_size(rows: pd.DataFrame, column: str) -> bool:
    """Whether several rows have a value in common, and never several N."""
    known = rows[rows[column].notna()]
    if known[column].is_unique:
        return False
    runs = known.groupby(column)
    return bool(runs["params"].nunique().max() == 1 and runs["tokens"].nunique().max() > 1)


def _seeded(rows: pd.DataFrame, column: str) -> bool:
    """Whether one value has rows of several seeds, or several at one D: those are several runs."""
    known = rows[rows[column].notna()]
    seeds = [c for c in rows.columns if is_seed(str(c))]
    several = any(known.groupby(column)[seed].nunique().max() > 1 for seed in seeds)
    return several or bool(known.duplicated([column, "tokens"]).mean() > RESTARTS)


def _logged(rows: pd.DataFrame, column: str) -> str:
    """What shows that rows of one value are the log of a run; empty where nothing does."""
    if rate := _falling(rows, column, STEEP):
        return f"{rate} falls along each as a schedule does"
    return "its rows lie at even distances in tokens" if _even(rows, column, MANY) else ""


def _rates(rows: pd.DataFrame) -> list[str]:
    return [str(c) for c in rows.columns if is_rate(str(c)) and is_number(rows[c])]


def _in_order(rows: pd.DataFrame, column: str) -> list[pd.DataFrame]:
    return [of.sort_values("tokens") for _, of in rows.groupby(column) if len(of) > 1]


def _falling(rows: pd.DataFrame, column: str, steep: float) -> str:
    """The learning rate that falls along the rows of every value, as D^-steep or faster at last."""
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


def _undecayed(rows: pd.DataFrame, column: str) -> list[str]:
    """Rows whose learning rate lies well above what their run came to, and what to do."""
    if not _rates(rows) or "tokens" not in rows:
        return []
    rate = _rates(rows)[0]
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


def _unknown(found: _Found) -> list[str]:
    """Checkpoints of which no column says whether the rate had decayed."""
    return [
        f"{found.column} has several rows a run, and no column says whether the learning rate had "
        "decayed at each: if not, their losses lie above those of runs that end there. Fit the "
        "ends of decays alone"
    ]


def _above(value: float) -> str:
    """Four digits of it, not below it."""
    place = 10.0 ** (np.floor(np.log10(value)) - 3) if value > 0 else 1.0
    return f"{np.ceil(value / place - 1e-9) * place:.4g}"
