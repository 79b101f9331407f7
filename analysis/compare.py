"""Which law forecasts best: fit below a compute cut, score above it.

A lower objective on the rows that were fitted is no evidence; a forecast of rows that were
not is. Coverage counts how often the interval of the curve held the observed loss: it carries
the uncertainty of the coefficients alone, so it shows how far a law's form is trusted wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.expression import Array
from analysis.fit import Status, fit
from analysis.laws import Law
from analysis.runs.examine import examine
from analysis.runs.table import name_of, standardise, usable
from scaling.records import Refusal

SHARES = (0.5, 0.7, 0.85)  # of the rows lie at or below the default cuts


@dataclass(frozen=True)
class Score:
    """One law at one cut; errors are |predicted/observed − 1|, NaN with a reason if unfitted."""

    law: str
    n_fit: int
    n_test: int
    mean_abs_rel_error: float
    coverage: float  # of the intervals at the level asked for; NaN without intervals
    reason: str


@dataclass(frozen=True)
class Cut:
    """Rows with at most `flops` (6·N·D) are fitted, those above are scored."""

    flops: float
    laws: tuple[Score, ...]


@dataclass(frozen=True)
class Comparison:
    """`best` has the lowest error averaged over cuts, among laws scored at all of them."""

    cuts: tuple[Cut, ...]
    best: str
    warnings: tuple[str, ...] = ()  # of the table's columns

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values at full precision."""
        return {
            "cuts": [asdict(cut) for cut in self.cuts],
            "best": self.best,
            "warnings": list(self.warnings),
        }

    def table(self) -> pd.DataFrame:
        """A row a cut and law."""
        return pd.DataFrame(
            [{"flops": cut.flops, **asdict(score)} for cut in self.cuts for score in cut.laws]
        )


def compare(
    table: pd.DataFrame,
    laws: Sequence[Law],
    *,
    cuts: Sequence[float] | None = None,
    objective: str = "huber_log",
    delta: float = 1e-3,
    bootstrap: int = 400,
    level: float = 0.9,
    seed: int = 0,
) -> Comparison:
    """Score each law at each cut in FLOPs (default: cuts that leave 50, 30 and 15% of the rows).

    Raises Refusal for no laws, a cut with no rows on one side, or laws of different targets.
    """
    if not laws:
        raise Refusal("compare needs at least one law, e.g. --laws chinchilla,kaplan_nd.")
    if len({law.target for law in laws}) > 1:
        raise Refusal(f"the laws predict different columns: {', '.join(la.target for la in laws)}.")
    columns = {column for law in laws for column in (law.target, *law.features)}
    if "tokens" in table and ("params" in table or "params_total" in table):
        columns.discard("flops")  # 6·N·D, whatever the table says
    selection = usable(table)
    rows = standardise(selection.rows, require=sorted(columns))
    compute = _compute(rows, laws)
    if cuts is None:
        at = np.quantile(compute, SHARES, method="lower")
        cuts = [float(c) for c in np.unique(at) if (compute > c).any()]
    scored = []
    for flops in cuts:
        below = compute <= flops
        if below.all() or not below.any():
            raise Refusal(
                f"cut {flops:g} FLOPs has all {len(rows)} rows on one side; they span "
                f"{compute.min():.3g} to {compute.max():.3g}."
            )
        settings = {"objective": objective, "delta": delta, "bootstrap": bootstrap,
                    "level": level, "seed": seed, "checks": False}  # fmt: skip
        scores = (_score(law, rows[below], rows[~below], settings) for law in laws)
        scored.append(Cut(float(flops), tuple(scores)))
    features = {column for law in laws for column in law.features}
    said = (*examine(rows, features, laws[0].target).cautions, *selection.warnings)
    return Comparison(tuple(scored), _best(scored), said)


def _score(law: Law, seen: pd.DataFrame, later: pd.DataFrame, settings: dict[str, Any]) -> Score:
    nothing = float("nan")
    try:
        found = fit(law, seen, **settings)
    except Refusal as refusal:
        return Score(law.name, len(seen), len(later), nothing, nothing, str(refusal))
    if found.status is Status.FAILED:
        return Score(law.name, len(seen), len(later), nothing, nothing, found.reason)
    at = {column: _column(later, column) for column in law.features}
    observed = later[law.target].to_numpy(dtype=float)
    error = float(np.mean(np.abs(found.predict(at) / observed - 1)))
    coverage = nothing
    if len(found.draws):
        low, high = found.predict_interval(at)
        coverage = float(np.mean((low <= observed) & (observed <= high)))
    return Score(law.name, len(seen), len(later), error, coverage, found.reason)


def _compute(rows: pd.DataFrame, laws: Sequence[Law]) -> Array:
    """6·N·D, or `flops`, or the one column the laws depend on."""
    if "flops" in rows or {"params", "tokens"} <= set(rows):
        return _column(rows, "flops")
    columns = {column for law in laws for column in law.features}
    if len(columns) == 1:
        return _column(rows, columns.pop())
    raise Refusal(f"{name_of(rows)} has no compute to cut by: give params and tokens, or flops.")


def _column(rows: pd.DataFrame, column: str) -> Array:
    """The column as floats; `flops` is 6·N·D wherever N and D are there."""
    if column == "flops" and {"params", "tokens"} <= set(rows):
        return _column(rows, "params") * _column(rows, "tokens") * 6
    if column not in rows:
        raise Refusal(f"{name_of(rows)} has no column {column!r}.")
    return rows[column].to_numpy(dtype=float)


def _best(cuts: Sequence[Cut]) -> str:
    errors: dict[str, list[float]] = {}
    for cut in cuts:
        for score in cut.laws:
            errors.setdefault(score.law, []).append(score.mean_abs_rel_error)
    complete = {name: np.mean(e) for name, e in errors.items() if np.isfinite(e).all()}
    if not complete:
        first = cuts[0].laws[0]
        raise Refusal(f"no law could be fitted at every cut ({first.law}: {first.reason})")
    return min(complete, key=lambda name: float(complete[name]))
