"""Runs that would mislead: their warmup too long, their cooldown too early, their text used up.

All of a study that one rule refuses are refused at once, with values that would do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scaling.data.corpus import CorpusInfo, epoch_tokens
from scaling.planning.grid import Cell
from scaling.planning.refusals import listed
from scaling.planning.rounding import asked, at_least
from scaling.planning.runs_of import Size, cooldown_steps, rounded, whole_steps
from scaling.store.records import Refusal
from scaling.study import IsoflopGrid, LadderGrid, Study

# Long warmups bend the exponent that a grid measures (Porian et al. 2024, arXiv:2406.19146,
# section 3.3, where the warmup was as long as small models' whole runs); the limit is ours.
MAX_WARMUP_SHARE = 0.2


def refuse_warmups(study: Study, sizes: Sequence[Size]) -> None:
    """Raises Refusal for a warmup above 20% of a run, for one as long as a run even where the study
    allows long ones, and for one that a cooldown would begin inside."""
    unit = study.training.round_to_steps
    runs: dict[str, list[str]] = {}  # the sizes by what is said of their runs
    wanted, most = [], math.inf
    for size in sizes:
        warmup, batch = size.base.schedule.warmup_steps, size.base.batch_tokens
        steps = whole_steps(study, batch, size.cells[0].tokens)
        leave = study.training.allow_long_warmup and warmup < steps
        if warmup <= MAX_WARMUP_SHARE * steps or leave:
            continue
        params = f"{size.base.params.non_embedding:,}"
        runs.setdefault(f"{warmup / steps:.0%} of {steps * batch:,} tokens", []).append(params)
        least = math.ceil(warmup / MAX_WARMUP_SHARE / unit) * unit
        wanted.append((size.cells[0], float(least * batch)))
        most = min(most, math.floor(MAX_WARMUP_SHARE * steps) * batch)
    if runs:
        each = (f"{said} with {listed(of)} parameters" for said, of in runs.items())
        shorter = f"warmup_tokens = {most:,} at most, or " if most else ""
        raise Refusal(
            f"[training] warmup_tokens = {_warmup(study, sizes[0])} is {listed(each, '; ')}. Above "
            f"{MAX_WARMUP_SHARE:.0%} it bends the law. Give {shorter}{at_least(study, wanted)}."
        )
    if study.training.schedule == "wsd":
        _refuse_cooldowns(study, sizes)


def _warmup(study: Study, size: Size) -> str:
    given = study.training.warmup_tokens
    if isinstance(given, str):
        return repr(given)
    return f"{size.base.schedule.warmup_steps * size.base.batch_tokens:,}"


def _refuse_cooldowns(study: Study, sizes: Sequence[Size]) -> None:
    early, most = [], math.inf
    for size in sizes:
        for cell in size.cells:
            steps = whole_steps(study, size.base.batch_tokens, cell.tokens)
            constant = steps - cooldown_steps(study, steps)
            if constant < size.base.schedule.warmup_steps:
                early.append(cell)
                most = min(most, constant * size.base.batch_tokens)
    if early:
        shorter = f"warmup_tokens = {most:,} at most, or " if most else ""
        raise Refusal(
            f"[grid] {asked(study, early)}: the cooldown of "
            f"{study.training.cooldown_fraction:.0%} would start inside the warmup of "
            f"{_warmup(study, sizes[0])} tokens. Give {shorter}a smaller cooldown_fraction."
        )


def refuse_beyond_corpus(study: Study, corpus: CorpusInfo, sizes: Sequence[Size]) -> None:
    """Raises Refusal for more tokens than the corpus or its cap has, without leave to repeat.

    And for a corpus, or a cap, of less than one batch.
    """
    if not sizes:
        return
    cap = rounded(study.data.unique_tokens)
    batch = max(size.base.text_batch_tokens for size in sizes)
    if cap is not None and cap > corpus.train_tokens:
        raise Refusal(
            f"[data] unique_tokens = {cap:,} is more than the {_had(corpus.train_tokens, corpus)}. "
            "Lower it, or give more text."
        )
    epoch = epoch_tokens(corpus, study.data.sequence_length, cap)
    if epoch < batch and cap is not None:
        raise Refusal(
            f"[data] unique_tokens = {cap:,} is {epoch:,} in whole sequences, less than one batch "
            f"of {batch:,}. Raise it, or give a smaller batch_sequences."
        )
    if epoch < batch:
        raise Refusal(
            f"[data] source = {corpus.source!r} has {'at most ' * corpus.unread}{epoch:,} tokens "
            f"to train on, less than one batch of {batch:,}. Give more text or a smaller "
            "batch_sequences."
        )
    if study.data.allow_repeats:
        return
    beyond: list[Cell] = []
    most, unit = math.inf, study.training.round_to_steps
    for size in sizes:
        whole, text = size.base.batch_tokens, size.base.text_batch_tokens
        for cell in size.cells:
            steps = whole_steps(study, whole, cell.tokens)
            if steps * text > epoch:
                beyond.append(replace(cell, tokens=float(steps * whole)))
                most = min(most, epoch // (text * unit) * unit * whole)
    if beyond:
        verb = "is" if len({cell.tokens for cell in beyond}) == 1 else "are"
        less = f"{_at_most(study, beyond, most)}, " if most else ""
        if corpus.unread and cap is None:  # how many are few enough is not known before it is read
            less = "fewer tokens, "
        has = _had(epoch, corpus) if cap is None else f"{epoch:,} of unique_tokens"
        more = "more text" if cap is None else "a larger cap"
        raise Refusal(
            f"[grid] {asked(study, beyond)} {verb} more than the {has}. Give {less}{more}, or set "
            "[data] allow_repeats = true to train on it again."
        )


def _had(tokens: int, corpus: CorpusInfo) -> str:
    if corpus.unread:
        return f"{tokens:,} tokens that the text can have, one a byte"
    return f"{tokens:,} tokens of the corpus"


def _at_most(study: Study, cells: Sequence[Cell], tokens: float) -> str:
    """What the grid may ask for, so that none of these cells has more tokens."""
    if isinstance(study.grid, IsoflopGrid):
        budgets = [(cell.budget_flops or 0.0) * tokens / cell.tokens for cell in cells]
        return f"budgets up to {_down(min(budgets)):.2g} FLOPs or larger sizes"
    if isinstance(study.grid, LadderGrid):
        multiples = min(tokens / cell.rung.params for cell in cells)
        return f"tokens_per_param up to {_down(multiples):.2g}"
    return f"tokens up to {tokens:,.0f}"


def _down(value: float) -> float:
    """Rounded down to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.floor(value / unit) * unit
