"""Test of a trend: does the score rise with scale at all, whatever the shape of the rise is?

The best non-decreasing curve (isotonic regression) is compared with a constant, and a permutation
test gives the p-value: the scores are permuted over the scales, and no model of the noise is
needed. A rise must go above the start of the curve and above chance, so a curve that dips and
comes back has not risen.

Checkpoints of one run resemble their neighbours, and a flat run that drifts looks like a rise; but
it drifts down as often as up. Therefore each run counts once, by its slope, in a t test over runs.
That test is valid whatever the correlation within runs is and however the runs differ in noise
(Ibragimov and Müller 2010, J. Bus. Econ. Stat. 28:453). Runs of one group share their noise, and
count once together.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.special import gammaln, stdtr
from scipy.stats import combine_pvalues

from analysis.array import Array
from analysis.emergence.response.deviance import Data, Indices

SIGNIFICANT = 0.05
PERMUTATIONS = 499
MOST_EXACT = 5  # points of which all 120 permutations are tried
LEAST_NOISE = 0.05  # of the scatter about the mean: four points may have no other noise
START = 3  # the start of the curve is the first third of the points


class Trend(NamedTuple):
    """The result of the trend test."""

    p_value: float | None  # of no rise; None: there is only one run, which may have drifted
    p_dip: float  # of no fall before the rise
    least_p: float  # the smallest p-value that so few scales (or the signs of so few runs) can give
    runs: int = 0  # runs scored at several scales; those of one group count as one
    grouped: bool = False  # some runs are of one group

    @property
    def counted(self) -> str:
        """The number of runs or groups in the t test, in words."""
        return f"{self.runs} {'groups of runs' if self.grouped else 'runs'}"

    @property
    def words(self) -> str:
        """The p-value and the test behind it."""
        p_value = "p unknown" if self.p_value is None else f"p = {self.p_value:.2g}"
        return f"{p_value}, t test over {self.counted}" if self.runs else p_value


class _Points(NamedTuple):
    """Scores by scale; those of one block are permuted among themselves, unless it is a run."""

    t: Array
    value: Array
    weight: Array
    scale: Indices
    block: Indices
    error: Array  # variance from the questions alone
    run: Indices  # flags: the point's block is a run
    cluster: Indices  # runs that share a group are in one cluster

    def of(self, which: Indices) -> _Points:
        return _Points(*(each[which] for each in self))

    def reversed(self) -> _Points:
        """The points in reverse, from the largest scale to the smallest."""
        turned = self._replace(t=-self.t, scale=self.scale.max(initial=0) - self.scale)
        return turned.of(np.argsort(turned.scale, kind="stable"))


def trend_test(data: Data, runs: Indices | None, rng: np.random.Generator) -> Trend:
    """Tests of a rise, and of a fall from the start to the scale of the lowest score.

    `runs` labels the training run of each score; None: every score is of a separate model.
    """
    points = _points(data, runs)
    chance = -np.inf if data.chance is None else data.chance
    along, alone = points.of(points.run), points.of(~points.run)
    p_value = _p_value(along, alone, chance, rng)
    p_dip = _p_value(_first_half(along).reversed(), _to_the_lowest(alone).reversed(), -np.inf, rng)
    several = len(np.unique(along.cluster))
    least = _least(alone)
    least = min(least, 0.5**several) if several else least
    grouped = several < len(np.unique(along.block))
    return Trend(p_value, 1.0 if p_dip is None else p_dip, least, several, grouped)


def _first_half(points: _Points) -> _Points:
    """The points of the lower half of the scales.

    An end picked by the scores, as in `_to_the_lowest`, would bias the t test.
    """
    scales = np.unique(points.scale)
    return points.of(np.isin(points.scale, scales[: (len(scales) + 1) // 2]))


def _to_the_lowest(points: _Points) -> _Points:
    """The points up to the scale of the lowest mean; none where that is fewer than three scales."""
    if not len(points.scale):
        return points
    scale: Indices = np.unique(points.scale, return_inverse=True)[1]
    mean = np.bincount(scale, points.weight * points.value) / np.bincount(scale, points.weight)
    lowest = int(np.argmin(mean.round(12)))  # the first of equal ones, whatever the rounding
    return points.of((scale <= lowest) & (lowest >= 2))


def _points(data: Data, runs: Indices | None) -> _Points:
    """The mean of each group at each scale: its scores there share their noise.

    The scores of a group that spans scales are permuted among themselves, so that the group's own
    level is no evidence; all others are permuted together.
    """
    count = len(data.t)
    weight = data.weight / data.weight.mean()
    group = np.arange(count) if data.group is None else data.group
    label, in_run, cluster = group, np.zeros(count, bool), group
    if runs is not None:
        code = np.unique(runs, return_inverse=True)[1]
        in_run = _spans(code, data.scale_of)[code]
        label = np.where(in_run, code + group.max() + 1, group)
        cluster = _clusters(label, group)
    cells, cell_of = np.unique(np.column_stack([label, data.scale_of]), axis=0, return_inverse=True)
    cell_of = cell_of.ravel()
    total = np.bincount(cell_of, weight).astype(np.float64)
    value = np.bincount(cell_of, weight * data.unit) / total
    block = np.where(_spans(label, data.scale_of)[cells[:, 0]], cells[:, 0] + 1, 0)
    error = np.bincount(cell_of, weight**2 * _question_error(data)) / total**2
    run = np.bincount(cell_of, in_run) > 0
    one = np.unique(cell_of, return_index=True)[1]
    found = _Points(
        data.at[cells[:, 1]], value, total, cells[:, 1], block, error, run, cluster[one]
    )
    return found.of(np.argsort(cells[:, 1], kind="stable"))


def _question_error(data: Data) -> Array:
    """The variance of each score from its questions, or from the least difference it can show."""
    least = data.resolution[data.scale_of]
    share = np.clip(data.unit, least, 1 - least)
    asked = share * (1 - share) / data.questions if data.bounded else 0.0
    return np.asarray(np.maximum(asked, least**2), np.float64)


def _clusters(label: Indices, group: Indices) -> Indices:
    """A number that two points share if a chain of labels and groups connects them."""
    first = int(label.max()) + 1
    size = first + int(group.max()) + 1
    links = coo_array((np.ones(len(label)), (label, first + group)), shape=(size, size))
    return np.asarray(connected_components(links, directed=False)[1][label])


def _spans(label: Indices, scale: Indices) -> Indices:
    """Flags of the labels whose points lie at several scales."""
    pairs = np.unique(np.column_stack([label, scale]), axis=0)
    return np.asarray(np.bincount(pairs[:, 0]) > 1)


def _p_value(
    along: _Points, alone: _Points, chance: float, rng: np.random.Generator
) -> float | None:
    """The p-value of no rise: from runs, from separate models, or from both (Fisher's combination).

    None where neither gives one.
    """
    found = []
    slopes, errors = _slopes(along, chance)
    if len(slopes) > 1:
        # Slopes that happen to be equal do not scatter less than the questions alone make.
        squared = max(float(slopes.var(ddof=1)), float(errors.mean())) / len(slopes)
        found.append(float(stdtr(len(slopes) - 1, -slopes.mean() / np.sqrt(squared))))
    if len(alone.value) and (not len(along.value) or _least(alone) <= SIGNIFICANT):
        value, weight = alone.value, alone.weight
        scale: Indices = np.unique(alone.scale, return_inverse=True)[1]
        observed = _gain(value, weight, scale, chance)
        permuted = [
            _gain(value[order], weight[order], scale, chance)
            for order in _permutations(alone.block, rng)
        ]
        # The share of permutations at least as good as the observed order, which is among them.
        found.append(float(np.mean(np.array(permuted) >= observed * (1 - 1e-9))))
    if len(found) < 2:
        return found[0] if found else None
    return float(combine_pvalues(np.maximum(found, 1e-300)).pvalue)


def _slopes(points: _Points, chance: float) -> tuple[Array, Array]:
    """The mean slope of the runs of each cluster, in score per decade, and its variance from the
    questions alone. Scores below chance count as chance."""
    found, cluster = [], []
    for each in np.unique(points.block):
        mine = points.of(points.block == each)
        centred = mine.t - np.average(mine.t, weights=mine.weight)
        width = mine.weight @ centred**2
        if width > 0:
            share = mine.weight * centred / width
            found.append((share @ np.maximum(mine.value, chance), share**2 @ mine.error))
            cluster.append(mine.cluster[0])
    if not found:
        return np.empty(0), np.empty(0)
    slopes, errors = np.transpose(found)
    of: Indices = np.unique(cluster, return_inverse=True)[1]
    runs = np.bincount(of)
    return np.bincount(of, slopes) / runs, np.bincount(of, errors) / runs**2


def _permutations(block: Indices, rng: np.random.Generator) -> list[Indices]:
    """The observed order, and either all other permutations or many at random."""
    own = np.arange(len(block))
    if len(own) <= MOST_EXACT and len(np.unique(block)) == 1:
        return [np.array(order) for order in itertools.permutations(own)]
    return [own, *(_permutation(block, rng) for _ in range(PERMUTATIONS))]


def _permutation(block: Array, rng: np.random.Generator) -> Array:
    """A permutation that keeps every block in its own places."""
    by_block = np.argsort(block, kind="stable")
    order = np.empty(len(block), dtype=int)
    order[by_block] = np.lexsort((rng.random(len(block)), block))
    return order


def _gain(value: Array, weight: Array, scale: Array, chance: float) -> float:
    """The scatter explained by the best non-decreasing curve above start and chance, over noise."""
    total = np.bincount(scale, weight)
    mean: Array = np.bincount(scale, weight * value) / total
    early = max(len(value) // START, 1)
    start = weight[:early] @ value[:early] / weight[:early].sum()
    bound = max(start, chance)
    curve = np.maximum(isotonic_regression(mean, weights=total).x, bound)
    flat = max(weight @ value / weight.sum(), bound)
    left = float(weight @ (value - curve[scale]) ** 2)
    none = float(weight @ (value - flat) ** 2)
    within = float(weight @ (value - mean[scale]) ** 2)
    noise = within + _valley_error(mean, total)
    return (none - left) / max(noise + LEAST_NOISE * none, 1e-300)


def _valley_error(mean: Indices, weight: Indices) -> float:
    """The scatter about the best curve that falls and then rises: a dip is no noise."""
    falls = _rising_errors([-m for m in mean.tolist()], weight.tolist())
    rises = _rising_errors([-m for m in mean[::-1].tolist()], weight[::-1].tolist())[::-1]
    return min(a + b for a, b in zip(falls, rises, strict=True))


def _rising_errors(mean: list[float], weight: list[float]) -> list[float]:
    """The errors of isotonic regression on the first 0, 1, … all scales, pooled one at a time."""
    blocks: list[tuple[float, float, float]] = []  # weight, mean, error
    errors, total = [0.0], 0.0
    for m, w in zip(mean, weight, strict=True):
        error = 0.0
        while blocks and blocks[-1][1] >= m:
            w0, m0, e0 = blocks.pop()
            total -= e0
            error += e0 + w0 * w / (w0 + w) * (m0 - m) ** 2
            m, w = (w0 * m0 + w * m) / (w0 + w), w0 + w
        blocks.append((w, m, error))
        total += error
        errors.append(total)
    return errors


def _least(points: _Points) -> float:
    """One over the number of different permutations of the points over the scales."""
    logs = 0.0
    for each in np.unique(points.block):
        counts = np.unique(points.scale[points.block == each], return_counts=True)[1]
        logs += float(gammaln(counts.sum() + 1) - gammaln(counts + 1).sum())
    return float(np.exp(-logs))
