"""The interval of one run's loss that an ensemble gives."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from analysis.array import Array
from analysis.forecast.ensemble import Ensemble
from analysis.interval import Interval, student

# Half an interval is the root of three squares: the error of the coefficients; the scatter of runs,
# more by GROWTH with each decade beyond them; and SPREAD times how far the members differ, the
# only one that knows by how much the form of the law matters there. Set on ../shared/data
# (benchmarks/forecasts.py), where any GROWTH from .5 to 2 and SPREAD from 1 to 3 with which
# intervals of nominal 90% hold 87 to 92% has nearly the same interval score.
GROWTH = 1.0
SPREAD = 1.5


def together(
    joint: Ensemble, features: Mapping[str, Array], decades: Array, level: float
) -> tuple[Array, list[Interval]]:
    """The loss forecast at runs (columns `params` and `tokens`), and the interval in which that of
    one run should fall; `decades` is how far each lies beyond the runs that were fitted."""
    middle = joint.log_losses(features).mean(axis=0)
    scatter = joint.nearest.scatter
    normal = student(np.inf, level)
    reach = np.sqrt(
        (normal * joint.nearest.error(features)) ** 2
        + (student(scatter.freedom, level) * scatter.sd * (1 + GROWTH * decades)) ** 2
        + (normal / student(np.inf, 0.9) * SPREAD * joint.spread(features)) ** 2
    )
    ends = zip(np.exp(middle - reach), np.exp(middle + reach), strict=True)
    return np.asarray(np.exp(middle)), [Interval(float(low), float(high)) for low, high in ends]
