"""How far the losses of equal runs differ, and how it is measured between replicates."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.array import Array, Index
from analysis.fitting.effective_clusters import clusters_of
from analysis.fitting.fit import Fit
from analysis.fitting.source import Source
from analysis.runs.replicates import NO_SPREAD, replicates
from scaling.store.records import Refusal

MOST_ALIKE = 0.99  # of the variance that the branches of a trunk can be found to share


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss between runs of equal N and D, at the plan's largest loss."""

    shared: float  # of a trunk: its seed's, which its branches inherit
    own: float  # of each run, in addition
    # Both fall as this power of the loss; 0: not at all. Seeds on RefinedWeb differ by .05 nats at
    # a loss of 7 and .002 at 3 (Porian et al. 2024, arXiv:2406.19146, configs.py of their code):
    # 2.8.
    power: float = 0.0
    source: str = "as given"  # where the two are from, in words

    def __post_init__(self) -> None:
        if not 0 < self.own < 1:
            raise Refusal(
                f"noise = {self.own:g} is no standard deviation of log loss between runs.",
                "Give more than 0 and less than 1, e.g. 0.005 for half a percent.",
            )
        if not 0 <= self.shared < 1:
            raise Refusal(
                f"seed_noise = {self.shared:g} is no standard deviation of log loss.",
                "Give 0 or more and less than 1, e.g. 0.006.",
            )
        if not (math.isfinite(self.power) and self.power >= 0):
            raise Refusal(
                f"noise_power = {self.power:g} is no power of the loss.",
                "Give 0 where the noise does not fall with the loss, or its power, e.g. 2.8.",
            )

    def deviations(self, losses: Array, trunks: Index, rng: np.random.Generator) -> Array:
        """Random errors of log loss, (n,), for runs on these trunks, which are numbered from 0."""
        size = (losses / losses.max()) ** self.power
        seeds = rng.standard_normal(int(trunks.max()) + 1)[trunks]
        own = rng.standard_normal(len(losses))
        return np.asarray(size * (self.shared * seeds + self.own * own))


# results/reference/isoflop by `noise_of`: 28 pairs of runs of 29k to 603k parameters; together
# .7%, and 1.1% in results/reference/quickstart. Runs at lower losses differ less.
REFERENCE = Noise(
    shared=0.0058, own=0.0045, source="as between the tiny models of results/reference/isoflop"
)


def usual_noise(truth: Source, power: float = 0.0) -> Noise:
    """That of the replicates a fit was made from; REFERENCE's for any other law."""
    if isinstance(truth, Fit):
        with suppress(Refusal):  # no run of the fit was repeated
            return noise_of(truth.table, power, "the fit's own runs")
    return replace(REFERENCE, power=power)


def noise_of(table: pd.DataFrame, power: float = 0.0, name: str = "these runs") -> Noise:
    """The noise between replicates in `table`, rows that differ in their seed alone.

    By moments: the mean square of log loss about the mean of its point is shared² + own²; the mean
    product over two branches of one trunk (`trunk_id`) is shared². Without such branches both are
    in the ratio of REFERENCE. With `power` they hold at the largest loss. `name` is what the runs
    are called in the result's `source`. Raises Refusal where no N and D was trained twice.
    """
    remedy = "Give --noise and --seed-noise, or a study with replicate_seeds."
    point = pd.factorize(replicates(table))[0]
    size = np.bincount(point)[point].astype(float)
    repeated = len(point) - int(point.max()) - 1
    if repeated < 1:
        cause = (
            "no N and D was trained with two seeds, so these runs cannot separate noise from law."
        )
        raise Refusal(cause, remedy)
    losses = table["loss"].to_numpy(dtype=float)
    mean = np.bincount(point, np.log(losses)) / np.bincount(point)
    deviation = (np.log(losses) - mean[point]) / (losses / losses.max()) ** power
    total = float(np.sum(deviation**2)) / float(np.sum(1 - 1 / size))
    if total <= NO_SPREAD**2:
        cause = "runs of equal N and D have equal losses: they are one run, or were not trained."
        raise Refusal(cause, remedy)
    trunks = clusters_of(table)
    products, factors = 0.0, 0.0
    for trunk in np.unique(trunks):
        for i, j in combinations(np.flatnonzero((trunks == trunk) & (size > 1)), 2):
            if point[i] == point[j]:
                continue
            common = len(np.intersect1d(trunks[point == point[i]], trunks[point == point[j]]))
            products += deviation[i] * deviation[j]
            # Each mean holds the run itself, and the two hold the trunks they have in common.
            factors += 1 - 1 / size[i] - 1 / size[j] + common / (size[i] * size[j])
    source = f"from {repeated} replicates of {name}"
    if factors:
        share = min(max(products / factors / total, 0.0), MOST_ALIKE)
    else:
        share = REFERENCE.shared**2 / (REFERENCE.shared**2 + REFERENCE.own**2)
        source += ", divided as in results/reference/isoflop"
    return Noise(math.sqrt(share * total), math.sqrt((1 - share) * total), power, source)
