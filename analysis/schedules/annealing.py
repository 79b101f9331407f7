"""The multi-power law's loss at every step of a learning-rate schedule.

    L(t) = L0 + A·S1(t)^−alpha − B·Σ_k (η_{k−1} − η_k)·G(η_k^−gamma·S_k(t)),
    G(x) = 1 − (C·x + 1)^−beta

S1(t) is the sum of all learning rates up to step t, S_k(t) that from step k on (Luo et al. 2025,
arXiv:2503.12811). The sum runs over the warmup too, as in the authors' code, from a rate of zero
before the first step: the paper's S_W is a part of S1, L0 is the loss that is left when the rate is
gone, and runs that begin differently can be compared.

The sum of a row has one term for every step before it. Steps of nearly equal S_k and rate are put
together as one term, so there are one or two hundred, however long the run is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.array import Array, Index
from analysis.schedules.curves import Schedule, by_curve, schedule_of

# Steps within so many e-folds of S_k and of the rate are one term, at their mean rate and area. The
# error is of second order: 3e-6 nats on the published curves, which are printed to 1e-4.
CELL = 0.1
NOTHING = 1e-12  # of the peak: in place of a rate of zero, which has no power of −gamma
_BLOCK = 2000  # rows predicted at a time: a few MB an array


class Terms(NamedTuple):
    """n rows and, in flat arrays, the m drops of the rate that they add up."""

    total: Array  # (n,) S1
    row: Index  # (m,) the row that a drop belongs to
    drop: Array  # (m,) η_{k−1} − η_k: negative where the rate rose
    log_rate: Array  # (m,) log η_k
    log_area: Array  # (m,) log S_k(t)


class Annealed(NamedTuple):
    """The sum over drops at each row, with its derivatives (n,)."""

    value: Array
    by_log_c: Array
    by_beta: Array
    by_gamma: Array


def losses(
    c: Mapping[str, float], rows: pd.DataFrame, wanted: NDArray[np.bool_], warmup_steps: int | None
) -> Array:
    """The law's loss at the wanted rows, NaN at others (columns curve, step, lr, from `read`)."""
    found = np.full(len(rows), np.nan)
    for places, each in by_curve(rows):
        schedule = schedule_of(each, warmup_steps)
        steps = each["step"].to_numpy(dtype=np.intp)[wanted[places]]
        places = places[wanted[places]]
        for at in range(0, len(steps), _BLOCK):
            part = terms_of(schedule, steps[at : at + _BLOCK])
            drops = annealed(part, np.log(c["C"]), c["beta"], c["gamma"]).value
            with np.errstate(divide="ignore"):  # before any training the loss is infinite
                power = c["A"] * part.total ** -c["alpha"]
            found[places[at : at + _BLOCK]] = c["L0"] + power - c["B"] * drops
    return found


def annealed(terms: Terms, log_c: float, beta: float, gamma: float) -> Annealed:
    """The sum over drops of (η_{k−1} − η_k)·G(η_k^−gamma·S_k(t))."""
    x = np.exp(log_c - gamma * terms.log_rate + terms.log_area)
    log_u = np.log1p(x)
    rest = terms.drop * np.exp(-beta * log_u)
    slope = beta * rest * (x / (1 + x))
    columns = (terms.drop - rest, slope, rest * log_u, -terms.log_rate * slope)
    n = len(terms.total)
    sums = (np.bincount(terms.row, each, minlength=n) for each in columns)
    return Annealed(*(np.asarray(each, dtype=np.float64) for each in sums))


def terms_of(schedule: Schedule, steps: Index) -> Terms:
    """The terms of the rows at `steps`.

    The steps of a term are found by bisection in running sums, not by a loop over all steps.
    """
    rates, at = schedule.rates, steps - schedule.origin
    total = np.cumsum(rates)
    before = np.concatenate([[0.0], total[:-1]])
    log_rate = np.log(np.maximum(rates, NOTHING * rates.max()))
    drop = -np.diff(rates, prepend=0.0)
    drop[np.abs(drop) < NOTHING * rates.max()] = 0.0  # rounding, which would make every step a term
    size = np.abs(drop)
    columns = (drop, size, size * log_rate, size * before)
    sums = [np.concatenate([[0.0], np.cumsum(each)]) for each in columns]  # before each step
    moving = np.flatnonzero(size)
    kind = np.stack([np.sign(drop[moving]), np.floor(log_rate[moving] / CELL)])
    edges = 1 + moving[:-1][(np.diff(kind) != 0).any(axis=0)]  # after the last step of each kind
    areas = np.exp(np.arange(log_rate.min(), np.log(total[-1]) + CELL, CELL))
    parts = []
    for row, step in enumerate(at):
        near = 1 + np.searchsorted(total, total[step] - areas)
        inside = edges[: np.searchsorted(edges, step + 1)]
        ends = np.unique(np.concatenate([[0, step + 1], inside, near[near <= step]]))
        drops, sizes, rate, area = (np.diff(each[ends]) for each in sums)
        kept = sizes > 0
        drops, sizes, rate, area = (each[kept] for each in (drops, sizes, rate, area))
        with np.errstate(divide="ignore"):  # an area of zero has no effect, as log 0 gives
            log_area = np.log(np.maximum(total[step] - area / sizes, 0.0))
        parts.append((np.full(len(sizes), row, dtype=np.intp), drops, rate / sizes, log_area))
    return Terms(total[at], *(np.concatenate(column) for column in zip(*parts, strict=True)))


def joined(parts: Sequence[Terms]) -> Terms:
    """The rows of several curves as one."""
    offsets = np.cumsum([0, *(len(each.total) for each in parts)])
    moved = [each._replace(row=each.row + by) for each, by in zip(parts, offsets, strict=False)]
    return Terms(*(np.concatenate(column) for column in zip(*moved, strict=True)))
