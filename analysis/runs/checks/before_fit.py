"""All checks of the rows before a fit, by the columns that the law itself does not use.

Nothing is refused here, since a small study can be real: each doubt is a warning that names the
column, the likely reason and the remedy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from analysis.runs.clusters import AUTO, COLUMN, find_clusters
from analysis.runs.columns.units import TOKEN, TRAINED, loss_unit_of
from analysis.runs.messages import listing, rows_called
from analysis.runs.replicates import labels, pooled, several_variants, variants
from analysis.text import human

LEAST = {"params": 1e3, "tokens": 1e4}  # fewer are probably in another unit
RATIOS = (0.01, 1e5)  # tokens per parameter of the median run, beyond what anyone trains
UNITS = "or every N, D and FLOPs of a fit to them is in the wrong unit."  # ends a warning

BRACKETED = "rate_bracketed"  # whether a rate lies inside what its sweep tried; empty: no sweep

_SWEPT = re.compile(r"(?:^| )[\w.]*?(\w+)=")  # the field of each PATH=VALUE of a variant
_SCALES = {
    "params": {"thousands": 1e3, "millions": 1e6, "billions": 1e9},
    "tokens": {"thousands": 1e3, "millions": 1e6, "billions": 1e9, "trillions": 1e12},
}
# A usual run of a scaling grid: between the 4.4e7 and 1.6e10 parameters of Hoffmann et al. 2022.
_TYPICAL = {"params": 1e9, "tokens": 2e10}
_USUAL = 20  # tokens per parameter (Hoffmann et al. 2022), from which a unit is guessed


@dataclass(frozen=True)
class Examined:
    """The rows, and what was found."""

    rows: pd.DataFrame  # with the run that each belongs to in the column `trunk_id`, if known
    cautions: tuple[str, ...]  # doubts about the runs, which every answer from them repeats
    warnings: tuple[str, ...]  # decisions about them


def examine(
    rows: pd.DataFrame, features: Collection[str], target: str, cluster: str = AUTO
) -> Examined:
    """Check standardised `rows` for what a law of `features` would not notice.

    These are the doubts from reading the table, checkpoints of one run and rates that had not
    decayed (`cluster` as in `find_clusters`), settings that vary at equal N and D, and odd units.
    """
    known = find_clusters(rows, cluster)
    owned = rows.drop(columns=COLUMN, errors="ignore")
    if known.runs is not None:
        names = known.runs if known.column == COLUMN else known.runs.astype(str)
        owned = owned.assign(**{COLUMN: names.where(known.runs.notna(), None)})
    owned.attrs = dict(rows.attrs)
    doubts = (*rows.attrs.get("doubts", ()), *known.cautions)
    odd = (*pooled(rows, features, target), *suspicious(rows, features))
    return Examined(owned, doubts + odd, known.warnings)


def suspicious(table: pd.DataFrame, features: Collection[str]) -> tuple[str, ...]:
    """Warnings about columns whose size suggests another unit, and about several variants.

    A sweep over the law's own `features` alone is data for the law, so it gives no warning.
    """
    found = []
    if (unit := loss_unit_of(table)) != TOKEN:
        found.append(f"losses are in {unit}, not {TOKEN}")
    if variants(table) > 1 and not set(_SWEPT.findall(" ".join(labels(table)))) <= set(features):
        found.append(f"{several_variants(table)}: the law is fitted through all of them")
    found += _outside_brackets(table)
    table = table.select_dtypes("number")  # a law refuses text in the columns it needs
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
    # The median: one loss that is too large is a slip, which the fit reports by its row.
    if "loss" in table and table["loss"].median() > 15:
        found.append(
            f"loss reaches {table['loss'].max():g}: ln V is below 13 for any vocabulary in use. "
            "Perplexity? Read it with --loss-unit perplexity."
        )
    return tuple(found)


def _outside_brackets(table: pd.DataFrame) -> list[str]:
    """A warning about sizes whose rate lies outside what the sweep of its rule tried."""
    if BRACKETED not in table or "params" not in table:
        return []
    sizes = table.loc[table[BRACKETED].astype(str).str.lower() == "false", "params"]
    if sizes.empty:
        return []
    which = listing([human(size) for size in sorted(set(sizes))])
    return [
        f"{BRACKETED} is false in {len(sizes)} run{'s' * (len(sizes) > 1)}, of {which} "
        "parameters: their learning rate lies outside what the sweep of its rule tried, so nobody "
        "knows how far it is from the best. Sweep the rate there, or leave those sizes out."
    ]


def _other_units(table: pd.DataFrame) -> list[str]:
    """A warning for each column too small for what it counts: with the unit it is probably in, or
    with the rows that are in another unit than the others."""
    small = [c for c, least in LEAST.items() if c in table and table[c].min() < least]
    names = {"params": table.attrs.get("params_column", "params"), "tokens": "tokens"}
    lower = {c: rows for c in small if (rows := _in_another(table, c, small)) is not None}
    found = [
        f"{names[c]} of {rows_called(table, np.flatnonzero(rows))} are {_span(table[c][rows])}, "
        f"the others {_span(table[c][~rows])}: two units in one column. Put its rows into one "
        f"unit, {UNITS}"
        for c, rows in lower.items()
    ]
    own = np.ones(len(table), bool)
    for rows in lower.values():
        own &= ~rows.to_numpy()
    table = table[own]
    units = _likely(table, [c for c in small if c not in lower])
    return found + [
        f"{names[c]} {_span(table[c])}: likely {unit}. Read them with --unit {c}={unit}, {UNITS}"
        for c, unit in units.items()
    ]


def _in_another(table: pd.DataFrame, column: str, small: list[str]) -> pd.Series | None:
    """The rows below the widest gap of a column, if their likely unit is not that of the others:
    these are too large to be in thousands, and in that unit beyond what anyone trained."""
    values = np.unique(table[column][table[column] > 0])
    if len(values) < 2:
        return None
    at = int(np.argmax(values[1:] / values[:-1]))
    rows = table[column] <= values[at]
    scale = _SCALES[column][_likely(table[rows], small)[column]]
    own = values[at + 1] >= 1e3 * LEAST[column] and values[-1] * scale > TRAINED[column]
    return rows if own else None


def _likely(table: pd.DataFrame, small: list[str]) -> dict[str, str]:
    """The unit that each of the `small` columns is probably in.

    Among the units that leave the numbers possible, that is the one which brings the runs nearest
    to the usual tokens per parameter and, where these are equal, to the usual size of a run.
    """
    ratio = 1.0
    if {"params", "tokens"} <= set(table.columns):
        both = table[(table["params"] > 0) & (table["tokens"] > 0)]
        if len(both):
            ratio = float((both["tokens"] / both["params"]).median()) / _USUAL
    middle = {c: np.nan_to_num(np.log10(table[c].where(table[c] > 0)).mean()) for c in small}

    def unusual(units: tuple[str, ...]) -> tuple[bool, float, float]:
        scale = {c: _SCALES[c][unit] for c, unit in zip(small, units, strict=True)}
        beyond = any(table[c].max() * s > TRAINED[c] for c, s in scale.items())
        times = scale.get("tokens", 1.0) / scale.get("params", 1.0)
        apart = sum(abs(middle[c] + math.log10(s / _TYPICAL[c])) for c, s in scale.items())
        return beyond, round(abs(math.log10(ratio * times)), 1), apart

    units = min(product(*(_SCALES[c] for c in small)), key=unusual)
    return dict(zip(small, units, strict=True))


def _span(values: pd.Series) -> str:
    least, most = values.min(), values.max()
    return f"from {least:g} to {most:g}" if least < most else f"{least:g}"
