"""A table of scores as one Series a curve; what was left out, with the reason.

Nothing is guessed in silence: a missing score is missing and never 0, and a score outside the
metric's range, a mixture of metrics or a multiple-choice score without its level of guessing is
refused with the remedy.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.emergence.series import Metric, Series, metric
from analysis.emergence.tidy import Ask, folder_rows, joined, long_rows, named, numbers
from analysis.runs.filter import where
from analysis.runs.load import listing, load
from scaling.records import Refusal

FALLING = ("loss", "val_loss", "loss_final", "bits_per_byte")  # scales whose progress is downwards
# Multiple choice: somebody who guesses scores above zero, and how much is not in the score.
CHOICES = ("acc", "acc_norm", "accuracy", "choice_accuracy", "mc", "multiple_choice_grade")
WRITTEN = ("exact_match", "em", "bleu", "pass@", "rouge", "f1")  # guessing scores 0
# Metrics of the trainer's own evaluations that the statistics do not know by name.
OWN = {
    "choice_accuracy": (0.0, 1.0),
    "token_accuracy": (0.0, 1.0),
    "edit_distance": (1.0, 0.0),  # by the longer text
    "answer_logprob": (-math.inf, 0.0),
    "token_logprob": (-math.inf, 0.0),
}


@dataclass(frozen=True, eq=False)
class Scores:
    """`series`, one a curve, with its rows in `tables`; `excluded` the others and a `reason`."""

    series: tuple[Series, ...]
    tables: tuple[pd.DataFrame, ...]
    table: pd.DataFrame  # all rows used
    excluded: pd.DataFrame
    notes: tuple[str, ...]

    def left_out(self) -> list[str]:
        """How many rows were left out for each reason, in words."""
        total = len(self.table) + len(self.excluded)
        counted = Counter(self.excluded["reason"])
        return [f"{count} of {total} rows left out: {why}" for why, count in counted.most_common()]


def read_scores(path: Path, ask: Ask) -> Scores:
    """The scores at `path`: a CSV or Parquet file, or a results folder.

    Raises Refusal naming column, value and remedy.
    """
    raw = folder_rows(path) if path.is_dir() else load(path)
    if ask.join is not None:
        raw = joined(raw, load(ask.join), ask)
    return scores(raw, ask, str(path))


def scores(raw: pd.DataFrame, ask: Ask, name: str = "the table") -> Scores:
    """The scores of a table that is in memory. Raises Refusal naming column, value and remedy."""
    if len(raw) == 0:
        raise Refusal(f"{name} has no rows. Give a table with a row a score.")
    table = named(long_rows(where(raw, ask.conditions), ask, name), name)
    notes: list[str] = list(table.attrs.get("notes", []))
    table = _chosen(table, ask, name)
    table, excluded = _usable(table, ask, name)
    if len(table) == 0:
        reasons = "; ".join(excluded["reason"].unique())
        raise Refusal(f"{name}: no score is left ({reasons}).")
    parts = list(table.groupby(["task", "metric"], sort=False))
    found = [_series(str(task), str(each), rows, ask, notes) for (task, each), rows in parts]
    tables = tuple(rows for _, rows in parts)
    return Scores(tuple(found), tables, table, excluded, tuple(dict.fromkeys(notes)))


def losses(rows: pd.DataFrame) -> np.ndarray | None:
    """The loss beside each score, NaN where there is none; None without such a column."""
    column = next((each for each in ("val_loss", "loss", "loss_final") if each in rows), None)
    return None if column is None else numbers(rows, column, "the scores").to_numpy(float)


# --- rows --------------------------------------------------------------------------------------


def _chosen(table: pd.DataFrame, ask: Ask, name: str) -> pd.DataFrame:
    """Rows of the metrics and tasks asked for, with the shots in the task's name if they differ."""
    present = [str(each) for each in table["metric"].unique()]
    missing = [each for each in ask.metrics if each not in present]
    if missing:
        raise Refusal(f"--metric {missing[0]!r} is not in {name}; it has {listing(present)}.")
    if not ask.metrics and len(present) > 1:
        attempts = [each for each in present if each.startswith("pass@")]
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
        raise Refusal(f"--task {unknown[0]!r} is not in {name}; it has {listing(tasks)}.")
    if ask.tasks:
        table = table[table["task"].isin(ask.tasks)]
    if "shots" in table:
        several = table.groupby("task")["shots"].transform("nunique") > 1
        shots = table["shots"].str.removesuffix(".0").str.removesuffix("-shot")
        label = table["task"] + ", " + shots + "-shot"
        table = table.assign(task=table["task"].where(~several, label))
    return table


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
    reason[table["x"] <= 0] = f"{ask.scale} is zero or negative"
    reason[table["x"].isna()] = f"no {ask.scale}"
    reason[table["value"].isna()] = "no score"
    out = reason.ne("")
    return table[~out].copy(), table[out].assign(reason=reason[out])


