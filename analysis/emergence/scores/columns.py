"""Tables of scores in their different layouts, converted to one row per score.

The columns of the result are task, metric, value, x and what else is known of a score. A table is
long (one row per score) or wide (one column per task), a file or a results folder, with the scale
or without it (then a second table has the scale). A column is named by the query, or is the first
of the usual names that the table has.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from analysis.emergence.scores.query import ScoreQuery
from analysis.runs.columns.kinds import STEPS, is_number
from analysis.runs.columns.names import Unclear, candidates, find
from analysis.runs.columns.numbers import Unreadable, beyond, read, text_of
from analysis.runs.columns.units import unit_of, words
from analysis.runs.files.load import load
from analysis.runs.messages import listing, plain, row_called, shown
from analysis.text import human
from scaling.store.records import (
    MADE_BY,
    Refusal,
    check_seal,
    did_you_mean,
    printable,
    read_json,
)

LONG = ("task", "metric", "value")  # columns of a table with one row per score
MODELS = ("model", "Model", "model_name")  # names of a run, or of a family of several sizes
# Usual names of columns; the first that a table has is used.
STANDS_FOR = {
    "params": ("params", "params_total"),
    "tokens": ("tokens", "tokens_seen"),
    "flops": ("flops", "flops_6nd"),
    "group": ("group", "trunk_id"),
    "shots": ("shots", "shot"),
    "run": ("run", "run_id", "run_name", *MODELS),
    "layers": ("n_layers", "layers", "num_layers", "n_layer"),
}
LARGE = 1e4  # from here on, values of --by are written as 10k
COUNTS = ("params", "tokens", "flops")  # also found under other usual names, if one fits
OPTIONAL = ("n", "stderr", "chance", "group", "seed", "run", "shots")


def folder_rows(path: Path) -> pd.DataFrame:
    """The scores of a results folder: its own table, or that of each run with the run table."""
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
    # The run table has the tokens at a run's end, which earlier steps have not seen.
    new = [column for column in runs if column == "run_id" or column not in evals]
    return evals[last].merge(runs[new], left_on="run", right_on="run_id", how="left")


def file_rows(path: Path) -> pd.DataFrame:
    """The rows of a table, or of the JSON file that `scaling eval --json` writes."""
    try:
        found = read_json(path) if path.suffix.lower() == ".json" else None
    except Refusal:  # lines of objects
        found = None
    if not isinstance(found, dict):
        return load(path)
    try:
        if found.get("written_by") == MADE_BY:  # another's sha256 may be that of anything
            check_seal(found)
    except (TypeError, ValueError, RecursionError) as error:
        raise Refusal(
            f"{path} is not as `scaling eval` wrote it: {error}. Evaluate again, or restore it; if "
            "the change is meant, remove its written_by and sha256."
        ) from error
    rows = found.get("scores")
    if not (isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows)):
        raise Refusal(
            f"{path} has no list `scores` of rows, which `scaling eval --json` writes. Give that "
            "file, a table (CSV, Parquet, JSON lines or a list of objects), or a results folder."
        )
    return pd.DataFrame(rows)


def joined(raw: pd.DataFrame, other: pd.DataFrame, query: ScoreQuery) -> pd.DataFrame:
    """The scores with the columns of a table of models. Raises Refusal without a column for it."""
    common = [str(column) for column in raw if column in other]
    on = query.on or (common[0] if len(common) == 1 else None)
    if on is None or on not in common:
        said = f"--on {on!r} is not" if on else f"{len(common)} columns are"
        raise Refusal(
            f"{said} in both tables; both have {listing(common) or 'none'}. "
            "Name the one that identifies a model with --on."
        )
    if other[on].duplicated().any():
        twice = shown(str(other[on][other[on].duplicated()].iloc[0]))
        raise Refusal(f"--join has {on} = {twice!r} twice. Give a table with one row per model.")
    new = [column for column in other if column == on or column not in raw]
    try:
        result = raw.merge(other[new], on=on, how="left")
    except (TypeError, ValueError) as error:  # text in one of them, and numbers in the other
        raise Refusal(
            f"{on} is {shown(text_of(raw[on].iloc[0]))} in the scores and "
            f"{shown(text_of(other[on].iloc[0]))} in --join: values of two kinds. Give both the "
            "same names, or another column with --on."
        ) from error
    result.index = raw.index  # the lines of the file of scores
    result.attrs = dict(raw.attrs)
    return result


def long_rows(table: pd.DataFrame, query: ScoreQuery, name: str) -> pd.DataFrame:
    """One row per score with columns task, metric, value, x and the OPTIONAL ones that are known.

    All other columns stay.
    """
    result = table.assign(x=_scale(table, query, name))
    result.attrs = {**table.attrs, "notes": _notes(table, query.scale)}
    for wanted in OPTIONAL:
        source = query.columns.get(wanted)
        if source is not None:
            result[wanted] = table[_required(table, source, name)]
        elif (usual := column_of(table, wanted)) is not None:
            result[wanted] = table[usual]
    result = _with_runs(result, table, query)
    _refuse_by(table, query, name)
    if query.value_columns:
        return _melted(result, table, query, name)
    for wanted in LONG:
        source = query.columns.get(wanted, wanted)
        if wanted == "metric" and source not in table and len(query.metrics) == 1:
            result["metric"] = query.metrics[0]
        elif wanted == "task" and source not in table and "task" not in query.columns:
            result["task"] = Path(name).stem
        else:
            result[wanted] = table[_required(table, source, name, wanted)]
    return result


def _melted(
    result: pd.DataFrame, table: pd.DataFrame, query: ScoreQuery, name: str
) -> pd.DataFrame:
    """The rows of a wide table, whose columns of scores are tasks."""
    given = [each for each in LONG if each in query.columns]
    if given:
        raise Refusal(
            f"--{given[0]}-column is for a table with one row per score, and --value-columns for "
            "one with one column per task. Give one of the two."
        )
    if len(query.metrics) != 1:
        raise Refusal(
            f"--value-columns are tasks of one metric, and --metric has {len(query.metrics)}. "
            "Give one with --metric, and run the command once for each metric."
        )
    for column in query.value_columns:
        _required(table, column, name)
    scores = {*query.value_columns, *LONG}
    tall = result.melt(
        id_vars=[column for column in result if column not in scores],
        value_vars=list(query.value_columns), var_name="task", value_name="value",
        ignore_index=False,
    )  # fmt: skip
    tall.attrs = dict(result.attrs)
    return tall.assign(metric=query.metrics[0])


def _refuse_by(table: pd.DataFrame, query: ScoreQuery, name: str) -> None:
    """Raises Refusal for a column of --by that every curve consists of."""
    own = {query.scale: "the scale", column_of(table, query.scale): "the scale"}
    own |= {query.columns.get(each, each): f"the {each}" for each in LONG}
    own |= dict.fromkeys(query.value_columns, "a column of scores")
    for column in query.by:
        _required(table, column, name)
        if column in own:
            raise Refusal(
                f"--by {column} is {own[column]} of every curve. Name a column by which "
                "curves differ, such as n_layers, or leave --by out."
            )


def _with_runs(result: pd.DataFrame, table: pd.DataFrame, query: ScoreQuery) -> pd.DataFrame:
    """The rows with the training run of each in `run`, if a column has it.

    A cooldown continues its trunk and belongs to the same run; a model trained from several seeds
    is one run per seed. A name with several sizes is that of a family, and so may be a name of
    which the sizes are not known.
    """
    if "run" not in result:
        return result
    named = query.columns.get("run")
    source = named or column_of(table, "run")
    params = column_of(table, "params")
    # A name at several training lengths is that of one size.
    lengths = query.scale, column_of(table, query.scale)
    of_one_size = words(query.scale) & STEPS or column_of(table, "tokens") in lengths
    unsure = source in MODELS and params is None and not of_one_size
    if named is None and (unsure or source == query.columns.get("group")):
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
            f"count as its checkpoints: if {source} names families of models, give "
            f"--group-column {source}",
        ]
    return result.assign(run=run)


def _text(cells: pd.Series) -> pd.Series:
    """Labels, missing where the cell is empty or blank."""
    found = cells.astype("string")
    return found.mask(found.str.strip().eq("").fillna(False))


def called(cells: pd.Series) -> pd.Series:
    """Values as text, large numbers as 10k or 1.3B unless two would then look the same."""
    cells = cells.infer_objects()
    if not is_number(cells):
        return cells.map(text_of)
    short = cells.map(
        lambda each: human(each) if abs(each) >= LARGE else plain(each), na_action="ignore"
    )
    return short if short.nunique() == cells.nunique() else cells.map(plain, na_action="ignore")


def empty_of(rows: pd.DataFrame, column: str, then: str) -> str:
    """A sentence where some rows have no label, and its consequence; "" where none or all do."""
    count = int(rows[column].isna().sum()) if column in rows else 0
    return (
        "" if count in (0, len(rows)) else f"{count} of {len(rows)} rows have no {column}: {then}"
    )


def groups_of(rows: pd.DataFrame, run: np.ndarray | None) -> np.ndarray | None:
    """The group of each row, which shares its noise; without a column, the run of checkpoints."""
    if "group" not in rows or rows["group"].isna().all():
        return run if run is not None and len(np.unique(run)) < len(run) else None
    own = [f"row {at}" for at in range(len(rows))] if run is None else [f"run {at}" for at in run]
    group = rows["group"].astype("string")
    return group.where(group.notna(), pd.Series(own, rows.index)).to_numpy(dtype=str)


def named(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Tasks, metrics and shots as text that sentences may repeat: of one line, and printable.

    Raises Refusal for a score without a task or metric.
    """
    for column in ("task", "metric"):
        nameless = table[column].isna()
        if nameless.any():
            at = int(np.argmax(nameless.to_numpy()))
            raise Refusal(
                f"{name} has no {column} in {row_called(table, at)} "
                f"({int(nameless.sum())} such rows). Name it, or drop the rows with --where."
            )
    texts = {each: table[each].astype(str).map(printable) for each in ("task", "metric")}
    if "shots" in table:
        texts["shots"] = _text(table["shots"]).map(printable, na_action="ignore")
    return table.assign(**texts)


