"""How the exponent of N* moves with the way that the same grid was trained.

Porian et al. 2024 (arXiv:2406.19146) trace the distance between two published exponents to a warmup
too long for small sizes, to sizes that were not tuned and to the head, left out of N. Here each
procedure has run the same sizes, tokens and seeds in the same data order, so a difference of
exponents has an interval of its own: what runs of one size and seed share falls out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from analysis.allocation.conventions import COLUMNS
from analysis.allocation.isoflop import Method, allocation, optima, without_each_size
from analysis.allocation.power_law import OVER, PowerLaw, jackknifed, local_exponent, slope
from analysis.array import Array
from analysis.fitting.fit import Fit, Status, fit
from analysis.fitting.functionals import values_over_draws
from analysis.interval import Interval, central
from analysis.laws.law import Law
from analysis.runs.clusters import COLUMN as TRUNK
from analysis.runs.messages import listing, name_of
from analysis.runs.table import standardise, usable
from scaling.store.records import Refusal

Approach = Literal["law", "parabola", "akima"]
SEED = "seed"
UNPAIRED = "not the sizes and seeds of the base, so the difference has no interval"


@dataclass(frozen=True)
class Exponent:
    """a in N* ∝ C^a of one procedure, by one count of N and one approach."""

    procedure: str
    count: str
    approach: Approach
    exponent: float | None  # null where refused
    interval: Interval | None
    difference: float | None = None  # from the base's, by the same count and approach
    difference_interval: Interval | None = None  # of runs paired by size and seed
    reason: str = ""  # why one of these is null


@dataclass(frozen=True)
class Procedures:
    """The exponents of several procedures against those of one of them, the base."""

    base: str
    level: float
    exponents: tuple[Exponent, ...]  # by count, approach and procedure, the base first

    def frame(self) -> pd.DataFrame:
        """A row each, with the ends of the intervals as low and high."""
        rows = [
            {
                **{k: v for k, v in vars(each).items() if not k.endswith("interval")},
                **_ends("", each.interval),
                **_ends("difference_", each.difference_interval),
            }
            for each in self.exponents
        ]
        return pd.DataFrame(rows)


def _ends(name: str, span: Interval | None) -> dict[str, float]:
    low, high = (float("nan"), float("nan")) if span is None else span
    return {f"{name}low": low, f"{name}high": high}


def by_variant(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each variant of a swept study, by what it sets: `warmup_tokens="50k" …`."""
    if "variant" not in table or table["variant"].isna().all():
        raise Refusal(f"{name_of(table)} has no variants. Give the table of a study with [sweep].")
    return {_short(str(label)): rows for label, rows in table.groupby("variant", sort=False)}


def _short(label: str) -> str:
    return label.replace("training.", "").replace("model.", "")


def compare_procedures(
    procedures: Mapping[str, pd.DataFrame],
    base: str,
    *,
    counts: Sequence[str] = COLUMNS[:3],
    law: Law | str = "chinchilla",
    bootstrap: int = 1000,
    level: float = 0.9,
    seed: int = 0,
) -> Procedures:
    """The exponent of N* of each procedure's run table, and its difference from that of `base`.

    `counts` are columns of N; C is 6·N·D of the same N. By `law` intervals draw trunks, runs of one
    size and seed, the same ones in every procedure; by `parabola` and `akima`, the readings of
    approach 2, they are jackknifes over sizes, again the same ones in every procedure. Raises
    Refusal for a base that is none of them, and for tables without a count, tokens or loss.
    """
    if base not in procedures:
        raise Refusal(f"base = {base!r} is no procedure. Give one of {listing([*procedures])}.")
    names = [base, *(name for name in procedures if name != base)]
    rows = {name: _rows(procedures[name], counts) for name in names}
    paired = {name: _same(rows[name], rows[base]) for name in names}
    found: list[Exponent] = []
    for count in counts:
        for approach in get_args(Approach):
            read = {
                name: _by_law(_counted(each, count), law, bootstrap, level, seed)
                if approach == "law"
                else _by_isoflop(_counted(each, count), approach, level)
                for name, each in rows.items()
            }
            for name in names:
                own = Exponent(name, count, approach, *read[name][:2], reason=read[name].reason)
                found.append(_against(own, read[name], read[base], paired[name], level))
    return Procedures(base, level, tuple(found))


