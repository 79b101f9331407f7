"""Tokens that whole steps miss by too much.

All cells that rounding would make other cells are refused at once, with what would fit them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaling.planning.grid import Cell
from scaling.planning.refusals import listed
from scaling.planning.runs_of import common_batch, whole_steps
from scaling.store.records import Refusal
from scaling.study import IsoflopGrid, LadderGrid, Study

# A budget may move so far when it is rounded; beyond, it is another budget.
MAX_ROUNDING = 0.05
# Runs of one isoFLOP budget are compared at equal compute. At the loss's slope of at most 0.1 a
# factor e in compute, 1% of compute is 0.001 nats, below the noise between seeds.
MAX_ISOFLOP_ROUNDING = 0.01


def in_whole_steps(study: Study, tokens: float) -> float:
    """The tokens themselves where rounding does not miss them by too much, else what they become,
    in three digits. A batch that follows size rounds differently at each: then the tokens."""
    batch = common_batch(study)
    if batch is None:
        return tokens
    whole = whole_steps(study, batch, tokens) * batch
    return tokens if abs(whole / tokens - 1) <= MAX_ROUNDING else float(f"{whole:.3g}")


@dataclass(frozen=True)
class Batched:
    """A cell, and the tokens of a step of its size."""

    cell: Cell
    batch_tokens: int


def missed(study: Study, cells: Sequence[Batched]) -> tuple[Cell, ...]:
    """The cells whose tokens are rounded too far."""
    too_far = _missed(cells, study.training.round_to_steps, _limit(study))
    return tuple(each.cell for each, far in zip(cells, too_far, strict=True) if far)


def _limit(study: Study) -> float:
    return MAX_ISOFLOP_ROUNDING if isinstance(study.grid, IsoflopGrid) else MAX_ROUNDING


def refuse_rounding(study: Study, cells: Sequence[Batched]) -> None:
    """Raises Refusal that names every cell whose tokens are rounded too far."""
    unit, limit = study.training.round_to_steps, _limit(study)
    far = _missed(cells, unit, limit)
    astray = [each for each, is_far in zip(cells, far, strict=True) if is_far]
    if not astray:
        return
    batch = max(each.batch_tokens for each in astray)
    # The largest unit that fits all; none does where even single steps miss.
    units = range(unit - 1, 0, -1)
    fits = next((u for u in units if not _missed(cells, u, limit).any()), None)
    lower = "a smaller batch_sequences" if fits is None else f"[training] round_to_steps = {fits}"
    wanted = [(each.cell, each.batch_tokens * unit / (2 * limit)) for each in astray]
    remedy = f"Give {at_least(study, wanted)}, or smaller sizes, or {lower}."
    if not isinstance(study.grid, IsoflopGrid):
        remedy = f"Give multiples of {unit * batch:,}, or {lower}."
    raise Refusal(
        f"[grid] {asked(study, [each.cell for each in astray])} would be rounded by more than "
        f"{limit:.0%}, to multiples of {unit} steps of {batch:,} tokens. {remedy}"
    )


def asked(study: Study, cells: Sequence[Cell]) -> str:
    """The cells as the grid asks for them: its tokens, or its budgets, each with its sizes."""
    if not isinstance(study.grid, IsoflopGrid):
        field = {"product": "tokens =", "ladder": "tokens_per_param: D ="}[study.grid.kind]
        return f"{field} {listed((f'{d:,.0f}' for d in sorted({c.tokens for c in cells})), '; ')}"
    sizes: dict[float, list[str]] = {}
    for cell in cells:
        assert cell.budget_flops is not None
        sizes.setdefault(cell.budget_flops, []).append(f"{cell.rung.params:,}")
    each = (f"{c:.3g} FLOPs on {', '.join(sizes[c])} parameters" for c in sorted(sizes))
    return f"budgets: {listed(each, '; ')}"


def at_least(study: Study, wanted: Sequence[tuple[Cell, float]]) -> str:
    """What the grid must ask for at least, so that each of these cells has so many tokens."""
    if isinstance(study.grid, IsoflopGrid):
        budgets = [(cell.budget_flops or 0.0) * tokens / cell.tokens for cell, tokens in wanted]
        return f"budgets from {_up(max(budgets)):.2g} FLOPs on"
    if isinstance(study.grid, LadderGrid):
        multiples = max(tokens / cell.rung.params for cell, tokens in wanted)
        return f"tokens_per_param from {_up(multiples):.2g} on"
    return f"tokens from {max(tokens for _, tokens in wanted):,.0f} on"


def _up(value: float) -> float:
    """Rounded up to two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _missed(cells: Sequence[Batched], unit: int, limit: float) -> NDArray[np.bool_]:
    tokens = np.array([each.cell.tokens for each in cells])
    step = unit * np.array([each.batch_tokens for each in cells])
    rounded = np.maximum(1, np.round(tokens / step)) * step
    return np.asarray(np.abs(rounded / tokens - 1) > limit)
