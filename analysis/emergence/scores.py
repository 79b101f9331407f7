"""A table of scores as one Series a curve; what was left out, with the reason.

Nothing is guessed in silence: a missing score is missing and never 0, and a score outside the
metric's range, a mixture of metrics or a multiple-choice score without its level of guessing is
refused with the remedy.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import pandas as pd

from analysis.emergence.metrics import Metric, attempts_of, falls, metric
from analysis.emergence.series import Series
from analysis.emergence.tidy import (
    LONG,
    OPTIONAL,
    STANDS_FOR,
    Ask,
    PerTask,
    called,
    column_of,
    empty_of,
    file_rows,
    folder_rows,
    groups_of,
    joined,
    long_rows,
    loss_column,
    named,
    names_of,
    numbers,
)
from analysis.runs import status
from analysis.runs.filter import where
from analysis.runs.load import listing, load
from analysis.runs.repeats import REPEATED, first_told, which_repeat
from analysis.runs.vocabulary import may_be_setting, words
from scaling.store.records import Refusal, did_you_mean

T = TypeVar("T")
# Words of columns that name a model.
_IDS = {"id", "uid", "uuid", "guid", "run", "runs", "name", "model", "job", "exp", "experiment"}
SIZES = ("params", "layers", "tokens", "flops")  # what else may differ at one scale
SAME = 1.02  # times: lengths are rounded to whole batches


@dataclass(frozen=True)
class Assumed:
    """Where the numbers that a curve takes for granted came from, in words."""

    span: str  # the metric's worst and best value
    chance: str
    n: str


@dataclass(frozen=True, eq=False)
class Scores:
    """`series`, one a curve; `assumed` of each; its rows in `tables`; `excluded` the others."""

    series: tuple[Series, ...]
    assumed: tuple[Assumed, ...]
    tables: tuple[pd.DataFrame, ...]
    table: pd.DataFrame  # all rows used
    excluded: pd.DataFrame  # with a `reason`
    notes: tuple[str, ...]

    def left_out(self) -> list[str]:
        """How many rows were left out for each reason, in words."""
        total = len(self.table) + len(self.excluded)
        counted = Counter(self.excluded["reason"])
        return [f"{count} of {total} rows left out: {why}" for why, count in counted.most_common()]


def read_scores(path: Path, ask: Ask) -> Scores:
    """The scores at `path`: a CSV, JSON or Parquet file, or a results folder.

    Raises Refusal naming column, value and remedy.
    """
    raw = folder_rows(path) if path.is_dir() else file_rows(path)
    if ask.join is not None:
        raw = joined(raw, load(ask.join), ask)
    raw.attrs[status.WORDS] = ask.completed
    return scores(raw, ask, str(path))


def scores(raw: pd.DataFrame, ask: Ask, name: str = "the table") -> Scores:
    """The scores of a table that is in memory. Raises Refusal naming column, value and remedy."""
    if len(raw) == 0:
        raise Refusal(f"{name} has no rows. Give a table with a row a score.")
    rows, said = _each_once(where(raw, ask.conditions))
    table = named(long_rows(rows, ask, name), name)
    notes: list[str] = [*table.attrs.get("notes", []), *said]
    tasks = table["task"].unique()
    table = _chosen(table, ask, name)
    for option, given in (("--chance", ask.chance), ("--n", ask.n)):
        _refuse_unknown(option, given, [*tasks, *table["task"].unique()], name)
    table, excluded = _usable(table, ask, name)
    if len(table) == 0:
        reasons = "; ".join(excluded["reason"].unique())
        remedy = "" if status.column(excluded) is None else f" {status.REMEDY}"
        raise Refusal(f"{name}: no score is left ({reasons}).{remedy}")
    parts = list(table.groupby(["task", "metric"], sort=False))
    found = [_read(str(task), str(each), rows, ask) for (task, each), rows in parts]
    notes += [note for each in found for note in each.notes]
    return Scores(
        tuple(each.series for each in found),
        tuple(each.assumed for each in found),
        tuple(rows for _, rows in parts),
        table,
        excluded,
        tuple(dict.fromkeys(notes)),
    )


def losses(rows: pd.DataFrame) -> np.ndarray | None:
    """The loss beside each score, NaN where there is none; None without such a column."""
    column = loss_column(rows)
    return None if column is None else numbers(rows, column, "the scores").to_numpy(float)


def compute(rows: pd.DataFrame) -> np.ndarray | None:
    """The FLOPs beside each score, or 6 times parameters times tokens; None without these."""
    if "flops" in rows:
        return numbers(rows, "flops", "the scores").to_numpy(float)
    if not {"params", "tokens"} <= set(rows.columns):
        return None
    params, tokens = (numbers(rows, name, "the scores") for name in ("params", "tokens"))
    return (6 * params * tokens).to_numpy(float)


# --- rows --------------------------------------------------------------------------------------


def _chosen(table: pd.DataFrame, ask: Ask, name: str) -> pd.DataFrame:
    """Rows of the metrics and tasks asked for, with the shots in the task's name if they differ."""
    present = [str(each) for each in table["metric"].unique()]
    missing = [each for each in ask.metrics if each not in present]
    if missing:
        near = did_you_mean(missing[0], present)
        raise Refusal(f"--metric {missing[0]!r} is not in {name}; it has {listing(present)}.{near}")
    if not ask.metrics and len(present) > 1:
        attempts = [each for each in present if attempts_of(each)]
        one = " ".join(attempts or present[:1])
        raise Refusal(
            f"{name} mixes {len(present)} metrics ({listing(present)}), which are no one curve. "
            f"Choose with --metric, e.g. --metric {one}."
        )
    if ask.metrics:
        table = table[table["metric"].isin(ask.metrics)]
    tasks = [str(each) for each in table["task"].unique()]
    unknown = [each for each in ask.tasks if each not in tasks]
    if unknown:
        near = did_you_mean(unknown[0], tasks)
        raise Refusal(f"--task {unknown[0]!r} is not in {name}; it has {listing(tasks)}.{near}")
    if ask.tasks:
        table = table[table["task"].isin(ask.tasks)]
    if "shots" in table:
        several = table.groupby("task")["shots"].transform("nunique") > 1
        shots = table["shots"].str.removesuffix(".0").str.removesuffix("-shot")
        label = table["task"] + ", " + (shots + "-shot").fillna("shots not given")
        table = table.assign(task=table["task"].where(~several, label))
    for column in ask.by:
        label = table["task"] + f", {column}=" + called(table[column])
        table = table.assign(task=label.where(table[column].notna(), table["task"]))
    return table


