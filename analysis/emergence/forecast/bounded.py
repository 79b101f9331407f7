"""Forecasts of metrics with a worst and a best value: latent ability in several forms, averaged.

Each form counts by its evidence on the scores up to the cutoff. With `two_step`, a power law goes
from scale to loss and the curves from loss to score (Bhagia et al. 2024, arXiv:2412.04403; Gadre et
al. 2024, arXiv:2403.08540).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.special import logit

from analysis.array import Array
from analysis.emergence.forecast.latent_ability import (
    FORMS,
    Form,
    Observations,
    Posterior,
    approximate,
    with_floor,
)
from analysis.emergence.forecast.log_linear import Line, effective_weights, grouped_line
from analysis.emergence.forecast.scoring import DRAWS, persistence, plain_logistic
from analysis.emergence.response.deviance import Indices, standardised
from analysis.emergence.response.estimate import NOT_IN_RANGE, Estimate
from analysis.emergence.scores.series import Series
from analysis.interval import Interval
from scaling.store.records import Refusal

Method = Literal["auto", "direct", "logistic", "power_log_prob", "two_step"]
ALL_FORMS = tuple(form.name for form in FORMS)
MEMBERS = {
    "auto": ALL_FORMS,
    "direct": ALL_FORMS,
    "two_step": ALL_FORMS,
    "logistic": ("logistic",),
    "power_log_prob": ("power_log_prob",),
}
# Log-odds of the score of models that know nothing: their mean and deviation. Around a chance level
# that is given: small models score .18 on ARC's .25 and .37 on WSC's .5 (Pythia). Of written
# answers, whose chance level is given as 0: a thousandth to a third may be right by luck. Where no
# level is given: two to ten choices.
NEAR_KNOWN = 0.3
WRITTEN_FLOOR = -3.0, 1.5
ANY_FLOOR = -0.9, 0.5
# Of a floor other than the chance level that is given, before any score is seen. On 42 tables
# of benchmarks/scores_ahead.py, by odds of 0, .01, .03, .1 and .3: mean CRPS .0623, .0612, .0621,
# .0625 and .0638, and inside nominal 90% in the worst source 81%, 85%, 86%, 86% and 86%.
FLOOR_ODDS = math.log(0.01)
NEAR_CHANCE = 0.05  # of the way from chance to the best
LARGEST_T = 300.0  # |log10 of a scale|: beyond it a threshold counts as never reached
SPAN = 3.0  # decades of FLOPs that the tasks behind the priors have below a usual cutoff
SHORTEST = 0.01  # decades of loss: a slope over less does not extrapolate
# Per decade of parameters where no FLOPs are known: 6·N·D with D in proportion to N, as Hoffmann et
# al. 2022 train (arXiv:2203.15556, 20 tokens per parameter).
FLOPS_PER_DECADE = {"params": 2.0}
MISSES = 0.15  # root mean square in unit score; real tasks scatter as much about any curve
WITHOUT_NOISE = 1e6  # questions: a score is then the share of right answers expected
ENOUGH = 8  # scores: 4 and 6 held .98 where models differ by .5 logits, less where by more
FEWEST_DRAWS = 50  # effective: an end of a 90% interval then rests on two or three


class LossStep(NamedTuple):
    """log loss as a line in t, with the scatter of models about it.

    Progress is minus the log loss in units of the line's fall per decade, so that a decade of scale
    is one unit of progress and the priors keep their meaning.
    """

    line: Line
    progress: Array  # of each fitted score, from its own loss


class Candidate(NamedTuple):
    """A form that may be right, with the logarithm of its odds before any score is seen."""

    form: Form
    odds: float


class Mixture(NamedTuple):
    """The forms' posteriors, each with a share of the draws, and the shares by name."""

    posteriors: list[Posterior]
    weights: dict[str, float]


