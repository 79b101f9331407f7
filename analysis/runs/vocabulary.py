"""What a column of a run table holds, as far as its name and its cells say."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs.columns import each, snake_case

SEEDS = each("seed seeds rng replicate replica rep repeat trial")
# What a run did to come to its loss.
SETTINGS = each(
    "lr learning batch bs warmup decay wd beta1 beta2 momentum dropout optimizer optimiser optim "
    "schedule scheduler recipe variant dataset data corpus mixture tokenizer vocab context seq "
    "sequence width depth layers heads dtype precision init hparams ablation method arm"
)
# What came out of it.
OUTCOMES = each(
    "loss losses ppl perplexity bpb bpc bits nats acc accuracy score stderr se std sd err error "
    "grad mfu throughput speed memory mem cost usd energy kwh"
)
# How large and how long it was: what N, D and C are counted by.
SCALES = each(
    "params param parameters n d c size tokens token flops flop compute budget budgets steps step "
    "iterations iteration iters iter epoch epochs examples samples checkpoint ckpt"
)
# What it is called, when and where it ran, and what somebody wrote beside it.
LABELS = each(
    "id ids uid uuid guid name names run runs job exp experiment time date timestamp created "
    "updated started ended finished duration elapsed runtime walltime seconds minutes hours status "
    "note notes comment comments remark remarks description url link path file dir folder host "
    "hostname node nodes user author tag tags index unnamed row git commit sha hash gpu gpus tpu "
    "device devices hardware world"
)
RUNS = each("run runs job trajectory trunk wandb")  # what a column that names runs is called
RATES = ("lr", "learning_rate")  # endings of the names of columns that hold a learning rate
STEPS = each("step iteration iter checkpoint ckpt global_step")
FEW = 8  # values of a sweep: a number of an unknown name with more was measured
_A_SECOND = re.compile(r"(_per_|/)(s|sec|second|min|hour|day)$")


def words(column: str) -> frozenset[str]:
    """The words of a column's name, in lower case: `trainBatch_size` has train, batch, size."""
    return frozenset(snake_case(str(column)).split("_")) - {""}


def is_seed(column: str) -> bool:
    """A number that tells runs of one setting apart, by its name."""
    return bool(words(column) & SEEDS)


def is_label(column: str) -> bool:
    """A name, an id, a time or a note, which tells nothing of how the loss came about."""
    own = words(column)
    if is_seed(column) or own & SETTINGS:
        return False
    return bool(own & LABELS) or bool(_A_SECOND.search(str(column).lower()))


def is_rate(column: str) -> bool:
    return re.split(r"[./ ]", str(column).lower())[-1] in RATES


def is_number(cells: pd.Series) -> bool:
    types = pd.api.types
    return types.is_numeric_dtype(cells) and not types.is_bool_dtype(cells)


def is_plain(cells: pd.Series) -> bool:
    """Whether cells can be counted: a Parquet file may hold lists."""
    return cells.dtype != object or bool(cells.map(lambda cell: cell.__hash__ is not None).all())


def may_be_setting(column: str, cells: pd.Series, point: NDArray[np.intp]) -> bool:
    """Whether the column may hold what somebody chose, rather than what came out or how large.

    A number whose name does not say that it was chosen is taken for measured, unless it has few
    values and these come again from point to point; `point` numbers the (N, D) of each row.
    """
    own = words(column)
    if is_seed(column) or is_label(column) or (own & OUTCOMES and is_number(cells)):
        return False
    if not is_plain(cells):
        return False
    if own & SETTINGS:
        return True
    if own & SCALES:
        return False
    if is_number(cells):
        return _recurs(cells, point)
    return bool(cells.nunique() <= len(cells) / 2)


def _recurs(cells: pd.Series, point: NDArray[np.intp]) -> bool:
    """Whether few values are each found at half or more of the points where they vary."""
    if cells.nunique() > FEW:
        return False
    found = pd.DataFrame({"value": cells.to_numpy(), "point": point}).dropna().drop_duplicates()
    varied = found[found.groupby("point")["value"].transform("size") > 1]
    points = varied["point"].nunique()
    return points > 1 and bool((varied["value"].value_counts() >= points / 2).all())