class _Once(NamedTuple):
    rows: pd.DataFrame  # repeats with the reason in the column `status.LEFT_OUT`
    said: list[str]


def _each_once(raw: pd.DataFrame) -> _Once:
    """Rows of runs that ended, with those marked that repeat another.

    Models of different names are none: two that know nothing have the same score.
    """
    reason = _unended(raw)
    ended = raw[reason.eq("")]
    ids = [name for name in raw if words(str(name)) & _IDS]
    unlabelled = {name: f"model {at}" for at, name in enumerate(ids)}
    first = first_told(ended.rename(columns=unlabelled))
    said = which_repeat(ended, first)
    if not said:
        return _Once(raw, [])
    reason.iloc[np.flatnonzero(reason.eq(""))[first != np.arange(len(first))]] = REPEATED
    rows = raw.assign(**{status.LEFT_OUT: reason})
    return _Once(rows, [f"{said} (a column that tells them apart, such as seed, keeps them all)"])


def _unended(table: pd.DataFrame) -> pd.Series:
    """Why the run of each row is not to be believed; "" where it is. Trunks are as `steps` says."""
    return status.reasons(table.drop(columns="run_kind", errors="ignore"))


def _usable(table: pd.DataFrame, ask: Ask, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = table.assign(value=numbers(table, "value", name))
    for column in ("n", "stderr", "chance"):
        if column in table:
            table[column] = numbers(table, column, name)
    reason = pd.Series("", index=table.index, dtype=object)
    if ask.steps == "ends":
        if "final" in table:
            ends = table["final"].astype(str).str.lower().isin(("true", "1", "1.0"))
            reason[~ends] = "not the end of a run (--steps all keeps it)"
        if "run_kind" in table:
            trunk = "a trunk: its learning rate had not decayed (--steps all keeps it)"
            reason[table["run_kind"].eq("trunk")] = trunk
    if "run" in table and table.groupby("run")["x"].nunique().gt(1).any():
        reason[table["run"].isna()] = "the column of training runs is empty"
    for column in ask.by:
        reason[table[column].isna()] = f"no {column}"
    reason[table["x"] <= 0] = f"{ask.scale} is zero or negative"
    reason[table["x"].isna()] = f"no {ask.scale}"
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
    """A number that a curve takes for granted, and where it came from, in words."""

    value: T
    source: str


def _read(task: str, name: str, rows: pd.DataFrame, ask: Ask) -> _Read:
    measure = metric(name, ask.span)
    label = f"{task} / {name}"
    value = rows["value"].to_numpy(float)
    low, high = measure.range
    outside = (value < low) | (value > high)
    if outside.any():
        bad = value[int(np.argmax(outside))]
        percent = high == 1.0 and value.min() >= 0 and value.max() <= 100.0
        raise Refusal(
            f"{label}: a score of {bad:g} lies outside {low:g} to {high:g}, the range of {name} "
            f"({int(outside.sum())} of {len(value)} scores do). "
            + ("In percent? Give --range 0,100." if percent else "Correct it, or give --range.")
        )
    distinct = rows["x"].nunique()
    if distinct < 2:
        raise Refusal(
            f"{label}: all {len(rows)} scores are at one scale, {ask.scale} = "
            f"{rows['x'].iloc[0]:g}. A curve needs two, a verdict eight."
        )
    chance, n = _chance(task, measure, rows, ask), _questions(task, measure, rows, ask)
    others = _others(rows, ask)
    run = _labels(rows, "run")
    notes = [empty_of(rows, "group", "each of them counts as a group of its own"),
             empty_of(rows, "seed", "seeds are not compared")]  # fmt: skip
    series = Series(
        task=task,
        metric=measure,
        scale=ask.scale,
        x=rows["x"].to_numpy(float),
        value=value,
        n=n.value,
        stderr=_all_there(rows, "stderr"),
        chance=chance.value,
        ceiling=None,
        group=groups_of(rows, run),
        seed=None if others else _labels(rows, "seed"),
        run=run,
        falling=falls(ask.scale),
    )
    span = "by its name" if ask.span is None else "--range"
    if others:
        apart = _apart(rows, others)
        notes.append(
            f"at one value of {ask.scale} scores differ in {' and '.join(others)} too: such models "
            "are taken as alike, so that their differences widen intervals, and seeds are not "
            "compared." + (f" For a curve each, give --by {' '.join(apart)}" if apart else "")
        )
    of_size = column_of(rows, ask.scale) == column_of(rows, "params")
    if run is None and not of_size and ask.scale != "params":
        notes.append(
            "no column says which training run a score is of, so each is taken as that of a model "
            "trained on its own. If several are checkpoints of one run, name it with --run-column"
        )
    return _Read(series, Assumed(span, chance.source, n.source), tuple(filter(None, notes)))


def _others(rows: pd.DataFrame, ask: Ask) -> list[str]:
    """Columns of sizes, lengths and settings of which one value of the scale, and one seed if
    there are any, has several."""
    found: list[str] = []
    scale = column_of(rows, ask.scale)
    sizes = [(wanted, column_of(rows, wanted)) for wanted in SIZES]
    for wanted, column in sizes:
        if column is None or column == scale or (wanted == "flops" and found):
            continue  # FLOPs follow from the others
        values = numbers(rows, column, "the scores").groupby(rows["x"])
        if (values.max() > SAME * values.min()).any():
            found.append(column)
    if "seed" not in rows:
        return found
    known = {scale, ask.scale, "x", "run_kind", *LONG, *OPTIONAL, *ask.columns.values()}
    known |= {each for names in STANDS_FOR.values() for each in names}
    point = np.unique(rows["x"], return_inverse=True)[1]
    for column in map(str, rows.columns):
        if (
            column in known
            or words(column) & _IDS
            or not may_be_setting(column, rows[column], point)
        ):
            continue
        if rows.groupby(["x", "seed"])[column].nunique().gt(1).any():
            found.append(column)
    return found


def _apart(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """Those of `columns`, taken one after another, that leave every curve two scales."""
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


def _chance(task: str, measure: Metric, rows: pd.DataFrame, ask: Ask) -> _Given[float | None]:
    """The expected score of guessing, in the metric's units, and where it is from; None: fitted.

    Raises Refusal for multiple choice without one, and for a task with several.
    """
    given = ask.chance.of(task)
    if given is not None:
        return _Given(given, "--chance")
    column = ask.columns.get("chance", "chance")
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
            f"{task} / {measure.name} has no chance level, and multiple choice is not at 0 when it "
            f"knows nothing. Give --chance {task}=0.25 (0 if answers are written), or a column "
            "`chance`."
        )
    if measure.guessing == "written":
        return _Given(measure.worst, "answers are written")
    return _Given(None, "not known")


def _questions(
    task: str, measure: Metric, rows: pd.DataFrame, ask: Ask
) -> _Given[np.ndarray | None]:
    """The questions behind each score, and where their number is from; None: not known."""
    given = ask.n.of(task)
    if given is not None:
        return _Given(np.full(len(rows), float(given)), "--n")
    column = ask.columns.get("n", "n")
    found = _all_there(rows, "n")
    if found is not None:
        return _Given(found, f"column {column}")
    some = int(rows["n"].notna().sum()) if "n" in rows else 0
    lacking = f"column {column} has it for {some} of {len(rows)} rows only; " if some else ""
    if _all_there(rows, "stderr") is not None and measure.bounded:
        return _Given(None, f"{lacking}as many as its standard error says")
    return _Given(None, f"{lacking}not known: all spread is taken for models that differ")


def _all_there(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    """The column if every row has it: of what is known of some rows only, nothing is made."""
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].to_numpy(float)


def _labels(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].astype(str).to_numpy(dtype=str)
