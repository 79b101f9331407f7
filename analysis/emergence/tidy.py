"""A table of scores of any shape as one of rows: task, metric, value, x and what is known of each.

Scores come long (a row a score) or wide (a column a task), in a results folder, beside the scale
or in a file of their own. Which column is what is asked for by name, or is the first that may
stand for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs.columns import Unclear, beyond, candidates, find, unit_of
from analysis.runs.load import listing, load, shown
from analysis.runs.numbers import Unreadable, plain, read, text_of
from analysis.runs.rows import row_called
from analysis.runs.vocabulary import STEPS, is_number, words
from analysis.units import human
from scaling.store.records import Refusal, did_you_mean, read_json

LONG = ("task", "metric", "value")  # columns of a table with a row a score
MODELS = ("model", "Model", "model_name")  # of a run, or of a family of several sizes
# Columns that may stand for what was asked, the first that is there.
STANDS_FOR = {
    "params": ("params", "params_total"),
    "tokens": ("tokens", "tokens_seen"),
    "flops": ("flops", "flops_6nd"),
    "group": ("group", "trunk_id"),
    "shots": ("shots", "shot"),
    "run": ("run", "run_id", "run_name", *MODELS),
    "layers": ("n_layers", "layers", "num_layers", "n_layer"),
}
LARGE = 1e4  # from here on a value of --by is written as 10k
COUNTS = ("params", "tokens", "flops")  # also found under other usual names, if one fits
OPTIONAL = ("n", "stderr", "chance", "group", "seed", "run", "shots")


@dataclass(frozen=True)
class PerTask:
    """A number given for all tasks, or for single ones by name."""

    everywhere: float | None = None
    single: Mapping[str, float] = field(default_factory=dict)

    def of(self, task: str) -> float | None:
        """The task's own number, that of the task whatever its shots and `by`, or that of all."""
        known = (self.single[name] for name in names_of(task) if name in self.single)
        return next(known, self.everywhere)


def names_of(task: str) -> list[str]:
    """What a task is called with its shots and the values of `by`, with fewer, without any."""
    parts = task.split(", ")
    return [", ".join(parts[:count]) for count in range(len(parts), 0, -1)]


@dataclass(frozen=True)
class Ask:
    """What to read of a table of scores."""

    scale: str  # a column, or params, tokens, flops, loss
    metrics: tuple[str, ...] = ()  # none: the table has one only
    tasks: tuple[str, ...] = ()  # none: all
    by: tuple[str, ...] = ()  # columns: a curve each value
    columns: Mapping[str, str] = field(default_factory=dict)  # task, value, n, ... -> the file's
    value_columns: tuple[str, ...] = ()  # a wide table: each is a task
    conditions: tuple[str, ...] = ()  # of `where`
    chance: PerTask = PerTask()  # the score of guessing
    n: PerTask = PerTask()  # questions behind a score
    span: tuple[float, float] | None = None  # the metric's worst and best value, if not the usual
    join: Path | None = None  # a table with the scale, a row a model
    on: str | None = None  # the column that both tables have
    steps: str = "ends"  # of runs: the ends of a decay, or "all"
    completed: tuple[str, ...] = ()  # further words of the status of a run that may be believed


def folder_rows(path: Path) -> pd.DataFrame:
    """Scores of a results folder: its own table, else each run's, joined to the run table."""
    if (path / "scores.parquet").is_file():
        return load(path / "scores.parquet")
    files = sorted(path.glob("runs/*/evals.parquet"))
    if not files or not (path / "runs.parquet").is_file():
        raise Refusal(
            f"{path} holds no scores: neither scores.parquet, nor runs.parquet with "
            "runs/*/evals.parquet. Train a study with [tasks], or give a CSV or Parquet file."
        )
    evals = pd.concat([load(file) for file in files], ignore_index=True)
    last = evals["step"] == evals.groupby("run")["step"].transform("max")
    runs = load(path / "runs.parquet")
    # The run's length is that of its end: earlier steps would be given tokens they had not seen.
    new = [column for column in runs if column == "run_id" or column not in evals]
    return evals[last].merge(runs[new], left_on="run", right_on="run_id", how="left")


