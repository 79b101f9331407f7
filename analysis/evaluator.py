"""Which evaluator fits a law's structure: the fast one for sums of powers, else the general."""

from __future__ import annotations

from analysis.laws import Law
from analysis.model import Data, General, Model
from analysis.objective import Objective
from analysis.powers import PowerSum, power_terms


def model(law: Law, data: Data, objective: Objective, *, centred: bool = True) -> Model:
    """The evaluator that fits the law's structure. `centred` moves the origin of the powers
    to the middle of the data, which a constraint on an amplitude does not survive."""
    terms = power_terms(law)
    if terms is None:
        return General(law, data, objective)
    return PowerSum(law, data, objective, terms, centred)
