"""From scale to score by way of the loss: a power law of scale in loss, then curves over loss.

Bhagia et al. 2024, arXiv:2412.04403; Gadre et al. 2024, arXiv:2403.08540.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.emergence.ability import Posterior
from analysis.emergence.line import Line, grouped_line
from analysis.emergence.series import Series
from scaling.store.records import Refusal

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LossStep:
    """log loss as a line in t, with the scatter of models about it.

    Progress is minus the log loss in units of the line's fall a decade, so that a decade of scale
    is one of progress and the priors keep their meaning.
    """

    line: Line
    own: Floats  # the progress of each score seen, by its own loss

    def scores(self, each: Posterior, t: Floats, n: Floats, rng: np.random.Generator) -> Floats:
        """Scores at the losses that models of scale `t` may have: a row a draw."""
        return each.scores(self.line.draws(t, len(each.draws), rng) / self.line.slope, n, rng)

    def reaches(self, progress: Floats, rng: np.random.Generator) -> Floats:
        """log10 scale at which a new model's loss is that of each `progress`; infinite for never.

        One draw each of the line, its scatter and the model, as in `scores`.
        """
        return self.line.reaches(progress * self.line.slope, rng)


def loss_step(series: Series, below: NDArray[np.bool_], loss: Floats | None) -> LossStep:
    """The line through the losses of the scores `below` a cut; `loss` has one value a score.

    Losses of one group count for less the more alike they lie about the line. Raises Refusal where
    a loss is missing, or does not fall with scale.
    """
    if loss is None or not np.all(np.isfinite(loss[below]) & (loss[below] > 0)):
        raise Refusal(
            f"{series.label}: --method two_step goes over the loss, which not every score below "
            "the cut has. Give a table with a column `loss`, or another method."
        )
    y = np.log(loss[below])
    group = None if series.group is None else series.group[below]
    line = grouped_line(series.t[below], y, group)
    if line.slope >= 0:
        raise Refusal(
            f"{series.label}: the loss does not fall with {series.scale} below the cut, so scores "
            "cannot be forecast from it. Use --method auto."
        )
    return LossStep(line, y / line.slope)