def file_rows(path: Path) -> pd.DataFrame:
    """The rows of a table, or of what `scaling eval --json` wrote."""
    found = _object(path) if path.suffix.lower() == ".json" else None
    if found is None:
        return load(path)
    rows = found.get("scores")
    if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
        raise Refusal(
            f"{path} has no list `scores` of rows, which `scaling eval --json` writes. Give that "
            "file, a table (CSV, Parquet, JSON lines or a list of objects), or a results folder."
        )
    return pd.DataFrame(rows)


def _object(path: Path) -> dict[str, Any] | None:
    """The JSON object that a file is; None for a list, or lines of objects."""
    try:
        found = read_json(path)
    except Refusal:
        return None
    return found if isinstance(found, dict) else None


def joined(raw: pd.DataFrame, other: pd.DataFrame, ask: Ask) -> pd.DataFrame:
    """The scores with the columns of a table of models. Raises Refusal without a column for it."""
    common = [str(column) for column in raw if column in other]
    on = ask.on or (common[0] if len(common) == 1 else None)
    if on is None or on not in common:
        said = f"--on {on!r} is not" if on else f"{len(common)} columns are"
        raise Refusal(
            f"{said} in both tables; both have {listing(common) or 'none'}. "
            "Name the one that identifies a model with --on."
        )
    if other[on].duplicated().any():
        twice = shown(str(other[on][other[on].duplicated()].iloc[0]))
        raise Refusal(f"--join has {on} = {twice!r} twice. Give a table with a row a model.")
    new = [column for column in other if column == on or column not in raw]
    result = raw.merge(other[new], on=on, how="left")
    result.index = raw.index  # the lines of the file of scores
    result.attrs = dict(raw.attrs)
    return result


def long_rows(table: pd.DataFrame, ask: Ask, name: str) -> pd.DataFrame:
    """Columns task, metric, value, x and, where there are any, the optional ones; others stay."""
    result = table.copy()
    result.attrs = {**table.attrs, "notes": _said(table, ask.scale)}
    result["x"] = _scale(table, ask.scale, name)
    for wanted in OPTIONAL:
        source = ask.columns.get(wanted)
        if source is not None:
            result[wanted] = table[_there(table, source, name)]
        elif (stands := column_of(table, wanted)) is not None:
            result[wanted] = table[stands]
    result = _runs(result, table, ask)
    _refuse_by(table, ask, name)
    if ask.value_columns:
        given = [each for each in LONG if each in ask.columns]
        if given:
            raise Refusal(
                f"--{given[0]}-column is of a table with a row a score, and --value-columns of one "
                "with a column a task. Give one of the two."
            )
        if len(ask.metrics) != 1:
            raise Refusal(
                f"--value-columns are tasks of one metric, and --metric has {len(ask.metrics)}. "
                "Give --metric, once for each kind of score."
            )
        for column in ask.value_columns:
            _there(table, column, name)
        rest = [column for column in result if column not in ask.value_columns]
        rest = [column for column in rest if column not in ("task", "metric", "value")]
        tall = result.melt(
            id_vars=rest, value_vars=list(ask.value_columns), var_name="task", value_name="value",
            ignore_index=False,
        )  # fmt: skip
        tall.attrs = dict(result.attrs)
        return tall.assign(metric=ask.metrics[0])
    for wanted in LONG:
        source = ask.columns.get(wanted, wanted)
        if wanted == "metric" and source not in table and len(ask.metrics) == 1:
            result["metric"] = ask.metrics[0]  # the file says nothing else of it
            continue
        if wanted == "task" and source not in table and "task" not in ask.columns:
            result["task"] = Path(name).stem
            continue
        result[wanted] = table[_there(table, source, name, wanted)]
    return result


