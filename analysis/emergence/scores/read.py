"""Scores of a table or a results folder: one Series per curve, and the rows left out, with reasons.

Nothing is assumed without a word: a missing score stays missing and is never 0, and a score outside
the metric's range, a mixture of metrics or multiple choice without a chance level is refused, with
the remedy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from analysis.emergence.scores.columns import (
    LONG,
    OPTIONAL,
    STANDS_FOR,
    called,
    column_of,
    empty_of,
    file_rows,
    folder_rows,
    groups_of,
    joined,
    long_rows,
    named,
    numbers,
)
from analysis.emergence.scores.metrics import Metric, lower_is_better, metric, samples_of
from analysis.emergence.scores.query import PerTask, ScoreQuery, names_of
from analysis.emergence.scores.series import Series, refuse_values
from analysis.runs import status
from analysis.runs.checks.duplicates import REPEATED, duplicates_named, first_equal
from analysis.runs.columns.kinds import may_be_setting
from analysis.runs.columns.units import words
from analysis.runs.files.load import load
from analysis.runs.filter import meets
from analysis.runs.messages import listing
from scaling.store.records import Refusal, did_you_mean, printable

T = TypeVar("T")
# Words of columns that name a model.
_IDS = {"id", "uid", "uuid", "guid", "run", "runs", "name", "model", "job", "exp", "experiment"}
SIZES = ("params", "layers", "tokens", "flops")  # what else may differ at one scale
SAME = 1.02  # times: lengths are rounded to whole batches


@dataclass(frozen=True)
class Assumed:
    """The sources of the numbers that a curve assumes, in words."""

    span: str  # the metric's worst and best value
    chance: str
    n: str


@dataclass(frozen=True, eq=False)
class Scores:
    """One series per curve, with what each assumes and its rows; and the rows left out."""

    series: tuple[Series, ...]
    assumed: tuple[Assumed, ...]
    tables: tuple[pd.DataFrame, ...]  # the rows of each series
    table: pd.DataFrame  # all rows used
    excluded: pd.DataFrame  # with a `reason`
    notes: tuple[str, ...]

    def left_out(self) -> list[str]:
        """One sentence per reason: how many rows were left out."""
        total = len(self.table) + len(self.excluded)
        counted = Counter(self.excluded["reason"])
        return [
            printable(f"{count} of {total} rows left out: {why}")
            for why, count in counted.most_common()
        ]


def read_scores(path: Path, query: ScoreQuery) -> Scores:
    """The scores at `path`: a CSV, JSON or Parquet file, or a results folder.

    Raises Refusal naming column, value and remedy.
    """
    raw = folder_rows(path) if path.is_dir() else file_rows(path)
    if query.join is not None:
        raw = joined(raw, load(query.join), query)
    raw.attrs[status.COMPLETED_ATTR] = query.completed
    return scores(raw, query, str(path))


def scores(raw: pd.DataFrame, query: ScoreQuery, name: str = "the table") -> Scores:
    """The scores of a table that is in memory. Raises Refusal naming column, value and remedy."""
    if len(raw) == 0:
        raise Refusal(f"{name} has no rows. Give a table with one row per score.")
    rows, said = _each_once(raw[meets(raw, query.conditions)])
    table = named(long_rows(rows, query, name), name)
    notes: list[str] = [*table.attrs.get("notes", []), *said]
    tasks = table["task"].unique()
    table = _chosen(table, query, name)
    for option, given in (("--chance", query.chance), ("--n", query.n)):
        _refuse_unknown(option, given, [*tasks, *table["task"].unique()], name)
    table, excluded = _usable(table, query, name)
    if len(table) == 0:
        reasons = "; ".join(excluded["reason"].unique())
        raise Refusal(f"{name}: no score is left ({reasons}).", status.remedy(excluded))
    parts = list(table.groupby(["task", "metric"], sort=False))
    found = [_read(str(task), str(each), rows, query) for (task, each), rows in parts]
    notes += [note for each in found for note in each.notes]
    return Scores(
        tuple(each.series for each in found),
        tuple(each.assumed for each in found),
        tuple(rows for _, rows in parts),
        table,
        excluded,
        tuple(dict.fromkeys(map(printable, notes))),
    )


def losses(rows: pd.DataFrame) -> np.ndarray | None:
    """The loss of each score's model, NaN where there is none; None without such a column."""
    column = column_of(rows, "loss")
    return None if column is None else numbers(rows, column, "the scores").to_numpy(float)


def compute(rows: pd.DataFrame) -> np.ndarray | None:
    """The FLOPs of each score's model, or 6 N D, in the columns' units; None without columns."""
    flops, params, tokens = (column_of(rows, each) for each in ("flops", "params", "tokens"))
    if flops is not None:
        return numbers(rows, flops, "the scores").to_numpy(float)
    if params is None or tokens is None:
        return None
    n, d = (numbers(rows, column, "the scores") for column in (params, tokens))
    return (6 * n * d).to_numpy(float)


# --- rows --------------------------------------------------------------------------------------


