"""Which law forecasts best: fit below a compute cut, score above it.

A lower objective on the rows that were fitted is no evidence; a forecast of rows that were not is.
Cuts are nested, so that a later run is scored at several of them: it counts once. The interval of a
difference between laws is from clusters of later runs, whose errors go together, and from the draws
of the fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.arguments import as_numbers, as_table, wrong_kind
from analysis.array import Array, Index
from analysis.fitting.effective_clusters import FEWEST, clusters_of
from analysis.fitting.fit import Fit, Status, fit
from analysis.fitting.functionals import values_over_draws
from analysis.forecast.comparison import Comparison, Cut, Rival, Score
from analysis.forecast.predict import law_predictions
from analysis.interval import Interval, student
from analysis.laws.catalogue import as_law
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.runs.checks.before_fit import Examined, examine
from analysis.runs.messages import name_of
from analysis.runs.table import standardise, usable
from analysis.solver.newton import Mask
from scaling.store.records import Refusal

ONE_SD = (0.1587, 0.8413)  # quantiles of a normal distribution one sd to either side
NAMES = ["chinchilla", "kaplan_nd"]  # an example
SHARES = (0.5, 0.7, 0.85)  # of the rows lie at or below the default cuts


def compare(
    table: pd.DataFrame,
    laws: Sequence[Law | str],
    *,
    cuts: Sequence[float] | None = None,
    objective: str = "huber_log",
    delta: float = 1e-3,
    bootstrap: int = 400,
    level: float = 0.9,
    seed: int = 0,
) -> Comparison:
    """Score each law at each cut in FLOPs (default: cuts that leave 50, 30 and 15% of the rows).

    `laws` is a list of laws or their names. Raises Refusal for no laws or an unknown one, for a cut
    with no rows on one side, and for laws of different targets.
    """
    selection = usable(as_table("table", table))
    chosen = _distinct(laws)
    seen = _examined(selection.rows, chosen)
    rows = seen.rows
    compute = _compute(rows, chosen)
    cuts = _cuts(compute) if cuts is None else as_numbers("cuts", cuts).tolist()
    for flops in cuts:
        if (compute <= flops).all() or not (compute <= flops).any():
            raise Refusal(
                f"--cut {flops:g}: all {len(rows)} runs lie on one side of this cut; they span "
                f"{compute.min():.3g} to {compute.max():.3g} FLOPs. Give a cut between these, or "
                "leave it out."
            )
    settings = {"objective": objective, "delta": delta, "bootstrap": bootstrap,
                "level": level, "seed": seed, "checks": False}  # fmt: skip
    tried = [[_try(law, rows, compute <= c, settings) for law in chosen] for c in cuts]
    scored = tuple(
        Cut(float(flops), tuple(each.score for each in at))
        for flops, at in zip(cuts, tried, strict=True)
    )
    places, shared = _comparable(scored)
    times = np.sum([compute > cuts[i] for i in shared], axis=0)  # that each row is scored
    least, *others = sorted(
        (_over_cuts(chosen[k], [tried[i][k] for i in shared], times) for k in places),
        key=lambda each: each.mean,
    )
    clusters = clusters_of(rows)[times > 0]
    return Comparison(
        cuts=scored,
        shared=tuple(scored[i].flops for i in shared),
        level=level,
        least=least.law.name,
        error=least.mean,
        rivals=tuple(_rival(each, least, clusters, level) for each in others),
        sizes={chosen[k].name: len(chosen[k].coefficients) for k in places},
        later=len(clusters),
        clusters=len(np.unique(clusters)),
        warnings=(
            *seen.cautions, *selection.warnings, *_left_out(scored, places, shared),
            *_too_narrow(scored, level),
        ),
    )  # fmt: skip


def _distinct(given: Sequence[Law | str]) -> list[Law]:
    """Each law once. Raises Refusal for none, an unknown name, and laws of different targets."""
    if isinstance(given, str | Law | pd.DataFrame) or not isinstance(given, Iterable):
        names = [name.strip() for name in given.split(",")] if isinstance(given, str) else NAMES
        raise wrong_kind("laws", given, "a list of laws", f"Give a list of names: {names}.")
    laws = [as_law(each, f"Give a list of names: {NAMES}.") for each in given]
    if not laws:
        raise Refusal("compare needs at least one law, e.g. --laws chinchilla,kaplan_nd.")
    if len({law.target for law in laws}) > 1:
        raise Refusal(f"the laws predict different columns: {', '.join(la.target for la in laws)}.")
    return list({law.name: law for law in laws}.values())


def _examined(rows: pd.DataFrame, laws: Sequence[Law]) -> Examined:
    """The rows with the columns that any of the laws needs, and what is doubtful about them."""
    features = {column for law in laws for column in law.features}
    needed = {laws[0].target, *features}
    if "tokens" in rows and ("params" in rows or "params_total" in rows):
        needed.discard("flops")  # 6·N·D, whatever the table says
    return examine(standardise(rows, require=sorted(needed)), features, laws[0].target)


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


class _OverCuts(NamedTuple):
    """A law's errors over the later runs, each counted once."""

    law: Law
    errors: Array  # of each later run, the mean over the cuts at which it is scored
    drawn: list[Array]  # what each cut adds to their mean, by its fit's draws

    @property
    def mean(self) -> float:
        return float(self.errors.mean())


def _over_cuts(law: Law, tried: Sequence[_Tried], times: Index) -> _OverCuts:
    """`times` is at how many cuts each row is scored."""
    later = times > 0
    errors = np.nansum([each.errors for each in tried], axis=0)[later] / times[later]
    share = 1 / (np.maximum(times, 1) * later.sum())  # of a row's error at one cut in the mean
    return _OverCuts(law, errors, [each.drawn(share) for each in tried])


def _rival(each: _OverCuts, least: _OverCuts, clusters: Index, level: float) -> Rival:
    more = each.errors - least.errors
    of_fits = _of_fits(list(zip(each.drawn, least.drawn, strict=True)))
    span = _interval(more, clusters, of_fits, level)
    return Rival(each.law.name, each.mean, float(more.mean()), span)


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
    predicted = law_predictions(found, later)
    errors[~below] = np.abs(np.array([each.loss for each in predicted]) / observed - 1)
    score = Score(
        law.name, len(seen), len(later), float(errors[~below].mean()),
        _held([each.interval for each in predicted], observed),
        _held([each.curve for each in predicted], observed), found.reason,
    )  # fmt: skip
    return _Tried(score, errors, found, later)


def _held(spans: Sequence[Interval | None], observed: Array) -> float:
    inside = [s.holds(y) for s, y in zip(spans, observed, strict=True) if s is not None]
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


def _interval(values: Array, clusters: Index, of_fits: float, level: float) -> Interval | None:
    """Of a mean over runs whose terms go together within clusters, with the error of the fits.

    Student's t on the sums over clusters (Liang & Zeger 1986, doi:10.1093/biomet/73.1.13). None
    for fewer than FEWEST clusters, and where the error of the fits is not known.
    """
    sums = np.bincount(pd.factorize(clusters)[0], values - values.mean()) / len(values)
    count = len(sums)
    if count < FEWEST or not np.isfinite(of_fits):
        return None
    error = np.hypot(np.sqrt(count / (count - 1) * np.sum(sums**2)), of_fits)
    reach = student(count - 1, level) * float(error)
    return Interval(float(values.mean() - reach), float(values.mean() + reach))


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
        return _column(rows, "params") * _column(rows, "tokens") * FLOPS_PER_PARAM_TOKEN
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