def _refuse_by(table: pd.DataFrame, ask: Ask, name: str) -> None:
    """Curves are of other columns than those that make them."""
    own = {ask.scale: "the scale", column_of(table, ask.scale): "the scale"}
    own |= {ask.columns.get(each, each): f"the {each}" for each in LONG}
    own |= dict.fromkeys(ask.value_columns, "a column of scores")
    for column in ask.by:
        _there(table, column, name)
        if column in own:
            raise Refusal(
                f"--by {column} is {own[column]} of every curve. Name a column that tells curves "
                "apart, such as n_layers, or leave --by out."
            )


def _runs(result: pd.DataFrame, table: pd.DataFrame, ask: Ask) -> pd.DataFrame:
    """With the training run of each row in `run`, if any column says.

    A cooldown goes on from its trunk and is of one run with it; a model trained from several seeds
    is a run a seed. A name that stands at several sizes is that of a family, and so may be one
    whose sizes are not known.
    """
    if "run" not in result:
        return result
    named = ask.columns.get("run")
    source = named or column_of(table, "run")
    params = column_of(table, "params")
    unsure = source in MODELS and params is None and not _of_one_size(table, ask.scale)
    if named is None and (unsure or source == ask.columns.get("group")):
        return result.drop(columns="run")
    run = _text(result["run"])
    if named is None and "trunk_id" in table:
        run = _text(table["trunk_id"]).fillna(run)
    if named is None and "seed" in result:
        run = run + (" " + _text(result["seed"])).fillna("")
    sizes = 0 if params is None else table.groupby(run)[params].nunique().max()
    if sizes > 1 and named is not None:
        raise Refusal(
            f"--run-column {named!r} has one value at {sizes} sizes, and a training run has one "
            "size. Name the column of runs, or give families of models with --group-column."
        )
    if sizes > 1:
        return result.drop(columns="run")
    if named is None and source in MODELS and result.groupby(run)["x"].nunique().gt(1).any():
        result.attrs["notes"] = [
            *result.attrs["notes"],
            f"run is read from column {source} ({run.nunique()} runs), and the scores of one run "
            f"are taken as its checkpoints: if {source} names families of models, give "
            f"--group-column {source}",
        ]
    return result.assign(run=run)


def _of_one_size(table: pd.DataFrame, scale: str) -> bool:
    """Whether the scale says how long a model was trained, so that a name is that of one size."""
    return bool(words(scale) & STEPS) or column_of(table, "tokens") in (
        scale,
        column_of(table, scale),
    )


def _text(cells: pd.Series) -> pd.Series:
    """Labels, missing where the cell is empty or blank."""
    found = cells.astype("string")
    return found.mask(found.str.strip().eq("").fillna(False))


def called(cells: pd.Series) -> pd.Series:
    """Values in words; large numbers as people write them, unless two would then read alike."""
    cells = cells.infer_objects()
    if not is_number(cells):
        return cells.map(text_of)
    short = cells.map(
        lambda each: human(each) if abs(each) >= LARGE else plain(each), na_action="ignore"
    )
    return short if short.nunique() == cells.nunique() else cells.map(plain, na_action="ignore")


def empty_of(rows: pd.DataFrame, column: str, then: str) -> str:
    """That some rows lack a label, and what follows; "" where none or all do."""
    count = int(rows[column].isna().sum()) if column in rows else 0
    return (
        "" if count in (0, len(rows)) else f"{count} of {len(rows)} rows have no {column}: {then}"
    )


def groups_of(rows: pd.DataFrame, run: np.ndarray | None) -> np.ndarray | None:
    """Models that share their noise; without a column, checkpoints share what their run has."""
    if "group" not in rows or rows["group"].isna().all():
        return run if run is not None and len(np.unique(run)) < len(run) else None
    own = [f"row {at}" for at in range(len(rows))] if run is None else [f"run {at}" for at in run]
    group = rows["group"].astype("string")
    return group.where(group.notna(), pd.Series(own, rows.index)).to_numpy(dtype=str)