@dataclass(frozen=True, eq=False)
class BoundedFit:
    """What was fitted to the scores up to the cutoff. Draws are on the unit scale."""

    series: Series
    below: Indices  # flags of the scores up to the cutoff
    seen: Observations
    step: LossStep | None
    posteriors: list[Posterior]
    weights: dict[str, float]  # the shares of the forms
    flops_known: bool  # whether FLOPs per decade of the scale come from the table

    @property
    def observed(self) -> Array:
        """All scores of the series, on the scale of the draws."""
        return self.series.unit

    def in_units(self, draws: Array) -> Array:
        """Draws in the metric's units."""
        return self.series.from_unit(draws)

    def draw(self, x: Array, n: Array, rng: np.random.Generator) -> Array:
        """Scores of new models at scales `x` on `n` questions, draws × scales."""
        t, scores = self.series.to_t(x), []
        for each in self.posteriors:
            at = t
            if self.step is not None:  # the losses that models of these scales may have
                line = self.step.line
                at = line.draws(t, len(each.draws), rng) / line.slope
            scores.append(each.scores(at, n, rng))
        return np.concatenate(scores)

    def baselines(self, x: Array, rng: np.random.Generator) -> dict[str, Array]:
        """Draws of the baselines at scales `x`."""
        return {
            "persistence": persistence(self.seen.t, self.seen.share),
            "plain logistic": plain_logistic(self.seen, self.series.to_t(x), rng),
        }

    def threshold(self, level: float, rng: np.random.Generator) -> Estimate:
        """The scale at which a new model is midway from chance to the ceiling: the median."""
        t = np.concatenate([each.thresholds(rng) for each in self.posteriors])
        if self.step is not None:  # the scale at which a new model has the loss of that progress
            t = self.step.line.reaches(t * self.step.line.slope, rng)
        tails = (1 - level) / 2, 0.5, (1 + level) / 2
        low, value, high = (
            self.series.to_x(float(each)) if abs(each) < LARGEST_T else None
            for each in np.quantile(t, tails, method="inverted_cdf")
        )
        if self.series.falling:
            low, high = high, low
        interval = Interval(-math.inf if low is None else low, math.inf if high is None else high)
        return Estimate(value, interval, "" if value is not None else f"{NOT_IN_RANGE}: never")

    def warnings(self) -> list[str]:
        """What to doubt of these curves."""
        said = [
            *curve_warnings(self.series, self.below, self.posteriors),
            *misses_scores(self.posteriors, self.seen),
        ]
        scale = self.series.scale
        if scale in FLOPS_PER_DECADE and not self.flops_known:
            said.append(
                f"no compute is known: a decade of {scale} is taken as {FLOPS_PER_DECADE[scale]:g} "
                "of FLOPs, as at 20 tokens per parameter. Give a table with a column `tokens` or "
                "`flops`"
            )
        return said


def fit_bounded(
    series: Series,
    below: Indices,
    method: Method,
    loss: Array | None,
    flops: Array | None,
    rng: np.random.Generator,
) -> BoundedFit:
    """The forms of `method`, fitted to the scores `below` the cutoff.

    `loss` and `flops` have one value per score of `series`. Scores of one group weigh less, the
    more they deviate together.
    """
    step = fit_loss(series, below, loss) if method == "two_step" else None
    per_decade = _flops_per_decade(series, below, flops)
    t = series.t[below] if step is None else step.progress
    if series.falling:
        stretch = SPAN / max(float(np.ptp(t)), SHORTEST)
    else:
        stretch = per_decade or FLOPS_PER_DECADE.get(series.scale, 1.0)
    chance = series.unit_chance or 0.0
    seen = Observations(t, series.unit[below], series.questions[below], chance, stretch)
    mixture = _mixture(seen, MEMBERS[method], series.unit_chance, rng)
    if series.group is not None:
        questions = np.full(len(t), WITHOUT_NOISE)
        draws = [each.scores(t, questions, rng) for each in mixture.posteriors]
        mean = np.concatenate(draws).mean(axis=0)
        deviation = standardised(seen.share - mean, mean)
        seen = replace(seen, weight=effective_weights(deviation, series.group[below]))
        mixture = _mixture(seen, MEMBERS[method], series.unit_chance, rng)
    return BoundedFit(series, below, seen, step, *mixture, per_decade is not None)


def fit_loss(series: Series, below: Indices, loss: Array | None) -> LossStep:
    """The line through the losses of the scores `below` the cutoff; `loss` has one value per score.

    Losses of one group weigh less, the more they deviate together. Raises Refusal where a loss is
    missing, and where the loss does not fall with scale.
    """
    if loss is None or not np.all(np.isfinite(loss[below]) & (loss[below] > 0)):
        raise Refusal(
            f"{series.label}: --method two_step needs the loss of every score up to the cutoff. "
            "Give a table with a column `loss`, or another method."
        )
    y = np.log(loss[below])
    group = None if series.group is None else series.group[below]
    line = grouped_line(series.t[below], y, group)
    if line.slope >= 0:
        raise Refusal(
            f"{series.label}: the loss does not fall with {series.scale} up to the cutoff, so "
            "scores cannot be forecast from it. Use --method auto."
        )
    return LossStep(line, y / line.slope)


