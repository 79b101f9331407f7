"""The parabola that log loss makes over ln N and ln C near its least, fitted to the runs there.

    ln L = b0·z + b1·z² + b2·z·x + b3 + b4·x + b5·x²,   z = ln N, x = ln C,

whose bottom is the line ln N* = level + slope·x, by weighted least squares with two priors. Which
runs are near depends on where the bottom lies, so both are searched together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from analysis.array import Array
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN

REACH = 1.6  # ln N: runs within a factor 5 of N* count, those close to it most (tricube)
LEAST_SHARE = 0.3  # of the runs count, however far they lie
# The scatter of log loss about the parabola is estimated from the residuals. Before any is seen it
# is taken to be NOISE, and that counts as NOISE_RUNS runs: between seeds of tiny models log loss
# differs by .7% (REFERENCE of analysis/design), of large ones by .1%. From 4 to 64 runs
# all cost .35 to .37% of the loss in the mean of five sources (benchmarks/decision_constants.py).
NOISE, NOISE_RUNS = 0.005, 16.0
MEAN_TO_SD = math.sqrt(math.pi / 2)  # of a normal: sd over mean |deviation|
MILD = 1.345  # × the scatter: residuals beyond weigh as 1/size: 95% efficient (Huber 1964)
# Exponents of N* read at isoFLOP minima: Hoffmann et al. 2022 .49 and .50, Porian et al. 2024 .50,
# Bi et al. 2024 (arXiv:2401.02954) .52, Grattafiori et al. 2024 (arXiv:2407.21783) .46. The sd is
# four times theirs: what counts as N, and a warmup too long, move it by .2.
SLOPE, SLOPE_SD = 0.5, 0.1
# Curvatures of the Chinchilla laws of Hoffmann and Besiroglu at their optima are .02; valleys of
# Porian's runs .05 to .09.
CURVATURE, CURVATURE_SD = 0.04, 0.03
LEAST_CURVATURE = 0.004  # twice N* would cost .2%: no valley
START = 20.0  # tokens per parameter (Hoffmann et al. 2022); where the search ends does not depend
TERMS = 6  # of the quadratic
Z, ZZ, ZX = 0, 1, 2  # the places of the terms that the valley depends on
STEPS = 60  # of the search; ten are usual
STILL = 1e-3  # ln N; the steps after it sum to half of it
DAMPING = 0.7


class Runs(NamedTuple):
    """The runs in logarithms."""

    log_n: Array
    log_c: Array  # of 6ND
    log_loss: Array

    @property
    def middle(self) -> float:
        """From which ln C is counted."""
        return float(self.log_c.mean())


class Priors(NamedTuple):
    """Of slope and curvature, normal; a row a search."""

    slope: Array
    curvature: Array
    slope_sd: Array
    curvature_sd: Array

    @classmethod
    def mean(cls, rows: int) -> Priors:
        """The priors as they are, for each search."""
        return cls(*(np.full(rows, x) for x in (SLOPE, CURVATURE, SLOPE_SD, CURVATURE_SD)))

    @classmethod
    def drawn(cls, rng: np.random.Generator, rows: int) -> Priors:
        """Drawn anew for each search: what neither runs nor priors settle is open in them too."""
        slope, curvature = rng.standard_normal((2, rows))
        spread = math.sqrt(math.log1p((CURVATURE_SD / CURVATURE) ** 2))  # of ln k, never below 0
        return cls.mean(rows)._replace(
            slope=SLOPE + SLOPE_SD * slope, curvature=CURVATURE * np.exp(spread * curvature)
        )

    @classmethod
    def without_each(cls) -> Priors:
        """Two rows: the first knows nothing of the slope, the second nothing of the curvature."""
        free = np.array([np.inf, 1.0])
        both = cls.mean(2)
        return both._replace(
            slope_sd=both.slope_sd * free, curvature_sd=both.curvature_sd * free[::-1]
        )


@dataclass(frozen=True)
class Found:
    """A row a search. `level` is ln N* at the runs' middle."""

    level: Array
    slope: Array
    curvature: Array
    noise: Array  # sd of log loss about the parabola, near it
    near: Array  # (rows, runs) weight of each run
    off: Array  # (rows, runs) ln N from the valley
    reach: Array  # how far off those near lie
    residual: Array  # (rows, runs)
    precision: Array  # (rows, TERMS, TERMS) of the quadratic's coefficients
    middle: float  # ln C
    start: float  # ln N

    def sd(self, log_c: float) -> float:
        """Of ln N* at a budget, in the first row, by the delta method."""
        x, k = log_c - self.middle, self.curvature[0]
        at = self.level[0] - self.start + self.slope[0] * x
        # ln N* = -(b[Z] + b[ZX]·x) / (2·b[ZZ]), of N counted from the start of the search.
        return self._sd(np.array([-1.0, -2 * at, -x]) / (2 * k))

    @property
    def slope_sd(self) -> float:
        """Of the slope -b[ZX] / (2·b[ZZ]), in the first row."""
        return self._sd(np.array([0.0, -2 * self.slope[0], -1.0]) / (2 * self.curvature[0]))

    @property
    def curvature_sd(self) -> float:
        """In the first row."""
        return self._sd(np.array([0.0, 1.0, 0.0]))

    def _sd(self, gradient: Array) -> float:
        whole = np.concatenate([gradient, np.zeros(TERMS - len(gradient))])
        variance = whole @ np.linalg.solve(self.precision[0], whole)
        return math.sqrt(max(float(variance), 0.0))