def named(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Tasks, metrics and shots as text. Raises Refusal for a score without a task or metric."""
    for column in ("task", "metric"):
        nameless = table[column].isna()
        if nameless.any():
            at = int(np.argmax(nameless.to_numpy()))
            raise Refusal(
                f"{name} has no {column} in {row_called(table, at)} "
                f"({int(nameless.sum())} such rows). Name it, or drop the rows with --where."
            )
    result = table.assign(**{each: table[each].astype(str) for each in ("task", "metric")})
    return result.assign(shots=_text(table["shots"])) if "shots" in table else result


def _scale(table: pd.DataFrame, scale: str, name: str) -> pd.Series:
    column = column_of(table, scale)
    if column is None and scale == "flops":
        params, tokens = column_of(table, "params"), column_of(table, "tokens")
        if params is not None and tokens is not None:
            return (
                6.0
                * _counts(table, "params", params, name)
                * _counts(table, "tokens", tokens, name)
            )
    if column is None:
        raise Refusal(
            f"--scale {scale!r} is no column of {name}; it has {listing(table.columns)}. "
            "Name one of them, or give a table that has it with --join FILE --on COLUMN."
        )
    return _counts(table, scale, column, name)


def _counts(table: pd.DataFrame, wanted: str, column: str, name: str) -> pd.Series:
    """A column in the unit of its name. Raises Refusal where nobody has trained so much."""
    unit = _unit(wanted, column)
    found = numbers(table, column, name, unit)
    wrong = beyond(wanted, column, found.max(), unit) if unit != 1.0 else ""
    if wrong:
        raise Refusal(
            f"{name}: {wrong}. Give --scale {shown(column)} to read its cells as they are."
        )
    return found


def _unit(wanted: str, column: str) -> float:
    """What a column found by its name is in: sizes_B is in billions."""
    return unit_of(column) if wanted in COUNTS and column != wanted else 1.0


def _said(table: pd.DataFrame, scale: str) -> list[str]:
    """What was taken for the scale where no column is named so."""
    wanted = ("params", "tokens") if scale == "flops" and not column_of(table, scale) else (scale,)
    found = {each: column_of(table, each) for each in wanted}
    return [
        f"{each} is read from {shown(column)}"
        + (f", times {plain(_unit(each, column))}" if _unit(each, column) != 1 else "")
        for each, column in found.items()
        if column is not None and column not in STANDS_FOR.get(each, (each,))
    ]


def loss_column(table: pd.DataFrame) -> str | None:
    """The column of losses in nats, if there is one and no other that may be it."""
    try:
        found = find("loss", [str(name) for name in table])
    except Unclear:
        return None
    return found.name if found.loss_unit == "nats" else None


def column_of(table: pd.DataFrame, wanted: str) -> str | None:
    """The column that holds what is `wanted`; None without one, or with several that may."""
    if wanted == "loss":
        return loss_column(table)
    for each in STANDS_FOR.get(wanted, (wanted,)):
        if each in table:
            return each
    found = candidates(wanted, [str(name) for name in table]) if wanted in COUNTS else []
    return found[0] if len(found) == 1 else None


def _there(table: pd.DataFrame, column: str, name: str, wanted: str | None = None) -> str:
    if column not in table:
        remedy = "" if wanted is None else f" Name it with --{wanted}-column, or --value-columns."
        near = did_you_mean(column, [shown(str(each)) for each in table.columns])
        raise Refusal(
            f"{name} has no column {column!r}; it has {listing(table.columns)}.{near}{remedy}"
        )
    return column


def numbers(table: pd.DataFrame, column: str, name: str, scale: float = 1.0) -> pd.Series:
    """A column as float64, empty cells NaN; cells without a unit of their own times `scale`.

    Raises Refusal for text, true and infinite ones.
    """
    cells = table[column]
    try:
        found = read(cells, table.attrs.get("decimal"))
    except Unreadable as error:
        raise Refusal(f"{name}: column {column!r} {error}.") from None
    result = found.numbers.where(found.suffixed, found.numbers * scale)
    bad = (cells.notna() & result.isna()) | np.isinf(result)
    if bad.any():
        at = int(np.argmax(bad.to_numpy()))
        raise Refusal(
            f"{name}: {column} = {shown(text_of(cells.iloc[at]))!r} in {row_called(table, at)} is "
            "not a finite number. Correct it, or leave the cell empty if there is none."
        )
    return result
