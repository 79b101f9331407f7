"""What the rules of `scaling tune` cost where they were not fitted.

A rule goes near the optima that it was fitted to, so its regret there would flatter it: each size
and budget is judged by the rule of all other ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from analysis.fitting.fit import Status, fit
from analysis.laws.catalogue import law
from analysis.runs.regret import Regret, regrets
from analysis.runs.sweep import Best
from experiments.cli.join.tuning import COLUMN, LAWS, Swept, reached
from scaling.store.records import Refusal

NO_RULE = "no rule could be fitted to the other points"

Place = tuple[float, float]  # N and D


def regrets_of_rules(found: Swept, level: float) -> Mapping[str, Sequence[Regret]]:
    """By column the regret at each N and D of the rule fitted to the others, in their order."""
    return {column: [*_regrets(found, column, level)] for column in found.sweeps}


def _regrets(found: Swept, column: str, level: float) -> Iterator[Regret]:
    cells = found.sweeps[column].cells
    values = {_place(each): _by_others(column, cells, each) for each in cells}
    at = {batch: each.table for batch, each in found.rates.items()}
    only = next(iter(at.values())) if column == COLUMN else reached(found.rates)
    of_batch = {} if found.batch is None else {_place(c): c.value for c in found.batch.cells}
    read: dict[float, dict[Place, Regret]] = {}
    for each in cells:
        # The rates of a size and budget are those at its best batch.
        batch = of_batch.get(_place(each), 0.0) if column == COLUMN else 0.0
        if batch not in read:
            made = regrets(
                at.get(batch, only), column, lambda best: values[_place(best)], level=level
            )
            read[batch] = {(one.params, one.tokens): one for one in made}
        regret = read[batch][_place(each)]
        yield replace(regret, reason=NO_RULE) if math.isnan(regret.value) else regret


def _place(cell: Best) -> Place:
    return cell.params, cell.tokens


def _by_others(column: str, cells: Sequence[Best], left_out: Best) -> float:
    """The value at a point of the rule through the optima of all others; NaN where there is none.

    Points whose best is a bound have no optimum, as where the rule itself is fitted.
    """
    others = [
        {"params": each.params, "tokens": each.tokens, column: each.optimum, "loss": each.loss}
        for each in cells
        if each is not left_out and each.optimum is not None
    ]
    the_law = law(LAWS[column])
    if len(others) < len(the_law.coefficients):
        return math.nan
    try:
        made = fit(the_law, pd.DataFrame(others), bootstrap=0, checks=False)
    except Refusal:
        return math.nan
    if made.status is Status.FAILED:
        return math.nan
    return float(made.predict({"params": left_out.params, "tokens": left_out.tokens}))
