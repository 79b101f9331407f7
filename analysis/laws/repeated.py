"""A law when only so many different tokens exist: beyond them data repeats, and adds less.

Muennighoff et al. 2023 (arXiv:2305.16264): D tokens made of U unique ones act like
D' = U + U·R_D·(1 - exp(-(D/U - 1)/R_D)) fresh ones, and excess parameters fade alike with R_N.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from analysis.laws.catalogue import LAWS, D
from analysis.laws.formula import minimum, number
from analysis.laws.law import Law
from analysis.laws.published import published
from analysis.laws.structure import substituted
from scaling.store.records import Refusal

LENDER = "muennighoff-2023"
# The optimum of the lender's own objective on the lender's own 182 runs, its other constants held:
# better by .1% of the objective, in a flat valley (tests/analysis/fitting/test_published_runs.py).
REFITTED: Mapping[str, float] = {"R_D": 95.4, "R_N": 1.71}


def limit(law: Law, unique_tokens: float) -> Law:
    """`law` with `unique_tokens` different tokens in all, so again a law of N and D.

    A data-constrained law keeps its own coefficients; the Chinchilla law borrows R_D and R_N from
    Muennighoff et al. 2023. Raises Refusal for any other law, and for no tokens at all.
    """
    if not unique_tokens > 0:
        raise Refusal(f"unique_tokens = {unique_tokens:g} is not possible: give a positive number.")
    law = law.fitted
    if law.form is LAWS["data_constrained"].form:
        return _limited(law, unique_tokens, {})
    if law.form is LAWS["chinchilla"].form:
        lender = published(LENDER).coefficients
        return _limited(law, unique_tokens, {name: lender[name] for name in REFITTED})
    raise Refusal(
        f"law = {law.name} does not say how much a repeated token adds. Fit "
        "data_constrained, or chinchilla, which borrows that from Muennighoff et al. 2023."
    )


def _limited(law: Law, unique_tokens: float, constants: Mapping[str, float]) -> Law:
    constrained = LAWS["data_constrained"]
    # Of fewer tokens than exist, all are unique.
    known = {"U": minimum(number(unique_tokens), D)}
    known |= {name: number(value) for name, value in constants.items()}
    return Law(
        name=law.name,
        loss=substituted(constrained.loss, known),
        source=constrained.source,
        origin=law,
        given={"unique_tokens": unique_tokens, **constants},
    )


def borrowed(law: Law) -> Mapping[str, float]:
    """The constants of repetition that are not the source's own, by name."""
    return {name: law.given[name] for name in REFITTED if name in law.given}


def otherwise(law: Law) -> Law | None:
    """The same with other constants that the lender's runs allow; None if none are borrowed."""
    if not borrowed(law):
        return None
    return _limited(law.fitted, law.given["unique_tokens"], REFITTED)


def lent(law: Law) -> str:
    """What is borrowed, in words."""
    return ", ".join(f"{name} = {value:.3g}" for name, value in borrowed(law).items())


def worth_of_last_token(law: Law, coefficients: Mapping[str, Any], tokens: float) -> float:
    """What one more token adds, as a share of a fresh one: dD'/dD. 1 if data is not limited."""
    repeats = tokens / law.given.get("unique_tokens", math.inf) - 1
    return float(np.exp(-repeats / _decay(law, coefficients))) if repeats > 0 else 1.0


def epochs_at_worth(law: Law, coefficients: Mapping[str, Any], share: float) -> float:
    """After how many epochs one more token adds only that share: where repeating stops paying.

    The inverse of `worth_of_last_token`, in passes over the unique tokens.
    """
    return 1.0 + _decay(law, coefficients) * math.log(1 / share)


def _decay(law: Law, coefficients: Mapping[str, Any]) -> float:
    return float({**law.given, **coefficients}["R_D"])