def _chosen(table: pd.DataFrame, query: ScoreQuery, name: str) -> pd.DataFrame:
    """Rows of the metrics and tasks asked for; shots that differ become part of the task's name."""
    present = [str(each) for each in table["metric"].unique()]
    if not query.metrics and len(present) > 1:
        pass_at = [each for each in present if samples_of(each)]
        one = " ".join(pass_at or present[:1])
        raise Refusal(
            f"{name} mixes {len(present)} metrics ({listing(present)}), which are not one curve. "
            f"Choose with --metric, e.g. --metric {one}."
        )
    table = _only(_only(table, "metric", query.metrics, name), "task", query.tasks, name)
    if "shots" in table:
        several = table.groupby("task")["shots"].transform("nunique") > 1
        shots = table["shots"].str.removesuffix(".0").str.removesuffix("-shot")
        label = table["task"] + ", " + (shots + "-shot").fillna("shots not given")
        table = table.assign(task=table["task"].where(~several, label))
    for column in query.by:
        value = called(table[column]).map(printable, na_action="ignore")
        label = table["task"] + f", {printable(column)}=" + value
        table = table.assign(task=label.where(table[column].notna(), table["task"]))
    return table


def _only(table: pd.DataFrame, column: str, wanted: Sequence[str], name: str) -> pd.DataFrame:
    """The rows of the wanted metrics or tasks; all if none is named. Raises Refusal for others."""
    present = [str(each) for each in table[column].unique()]
    wanted = [printable(each) for each in wanted]
    for each in wanted:
        if each not in present:
            near = did_you_mean(each, present)
            raise Refusal(f"--{column} {each!r} is not in {name}; it has {listing(present)}.{near}")
    return table[table[column].isin(wanted)] if wanted else table


class _Once(NamedTuple):
    rows: pd.DataFrame  # repeats with the reason in the column `status.LEFT_OUT`
    said: list[str]


def _each_once(raw: pd.DataFrame) -> _Once:
    """Rows of runs that finished, with those marked that repeat another.

    Models of different names are no repeats: two that know nothing have the same score.
    """
    reason = _unended(raw)
    ended = raw[reason.eq("")]
    ids = [name for name in raw if words(str(name)) & _IDS]
    unlabelled = {name: f"model {at}" for at, name in enumerate(ids)}
    first = first_equal(ended.rename(columns=unlabelled))
    said = duplicates_named(ended, first)
    if not said:
        return _Once(raw, [])
    reason.iloc[np.flatnonzero(reason.eq(""))[first != np.arange(len(first))]] = REPEATED
    rows = raw.assign(**{status.LEFT_OUT: reason})
    return _Once(rows, [f"{said} (a column that tells them apart, such as seed, keeps them all)"])


def _unended(table: pd.DataFrame) -> pd.Series:
    """Why each row's run did not finish; "" where it did. `steps` decides on trunks."""
    return status.reasons(table.drop(columns="run_kind", errors="ignore"))


