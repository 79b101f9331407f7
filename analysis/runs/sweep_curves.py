"""Curves through the losses of a sweep near its best value, at every N and D together.

The minimum of a curve is the optimum between the values tried. Its noise is that between seeds, or
that of the residuals, and gives draws of every minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.array import Array

DRAWS = 2000  # their 5% and 95% points are stable to a hundredth of the interval
LEAST_FREEDOM = 2  # degrees of freedom of the noise; with one, an interval is 12 times too wide


@dataclass(frozen=True)
class Window:
    """The values near the best, of which x is the logarithm of each over the best."""

    x: Array
    loss: Array
    runs: Array  # number of runs with each value


@dataclass(frozen=True)
class Noise:
    sd: float  # of one run's loss
    freedom: int


@dataclass(frozen=True)
class Curves:
    """The curves of all points; arrays have one row per draw."""

    bottom: list[Array]  # where each has its minimum
    fitted: list[Array]  # its losses at the values of the window
    coefficients: list[Array]  # c0, c1 and c2 of each, (draws, 3)
    skew: Array  # γ of all

    def at(self, curve: int, x: Array) -> Array:
        """The losses of one curve at x, one per draw."""
        c0, c1, c2 = self.coefficients[curve].T
        return np.asarray(c0 + c1 * x + c2 * (x**2 + self.skew * x**3))


def fit_curves(windows: list[Window], losses: list[Array]) -> Curves:
    """Least squares of c0 + c1·x + c2·(x² + γx³), with one γ for all points.

    Loss rises faster above the best rate than below it; a parabola would place every optimum too
    low or too high by the same share. `losses` has one row per draw.
    """
    skew = _skew(windows, losses)
    bottoms, fitted, coefficients = [], [], []
    for window, loss in zip(windows, losses, strict=True):
        x = window.x
        bent = x**2 + skew[:, None] * x**3
        design = np.stack([np.ones_like(bent), np.broadcast_to(x, bent.shape), bent], axis=2)
        weighted = design * window.runs[:, None]
        normal = np.swapaxes(weighted, 1, 2) @ design
        right = np.einsum("dpk,dp->dk", weighted, loss)
        found = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        bottoms.append(_bottom(found, skew, x))
        fitted.append(np.einsum("dpk,dk->dp", design, found))
        coefficients.append(found)
    return Curves(bottoms, fitted, coefficients, skew)


def _skew(windows: list[Window], losses: list[Array]) -> Array:
    """γ, which the cubics of all points with enough values have in common."""
    above = below = np.zeros(len(losses[0]) if losses else 1)
    for window, loss in zip(windows, losses, strict=True):
        if len(window.x) < 4:
            continue
        root = np.sqrt(window.runs)
        cubic = np.linalg.pinv(np.vander(window.x, 4, increasing=True) * root[:, None]) * root
        _, _, second, third = cubic @ loss.T
        above, below = above + second * third, below + second**2
    if not windows:
        return above
    steepest = 1 / (3 * max(np.abs(window.x).max() for window in windows))  # beyond it bends back
    return np.clip(np.divide(above, below, where=below > 0, out=0 * above), -steepest, steepest)


def _bottom(found: Array, skew: Array, x: Array) -> Array:
    """Where each curve has its minimum in the window: its slope is c1 + c2·(2x + 3γx²)."""
    _, slope, curvature = found.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = slope / curvature
        inside = np.clip(-ratio / (1 + np.sqrt(np.maximum(1 - 3 * skew * ratio, 0))), x[0], x[-1])
    # A curve that bends down has its minimum at the end towards which it falls.
    return np.where(curvature > 0, inside, np.where(slope > 0, x[0], x[-1]))


def noise_of(
    rows: pd.DataFrame, column: str, windows: list[Window], curves: Curves
) -> Noise | None:
    """The noise between seeds of one value, else about the curves of all points together."""
    groups = rows.groupby(["params", "tokens", column])["loss"]
    freedom = int((groups.size() - 1).sum())
    squares = float(((rows["loss"] - groups.transform("mean")) ** 2).sum())
    if freedom < LEAST_FREEDOM or squares == 0:
        freedom = sum(len(window.x) - 3 for window in windows) - 1
        squares = sum(
            float(np.sum(window.runs * (window.loss - fitted[0]) ** 2))
            for window, fitted in zip(windows, curves.fitted, strict=True)
        )
    if freedom < LEAST_FREEDOM or squares == 0:
        return None
    return Noise(float(np.sqrt(squares / freedom)), freedom)


def draw_minima(windows: list[Window], noise: Noise, seed: int) -> list[Array]:
    """Draws of each point's minimum with new noise, whose size is drawn too.

    Half of them use only the best value and one neighbour on each side, which depends less on the
    form of the curve: where the two readings differ, the interval contains both.
    """
    rng = np.random.default_rng(seed)
    sd = noise.sd * np.sqrt(noise.freedom / rng.chisquare(noise.freedom, (DRAWS, 1)))
    losses = [
        window.loss + sd / np.sqrt(window.runs) * rng.standard_normal((DRAWS, len(window.x)))
        for window in windows
    ]
    return minima(windows, losses)


def minima(windows: list[Window], losses: list[Array]) -> list[Array]:
    """Where each point's curve has its minimum in each draw of the losses.

    The second half of the draws uses only the best value and one neighbour on each side, which
    depends less on the form of the curve.
    """
    half = len(losses[0]) // 2 if losses else 0
    near = [np.abs(np.arange(len(w.x)) - int(np.argmin(np.abs(w.x)))) <= 1 for w in windows]
    narrow = [Window(w.x[n], w.loss[n], w.runs[n]) for w, n in zip(windows, near, strict=True)]
    wide = fit_curves(windows, [loss[:half] for loss in losses])
    close = fit_curves(narrow, [loss[half:, n] for loss, n in zip(losses, near, strict=True)])
    return [np.concatenate(pair) for pair in zip(wide.bottom, close.bottom, strict=True)]