class _Read(NamedTuple):
    """An exponent, with what its difference from another is made of."""

    exponent: float | None
    interval: Interval | None
    again: Array = np.empty(0)  # over draws, or without each size
    reason: str = ""
    whole: bool = False  # `again` has an entry for every draw or size, so that entries pair


def _rows(table: pd.DataFrame, counts: Sequence[str]) -> pd.DataFrame:
    """The runs that count, in an order that is the same for every procedure, by trunk."""
    rows = standardise(
        usable(table).rows.drop(columns=["params", "flops"], errors="ignore"),
        require=(*counts, "tokens", "loss"),
    )
    by = [counts[0], *([SEED] if SEED in rows else []), "tokens"]
    rows = rows.sort_values(by, kind="stable").reset_index(drop=True)
    key = rows[by[:-1]] if SEED in rows else rows[by]
    return rows.assign(**{TRUNK: [" ".join(map(str, each)) for each in key.to_numpy()]})


def _counted(rows: pd.DataFrame, count: str) -> pd.DataFrame:
    kept = [name for name in (TRUNK, SEED, "tokens", "loss", "budget_flops") if name in rows]
    return rows[kept].assign(params=rows[count])


def _same(rows: pd.DataFrame, base: pd.DataFrame) -> bool:
    """Whether two procedures have the same points of the same trunks."""
    names = [TRUNK, "tokens"]
    return bool(len(rows) == len(base) and (rows[names] == base[names]).all(axis=None))


def _by_law(rows: pd.DataFrame, law: Law | str, bootstrap: int, level: float, seed: int) -> _Read:
    try:
        made = fit(law, rows, bootstrap=bootstrap, level=level, seed=seed, checks=False)
    except Refusal as refused:
        return _Read(None, None, reason=refused.cause.rstrip("."))
    if made.status is Status.FAILED or made.data.flops_max is None:
        return _Read(None, None, reason=f"its fit failed: {made.reason}")
    exponent = float(_exponent(made, made.coefficients))
    if not len(made.draws):
        return _Read(exponent, None, reason=f"no draws: {made.reason}")
    drawn = values_over_draws(made, lambda drawn: _exponent(made, drawn))[:, 0]
    return _Read(exponent, central(drawn, level), drawn, whole=len(drawn) == bootstrap)


def _exponent(made: Fit, coefficients: Mapping[str, Array] | Mapping[str, float]) -> Array:
    flops = made.data.flops_max
    assert flops is not None
    return local_exponent(made.law, coefficients, flops, OVER)


def _by_isoflop(rows: pd.DataFrame, method: Method, level: float) -> _Read:
    try:
        rest = without_each_size(rows, method)
        grown = allocation(optima(rows, method), level, rest).of_params
    except Refusal as refused:
        return _Read(None, None, reason=refused.cause.rstrip("."))
    rest = [each.dropna(subset="params") for each in rest]
    whole = bool(rest) and min(map(len, rest)) >= 2
    again = [slope(each["flops"], each["params"]) for each in rest] if whole else []
    return _Read(grown.exponent, grown.interval, np.array(again), "", whole)


def _against(own: Exponent, read: _Read, base: _Read, paired: bool, level: float) -> Exponent:
    """With its difference from the base's, and that difference's interval where runs pair."""
    if read.exponent is None or base.exponent is None:
        return own
    difference = read.exponent - base.exponent
    if not paired:
        return replace(own, difference=difference, reason=own.reason or UNPAIRED)
    span = None
    if read.whole and base.whole and len(read.again) == len(base.again):
        gaps = read.again - base.again
        if own.approach == "law":
            span = central(gaps, level)
        else:
            span = jackknifed(PowerLaw(difference, None, 0.0, 0.0), gaps.tolist(), level).interval
    return replace(own, difference=difference, difference_interval=span)
