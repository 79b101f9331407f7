"""What a column of a run table holds, as far as its name and its cells say."""

from __future__ import annotations

import re

import pandas as pd


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SEEDS = _words("seed seeds rng replicate replica rep repeat trial")
# What a run did to come to its loss.
SETTINGS = _words(
    "lr learning batch bs warmup decay wd beta1 beta2 momentum dropout optimizer optimiser optim "
    "schedule scheduler recipe variant dataset data corpus mixture tokenizer vocab context seq "
    "sequence width depth layers heads dtype precision init hparams ablation method arm"
)
# What came out of it.
OUTCOMES = _words(
    "loss losses ppl perplexity bpb bpc bits nats acc accuracy score stderr se std sd err error "
    "grad mfu throughput speed memory mem cost usd energy kwh"
)
# How large and how long it was: what N, D and C are counted by.
SCALES = _words(
    "params param parameters n d c size tokens token flops flop compute budget budgets steps step "
    "iterations iteration iters iter epoch epochs examples samples checkpoint ckpt"
)
# What it is called, when and where it ran, and what somebody wrote beside it.
LABELS = _words(
    "id ids uid uuid guid name names run runs job exp experiment time date timestamp created "
    "updated started ended finished duration elapsed runtime walltime seconds minutes hours status "
    "note notes comment comments remark remarks description url link path file dir folder host "
    "hostname node nodes user author tag tags index unnamed row git commit sha hash gpu gpus tpu "
    "device devices hardware world"
)
RATES = ("lr", "learning_rate")  # endings of the names of columns that hold a learning rate
STEPS = _words("step iteration iter checkpoint ckpt global_step")
_A_SECOND = re.compile(r"(_per_|/)(s|sec|second|min|hour|day)$")


def words(column: str) -> frozenset[str]:
    """The words of a column's name, in lower case: `trainBatch_size` has train, batch, size."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", str(column))
    return frozenset(re.split(r"[^0-9a-z]+", spaced.lower())) - {""}


def is_seed(column: str) -> bool:
    return bool(words(column) & SEEDS)


def is_label(column: str) -> bool:
    """A name, an id, a time or a note, which tells nothing of how the loss came about."""
    own = words(column)
    if own & (SEEDS | SETTINGS):
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


def may_be_setting(column: str, cells: pd.Series) -> bool:
    """Whether the column may hold what somebody chose, rather than what came out or how large.

    A number that hardly ever comes twice was measured, unless its name says that it was chosen.
    """
    own = words(column)
    if own & SEEDS or is_label(column) or (own & OUTCOMES and is_number(cells)):
        return False
    if not is_plain(cells):
        return False
    if own & SETTINGS:
        return True
    if own & SCALES:
        return False
    return bool(cells.nunique() <= len(cells) / 2)
