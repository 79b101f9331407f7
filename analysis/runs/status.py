"""Which rows are the end of a completed run, by the words that trackers and schedulers use.

A column says how each run ended (`status`), or marks those that ended so (`diverged`).
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Index
from analysis.runs.columns.names import candidates
from analysis.runs.columns.numbers import text_of
from analysis.runs.columns.units import snake_case, word_set
from analysis.runs.messages import shown

LEFT_OUT = "left_out"  # the column with the reason why a row with a bad cell is left out
COMPLETED = word_set("completed complete done finished ok success successful succeeded true")
# Run states of W&B (docs.wandb.ai/models/runs/run-states), RunStatus of MLflow (mlflow.entities),
# job states of Slurm (slurm.schedmd.com/squeue.html), TrialState of Optuna (optuna.trial), and
# what people write themselves.
OTHERS = word_set(
    """aborted boot_fail canceled cancelled completing configuring crashed deadline diverged error
    fail failed failure false incomplete interrupted killed nan node_fail oom out_of_memory paused
    pending planned preempted preempting pruned queued requeue_fed requeue_hold requeued resizing
    resv_del_hold revoked running scheduled signaling skipped special_exit stage_out started
    stopped suspended timeout unfinished waiting"""
)
# Columns that mark runs which ended so. `error` may be a standard error, `failure` a rate.
MARKS = word_set(
    """aborted canceled cancelled crashed diverged failed incomplete interrupted killed oom
    unfinished"""
)
_MARKED = "marked"  # begins the reason, and the column ends it
_YES, _NO = word_set("true yes y 1"), word_set("false no n 0")
_CODE = re.compile(r"-?[0-9]{1,10}")  # the exit code of a process
COMPLETED_ATTR = "completed"  # attrs of a table: the user's own words for a completed run


def column(table: pd.DataFrame) -> str | None:
    """The column that says how each run ended: `status`, or the only one that can be it."""
    if "status" in table:
        return "status"
    found = candidates("status", [str(name) for name in table.columns])
    if len(found) != 1 or found[0] not in table:
        return None
    words = {_word(text) for text in _distinct(table[found[0]]).cells}
    known = bool(words & (COMPLETED | OTHERS | _own_words(table)))
    # A number may be an exit code; in a `state` it may be anything.
    coded = not found[0].lower().endswith("state") and any(map(_CODE.fullmatch, words))
    return found[0] if known or coded else None


def reasons(table: pd.DataFrame) -> pd.Series:
    """Why each row is not the end of a completed run; "" for one that is or may be."""
    reason = pd.Series("", index=table.index, dtype=object)
    if (name := column(table)) is not None:
        codes, cells = _distinct(table[name])
        known = COMPLETED | _own_words(table)
        why = [_reason(name, cell, known) for cell in cells]
        reason[:] = np.array([*why, ""], dtype=object)[codes]
    for name in _marks(table):
        codes, cells = _distinct(table[name])
        marked = np.array([*(_word(cell) in _YES for cell in cells), False])[codes]
        reason[marked & reason.eq("")] = f"{_MARKED} {shown(name)}"
    if "run_kind" in table:
        trunk = table["run_kind"].eq("trunk") & reason.eq("")
        reason[trunk] = "a trunk, whose learning rate had not decayed"
    if LEFT_OUT in table:
        invalid = table[LEFT_OUT].ne("") & table[LEFT_OUT].notna() & reason.eq("")
        reason = reason.mask(invalid, table[LEFT_OUT])
    return reason


def remedy(table: pd.DataFrame) -> str:
    """What helps where runs that came to their end are left out for what a column says."""
    why = reasons(table)
    by = [shown(name) for name in _marks(table) if why.eq(f"{_MARKED} {shown(name)}").any()]
    said = [f"If {each} says nothing of how a run ended, rename it." for each in by]
    if column(table) is not None and not why.str.startswith(_MARKED).all():
        said.append("If such runs came to their end, name their status with --completed.")
    return " ".join(said)


def _marks(table: pd.DataFrame) -> list[str]:
    """Columns that are named after a bad end, and say yes or no."""
    names = [name for name in map(str, table.columns) if _mark(name) in MARKS and name in table]
    return [
        name for name in names
        if {_word(cell) for cell in _distinct(table[name]).cells} <= _YES | _NO | {""}
    ]  # fmt: skip


def _mark(name: str) -> str:
    return re.sub(r"^(is|has|was)_", "", snake_case(name))


class _Distinct(NamedTuple):
    codes: Index  # of each row's cell in `cells`; -1 where it is empty
    cells: list[str]


def _distinct(cells: pd.Series) -> _Distinct:
    try:
        codes, values = pd.factorize(cells)
    except TypeError:  # lists
        codes, values = pd.factorize(cells.map(text_of))
    return _Distinct(codes, [text_of(value).strip() for value in values])


def _own_words(table: pd.DataFrame) -> frozenset[str]:
    return frozenset(_word(text) for text in table.attrs.get(COMPLETED_ATTR, ()))


def _reason(name: str, text: str, completed: frozenset[str]) -> str:
    word = _word(text)
    code = _CODE.fullmatch(word)
    if word in completed or not text or (code and int(word) == 0):
        return ""
    reason = f"{shown(name)} {shown(text)}"
    if code:
        return f"{reason} (an exit code: 0 is a completed run, or name it with --completed)"
    if word not in OTHERS:
        known = ", ".join(sorted(completed))
        reason += f" (a completed run is called {known}, or what --completed names)"
    return reason


def _word(text: str) -> str:
    """In lower case, without details: CANCELLED by 1000 is cancelled, Node fail is node_fail."""
    short = re.sub(r"\s+by\s.*|\s*\(.*|\+$", "", text.strip().lower(), flags=re.DOTALL)
    if _CODE.fullmatch(whole := short.removesuffix(".0")):  # an empty cell makes the others floats
        return whole
    return re.sub(r"[\s-]+", "_", short)