def _of_scores(query: ScoreQuery) -> set[str]:
    """The columns that say what a score is and how well it is known."""
    named = (query.columns.get(each, each) for each in (*LONG, "n", "stderr", "chance"))
    return {*named, *query.value_columns}


def _scale(table: pd.DataFrame, query: ScoreQuery, name: str) -> pd.Series:
    scale = query.scale
    column = column_of(table, scale)
    if column in _of_scores(query):
        raise Refusal(
            f"--scale {scale} is of the scores, and not of the models that have them. Name a "
            "column of their size or compute, such as params or flops."
        )
    if column is None and scale == "flops":
        params, tokens = column_of(table, "params"), column_of(table, "tokens")
        if params is not None and tokens is not None:
            n = _counts(table, "params", params, name)
            return 6.0 * n * _counts(table, "tokens", tokens, name)
    if column is None:
        raise Refusal(
            f"--scale {scale!r} is no column of {name}; it has {listing(table.columns)}. "
            "Name one of them, or give a table that has it with --join FILE --on COLUMN."
        )
    return _counts(table, scale, column, name)


def _counts(table: pd.DataFrame, wanted: str, column: str, name: str) -> pd.Series:
    """A column in the unit of its name. Raises Refusal for more than anyone has trained."""
    unit = _unit(wanted, column)
    found = numbers(table, column, name, unit)
    wrong = beyond(wanted, column, found.max(), unit) if unit != 1.0 else ""
    if wrong:
        raise Refusal(
            f"{name}: {wrong}. Give --scale {shown(column)} to read its cells as they are."
        )
    return found


