"""Whether a law misses its runs by more than repeating a run does: the F test of lack of fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.fitting.identifiability import DEFICIENT
from analysis.runs.replicates import NO_SPREAD


@dataclass(frozen=True)
class LackOfFit:
    """Scatter about the law against scatter among replicates, in log(loss).

    A small `p_value` says that the law misses by more than repeating a run does.
    """

    groups: int  # points run more than once
    replicates: int  # runs beyond the first at their point
    replicate_sd: float
    residual_sd: float  # about the law, free of replicate scatter where that is larger
    f: float
    p_value: float
    # So many independent runs would show the scatter as well: branches of one trunk repeat its
    # noise. None in files of earlier versions.
    independent: float | None = None


def lack_of_fit(
    residual: Array, slopes: Array, weights: Array, cell: Index, cluster: Index
) -> LackOfFit | None:
    """The F test of log residuals, rows of one `cell` being replicates and rows of one `cluster`
    sharing noise; None without replicates that differ, spare points, or a point of two clusters.

    `slopes` are those of log predictions by the free coefficients (n, p), `weights` inverse
    variances. Both mean squares have Satterthwaite's degrees of freedom (1946, Biometrics Bulletin
    2, 110) under noise of which a share is the cluster's: the share that the replicates show, or,
    since few replicates show it badly, one half-way from there to 1, whichever gives the larger p.
    (Simulated on five designs of 36 to 96 rows and 6 to 24 trunks, which have a share of 0 to 1 of
    the noise: false alarms in 1 to 7% at a nominal 5%, in 0 to 1.8% at 1%; rows counted as
    independent: up to 21% and 14%. On the rows of results/reference/isoflop at .7: 4% and 1%
    instead of 10% and 4%.)
    """
    point = pd.factorize(cell)[0]
    total = np.bincount(point, weights)
    size = np.sqrt(total)

    def mean(values: Array) -> Array:
        return np.bincount(point, weights * values) / total

    middle = mean(residual)
    apart = residual - middle[point]
    pure = float(np.sum(weights * apart**2))
    count = np.bincount(point)
    repeats = int(np.sum(count - 1))
    if repeats == 0 or pure <= repeats * NO_SPREAD**2:
        return None
    # In units of one row's noise, points are orthogonal: what the coefficients can move of their
    # means is not lack of fit, wherever the objective left them.
    moved = [size * mean(column) for column in slopes.T if column.any()]
    fitted = _directions(np.array(moved).reshape(-1, len(size)).T)
    if fitted.shape[1] >= len(count):
        return None
    left = size * middle - fitted @ (fitted.T @ (size * middle))
    lack = float(left @ left)
    run = pd.factorize(cluster)[0]
    within, between = _moments(point, run, weights, size, fitted)
    seen = within.share(pure, float(np.sum(np.bincount(run, weights * apart) ** 2)))
    from scipy.special import fdtrc  # scipy.stats takes most of a second to import

    tests = []
    for share in (seen, (1 + seen) / 2):
        repeated, missed = within.at(share), between.at(share)
        if min(repeated.size, missed.size) < 1e-9 * len(point):
            continue  # the coefficients take up all of the noise of trunks
        f = (lack / missed.size) / (pure / repeated.size)
        tests.append(
            LackOfFit(
                groups=int(np.sum(count > 1)),
                replicates=repeats,
                replicate_sd=float(np.sqrt(pure / repeated.size)),
                residual_sd=float(np.sqrt(lack / missed.size)),
                f=float(f),
                p_value=float(fdtrc(missed.freedom, repeated.freedom, f)),
                independent=repeated.freedom,
            )
        )
    return max(tests, key=lambda test: test.p_value, default=None)


def _directions(columns: Array) -> Array:
    """An orthonormal basis of what the columns span, as far as they are not rounding."""
    if not columns.shape[1]:
        return columns
    unit = columns / np.linalg.norm(columns, axis=0)
    vectors, values, _ = np.linalg.svd(unit, full_matrices=False)
    return np.asarray(vectors[:, values > DEFICIENT * values.max()])


class _Squares(NamedTuple):
    """A sum of squares of unit noise: what to expect, and its degrees of freedom."""

    size: float
    freedom: float


class _Moments(NamedTuple):
    """Of a projection P of rows: tr P, and tr S and tr S² of what it leaves of the clusters, S."""

    rows: float
    shared: float
    squared: float

    def share(self, squares: float, sums: float) -> float:
        """The share of the noise that is the clusters', from the rows' squares and those of the
        clusters' sums; 0 where every row is a cluster."""
        singular = self.shared**2 - self.rows * self.squared
        if abs(singular) < 1e-9 * self.shared**2:
            return 0.0
        common = max((self.shared * squares - self.rows * sums) / singular, 0.0)
        own = max((self.shared * sums - self.squared * squares) / singular, 0.0)
        return common / (common + own)

    def at(self, share: float) -> _Squares:
        """Of noise of which that share is the clusters'."""
        own = 1 - share
        expected = share * self.shared + own * self.rows
        variance = share**2 * self.squared + 2 * share * own * self.shared + own**2 * self.rows
        return _Squares(expected, expected**2 / variance if variance > 0 else 0.0)


def _moments(
    point: Index, cluster: Index, weights: Array, size: Array, fitted: Array
) -> tuple[_Moments, _Moments]:
    """Of the scatter within points, and of that of their means about what is `fitted`."""
    from scipy.sparse import csr_array  # only where runs were repeated

    each = np.bincount(cluster, weights)
    shares = csr_array((weights / size[point], (point, cluster)), shape=(len(size), len(each)))
    means = float(shares.power(2).sum())
    gram = shares @ shares.T if len(size) <= len(each) else shares.T @ shares
    squared = float(gram.power(2).sum())
    along = np.asarray(shares.T @ fitted)  # clusters × coefficients
    crossed = float(np.sum(np.asarray(shares @ along) ** 2))
    lost = along.T @ along
    return (
        _Moments(
            len(point) - len(size),
            float(each.sum()) - means,
            float(each @ each - 2 * each @ shares.power(2).sum(axis=0)) + squared,
        ),
        _Moments(
            len(size) - fitted.shape[1],
            means - float(np.trace(lost)),
            squared - 2 * crossed + float(np.sum(lost**2)),
        ),
    )
