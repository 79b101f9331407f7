"""Columns whose numbers look like another unit or another quantity, and settings that differ.

Nothing is refused here, since a small study may be small: each suspicion is a warning with the
column, what is the likely reason, and the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from itertools import product

import numpy as np
import pandas as pd

from analysis.runs.columns import TOKEN, TRAINED
from analysis.runs.table import labels, loss_unit_of, several_variants, variants

LEAST = {"params": 1e3, "tokens": 1e4}  # fewer are hardly a model, or a run: another unit?
RATIOS = (0.01, 1e5)  # tokens per parameter of the median run: wide of what anyone trains
UNITS = "or every N, D and FLOPs of a fit to them is in the wrong unit."  # ends a warning

_SWEPT = re.compile(r"(?:^| )[\w.]*?(\w+)=")  # the field of each PATH=VALUE of a variant


def suspicious(table: pd.DataFrame, features: Collection[str]) -> tuple[str, ...]:
    """Warnings about columns whose size suggests another unit, and about swept settings.

    A sweep over nothing but the law's own `features` is what the law is fitted to.
    """
    found = []
    if (unit := loss_unit_of(table)) != TOKEN:
        found.append(f"losses are in {unit}, not {TOKEN}")
    if variants(table) > 1 and not set(_SWEPT.findall(" ".join(labels(table)))) <= set(features):
        found.append(f"{several_variants(table)}: the law is fitted through all of them")
    table = table.select_dtypes("number")  # text is refused by the law that needs it
    small = _other_units(table)
    found += small
    for column, most in TRAINED.items():
        if column in LEAST and column in table and table[column].max() > most:
            found.append(f"{column} reach {table[column].max():g}: is the column FLOPs?")
    if not small and {"params", "tokens"} <= set(table.columns):
        ratio = float((table["tokens"] / table["params"]).median())
        if not RATIOS[0] <= ratio <= RATIOS[1]:
            found.append(
                f"a median of {ratio:.2g} tokens per parameter: are params and tokens swapped, "
                "or in different units?"
            )
    # The median: one loss that is too large is a slip, which the fit names by its row.
    if "loss" in table and table["loss"].median() > 15:
        found.append(
            f"loss reaches {table['loss'].max():g}: ln V is below 13 for any vocabulary in use. "
            "Perplexity? Read it with --loss-unit perplexity."
        )
    return tuple(found)


_SCALES = {
    "params": {"thousands": 1e3, "millions": 1e6, "billions": 1e9},
    "tokens": {"thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12},
}
# Of a run in a scaling grid: between the 4.4e7 and 1.6e10 parameters of Hoffmann et al. 2022.
_TYPICAL = {"params": 1e9, "tokens": 2e10}
_USUAL = 20  # tokens per parameter (Hoffmann et al. 2022), to guess a unit by


def _other_units(table: pd.DataFrame) -> list[str]:
    """A warning for each column too small for what it counts, with the unit it may be in.

    That is the unit, among those that leave the numbers possible, which brings the runs nearest
    to the usual tokens per parameter, and where this cannot tell, to the usual size of a run.
    """
    small = [c for c, least in LEAST.items() if c in table and table[c].min() < least]
    ratio = 1.0
    if {"params", "tokens"} <= set(table.columns):
        both = table[(table["params"] > 0) & (table["tokens"] > 0)]
        if len(both):
            ratio = float((both["tokens"] / both["params"]).median()) / _USUAL

    def unusual(units: tuple[str, ...]) -> tuple[bool, float, float]:
        scale = {c: _SCALES[c][unit] for c, unit in zip(small, units, strict=True)}
        beyond = any(table[c].max() * s > TRAINED[c] for c, s in scale.items())
        times = scale.get("tokens", 1.0) / scale.get("params", 1.0)
        apart = sum(abs(_middle(table[c]) + math.log10(s / _TYPICAL[c])) for c, s in scale.items())
        return beyond, round(abs(math.log10(ratio * times)), 1), apart

    units = min(product(*(_SCALES[c] for c in small)), key=unusual)
    return [
        f"{_source(table, c)} from {table[c].min():g} to {table[c].max():g}: likely {unit}. "
        f"Read them with --unit {c}={unit}, {UNITS}"
        for c, unit in zip(small, units, strict=True)
    ]


def _middle(counts: pd.Series) -> float:
    """The mean of log10 of the positive ones; 0 where there are none."""
    positive = counts[counts > 0]
    return float(np.log10(positive).mean()) if len(positive) else 0.0


def _source(table: pd.DataFrame, column: str) -> str:
    return str(table.attrs.get("params_column", column)) if column == "params" else column
