"""Which law forecasts best: fit below a compute cut, score above it.

A lower objective on the rows that were fitted is no evidence; a forecast of rows that were
not is. Cuts are nested, so that a later run is scored at several of them: it counts once, and
clusters of later runs, whose errors go together, and the fits' own draws say how sure a difference
between laws is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.derived import values_over_draws
from analysis.expression import Array
from analysis.fit import Fit, Status, fit
from analysis.forecast import predict
from analysis.laws import Law
from analysis.newton import Mask
from analysis.runs.examine import examine
from analysis.runs.table import name_of, standardise, usable
from analysis.support import FEWEST
from analysis.trend import student
from analysis.uncertainty import Index, clusters_of
from analysis.units import Span, counted
from scaling.store.records import Refusal

ONE_SD = (0.1587, 0.8413)  # quantiles of a normal distribution one sd to either side
SHARES = (0.5, 0.7, 0.85)  # of the rows lie at or below the default cuts


@dataclass(frozen=True)
class Score:
    """One law at one cut; errors are |predicted/observed − 1|, NaN with a reason if unfitted."""

    law: str
    n_fit: int
    n_test: int
    mean_abs_rel_error: float
    coverage: float  # of later runs, by their forecast intervals (`forecast.predict`); NaN if none
    curve_coverage: float  # the same by the interval of the curve: the coefficients' alone
    reason: str


@dataclass(frozen=True)
class Cut:
    """Rows with at most `flops` (6·N·D) are fitted, those above are scored."""

    flops: float
    laws: tuple[Score, ...]


@dataclass(frozen=True)
class Rival:
    """A law beside the one of least error, on the same later runs."""

    law: str
    error: float  # mean over the later runs, each counted once
    excess: float  # of that error over the least one
    interval: Span | None  # of `excess`, at the level of the comparison; None: too few clusters

    @property
    def separated(self) -> bool:
        """Whether the runs show its error to be the larger."""
        return self.interval is not None and self.interval[0] > 0

    def sentence(self, level: float) -> str:
        """How much larger its error is."""
        said = f"The error of {self.law} is larger by {self.excess:.2%} of the loss"
        if self.interval is None:
            return (
                f"{said}, and there is no interval of that, for want of {FEWEST} "
                "independent later runs or of intervals of the fits"
            )
        low, high = self.interval
        return f"{said}, {level:.0%} interval {low:.2%} … {high:.2%}"


@dataclass(frozen=True)
class Comparison:
    """The laws at each cut, and how far the runs tell their errors apart."""

    cuts: tuple[Cut, ...]
    shared: tuple[float, ...]  # FLOPs of the cuts at which the laws are compared
    level: float  # of all intervals
    least: str  # the law of least error, among those compared
    error: float  # its mean over the later runs, each counted once
    rivals: tuple[Rival, ...]  # the others, by their error; none where one law was scored
    sizes: Mapping[str, int]  # how many coefficients each law compared has
    later: int  # runs above a shared cut
    clusters: int  # of them
    # Of the table's columns, of cuts and laws left out, and of intervals that are too narrow.
    warnings: tuple[str, ...] = ()

    @property
    def best(self) -> str | None:
        """The law of least error if the runs separate it from every other; else None."""
        return self.least if self.rivals and all(each.separated for each in self.rivals) else None

    @property
    def verdict(self) -> str:
        """Which law forecasts best, by how much, and what that rests on, in words."""
        if not self.rivals:
            return (
                f"{self.least} alone was scored ({self.error:.2%} on average): nothing to compare "
                "it with. Name other laws with --laws."
            )
        others = ", ".join(f"{each.law} {each.error:.2%}" for each in self.rivals)
        said = (
            f"Least error above the cuts, each run counted once: {self.least}, {self.error:.2%} "
            f"on average ({others})."
        )
        rests = f"from {counted(self.clusters, 'independent later run')}"
        unclear = [each for each in self.rivals if not each.separated]
        if not unclear:
            # Of several the one that is nearest to none.
            nearest = min(self.rivals, key=lambda each: each.interval[0] if each.interval else 0.0)
            return f"{said} {nearest.sentence(self.level)}, {rests}."
        names = " and ".join(each.law for each in unclear)
        differences = ". ".join(each.sentence(self.level) for each in unclear)
        return (
            f"{said} But these runs cannot separate it from {names}. {differences}, {rests}. "
            f"{self._simplest([self.least, *(each.law for each in unclear)])}rain larger runs and "
            "compare again."
        )

    def _simplest(self, names: Sequence[str]) -> str:
        """Which of laws that the runs do not separate to take, before other advice."""
        fewest = min(self.sizes[name] for name in names)
        simplest = [name for name in names if self.sizes[name] == fewest]
        if len(simplest) == len(names):
            return "They have equally many coefficients: t"
        return f"Take {' or '.join(simplest)}, with the fewest coefficients, or t"

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values at full precision."""
        return {
            "cuts": [asdict(cut) for cut in self.cuts],
            "cuts_compared": list(self.shared),
            "best": self.best,
            "least": {"law": self.least, "mean_abs_rel_error": self.error},
            "rivals": [asdict(each) for each in self.rivals],
            "level": self.level,
            "later_runs": self.later,
            "clusters": self.clusters,
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
    features = {column for law in laws for column in law.features}
    seen = examine(standardise(selection.rows, require=sorted(columns)), features, laws[0].target)
    rows = seen.rows
    compute = _compute(rows, laws)
    cuts = _cuts(compute) if cuts is None else cuts
    for flops in cuts:
        if (compute <= flops).all() or not (compute <= flops).any():
            raise Refusal(
                f"cut {flops:g} FLOPs has all {len(rows)} rows on one side; they span "
                f"{compute.min():.3g} to {compute.max():.3g}."
            )
    settings = {"objective": objective, "delta": delta, "bootstrap": bootstrap,
                "level": level, "seed": seed, "checks": False}  # fmt: skip
    tried = [[_try(law, rows, compute <= c, settings) for law in laws] for c in cuts]
    scored = tuple(
        Cut(float(flops), tuple(each.score for each in at))
        for flops, at in zip(cuts, tried, strict=True)
    )
    chosen, shared = _comparable(scored)
    tried = [tried[i] for i in shared]
    times = np.sum([compute > cuts[i] for i in shared], axis=0)  # that a row is scored
    later = times > 0
    share = 1 / (np.maximum(times, 1) * later.sum())  # of a row's error at one cut in the mean
    clusters = clusters_of(rows)[later]
    errors = {k: np.nansum([at[k].errors for at in tried], axis=0)[later] / times[later]
              for k in chosen}  # fmt: skip
    drawn = {k: [at[k].drawn(share) for at in tried] for k in chosen}
    least, *others = sorted(errors, key=lambda k: float(errors[k].mean()))
    rivals = []
    for k in others:
        more = errors[k] - errors[least]
        of_fits = _of_fits(list(zip(drawn[k], drawn[least], strict=True)))
        span = _interval(more, clusters, of_fits, level)
        rivals.append(Rival(laws[k].name, float(errors[k].mean()), float(more.mean()), span))
    return Comparison(
        cuts=scored,
        shared=tuple(scored[i].flops for i in shared),
        level=level,
        least=laws[least].name,
        error=float(errors[least].mean()),
        rivals=tuple(rivals),
        sizes={laws[k].name: len(laws[k].coefficients) for k in chosen},
        later=int(later.sum()),
        clusters=len(np.unique(clusters)),
        warnings=(
            *seen.cautions, *selection.warnings, *_left_out(scored, chosen, shared),
            *_too_narrow(scored, level),
        ),
    )  # fmt: skip


def _cuts(compute: Array) -> list[float]:
    """Those that leave SHARES of the rows at or below."""
    at = np.quantile(compute, SHARES, method="lower")
    cuts = [float(c) for c in np.unique(at) if (compute > c).any()]
    if not cuts:
        raise Refusal(
            f"most of the {len(compute)} runs lie at {compute.max():.3g} FLOPs and none above: "
            "nothing is left to score. Train smaller or larger runs too, or give --cut."
        )
    return cuts


class _Tried(NamedTuple):
    """A law fitted to the rows below a cut."""

    score: Score
    errors: Array  # at each row above; NaN at the others
    found: Fit | None  # None: no fit that says anything
    later: pd.DataFrame  # the rows above

    def drawn(self, share: Array) -> Array:
        """What this cut adds to the mean over later runs, by the fit's draws, (draws,).

        `share` is what each row's error at one cut counts in that mean.
        """
        if self.found is None or not len(self.found.draws):
            return np.empty(0)
        law, weight = self.found.law, share[~np.isnan(self.errors)]
        observed = self.later[law.target].to_numpy(dtype=float)
        at = {name: _column(self.later, name) for name in law.features}

        def error(coefficients: Mapping[str, Array]) -> Array:
            off = np.abs(law.predict(coefficients, at) / observed - 1)
            return np.asarray(off @ weight)[:, None]

        return values_over_draws(self.found, error)[:, 0]


def _try(law: Law, rows: pd.DataFrame, below: Mask, settings: dict[str, Any]) -> _Tried:
    seen, later = rows[below], rows[~below]
    errors, nothing = np.full(len(rows), np.nan), float("nan")
    unfitted = Score(law.name, len(seen), len(later), nothing, nothing, nothing, "")
    try:
        found = fit(law, seen, **settings)
    except Refusal as refusal:
        return _Tried(replace(unfitted, reason=str(refusal)), errors, None, later)
    if found.status is Status.FAILED:
        return _Tried(replace(unfitted, reason=found.reason), errors, None, later)
    observed = later[law.target].to_numpy(dtype=float)
    predicted = predict(found, later)
    errors[~below] = np.abs(np.array([each.loss for each in predicted]) / observed - 1)
    score = Score(
        law.name, len(seen), len(later), float(errors[~below].mean()),
        _held([each.interval for each in predicted], observed),
        _held([each.curve for each in predicted], observed), found.reason,
    )  # fmt: skip
    return _Tried(score, errors, found, later)


def _held(spans: Sequence[Span | None], observed: Array) -> float:
    inside = [s[0] <= y <= s[1] for s, y in zip(spans, observed, strict=True) if s is not None]
    return float(np.mean(inside)) if inside else float("nan")


def _comparable(cuts: Sequence[Cut]) -> tuple[list[int], list[int]]:
    """The places of the laws to compare, and of the cuts at which each of them was scored.

    A law joins, those scored at most cuts first, while a cut is left that all share. Raises
    Refusal where no law was scored.
    """
    scored = np.array([[np.isfinite(s.mean_abs_rel_error) for s in cut.laws] for cut in cuts])
    if not scored.any():
        failed = {s.law: (cut, s) for cut in reversed(cuts) for s in cut.laws}
        why = [f"{name} up to {cut.flops:.3g}: {s.reason}" for name, (cut, s) in failed.items()]
        raise Refusal("no law could be fitted at any cut. " + " ".join(why))
    laws, shared = [], np.ones(len(cuts), dtype=bool)
    for k in np.argsort(-scored.sum(axis=0), kind="stable"):
        if (shared & scored[:, k]).any():
            laws.append(int(k))
            shared &= scored[:, k]
    return laws, [int(i) for i in np.flatnonzero(shared)]


def _left_out(cuts: Sequence[Cut], laws: Sequence[int], shared: Sequence[int]) -> list[str]:
    """The cuts and the laws that are not compared, and why."""
    said = []
    for i in sorted({*range(len(cuts))} - {*shared}):
        why = [f"{s.law}: {s.reason}" for s in (cuts[i].laws[k] for k in sorted(laws))
               if np.isnan(s.mean_abs_rel_error)]  # fmt: skip
        said.append(
            f"the laws are not compared at the cut of {cuts[i].flops:.3g} FLOPs, where not all "
            f"could be scored ({'; '.join(why)})."
        )
    for k in sorted({*range(len(cuts[0].laws))} - {*laws}):
        failed = next(cut for cut in cuts if np.isnan(cut.laws[k].mean_abs_rel_error))
        said.append(
            f"{failed.laws[k].law} is not compared: it was not scored at a cut that the others "
            f"share (up to {failed.flops:.3g} FLOPs: {failed.laws[k].reason})."
        )
    return said


def _of_fits(drawn: Sequence[tuple[Array, Array]]) -> float:
    """The standard deviation, over the fits' draws, of the difference of two laws' mean errors.

    By the middle 68% of draws: far draws of few runs follow no data. At one cut the draws of both
    laws are of the same resamples. Cuts add up as if independent. (Simulated with 18 to 30 of 36
    runs below the cuts: .006 of the loss, where .005 explains how differences vary.) NaN where a
    fit has no draws.
    """
    squares = 0.0
    for one, other in drawn:
        count = min(len(one), len(other))
        if count < 2:
            return float("nan")
        low, high = np.quantile(one[:count] - other[:count], ONE_SD)
        squares += ((high - low) / 2) ** 2
    return float(np.sqrt(squares))


def _interval(values: Array, clusters: Index, of_fits: float, level: float) -> Span | None:
    """Of a mean over runs whose terms go together within clusters, beside the error of the fits.

    Student's t on the sums over clusters (Liang & Zeger 1986, doi:10.1093/biomet/73.1.13). None
    for fewer than FEWEST clusters, and where the error of the fits is not known.
    """
    sums = np.bincount(pd.factorize(clusters)[0], values - values.mean()) / len(values)
    count = len(sums)
    if count < FEWEST or not np.isfinite(of_fits):
        return None
    error = np.hypot(np.sqrt(count / (count - 1) * np.sum(sums**2)), of_fits)
    reach = student(count - 1, level) * float(error)
    return float(values.mean() - reach), float(values.mean() + reach)


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


def _too_narrow(cuts: Sequence[Cut], level: float) -> list[str]:
    """Laws whose forecast intervals held clearly fewer of the later runs than they say."""
    runs = np.array([cut.laws[0].n_test for cut in cuts], dtype=float)
    chance = 2 * np.sqrt(level * (1 - level) / runs.max())
    said = []
    for scores in zip(*(cut.laws for cut in cuts), strict=True):
        held = float(np.sum([score.coverage for score in scores] * runs) / runs.sum())
        if held < level - chance:
            said.append(
                f"the {level:.0%} forecast interval of {scores[0].law} held {held:.0%} of the runs "
                "above the cuts: expect it to miss larger runs as often. Train larger runs, or "
                "take a law that held more."
            )
    return said
