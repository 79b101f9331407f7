"""A curve through points: piecewise cubics whose slopes at the points are Akima's or PCHIP's.

In plain numpy because importing scipy.interpolate costs more than a whole fit (0.25 s of a core);
the tests hold both to scipy's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from analysis.expression import Array


class Least(NamedTuple):
    """Where a curve is lowest. `end` is -1 or 1 if that is its first or last point, else 0."""

    at: float
    value: float
    end: int


class Cubic(NamedTuple):
    """Points with rising `x`, and the curve's slope at each."""

    x: Array
    y: Array
    slope: Array

    def __call__(self, at: Array) -> Array:
        """The curve at `at`; NaN outside its points."""
        i = np.clip(np.searchsorted(self.x, at, side="right") - 1, 0, len(self.x) - 2)
        width = np.diff(self.x)[i]
        value = self._polynomial(i, (at - self.x[i]) / width)
        return np.where((at >= self.x[0]) & (at <= self.x[-1]), value, np.nan)

    def least(self) -> Least:
        """The lowest point: a turn inside a piece, or one of the points given."""
        pieces = np.arange(len(self.x) - 1)
        _, linear, square, cube = self._terms(pieces)
        with np.errstate(divide="ignore", invalid="ignore"):
            root = np.sqrt(square**2 - 3 * linear * cube)
            # The root where the slope rises, written so that a vanishing cubic term is no matter.
            turn = np.where(square > 0, -linear / (square + root), (root - square) / (3 * cube))
        inside = (turn > 0) & (turn < 1)
        pieces, turn = pieces[inside], turn[inside]
        at = np.concatenate([self.x, self.x[pieces] + turn * np.diff(self.x)[pieces]])
        values = np.concatenate([self.y, self._polynomial(pieces, turn)])
        best = int(np.argmin(values))
        end = -1 if best == 0 else 1 if best == len(self.x) - 1 else 0
        return Least(float(at[best]), float(values[best]), end)

    def _terms(self, i: NDArray[np.intp]) -> tuple[Array, Array, Array, Array]:
        """The cubic on piece `i` in t, the share of the way across."""
        width, rise = np.diff(self.x)[i], np.diff(self.y)[i]
        first, last = width * self.slope[i], width * self.slope[i + 1]
        return self.y[i], first, 3 * rise - 2 * first - last, first + last - 2 * rise

    def _polynomial(self, i: NDArray[np.intp], t: Array) -> Array:
        constant, linear, square, cube = self._terms(i)
        return np.asarray(constant + t * (linear + t * (square + t * cube)))


def akima(x: Array, y: Array) -> Cubic:
    """Akima 1970: slopes from the two chords on either side, so one outlier does not ring far."""
    chords = np.diff(y) / np.diff(x)
    for _ in range(2):  # chords beyond the ends go on as the last two do
        chords = np.concatenate(
            [[2 * chords[0] - chords[1]], chords, [2 * chords[-1] - chords[-2]]]
        )
    turn = np.abs(np.diff(chords))
    before, after = turn[:-2], turn[2:]
    straight = before + after <= 1e-9 * (before + after).max()
    total = np.where(straight, 1.0, before + after)
    bent = (after * chords[1:-2] + before * chords[2:-1]) / total
    return Cubic(x, y, np.where(straight, (chords[:-3] + chords[3:]) / 2, bent))


def pchip(x: Array, y: Array) -> Cubic:
    """Fritsch & Butland 1984: monotone wherever the points are; a straight line through two."""
    width = np.diff(x)
    chord = np.diff(y) / width
    if len(x) == 2:
        return Cubic(x, y, np.repeat(chord, 2))
    early, late = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (early + late) / (early / chord[:-1] + late / chord[1:])
    inner = np.where(chord[:-1] * chord[1:] > 0, mean, 0.0)
    ends = _end(width, chord), _end(width[::-1], chord[::-1])
    return Cubic(x, y, np.concatenate([[ends[0]], inner, [ends[1]]]))


def _end(width: Array, chord: Array) -> float:
    """The three-point slope at the first point, cut back where it would overshoot."""
    slope = ((2 * width[0] + width[1]) * chord[0] - width[0] * chord[1]) / (width[0] + width[1])
    if slope * chord[0] <= 0:
        return 0.0
    if chord[0] * chord[1] <= 0 and abs(slope) > 3 * abs(chord[0]):
        return float(3 * chord[0])
    return float(slope)