def search(runs: Runs, weight: Array, prior: Priors, noise: Array | None = None) -> Found:
    """The fixed point of: runs near the valley make a quadratic, whose bottom is the valley.

    `weight` (rows, runs) is of the runs in each search; `noise` (rows,) is estimated where it is
    not given.
    """
    rows = len(weight)
    design = _design(runs)
    level, slope, curvature = np.zeros(rows), np.full(rows, SLOPE), np.full(rows, CURVATURE)
    scatter = np.full(rows, NOISE) if noise is None else noise
    trust = np.ones_like(weight)  # less for runs far off the quadratic: see MILD
    for _ in range(STEPS):
        off = design.z - level[:, None] - slope[:, None] * design.x
        reach = _reach(off)
        near = weight * np.clip(1 - (np.abs(off) / reach[:, None]) ** 3, 0.0, None) ** 3
        pull = near * trust / scatter[:, None] ** 2
        quadratic = _fitted(design, runs.log_loss, pull, prior, curvature)
        b = quadratic.coefficients
        residual = runs.log_loss - b @ design.terms.T
        if noise is None:
            scatter = _scatter(near, residual)
        bound = MILD * scatter[:, None]
        trust = np.minimum(1.0, bound / np.maximum(np.abs(residual), 1e-12))
        # The quadratic's bottom lies at ln N = -(b[Z] + b[ZX]·x) / (2·b[ZZ]).
        curvature = np.maximum(b[:, ZZ], LEAST_CURVATURE)
        rise = np.clip(-b[:, Z] / (2 * curvature) - level, -1.0, 1.0)
        turn = np.clip(-b[:, ZX] / (2 * curvature), -0.5, 1.5) - slope
        level, slope = level + DAMPING * rise, slope + DAMPING * turn
        if np.abs(rise).max() < STILL and np.abs(turn).max() < STILL:
            break
    return Found(
        design.start + level, slope, curvature, scatter, near, off, reach, residual,
        quadratic.precision, runs.middle, design.start,
    )  # fmt: skip


class _Design(NamedTuple):
    """The terms of the quadratic at the runs."""

    start: float  # ln N from which z counts
    x: Array  # ln C from the runs' middle
    z: Array  # ln N from the start
    terms: Array  # (runs, TERMS)
    pairs: Array  # (runs, TERMS²): products of two terms


def _design(runs: Runs) -> _Design:
    start = 0.5 * (runs.middle - math.log(FLOPS_PER_PARAM_TOKEN * START))
    x, z = runs.log_c - runs.middle, runs.log_n - start
    terms = np.stack([z, z**2, z * x, np.ones_like(x), x, x**2], axis=1)
    pairs = (terms[:, :, None] * terms[:, None, :]).reshape(len(x), -1)
    return _Design(start, x, z, terms, pairs)


def _reach(off: Array) -> Array:
    """How far off each valley runs count as near it, (rows,)."""
    fewest = math.ceil(LEAST_SHARE * off.shape[1]) - 1
    return np.maximum(REACH, np.partition(np.abs(off), fewest, axis=1)[:, fewest])


class _Quadratic(NamedTuple):
    coefficients: Array  # (rows, TERMS)
    precision: Array  # (rows, TERMS, TERMS)


def _fitted(
    design: _Design, log_loss: Array, weight: Array, prior: Priors, curvature: Array
) -> _Quadratic:
    """The quadratics by weighted least squares with the priors.

    `curvature` is that of the step before, by which the slope's prior is linear in coefficients.
    """
    rows = len(weight)
    precision: Array = (weight @ design.pairs).reshape(rows, TERMS, TERMS)
    right = weight @ (design.terms * log_loss[:, None])
    # Of the slope: (b[ZX] + 2·slope·b[ZZ]) / (2·k·sd) ~ N(0, 1).
    known = np.zeros((rows, TERMS))
    known[:, ZZ], known[:, ZX] = 2 * prior.slope, 1.0
    known /= (2 * curvature * prior.slope_sd)[:, None]
    precision += known[:, :, None] * known[:, None, :]
    # Of the curvature, which is b[ZZ].
    precision[:, ZZ, ZZ] += prior.curvature_sd**-2
    right[:, ZZ] += prior.curvature / prior.curvature_sd**2
    # Keeps what runs on one line leave open solvable; its variance then is beyond any bound.
    precision += 1e-12 * np.trace(precision, axis1=1, axis2=2)[:, None, None] * np.eye(TERMS)
    solved = np.linalg.solve(precision, right[:, :, None])[:, :, 0]
    return _Quadratic(np.asarray(solved, dtype=np.float64), precision)


def _scatter(near: Array, residual: Array) -> Array:
    """The sd of log loss about the parabola, which has TERMS coefficients: from the mean |residual|
    near it, which far ones move little, and what was known before any was seen."""
    count = np.maximum(near.sum(axis=1), 1e-12)
    seen = MEAN_TO_SD * (near * np.abs(residual)).sum(axis=1) / count
    freedom = np.maximum(count - TERMS, 0.0)
    return np.sqrt((NOISE_RUNS * NOISE**2 + count * seen**2) / (NOISE_RUNS + freedom))
