"""What kind of column it is by its name and its cells: a seed, a setting, a result, a label."""

from __future__ import annotations

import re

import pandas as pd

from analysis.array import Index
from analysis.runs.columns.units import word_set, words

SEEDS = word_set("seed seeds rng replicate replica rep repeat trial")
# How a run was trained.
SETTINGS = word_set(
    "lr learning batch bs warmup decay wd beta1 beta2 momentum dropout optimizer optimiser optim "
    "schedule scheduler recipe variant dataset data corpus mixture tokenizer vocab context seq "
    "sequence width depth layers heads dtype precision init hparams ablation method arm"
)
# What was measured in it.
OUTCOMES = word_set(
    "loss losses ppl perplexity bpb bpc bits nats acc accuracy score stderr se std sd err error "
    "grad mfu throughput speed memory mem cost usd energy kwh"
)
# Its size and length, in which N, D and C are counted.
SCALES = word_set(
    "params param parameters n d c size tokens token flops flop compute budget budgets steps step "
    "iterations iteration iters iter epoch epochs examples samples checkpoint ckpt"
)
# What it is called, when and where it ran, and comments.
LABELS = word_set(
    "id ids uid uuid guid name names run runs job exp experiment time date timestamp created "
    "updated started ended finished duration elapsed runtime walltime seconds minutes hours status "
    "note notes comment comments remark remarks description url link path file dir folder host "
    "hostname node nodes user author tag tags index unnamed row git commit sha hash gpu gpus tpu "
    "device devices hardware world"
)
RUNS = word_set("run runs job trajectory trunk wandb")  # words of a column that names runs
RATES = ("lr", "learning_rate")  # last words of columns of a learning rate
STEPS = word_set("step iteration iter checkpoint ckpt global_step")
FEW = 8  # values of a sweep: a numeric column of an unknown name with more was measured
_A_SECOND = re.compile(r"(_per_|/)(s|sec|second|min|hour|day)$")


def is_seed(column: str) -> bool:
    """Whether the name is that of a random seed or of the number of a repetition."""
    return bool(words(column) & SEEDS)


def is_label(column: str) -> bool:
    """Whether the name is that of a name, an id, a time or a note, which cannot change the loss."""
    own = words(column)
    if is_seed(column) or own & SETTINGS:
        return False
    return bool(own & LABELS) or bool(_A_SECOND.search(str(column).lower()))


def is_rate(column: str) -> bool:
    """Whether the name is that of a learning rate."""
    return re.split(r"[./ ]", str(column).lower())[-1] in RATES


def is_number(cells: pd.Series) -> bool:
    """Whether the cells are numbers; true and false are none."""
    types = pd.api.types
    return types.is_numeric_dtype(cells) and not types.is_bool_dtype(cells)


def is_plain(cells: pd.Series) -> bool:
    """Whether cells can be grouped and counted: those of a Parquet file may be lists."""
    return cells.dtype != object or bool(cells.map(lambda cell: cell.__hash__ is not None).all())


def may_be_setting(column: str, cells: pd.Series, point: Index) -> bool:
    """Whether the column may be a setting that was chosen, not a result or a size.

    Numbers whose name is unknown count as measured, unless they have few values which recur from
    point to point; `point` is the number of the (N, D) of each row.
    """
    own = words(column)
    measured = own & OUTCOMES and is_number(cells)
    if is_seed(column) or is_label(column) or measured or not is_plain(cells):
        return False
    if own & (SETTINGS | SCALES):
        return bool(own & SETTINGS)
    return _recurs(cells, point) if is_number(cells) else cells.nunique() <= len(cells) / 2


def _recurs(cells: pd.Series, point: Index) -> bool:
    """Whether few values are each found at half or more of the points where they vary."""
    if cells.nunique() > FEW:
        return False
    found = pd.DataFrame({"value": cells.to_numpy(), "point": point}).dropna().drop_duplicates()
    varied = found[found.groupby("point")["value"].transform("size") > 1]
    points = varied["point"].nunique()
    return points > 1 and bool((varied["value"].value_counts() >= points / 2).all())
