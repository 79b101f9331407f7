"""One learning curve carried on: an average over power laws with a floor and up to one break.

    carried = extrapolate(x, loss, at)             # x: examples, tokens or steps
    carried.loss, carried.low, carried.high

    log(L − a) = b − c·log x − c1·f·log(1 + (x/d)^(1/f))

A curve seen so far leaves the floor a and the break (d, f) open, and one best fit decides them by
noise. Here each of a grid of floors and breaks has its own b, c and c1, found in closed form under
normal priors, and a weight: how probable it makes the losses seen (the marginal likelihood), times
½ for no break and ½ for breaks anywhere in the range seen. The forecast is the average, its
variance that within and between. M2 of Alabdulmohsin et al. 2022 (arXiv:2209.06640) and the broken
law of Caballero et al. 2023 (arXiv:2210.14891) are members; weighting them is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from analysis.array import Array
from analysis.interval import student
from scaling.store.records import Refusal

FEWEST = 5  # losses, of different x
FLOORS = 1 - np.geomspace(1, 0.005, 40)  # of the least loss: fine, or noise picks between them
BREAKS, WIDTHS = 24, (0.1, 0.3, 1.0)  # places over the range of log x; widths in e-folds
# Exponents of published learning curves lie between .1 and .6; a break changes them by as much.
EXPONENT, CHANGE = (0.3, 0.3), 0.3
# The sd that the average gives times this covers as it should (benchmarks/curves.py): the members
# share what they all get wrong.
WIDENED = 1.8
_VAGUE = 1e3  # sd of b, which has no prior to speak of
_ROUNDS = 4  # of the noise and the members that it is estimated by
LEAST = 3e-4  # sd of log losses: no law holds a curve closer, however smooth it is


@dataclass(frozen=True)
class Carried:
    """The forecast at each x that was asked for."""

    loss: Array
    low: Array  # ends of the interval, at `level`
    high: Array
    level: float
    noise: float  # sd of log losses about the best member
    members: float  # that count: one over the sum of squared weights


class Shift(NamedTuple):
    """What is added to the loss before it is a power law with a floor, and how probable it is.

    The gain of a decay of the learning rate, say, of one of several sizes it may have.
    """

    seen: Array
    wanted: Array
    log_prior: float


def extrapolate(x: ArrayLike, loss: ArrayLike, at: ArrayLike, level: float = 0.9) -> Carried:
    """The curve `loss` over `x`, carried on to `at` (all positive, x in any order).

    Raises Refusal for fewer than five losses at different x, and numbers that are not positive.
    """
    seen, losses, wanted = (np.asarray(each, dtype=float).ravel() for each in (x, loss, at))
    none = Shift(np.zeros(len(losses)), np.zeros(len(wanted)), 0.0)
    return average(seen, losses, wanted, [none], level)


def average(
    x: Array, losses: Array, at: Array, shifts: Sequence[Shift], level: float,
    floors: Array = FLOORS, breaks: int = BREAKS, least: float = LEAST,
) -> Carried:  # fmt: skip
    """As `extrapolate`, over shifts of the loss too.

    floors: as shares of the least loss. least: of the noise, sd.
    """
    _refuse(x, losses, at, level)
    order = np.argsort(x, kind="stable")
    middle = float(np.log(x).mean())
    seen, wanted = np.log(x[order]) - middle, np.log(at) - middle
    banks = [_Bank(seen, losses[order], each.seen[order], floors, breaks) for each in shifts]
    variance, independent = 1e-4, 1.0
    for _ in range(_ROUNDS):
        best = min((bank.at(variance, independent) for bank in banks), key=lambda end: end.least)
        variance = max(best.least / max(len(x) - 4, 1), least**2)
        independent = _independent(best.residual)
    ends = [bank.at(variance, independent) for bank in banks]
    evidence = np.stack(
        [end.evidence + each.log_prior for end, each in zip(ends, shifts, strict=True)]
    )
    weights = np.exp(evidence - evidence.max())
    weights /= weights.sum()
    mean, square = np.zeros(len(at)), np.zeros(len(at))
    for bank, end, each, share in zip(banks, ends, shifts, weights, strict=True):
        predicted, within = bank.predict(end, wanted, each.wanted)
        mean += np.einsum("kh,khn->n", share, predicted)
        square += np.einsum("kh,khn->n", share, within + predicted**2)
    sd = WIDENED * np.sqrt(np.maximum(square - mean**2, 0.0) + variance)
    reach = student(max(len(np.unique(x)) - 4, 1), level) * sd
    return Carried(
        np.exp(mean), np.exp(mean - reach), np.exp(mean + reach), level,
        float(np.sqrt(variance)), float(1 / (weights**2).sum()),
    )  # fmt: skip


def _refuse(x: Array, losses: Array, at: Array, level: float) -> None:
    if len(x) != len(losses):
        raise Refusal(f"x has {len(x)} values and loss {len(losses)}. Give one loss for each x.")
    for name, values in (("x", x), ("loss", losses), ("at", at)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise Refusal(f"{name} has values that are not positive numbers. Leave them out.")
    if (count := len(np.unique(x))) < FEWEST:
        raise Refusal(
            f"x has {count} different values, of which a curve needs at least {FEWEST} to be "
            "carried on. Give more of the curve."
        )
    if not 0 < level < 1:
        raise Refusal(f"level = {level} is not between 0 and 1. The usual value is 0.9.")


def _independent(residual: Array) -> float:
    """The share of the losses that are independent, by the correlation of neighbours."""
    if len(residual) < 7:
        return 1.0
    along = float(residual[1:] @ residual[:-1]) / max(float(residual @ residual), 1e-300)
    correlation = min(max(along, 0.0), 0.95)
    return (1 - correlation) / (1 + correlation)


class _End(NamedTuple):
    """What K floors and H breaks find with a noise."""

    evidence: Array  # (K, H) log, with the prior of a break
    theta: Array  # (K, H, 3): b, c and c1
    covariance: Array  # (K, H, 3, 3)
    least: float  # sum of squares of the best
    residual: Array  # of it, (n,)


@dataclass(frozen=True)
class _Bank:
    """The members with one shift, over log x in rising order."""

    x: Array
    losses: Array
    shift: Array
    shares: Array  # floors, of the least loss
    breaks: int

    @cached_property
    def places(self) -> Array:
        """Of breaks, in log x; a break at infinity is none."""
        inner = np.linspace(self.x[0], self.x[-1], self.breaks + 2)[1:-1]
        return np.concatenate([[np.inf], np.repeat(inner, len(WIDTHS))])

    @cached_property
    def widths(self) -> Array:
        return np.concatenate([[1.0], np.tile(WIDTHS, self.breaks)])

    @cached_property
    def floors(self) -> Array:
        return np.asarray(self.shares * (self.losses + self.shift).min())

    def columns(self, x: Array) -> Array:
        """The design at log x, (H, n, 3), of b, c and c1."""
        bent = np.logaddexp(0.0, (x - self.places[:, None]) / self.widths[:, None])
        bent *= self.widths[:, None]
        return np.stack([np.ones_like(bent), np.broadcast_to(-x, bent.shape), -bent], axis=2)

    @cached_property
    def design(self) -> Array:
        return self.columns(self.x)

    @cached_property
    def target(self) -> Array:
        return np.asarray(np.log(self.losses + self.shift - self.floors[:, None]))

    @cached_property
    def weights(self) -> Array:
        """Of squared residuals of the target, (K, n).

        Equal factors of x count alike, however densely they were logged; and a residual of the
        target moves log L by the share of L that is above the floor.
        """
        distinct, which, count = np.unique(self.x, return_inverse=True, return_counts=True)
        gap = (np.gradient(distinct) / count)[which]
        share = np.exp(self.target) / self.losses
        return np.asarray(share**2 * gap / gap.mean())

    @cached_property
    def normal(self) -> tuple[Array, Array, Array]:
        """The normal equations: (K, H, 3, 3), (K, H, 3) and the sum of squares (K, 1)."""
        pairs = self.design[..., :, None] * self.design[..., None, :]
        matrix = np.tensordot(self.weights, pairs, axes=(1, 1))
        weighted = self.weights * self.target
        vector = np.tensordot(weighted, self.design, axes=(1, 1))
        return matrix, vector, (weighted * self.target).sum(axis=1)[:, None]

    def at(self, variance: float, independent: float) -> _End:
        matrix, vector, total = self.normal
        sd, value = np.array([_VAGUE, EXPONENT[1], CHANGE]), np.array([0.0, EXPONENT[0], 0.0])
        scale = independent / variance
        precision = matrix * scale + np.diag(sd**-2.0)
        theta = np.linalg.solve(precision, (vector * scale + value / sd**2)[..., None])[..., 0]
        fitted = np.einsum("khi,khij,khj->kh", theta, matrix, theta, optimize=True)
        squares = np.maximum(total - 2 * (theta * vector).sum(axis=2) + fitted, 0.0)
        away = (((theta - value) / sd) ** 2).sum(axis=2)
        evidence = -0.5 * (squares * scale + away + np.linalg.slogdet(precision)[1])
        evidence[:, 1:] -= np.log(len(self.places) - 1)
        k, h = np.unravel_index(np.argmin(squares), squares.shape)
        residual = np.sqrt(self.weights[k]) * (self.target[k] - self.design[h] @ theta[k, h])
        covariance = np.asarray(np.linalg.inv(precision), dtype=np.float64)
        return _End(evidence, theta, covariance, float(residual @ residual), residual)

    def predict(self, end: _End, x: Array, shift: Array) -> tuple[Array, Array]:
        """log L at log x of each member, (K, H, m), and its variance."""
        columns = self.columns(x)
        above = np.exp(np.einsum("khi,hni->khn", end.theta, columns, optimize=True))
        # A gain that leaves no loss is that of a member without weight.
        total = np.maximum(above + self.floors[:, None, None] - shift, 1e-3 * self.losses.min())
        along = np.einsum("hni,khij->khnj", columns, end.covariance, optimize=True)
        spread = (along * columns).sum(axis=3)
        return np.log(total), spread * (above / total) ** 2
