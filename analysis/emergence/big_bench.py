"""Two heuristics of BIG-bench for a sudden and for a steady rise of a score."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def breakthroughness(x: ArrayLike, score: ArrayLike) -> float | None:
    """B = I / root median square of the score's steps from scale to scale; large for one jump.

    I = sign(argmax - argmin)·(max - min). Scores at one scale are averaged first; `score` rises
    with progress. None with fewer than three scales or if most steps are zero, where B is not
    defined. Srivastava et al. 2022, arXiv:2206.04615, appendix B; the same as the emergence score
    of Schaeffer et al. 2023, arXiv:2304.15004.
    """
    return _improvement_over(x, score, np.median)


def linearity(x: ArrayLike, score: ArrayLike) -> float | None:
    """L = I / root mean square of the score's steps: n - 1 for a straight line over n scales.

    As `breakthroughness`, with the mean for the median (ibid.). None for a score that never
    changes. It grows with n: compare tasks that were scored at the same scales.
    """
    return _improvement_over(x, score, np.mean)


def _improvement_over(x: ArrayLike, score: ArrayLike, typical: Any) -> float | None:
    mean = (
        pd.Series(np.asarray(score, float)).groupby(np.asarray(x, float)).mean().to_numpy(float)
    )  # groupby sorts by scale
    if len(mean) < 3:
        return None
    step = float(np.sqrt(typical(np.diff(mean) ** 2)))
    if step == 0:
        return None
    rise = np.sign(int(np.argmax(mean)) - int(np.argmin(mean))) * (mean.max() - mean.min())
    return float(rise / step)
