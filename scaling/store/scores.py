"""What models answered, on disk: a file an evaluation while a run trains, one a run at its end.

evals/<step>-….parquet written before the checkpoint that follows, as segments of steps are
evals.parquet          all of them, and the held-out losses
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scaling.remedies import remedy
from scaling.store.manifest import PlannedRun
from scaling.store.records import Refusal, check_part, write_part
from scaling.store.results import Results
from scaling.store.steps import refuse_other_runs

COLUMNS = ("run", "step", "task", "metric", "value", "stderr", "n", "shots", "chance")
HOLDOUT = "holdout"  # the task of held-out losses
_KEY = ["step", "task", "shots", "metric"]
_NUMBERS = {"step": "int64", "n": "int64", "shots": "Int64"}
_NUMBERS |= dict.fromkeys(("value", "stderr", "chance"), "float64")


def write_scores(run: Path, step: int, rows: pd.DataFrame) -> None:
    """Write the answers of one evaluation."""
    write_part(run / "evals", step, _typed(rows))


def scored_steps(run: Path) -> set[int]:
    """The steps whose answers can be read."""
    return set(_read_scores(run)["step"])


def join_scores(run: Path, holdout: pd.DataFrame) -> pd.DataFrame:
    """The held-out losses of a run and, of the same steps, what it answered."""
    scores = _read_scores(run)
    scores = scores[scores["step"].isin(holdout["step"])].sort_values("step", kind="stable")
    return pd.concat([_typed(holdout), scores], ignore_index=True)


def _read_scores(run: Path) -> pd.DataFrame:
    """What a run answered so far; of files that cannot be read, nothing."""
    parts = [_typed(pd.DataFrame(columns=list(COLUMNS)))]
    for path in [*run.glob("evals.parquet"), *sorted(run.glob("evals/[0-9]*.parquet"))]:
        try:
            parts.append(read_evals(path))
        except Refusal:
            continue
    every = pd.concat([part for part in parts if len(part)] or parts[:1])
    every = every[every["task"] != HOLDOUT]
    return every.drop_duplicates(_KEY, ignore_index=True)


def read_evals(path: Path) -> pd.DataFrame:
    """The evaluations in a file.

    Raises Refusal unless every column is there, of its kind, and of the run in whose folder it is.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    try:
        check_part(path)
        with ParquetFile(path) as file:
            # Without what the file says of itself beyond its columns, which pandas would follow.
            table = file.read().replace_schema_metadata(None).to_pandas()
        table = _typed(table)
        refuse_other_runs(path, table["run"].unique())
        return table
    except (OSError, ValueError, TypeError, KeyError, ArrowException) as error:
        what = remedy(error, "Restore it, or delete the run's folder and run the study again.")
        raise Refusal(f"{path} cannot be read ({error}). {what}") from error


def _typed(rows: pd.DataFrame) -> pd.DataFrame:
    """The columns of an evaluation, each of its type; those of tasks alone may be missing."""
    missing = {name: None for name in ("shots", "chance") if name not in rows}
    return rows.assign(**missing)[list(COLUMNS)].astype({**_NUMBERS})


RUN_COLUMNS = (
    *("seed", "params_total", "params_non_embedding", "params_matmul", "n_layers", "d_model"),
    "task_share",
)


def score_table(results: Results, runs: Sequence[PlannedRun]) -> pd.DataFrame:
    """Every answer of these completed runs as one long table, beside its run's columns.

    `tokens`, `flops_6nd` and `flops` are those of the evaluated step, not of the run's end;
    `params` is params_total, `final` whether the step is the run's last, `val_loss` the held-out
    loss there and `loss_final` that of the run's end. Raises Refusal for answers that cannot be
    read.
    """
    tables = []
    for run in runs:
        evals, record = (
            read_evals(results.table(run.run_id, "evals.parquet")),
            results.record(run.run_id),
        )
        losses = evals[(evals["task"] == HOLDOUT) & (evals["metric"] == "loss")]
        of_run: dict[str, Any] = run.columns
        done = evals["step"] / run.steps
        columns = {
            "run_id": run.run_id,
            "trunk_id": run.trunk_id,
            "run_kind": run.run_kind,
            "final": evals["step"] == run.steps,
            "params": of_run["params_total"],
            **{name: of_run.get(name, math.nan) for name in RUN_COLUMNS},
            "tokens": (of_run["tokens"] * done).round(),
            "flops_6nd": of_run["flops_6nd"] * done,
            "flops": of_run["flops"] * done,
            "val_loss": evals["step"].map(losses.set_index("step")["value"]),
            "loss_final": None if record is None else record.loss,
        }
        table = evals.drop(columns="run").assign(**columns)
        tables.append(table[table["task"] != HOLDOUT])
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
