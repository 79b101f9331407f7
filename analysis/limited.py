"""A law when only so many different tokens exist: beyond them data repeats, and is worth less.

Muennighoff et al. 2023 (arXiv:2305.16264): D tokens made of U unique ones act like
D' = U + U·R_D·(1 - exp(-(D/U - 1)/R_D)) fresh ones, and excess parameters fade alike with R_N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from analysis.expression import Array
from analysis.laws import LAWS, Law
from analysis.published import published
from scaling.store.records import Refusal

LENDER = "muennighoff-2023"
# The optimum of the lender's own objective on the lender's own 182 runs, its other constants held:
# better by .1% of the objective, in a flat valley (tests/analysis/test_published_runs.py).
REFITTED: Mapping[str, float] = {"R_D": 95.4, "R_N": 1.71}


@dataclass(frozen=True)
class Limited(Law):
    """A data-constrained law with the number of unique tokens fixed, so a law of N and D again."""

    fitted: Law = LAWS["data_constrained"]  # the law whose data is limited
    unique_tokens: float = float("inf")
    borrowed: tuple[tuple[str, float], ...] = ()  # coefficients that are not the source's own

    @cached_property
    def features(self) -> tuple[str, ...]:
        return tuple(name for name in super().features if name != "unique_tokens")

    def predict(self, coefficients: Mapping[str, Any], features: Mapping[str, Any]) -> Array:
        """Loss at params and tokens; of fewer tokens than exist, all are unique."""
        unique = np.minimum(self.unique_tokens, features["tokens"])
        return super().predict(
            {**dict(self.borrowed), **coefficients}, {**features, "unique_tokens": unique}
        )

    @property
    def otherwise(self) -> Limited | None:
        """The same with other constants that the lender's runs allow; None if none are borrowed."""
        if not self.borrowed:
            return None
        return replace(self, borrowed=tuple((name, REFITTED[name]) for name, _ in self.borrowed))

    @property
    def lent(self) -> str:
        """What is borrowed, in words."""
        return ", ".join(f"{name} = {value:.3g}" for name, value in self.borrowed)

    def worth_of_last_token(self, coefficients: Mapping[str, Any], tokens: float) -> float:
        """What one more token adds, as a share of a fresh one: dD'/dD."""
        repeats = max(0.0, tokens / self.unique_tokens - 1)
        return float(np.exp(-repeats / self._decay(coefficients)))

    def epochs_at_worth(self, coefficients: Mapping[str, Any], share: float) -> float:
        """After how many epochs one more token adds only that share: where repeating stops paying.

        The inverse of `worth_of_last_token`, in passes over the unique tokens.
        """
        return 1.0 + self._decay(coefficients) * math.log(1 / share)

    def _decay(self, coefficients: Mapping[str, Any]) -> float:
        return float({**dict(self.borrowed), **coefficients}["R_D"])


def limit(law: Law, unique_tokens: float) -> Limited:
    """`law` with `unique_tokens` different tokens in all.

    A data-constrained law keeps its own coefficients; the Chinchilla law borrows R_D and R_N from
    Muennighoff et al. 2023. Raises Refusal for any other law, and for no tokens at all.
    """
    if not unique_tokens > 0:
        raise Refusal(f"unique_tokens = {unique_tokens:g} is not possible: give a positive number.")
    constrained = LAWS["data_constrained"]
    if law.form is constrained.form:
        borrowed: tuple[tuple[str, float], ...] = ()
    elif law.form is LAWS["chinchilla"].form:
        lent = published(LENDER).coefficients
        borrowed = tuple((name, lent[name]) for name in ("R_D", "R_N"))
    else:
        raise Refusal(
            f"law = {law.name} does not say what a repeated token is worth. Fit data_constrained, "
            "or chinchilla, which borrows that from Muennighoff et al. 2023."
        )
    return Limited(
        name=law.name,
        loss=constrained.loss,
        source=constrained.source,
        fitted=law.fitted if isinstance(law, Limited) else law,
        unique_tokens=unique_tokens,
        borrowed=borrowed,
    )
