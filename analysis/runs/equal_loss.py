"""How much compute a variant saves: that of the base over its own where both reach the same loss.

Both are read at their own best value of a swept setting, such as the learning rate: of two
optimisers at one rate, the one that the rate suits wins. At each size the logarithm of compute is
one smooth function of the least loss for both, shifted by the logarithm of the ratio: the mean of a
ratio that changes with the loss. Where no loss was reached by both there is none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.interval import Interval, central
from analysis.runs.messages import listing, name_of
from analysis.runs.replicates import levelled
from analysis.runs.seeds import paired_seeds
from analysis.runs.swept_draws import Point, points
from analysis.runs.table import CORE, standardise, usable
from scaling.store.records import Refusal

# Of ln C in the loss. Over a factor of four in D, of a law L = E + B/D^.5 with a true ratio of 1.15
# to 1.8, a cubic is off by .05% at most, a quadratic by 1.6%.
DEGREE = 3
SAME = 1e-3  # relative, of N: sizes of two variants count as one


@dataclass(frozen=True)
class ComputeRatio:
    """The compute of the base over that of the variant at equal loss, at one size."""

    params: float
    ratio: float | None  # above 1 the variant needs less; null where no loss was reached by both
    interval: Interval | None  # null where the noise is not known
    losses: Interval | None  # that both reached
    reason: str = ""  # why there is none


@dataclass(frozen=True)
class EqualLoss:
    """The ratios of two variants at each size, and over all of them."""

    base: str
    variant: str
    sizes: tuple[ComputeRatio, ...]  # rising
    ratio: float | None  # the geometric mean over sizes that have one
    interval: Interval | None
    level: float
    warnings: tuple[str, ...] = ()


def equal_loss(
    table: pd.DataFrame,
    by: str,
    base: str,
    variant: str,
    *,
    column: str = "learning_rate",
    flops: str = "flops",
    level: float = 0.9,
    seed: int = 0,
) -> EqualLoss:
    """The ratio of compute to equal loss of the rows where `by` is `base` and those of `variant`.

    `flops` is the column of compute, the exact count of a results folder by default. Intervals are
    of the noise of runs, drawn as `analysis.runs.swept_draws` says; where both variants have the
    same three or more seeds, seeds are drawn jointly over both, so that what a seed does to both
    alike falls out. Raises Refusal as `analysis.runs.sweep.sweep` does, and for a missing column or
    variant.
    """
    if missing := [name for name in (by, flops) if name not in table]:
        raise Refusal(f"{name_of(table)} has no column {missing[0]}. Name the one that has it.")
    rows = standardise(usable(table).rows, require=(*CORE, column, flops))
    named = rows[by].astype(str)
    for name in (base, variant):
        if not named.eq(name).any():
            have = listing(sorted(set(named)))
            raise Refusal(f"{by} = {name!r} is in no row of {name_of(table)}: it has {have}.")
    sides = [levelled(rows[named.eq(name)]) for name in (base, variant)]
    seeds = [_seeds(side, column) for side in sides]
    paired = seeds[0] is not None and seeds[0] == seeds[1]
    # One number gives the same draws of the same seeds.
    numbers = (seed, seed if paired else seed + 1)
    found = [_curves(*each, column, flops) for each in zip(sides, numbers, strict=True)]
    sizes, logs = [], []
    for params, own in found[0].items():
        near = [n for n in found[1] if abs(n / params - 1) < SAME]
        other = found[1][near[0]] if near else None
        ratio, log = _ratio(params, own, other, level)
        sizes.append(ratio)
        if log is not None:
            logs.append(log)
    mean = np.mean(logs, axis=0) if logs else np.empty(0)
    warnings = () if paired else (
        f"{base} and {variant} have not the same three or more seeds: their runs vary "
        "independently, and intervals are wider than those of paired seeds.",
    )  # fmt: skip
    return EqualLoss(
        base, variant, tuple(sizes),
        float(np.exp(mean[0])) if logs else None,
        _interval(mean, level), level, warnings,
    )  # fmt: skip


@dataclass(frozen=True)
class _Curve:
    """ln C at each number of tokens that has a best value, and the least losses there."""

    log_flops: Array  # (tokens,)
    losses: Array  # (1 + draws, tokens): the estimate, then draws


def _curves(rows: pd.DataFrame, seed: int, column: str, flops: str) -> dict[float, _Curve]:
    """By N, through the numbers of tokens at which the best value lies inside its sweep."""
    compute = rows.groupby(["params", "tokens"])[flops].mean()
    by_size: dict[float, list[Point]] = {}
    for each in points(rows, column, seed=seed):
        by_size.setdefault(each.best.params, []).extend([each] * each.has_optimum)
    return {
        params: _Curve(
            np.log([compute.loc[(params, each.best.tokens)] for each in of]),
            np.stack([each.least for each in of], axis=1) if of else np.empty((1, 0)),
        )
        for params, of in by_size.items()
    }


def _seeds(rows: pd.DataFrame, column: str) -> frozenset[float] | None:
    """The seeds by which draws are paired; None where runs vary by themselves."""
    return paired_seeds(rows, ["params", "tokens", column])


def _ratio(
    params: float, base: _Curve, variant: _Curve | None, level: float
) -> tuple[ComputeRatio, Array | None]:
    """The ratio at a size, and its logarithm with draws."""
    reason, overlap = "", None
    if variant is None:
        reason = "the variant has no such size"
    elif min(base.losses.shape[1], variant.losses.shape[1]) < 2:
        reason = "the best lies inside the sweep at fewer than two numbers of tokens"
    else:
        seen = [each.losses[0] for each in (base, variant)]
        overlap = Interval(max(each.min() for each in seen), min(each.max() for each in seen))
        if overlap.width <= 0:
            reason = "no loss was reached by both"
    if reason or variant is None or overlap is None:
        return ComputeRatio(params, None, None, None, reason), None
    log = _shift(base, variant)
    return ComputeRatio(params, float(np.exp(log[0])), _interval(log, level), overlap), log


def _shift(base: _Curve, variant: _Curve) -> Array:
    """ln C of the base above that of the variant at equal loss, (1 + draws,), by least squares."""
    rows = min(len(base.losses), len(variant.losses))  # one side may have no draws
    x = np.concatenate([base.losses[:rows], variant.losses[:rows]], axis=1)
    x = (x - x[0].mean()) / np.ptp(x[0])
    y = np.concatenate([base.log_flops, variant.log_flops])
    of_base = np.arange(len(y)) < len(base.log_flops)
    powers = x[:, :, None] ** np.arange(min(DEGREE, len(y) - 2) + 1)
    shift = np.broadcast_to(of_base[:, None].astype(float), (*x.shape, 1))
    found = np.linalg.pinv(np.concatenate([powers, shift], axis=2)) @ y
    return np.asarray(found[:, -1])


def _interval(logs: Array, level: float) -> Interval | None:
    if len(logs) < 2:
        return None
    return Interval(*map(float, np.exp(central(logs[1:], level))))