def _usable(table: pd.DataFrame, query: ScoreQuery, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = table.assign(value=numbers(table, "value", name))
    for column in ("n", "stderr", "chance"):
        if column in table:
            table[column] = numbers(table, column, name)
    reason = pd.Series("", index=table.index, dtype=object)
    if query.steps == "ends":
        if "final" in table:
            ends = table["final"].astype(str).str.lower().isin(("true", "1", "1.0"))
            reason[~ends] = "not the end of a run (--steps all keeps it)"
        if "run_kind" in table:
            trunk = "a trunk: its learning rate had not decayed (--steps all keeps it)"
            reason[table["run_kind"].eq("trunk")] = trunk
    if "run" in table and table.groupby("run")["x"].nunique().gt(1).any():
        reason[table["run"].isna()] = "the column of training runs is empty"
    for column in query.by:
        reason[table[column].isna()] = f"no {column}"
    reason[table["x"] <= 0] = f"{query.scale} is zero or negative"
    reason[table["x"].isna()] = f"no {query.scale}"
    reason[table["value"].isna()] = "no score"
    unended = _unended(table)
    reason = reason.mask(unended.ne(""), unended)
    out = reason.ne("")
    return table[~out].copy(), table[out].assign(reason=reason[out])


# --- series ------------------------------------------------------------------------------------


class _Read(NamedTuple):
    series: Series
    assumed: Assumed
    notes: tuple[str, ...]


class _Given(NamedTuple, Generic[T]):
    """A number that a curve assumes, with its source in words."""

    value: T
    source: str


def _read(task: str, name: str, rows: pd.DataFrame, query: ScoreQuery) -> _Read:
    measure = metric(name, query.span)
    label = f"{task} / {name}"
    x, value = rows["x"].to_numpy(float), rows["value"].to_numpy(float)
    refuse_values(label, measure, query.scale, x, value)
    chance, n = _chance(task, measure, rows, query), _questions(task, measure, rows, query)
    others = _others(rows, query)
    run = _all_there(rows, "run", str)
    notes = [empty_of(rows, "group", "each of them counts as a separate group"),
             empty_of(rows, "seed", "seeds are not compared")]  # fmt: skip
    series = Series(
        task=task,
        metric=measure,
        scale=query.scale,
        x=x,
        value=value,
        n=n.value,
        stderr=_all_there(rows, "stderr"),
        chance=chance.value,
        group=groups_of(rows, run),
        seed=None if others else _all_there(rows, "seed", str),
        run=run,
        falling=lower_is_better(query.scale),
    )
    span = "by its name" if query.span is None else "--range"
    if others:
        apart = _apart(rows, others)
        notes.append(
            f"at one value of {query.scale} scores differ in {' and '.join(others)} too: different "
            "models are mixed here, which widens the intervals; seeds are not compared."
            + (f" For one curve each, give --by {' '.join(apart)}" if apart else "")
        )
    if run is None and column_of(rows, query.scale) != column_of(rows, "params"):
        notes.append(
            "no column has the training run of a score, so each score counts as that of a separate "
            "run. If several are checkpoints of one run, name its column with --run-column"
        )
    return _Read(series, Assumed(span, chance.source, n.source), tuple(filter(None, notes)))


def _others(rows: pd.DataFrame, query: ScoreQuery) -> list[str]:
    """Columns of sizes, lengths and settings that have several values at one value of the scale
    (and of the seed, if there are seeds)."""
    found: list[str] = []
    scale = column_of(rows, query.scale)
    for wanted in SIZES:
        column = column_of(rows, wanted)
        if column is None or column == scale or (wanted == "flops" and found):
            continue  # FLOPs follow from the others
        values = numbers(rows, column, "the scores").groupby(rows["x"])
        if (values.max() > SAME * values.min()).any():
            found.append(column)
    if "seed" not in rows:
        return found
    known = {scale, query.scale, "x", "run_kind", *LONG, *OPTIONAL, *query.columns.values()}
    known |= {each for names in STANDS_FOR.values() for each in names}
    point = np.unique(rows["x"], return_inverse=True)[1]
    by_seed = rows.groupby(["x", "seed"])
    for column in map(str, rows.columns):
        own = column not in known and not words(column) & _IDS
        if own and may_be_setting(column, rows[column], point):
            found += [column] if by_seed[column].nunique().gt(1).any() else []
    return found


def _apart(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """Those of `columns` by which the scores can be split so that every curve has two scales."""
    found: list[str] = []
    for column in columns:
        if rows.groupby([*found, column])["x"].nunique().gt(1).all():
            found.append(column)
    return found


def _refuse_unknown(option: str, given: PerTask, tasks: list[str], name: str) -> None:
    known = {name for each in tasks for name in names_of(each)}
    unknown = [each for each in given.single if each not in known]
    if unknown:
        raise Refusal(
            f"{option} {unknown[0]}={given.single[unknown[0]]:g}: {name} has no such task; it has "
            f"{listing(list(dict.fromkeys(tasks)))}." + did_you_mean(unknown[0], known)
        )


def _chance(
    task: str, measure: Metric, rows: pd.DataFrame, query: ScoreQuery
) -> _Given[float | None]:
    """The chance level in the metric's units, with its source; None: fitted.

    Raises Refusal for multiple choice without one, and for a task with several.
    """
    given = query.chance.of(task)
    if given is not None:
        return _Given(given, "--chance")
    column = query.columns.get("chance", "chance")
    known = rows["chance"].dropna().unique() if "chance" in rows else np.array([])
    if len(known) > 1:
        raise Refusal(
            f"{task} / {measure.name} has {len(known)} levels of chance ({known[0]:g} and "
            f"{known[1]:g}). A curve has one: select rows with --where, or give --chance."
        )
    if len(known):
        return _Given(float(known[0]), f"column {column}")
    if measure.guessing == "choice":
        raise Refusal(
            f"{task} / {measure.name} has no chance level, and guesses at multiple choice score "
            f"more than 0. Give --chance {task}=0.25 (0 if answers are written), or a column "
            "`chance`."
        )
    if measure.guessing == "written":
        return _Given(measure.worst, "answers are written")
    return _Given(None, "not known")


def _questions(
    task: str, measure: Metric, rows: pd.DataFrame, query: ScoreQuery
) -> _Given[np.ndarray | None]:
    """The number of questions per score, with its source; None: not known."""
    given = query.n.of(task)
    if given is not None:
        return _Given(np.full(len(rows), float(given)), "--n")
    column = query.columns.get("n", "n")
    found = _all_there(rows, "n")
    if found is not None:
        return _Given(found, f"column {column}")
    some = int(rows["n"].notna().sum()) if "n" in rows else 0
    lacking = f"column {column} has it for {some} of {len(rows)} rows only; " if some else ""
    if _all_there(rows, "stderr") is not None and measure.bounded:
        return _Given(None, f"{lacking}implied by its standard error")
    return _Given(None, f"{lacking}not known: all spread counts as overdispersion")


def _all_there(rows: pd.DataFrame, column: str, kind: type = float) -> np.ndarray | None:
    """The column as numbers or, with `kind` str, as text; None unless every row has a value."""
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].astype(kind).to_numpy(kind)
