"""Published answers given directly as N*(C) and D*(C), with no law of loss behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from analysis.expression import Array
from analysis.published import PF_DAY


@dataclass(frozen=True)
class Frontier:
    """N* = params_at_unit·(C/unit)^params_exponent, and D* alike."""

    name: str
    unit: float  # FLOPs
    params_at_unit: float
    params_exponent: float
    tokens_at_unit: float
    tokens_exponent: float
    params_convention: str
    source: str

    def params(self, flops: ArrayLike) -> Array:
        """N* at budgets in FLOPs."""
        return self.params_at_unit * self._units(flops) ** self.params_exponent

    def tokens(self, flops: ArrayLike) -> Array:
        """D* at budgets in FLOPs."""
        return self.tokens_at_unit * self._units(flops) ** self.tokens_exponent

    def _units(self, flops: ArrayLike) -> Array:
        return np.asarray(flops, dtype=np.float64) / self.unit


# C is the paper's C_min, compute at batches far below the critical one. 6·N*·D* exceeds it
# (by 1.8 at one PF-day), because N* and D* were fitted separately.
KAPLAN_2020 = Frontier(
    name="Kaplan et al. 2020",
    unit=PF_DAY,
    params_at_unit=1.3e9,
    params_exponent=0.73,
    tokens_at_unit=2e10,
    tokens_exponent=0.27,
    params_convention="non-embedding",
    source="Kaplan et al. 2020, arXiv:2001.08361, table 6",
)