# --- series ------------------------------------------------------------------------------------


def _series(task: str, name: str, rows: pd.DataFrame, ask: Ask, notes: list[str]) -> Series:
    measure = meaning(name, ask.span)
    label = f"{task} / {name}"
    value = rows["value"].to_numpy(float)
    low, high = sorted((measure.worst, measure.best))
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
    repeated = int(rows.astype(str).duplicated().sum())  # lists, too, can be compared so
    if repeated:
        notes.append(f"{label}: {repeated} rows are the same as another, and counted as evidence")
    return Series(
        task=task,
        metric=measure,
        scale=ask.scale,
        x=rows["x"].to_numpy(float),
        value=value,
        n=_questions(rows, ask),
        stderr=_all_there(rows, "stderr"),
        chance=chance_level(task, name, rows, ask),
        ceiling=None,
        group=_labels(rows, "group"),
        seed=_labels(rows, "seed"),
        falling=ask.scale in FALLING,
    )


def meaning(name: str, span: tuple[float, float] | None) -> Metric:
    """What a number of this metric means; `span` gives its worst and best value, in that order."""
    if span is not None:
        return Metric(name, *span)
    if name.startswith("pass@"):
        return Metric(name, 0.0, 1.0)
    return Metric(name, *OWN[name]) if name in OWN else _known(name)


def _known(name: str) -> Metric:
    try:
        return metric(name)
    except Refusal as refusal:
        raise Refusal(
            f"--metric {name!r} is none whose worst and best value are known. Give them with "
            "--range WORST,BEST, e.g. --range 0,1."
        ) from refusal


def chance_level(task: str, name: str, rows: pd.DataFrame, ask: Ask) -> float | None:
    """The expected score of guessing, in the metric's units; None for a metric that has none.

    Raises Refusal for multiple choice without one, and for a task with several.
    """
    if task in ask.chances:
        return ask.chances[task]
    plain = task.rpartition(", ")[0]  # without its shots
    if plain in ask.chances:
        return ask.chances[plain]
    if ask.chance is not None:
        return ask.chance
    known = rows["chance"].dropna().unique() if "chance" in rows else np.array([])
    if len(known) > 1:
        raise Refusal(
            f"{task} / {name} has {len(known)} levels of chance ({known[0]:g} and {known[1]:g}). "
            "A curve has one: select rows with --where, or give --chance."
        )
    if len(known):
        return float(known[0])
    if name in CHOICES:
        raise Refusal(
            f"{task} / {name} has no chance level, and multiple choice is not at 0 when it knows "
            f"nothing. Give --chance {task}=0.25 (0 if answers are written), or a column `chance`."
        )
    return 0.0 if name.startswith(WRITTEN) else None


def _questions(rows: pd.DataFrame, ask: Ask) -> np.ndarray | None:
    if ask.n is not None:
        return np.full(len(rows), float(ask.n))
    return _all_there(rows, "n")


def _all_there(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    """The column if every row has it: of what is known of some rows only, nothing is made."""
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].to_numpy(float)


def _labels(rows: pd.DataFrame, column: str) -> np.ndarray | None:
    if column not in rows or rows[column].isna().any():
        return None
    return rows[column].astype(str).to_numpy(dtype=str)