def _unit(wanted: str, column: str) -> float:
    """The unit of a column found by a usual name: sizes_B is in billions."""
    return unit_of(column) if wanted in COUNTS and column != wanted else 1.0


def _notes(table: pd.DataFrame, scale: str) -> list[str]:
    """Sentences on the columns used for the scale where none has exactly its name."""
    wanted = ("params", "tokens") if scale == "flops" and not column_of(table, scale) else (scale,)
    found = {each: column_of(table, each) for each in wanted}
    return [
        f"{each} is read from {shown(column)}"
        + (f", times {plain(_unit(each, column))}" if _unit(each, column) != 1 else "")
        for each, column in found.items()
        if column is not None and column not in STANDS_FOR.get(each, (each,))
    ]


def column_of(table: pd.DataFrame, wanted: str) -> str | None:
    """The column that holds what is `wanted`; None without one, or with several candidates.

    That of a loss is in nats.
    """
    names = [str(name) for name in table]
    if wanted == "loss":
        try:
            loss = find("loss", names)
        except Unclear:
            return None
        return loss.name if loss.loss_unit == "nats" else None
    for each in STANDS_FOR.get(wanted, (wanted,)):
        if each in table:
            return each
    found = candidates(wanted, names) if wanted in COUNTS else []
    return found[0] if len(found) == 1 else None


def _required(table: pd.DataFrame, column: str, name: str, wanted: str | None = None) -> str:
    """The name of a column that must exist. Raises Refusal without it."""
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
            f"{name}: {column} = '{shown(text_of(cells.iloc[at]))}' in {row_called(table, at)} is "
            "not a finite number. Correct it, or leave the cell empty if there is none."
        )
    return result
