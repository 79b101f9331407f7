"""The warnings of a fit: a sentence for each reason, with what would change it.

Warnings of an answer that is made from a fit are in `analysis.forecast.warnings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from analysis.fitting.effective_clusters import FEWEST, MANY, NEGLIGIBLE, Basis
from analysis.laws.structure import curvature
from analysis.runs.messages import listed
from analysis.text import against, counted

if TYPE_CHECKING:
    import pandas as pd

    from analysis.fitting.inputs import Inputs
    from analysis.interval import Interval
    from analysis.laws.law import Law

FEW_ROWS = 100  # below, intervals are wide (benchmarks/coverage.py)
# Mean coverage in benchmarks/results/coverage.json of what is set by fewer than HALF effective
# clusters, by fewer than MANY, and of all in fewer than FEW_ROWS rows.
HALF = 6
HELD_BELOW_HALF, HELD_BELOW_MANY, HELD_FEW_ROWS = ".94", ".95", ".98"
NO_FLOOR = 0.01  # of the smallest loss: a floor whose interval begins lower may be 0
DIFFERENT = 1.05  # a ratio of losses at one point that no seed makes
_BEST = {  # of one variable, the runs that the others hold back least
    "params": "the runs of most tokens alone",
    "tokens": "the runs of the largest models alone",
    "flops": "the run of least loss at each flops alone",
}


def no_interval(inputs: Inputs, bases: Mapping[str, Basis]) -> str:
    """Which coefficients have no interval, and why; empty where all have one."""
    names = [name for name, basis in bases.items() if not basis.enough]
    if not names:
        return ""
    have, they = ("have", "they") if len(names) > 1 else ("has", "it")
    few = min(bases[name].clusters for name in names) < FEWEST
    lack = f"{FEWEST} are needed" if few else "the law fits these exactly, so it shows no scatter"
    return (
        f"{listed(names)} {have} no interval: {they} {_set_by(names, inputs, bases)}, and {lack}. "
        f"Train {_more(names, inputs)}"
    )


def too_few_clusters(inputs: Inputs, names: Sequence[str]) -> str:
    """Why none of the free coefficients has an interval: there are fewer than FEWEST clusters."""
    have = "have" if len(names) > 1 else "has"
    clusters = counted(inputs.cluster_count, "run" if _single(inputs) else "cluster")
    return (
        f"{listed(names)} {have} no interval: the rows are of {clusters}, and {FEWEST} are needed. "
        f"Train {_more(names, inputs)}"
    )


def wide_intervals(inputs: Inputs, bases: Mapping[str, Basis]) -> Iterator[str]:
    """Which intervals are wide, because few clusters set them, or because all rows are few."""
    names = [name for name, basis in bases.items() if basis.enough and basis.clusters < MANY]
    rows = len(inputs.rows)
    if names:
        least = min(bases[name].clusters for name in names)
        held = HELD_BELOW_HALF if least < HALF else HELD_BELOW_MANY
        their = "Their intervals are" if len(names) > 1 else "Its interval is"
        yield (
            f"{listed(names)} {_set_by(names, inputs, bases)}; {MANY} or more are needed for "
            f"narrow intervals. {their} wide, by Student's t: in simulations such {_held(held)}. "
            f"For narrower ones train {_more(names, inputs)}"
        )
    elif all(basis.enough for basis in bases.values()) and rows < FEW_ROWS:
        yield (
            f"{rows} rows: intervals from fewer than {FEW_ROWS} are wide: in simulations "
            f"such {_held(HELD_FEW_ROWS)}. Train more runs for narrower ones"
        )


def floors_near_zero(
    inputs: Inputs, intervals: Mapping[str, Interval], at_bound: Sequence[str]
) -> list[str]:
    """Floors that other resamples of the runs would do without."""
    law = inputs.law
    low = NO_FLOOR * float(inputs.data.scale.min())
    return [
        f"{name} may be 0 (its interval begins at {intervals[name].low:.2g}): these runs do not "
        "determine how far the loss can fall beyond them. Add runs of more "
        f"{' and '.join(law.features)}"
        for name in law.coefficients
        if name in law.floors
        and name not in inputs.settings.fixed
        and name not in at_bound
        and intervals[name].low < low
    ]


def other_features_vary(law: Law, rows: pd.DataFrame) -> list[str]:
    """That a law of one variable is fitted to runs where another one varies too."""
    if len(law.features) != 1 or law.features[0] not in _BEST or law.target != "loss":
        return []
    if not {"params", "tokens"} <= set(rows.columns):
        return []
    column = law.features[0]
    repeated = rows.groupby(column)[law.target].agg(lambda x: x.max() / x.min()).max()
    single = rows[column].nunique() == len(rows)
    if single or repeated <= DIFFERENT:
        return []
    return [
        f"runs of equal {column} differ by up to {repeated - 1:.0%} in loss, and {law.name} is a "
        f"law of {column} alone: it passes between them and describes none. Fit {_BEST[column]} "
        "(select rows with --where), or a law of params and tokens, e.g. chinchilla"
    ]


def _held(share: str) -> str:
    """How often such intervals held the truth in simulations of 90% intervals."""
    return f"intervals meant to hold 90% held {float(share):.0%} (benchmarks/coverage.py)"


def _set_by(names: Sequence[str], inputs: Inputs, bases: Mapping[str, Basis]) -> str:
    """By how many equally informative clusters the named coefficients are set in effect."""
    each = listed([against(bases[name].own, FEWEST, MANY) for name in names])
    with_prior = any(bases[name].own < (1 - NEGLIGIBLE) * bases[name].clusters for name in names)
    unit = "runs" if _single(inputs) else "clusters of runs"
    return (
        f"{'is' if len(names) == 1 else 'are'} set by about {each} of the "
        f"{inputs.cluster_count} {unit}{', and by a prior' * with_prior}"
    )


def _more(names: Sequence[str], inputs: Inputs) -> str:
    """Which runs would determine the named coefficients better."""
    law = inputs.law
    pairs = [{s.symbol for s in pair if s.symbol} for pair in curvature(law.loss)]
    moved = [pair for pair in pairs if any(each.name in names for each in pair)]
    seen = {each.column for pair in moved for each in pair if each.feature}
    columns = [column for column in law.features if not seen or column in seen]
    runs = "runs" if _single(inputs) else "trunks, or seeds,"
    return f"more {runs} at several {' and '.join(columns)}"


def _single(inputs: Inputs) -> bool:
    """Whether every row is a cluster of its own."""
    return inputs.cluster_count == len(inputs.rows)