def _flops_per_decade(series: Series, below: Indices, flops: Array | None) -> float | None:
    """Decades of FLOPs per decade of the scale, by least squares over the scores below the cutoff.

    None where fewer than two scales have FLOPs, and where FLOPs do not grow with scale.
    """
    if flops is None:
        return None
    known = below & np.isfinite(flops) & (flops > 0)
    t = series.t[known]
    if len(np.unique(t)) < 2:
        return None
    slope = float(np.polyfit(t - t.mean(), np.log10(flops[known]), 1)[0])
    return slope if slope > 0 else None


def _mixture(
    seen: Observations, members: Sequence[str], chance: float | None, rng: np.random.Generator
) -> Mixture:
    """The posteriors of the forms, with draws in proportion to their evidence."""
    forms = _with_floors([form for form in FORMS if form.name in members], chance)
    found = [approximate(each.form, seen) for each in forms]
    evidence = np.array([one.evidence + each.odds for one, each in zip(found, forms, strict=True)])
    weight = np.exp(evidence - evidence.max())
    weight /= weight.sum()
    counts = [round(DRAWS * share) for share in weight]
    shares = dict.fromkeys(members, 0.0)
    for each, share in zip(forms, weight, strict=True):
        shares[each.form.name] += float(share)
    return Mixture(
        [
            one.posterior(count, DRAWS, rng)
            for one, count in zip(found, counts, strict=True)
            if count
        ],
        shares,
    )


def _with_floors(forms: Sequence[Form], chance: float | None) -> list[Candidate]:
    """The forms with the floors that a chance level allows; None: it is not known."""
    odds = 0.0 if chance is None else FLOOR_ODDS
    if chance is None:
        about = ANY_FLOOR
    else:
        about = (float(logit(chance)), NEAR_KNOWN) if chance > 0 else WRITTEN_FLOOR
    floored = [Candidate(with_floor(form, about), odds) for form in forms]
    return [*(Candidate(form, 0.0) for form in forms), *floored]


def curve_warnings(series: Series, below: Indices, fitted: Sequence[Posterior]) -> list[str]:
    """What to doubt of curves of latent ability that were fitted to the scores `below`."""
    said = []
    if series.chance is None:
        said.append(
            "the chance level is not known, so the forecast fits it with the curve; give it with "
            "--chance"
        )
    last = np.array([series.t[below].max()])
    risen = max(float(np.median(each.form.link(each.ability(last)))) for each in fitted)
    if risen < NEAR_CHANCE:
        said.append(
            f"near chance at the cutoff ({risen:.0%} of the way to the best): the forecast of a "
            "rise, and of its place, comes from other tasks and not from these scores"
        )
    if below.sum() < ENOUGH:
        said.append(
            f"from {int(below.sum())} scores the spread between models is mostly the prior's: "
            "where models of one scale differ by 1 to 1.6 logits, intervals at a level of 90% from "
            "4 or 6 scores held 77% to 91% of simulated new ones"
        )
    count = sum(len(each.draws) for each in fitted)
    # In a mixture, a form with few effective draws matters in proportion to its share.
    effective = 1 / sum((len(each.draws) / count) ** 2 / each.effective for each in fitted)
    if effective < FEWEST_DRAWS:
        said.append(
            f"the posterior is far from normal, so that intervals rest on {effective:.0f} "
            "independent draws and are rough: more scores below the cutoff make it more regular"
        )
    return said


def misses_scores(fitted: Sequence[Posterior], seen: Observations) -> list[str]:
    """A warning where even the scores that were fitted lie far from the forecast's median."""
    rng = np.random.default_rng(0)
    questions = np.full(len(seen.t), WITHOUT_NOISE)
    draws = np.concatenate([each.scores(seen.t, questions, rng) for each in fitted])
    _, where = np.unique(seen.t, return_inverse=True)
    count = np.bincount(where)
    rising = isotonic_regression(np.bincount(where, seen.share) / count, weights=count).x
    error, least = (
        float(np.sqrt(np.mean((curve - seen.share) ** 2)))
        for curve in (np.median(draws, axis=0), rising[where])
    )
    if error < MISSES or error < 3 * least:
        return []
    return [
        f"the forecast misses the scores up to the cutoff by {error:.2f}, and the best rising "
        f"curve by {least:.2f}: they rise faster, or differ more, than those of the tasks behind "
        "its priors; rely on the curve fitted to all scores instead"
    ]
