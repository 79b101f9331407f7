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
from scaling.store.records import Refusal

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
    """`best` has the lowest error averaged over cuts, among laws scored at all of them.

    It is None where fewer than two were: one law is the best of nothing.
    """

    cuts: tuple[Cut, ...]
    best: str | None
    warnings: tuple[str, ...] = ()  # of the table's columns, and of intervals that are too narrow

    @property
    def verdict(self) -> str:
        """Which law forecasts best, by how much and how often, in words."""
        errors = _errors(self.cuts)
        means = {name: float(np.mean(each)) for name, each in errors.items()}
        if self.best is None:
            (name,) = means
            alone = f"{name} alone was scored at every cut ({means[name]:.2%} on average)"
            return f"{alone}: nothing to compare it with. Name other laws with --laws."
        others = ", ".join(f"{n} {e:.2%}" for n, e in means.items() if n != self.best)
        least = np.min(list(errors.values()), axis=0)
        leads = int(np.sum(np.array(errors[self.best]) == least))
        return (
            f"Least error above the cuts: {self.best}, {means[self.best]:.2%} on average "
            f"({others}); the least at {leads} of {len(self.cuts)} cuts."
        )

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
    laws = list({law.name: law for law in laws}.values())
    selection = usable(table)
    rows = standardise(selection.rows, require=sorted(columns))
    compute = _compute(rows, laws)
    if cuts is None:
        at = np.quantile(compute, SHARES, method="lower")
        cuts = [float(c) for c in np.unique(at) if (compute > c).any()]
        if not cuts:
            raise Refusal(
                f"most of the {len(rows)} runs lie at {compute.max():.3g} FLOPs and none above: "
                "nothing is left to score. Train smaller or larger runs too, or give --cut."
            )
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
    doubts = (*examine(rows, features, laws[0].target).cautions, *selection.warnings)
    warnings = (*doubts, *_too_narrow(scored, level))
    return Comparison(tuple(scored), _best(scored), warnings)


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


def _errors(cuts: Sequence[Cut]) -> dict[str, list[float]]:
    """The errors of each law that was scored at every cut."""
    errors: dict[str, list[float]] = {}
    for cut in cuts:
        for score in cut.laws:
            errors.setdefault(score.law, []).append(score.mean_abs_rel_error)
    return {name: each for name, each in errors.items() if np.isfinite(each).all()}


def _best(cuts: Sequence[Cut]) -> str | None:
    complete = _errors(cuts)
    if not complete:
        failed = {s.law: (c, s) for c in reversed(cuts) for s in c.laws
                  if np.isnan(s.mean_abs_rel_error)}  # fmt: skip
        why = [f"{name} up to {cut.flops:.3g}: {s.reason}" for name, (cut, s) in failed.items()]
        raise Refusal("no law could be fitted at every cut. " + " ".join(why))
    best = min(complete, key=lambda name: float(np.mean(complete[name])))
    return best if len(complete) > 1 else None


def _too_narrow(cuts: Sequence[Cut], level: float) -> list[str]:
    """Laws whose intervals held clearly fewer of the later runs than they say."""
    held: dict[str, list[float]] = {}
    tests = sum(cut.laws[0].n_test for cut in cuts)
    for cut in cuts:
        for score in cut.laws:
            held.setdefault(score.law, []).append(score.coverage * score.n_test)
    chance = 2 * np.sqrt(level * (1 - level) / max(cut.laws[0].n_test for cut in cuts))
    return [
        f"the {level:.0%} interval of {name}'s curve held {sum(each) / tests:.0%} of the runs "
        "above the cuts: it is of the coefficients alone. `scaling predict` gives a wider one, of "
        "runs."
        for name, each in held.items()
        if sum(each) / tests < level - chance
    ]
