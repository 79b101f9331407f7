"""Scores of models larger than any seen: fitted below a cut, predicted above, and judged there.

What is predicted is the score of a single new model, so that the interval holds the spread between
models and what the fit does not know. A forecast is compared, by the same rules, with the scores
of the largest scale seen (persistence) and with a logistic fitted by least squares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from analysis.emergence.ability import FORMS, Posterior, Seen, posterior
from analysis.emergence.breaks import standardised
from analysis.emergence.line import grouped_line, independent
from analysis.emergence.loss_step import loss_step
from analysis.emergence.seen import Score, Track, first_at, missed, unlike
from analysis.emergence.series import Series
from analysis.emergence.worth import DRAWS, Judged, judge, persistence, plain_logistic
from scaling.store.records import Refusal

Floats = NDArray[np.float64]
Method = Literal["auto", "logistic", "power_log_prob", "two_step"]

HARDLY = 0.05  # of the way from guessing to the best
STEPS = 40  # of a figure's line on either side of the cut
LOG_PROBABILITY = -math.inf, 0.0
LEAST_NATS = 1e-6  # of -log p: nearer to certainty nothing is told
SPAN = 3.0  # decades of FLOPs that the tasks behind the priors have below a usual cut
SHORTEST = 0.01  # decades of loss: over less nobody says how the slope goes on
# A decade of parameters where no FLOPs are known: 6·N·D with D in proportion to N, as Hoffmann et
# al. 2022 train (arXiv:2203.15556, 20 tokens a parameter).
FLOPS_A_DECADE = {"params": 2.0}
ENOUGH = 8  # scores: 4 and 6 held .98 where models differ by .5 logits, less where by more
FEWEST_DRAWS = 50  # effective: an end of a 90% interval then rests on two or three
FEWEST = 4  # scores below the cut: a line with a spread has three coefficients
# `auto` weighs every form by its evidence on the scores below the cut.
MEMBERS = {
    "auto": tuple(form.name for form in FORMS),
    "two_step": tuple(form.name for form in FORMS),
    "logistic": ("logistic",),
    "power_log_prob": ("power_log_prob",),
}


@dataclass(frozen=True, eq=False)
class Forecast:
    """Scores predicted at scales `x`, in the metric's units, each for a single new model."""

    series: Series
    cut: float
    method: Method
    n: int  # scores fitted
    level: float
    x: Floats
    observed: Floats  # NaN where no score was seen
    median: Floats
    mean: Floats
    low: Floats
    high: Floats
    emergence: float | None  # scale at which a new model is half-way from chance to best
    emergence_interval: tuple[float | None, float | None]  # None: not bounded by what was seen
    weights: dict[str, float]  # of the forms
    track: Track  # for a figure
    judged: tuple[Judged, ...]  # this, persistence and logistic; empty without scores above the cut
    warnings: tuple[str, ...]

    @property
    def half_way(self) -> float:
        """The score half-way from chance to the best possible, in the metric's units."""
        metric = self.series.metric
        return (
            (metric.worst if self.series.chance is None else self.series.chance) + metric.best
        ) / 2

    @property
    def threshold_ahead(self) -> float | None:
        """Where `half_way` is forecast, infinite for never; None where it is not beyond the cut.

        Short of the cut the curve's threshold is known, and the one to read.
        """
        if not self.series.metric.bounded:
            return None
        at = self.series.to_x(math.inf) if self.emergence is None else self.emergence
        to_t = self.series.to_t
        return at if to_t(at) > to_t(self.cut) else None

    @property
    def reached(self) -> Score | None:
        """The first score seen at `half_way` or better, whether fitted or not."""
        return first_at(self.series, self.half_way) if self.series.metric.bounded else None

    @property
    def missed(self) -> str | None:
        """Why to doubt it where it misses the last score that it was fitted to; else None."""
        return missed(self.series, self.cut, self.track)

    def to_json(self) -> dict[str, Any]:
        """The forecast, its predictions and how it did."""
        return {
            "task": self.series.task, "metric": self.series.metric.name, "cut": self.cut,
            "method": self.method, "n": self.n, "level": self.level, "forms": self.weights,
            "emergence": {"value": self.emergence, "interval": list(self.emergence_interval)},
            "predictions": [
                {"scale": x, "observed": None if math.isnan(seen) else seen, "median": median,
                 "mean": mean, "interval": [low, high]}
                for x, seen, median, mean, low, high in zip(
                    *(each.tolist() for each in (self.x, self.observed, self.median, self.mean)),
                    self.low.tolist(), self.high.tolist(), strict=True,
                )
            ],
            "judged": [each.to_json() for each in self.judged],
            "warnings": list(self.warnings),
        }  # fmt: skip


def foresee(
    series: Series,
    cut: float,
    *,
    at: Sequence[float] = (),
    method: Method = "auto",
    loss: Floats | None = None,
    flops: Floats | None = None,
    level: float = 0.9,
    seed: int = 0,
    cautions: Sequence[str] = (),
) -> Forecast:
    """The scores of larger models than `cut`, from those up to it.

    Predictions are at the scales above the cut that `series` has, where they are judged, and at
    `at`. `two_step` goes over the loss (one value a score, in the order of `series`). `flops`, in
    the same order, say how much compute a decade of the scale is; priors and the logistic's bound
    speak of that. Without them a decade of parameters is taken for two of FLOPs, and any other for
    one.
    `cautions` are what is doubted of the scores themselves (`Curve.cautions`). Raises Refusal with
    fewer than four scores, or one scale, below the cut, and for metrics without bounds that are no
    log-probabilities. Where `series` has groups, the scores of one count for less the more alike
    they are.
    """
    if not series.metric.bounded and series.metric.range != LOG_PROBABILITY:
        raise Refusal(
            f"{series.label}: forecasts are of metrics with a worst and a best value, and of "
            f"log-probabilities; {series.metric.name} runs to infinity. `scaling fit` extrapolates "
            "losses."
        )
    below = series.x >= cut if series.falling else series.x <= cut
    if below.sum() < FEWEST or len(np.unique(series.x[below])) < 2:
        raise Refusal(
            f"{series.label}: {int(below.sum())} scores at {len(np.unique(series.x[below]))} "
            f"scales up to --cut {cut:g}; a forecast needs {FEWEST} at two. Raise the cut."
        )
    rng = np.random.default_rng(seed)
    x = np.concatenate([series.x[~below], np.asarray(at, float)])
    if series.metric.bounded:
        found = _shares(series, below, method, loss, flops, level, rng)
    else:
        found = _log_probabilities(series, below, method)
    n = _questions(series, below, len(x))
    samples = found.draw(x, n[:-1], rng)
    median, low, high = _bands(series, found, samples, level)
    grid = _grid(series, cut, x)
    # Each column from the same random numbers: the line of a figure is not to shake.
    steps = [found.draw(at[None], n[-1:], np.random.default_rng(seed)) for at in grid]
    track = Track(grid, *_bands(series, found, np.hstack(steps), level))
    judged: tuple[Judged, ...] = ()
    if (~below).any():
        held_out = found.seen[~below]
        width = len(held_out)
        methods = {method: samples, **found.baselines(x, rng)}
        judged = tuple(
            judge(name, drawn[:, :width], held_out, level) for name, drawn in methods.items()
        )
    observed = np.concatenate([series.value[~below], np.full(len(at), np.nan)])
    return Forecast(
        series, cut, method, int(below.sum()), level, x, observed, median,
        found.in_units(samples.mean(axis=0)), low, high,
        found.emergence, found.emergence_interval, found.weights, track, judged,
        (*cautions, *_cautions(series, below, x), *found.cautions,
         *filter(None, [missed(series, cut, track)])),
    )  # fmt: skip


def _bands(
    series: Series, found: _Found, samples: Floats, level: float
) -> tuple[Floats, Floats, Floats]:
    """Median, low and high of each column, in the metric's units."""
    tail = 100 * (1 - level) / 2
    low, median, high = found.in_units(np.percentile(samples, [tail, 50, 100 - tail], axis=0))
    if not series.metric.higher_is_better:
        low, high = high, low
    return median, low, high


@dataclass(frozen=True, eq=False)
class _Found:
    """What was fitted; scores are drawn a row a draw and a column a scale, as they are judged."""

    draw: Callable[[Floats, Floats, np.random.Generator], Floats]  # at scales, on n questions
    seen: Floats  # all scores of the series, on the scale of the draws
    in_units: Callable[[Floats], Floats]  # to the metric's
    baselines: Callable[[Floats, np.random.Generator], dict[str, Floats]]  # draws at scales
    emergence: float | None
    emergence_interval: tuple[float | None, float | None]
    weights: dict[str, float]
    cautions: tuple[str, ...]


def _shares(
    series: Series,
    below: NDArray[np.bool_],
    method: Method,
    loss: Floats | None,
    flops: Floats | None,
    level: float,
    rng: np.random.Generator,
) -> _Found:
    """Metrics with a worst and a best value, on the unit scale."""
    step = None if method != "two_step" else loss_step(series, below, loss)
    seen = _seen(series, below, flops, None if step is None else step.own)
    fitted, weights = _mixture(seen, MEMBERS[method], rng)
    if series.group is not None:
        alone = _independent(fitted, seen, series.group[below], rng)
        seen = replace(seen, weight=alone)
        fitted, weights = _mixture(seen, MEMBERS[method], rng)

    def draw(x: Floats, n: Floats, rng: np.random.Generator) -> Floats:
        t = series.to_t(x)
        return np.concatenate([
            each.scores(t, n, rng) if step is None else step.scores(each, t, n, rng)
            for each in fitted
        ])  # fmt: skip

    def baselines(x: Floats, rng: np.random.Generator) -> dict[str, Floats]:
        return {
            "persistence": np.tile(persistence(seen), len(x)),
            "plain logistic": plain_logistic(seen, series.to_t(x), rng),
        }

    half_way = np.concatenate([each.emerges(rng) for each in fitted])
    half_way = half_way if step is None else step.reaches(half_way, rng)
    emergence, span = _emergence(half_way, series, level)
    cautions = (*_doubts(series, below, fitted), *unlike(fitted, seen))
    if series.scale in FLOPS_A_DECADE and _flops_a_decade(series, below, flops) is None:
        cautions += (
            f"no compute is known: a decade of {series.scale} is taken for "
            f"{FLOPS_A_DECADE[series.scale]:g} of FLOPs, as at 20 tokens a parameter. Give a table "
            "with a column `tokens` or `flops`",
        )
    return _Found(
        draw, series.unit, series.from_unit, baselines, emergence, span, weights, cautions
    )


def _log_probabilities(series: Series, below: NDArray[np.bool_], method: Method) -> _Found:
    """-log p falls as a power law of scale (arXiv:2512.08894), models scattered about it.

    Judged in e-folds of nats, since what is Student's t there has no mean in nats. There is no
    half-way to minus infinity, so nothing emerges.
    """
    if method not in ("auto", "power_log_prob"):
        raise Refusal(
            f"{series.label}: --method {method} is of scores between a worst and a best value; a "
            "log-probability is forecast by a power law. Use --method power_log_prob."
        )
    t, value = series.t[below], series.value[below]
    y = np.log(np.maximum(-value, LEAST_NATS))
    line = grouped_line(t, y, None if series.group is None else series.group[below])
    seen = -np.log(np.maximum(-series.value, LEAST_NATS))

    def draw(x: Floats, n: Floats, rng: np.random.Generator) -> Floats:
        return -line.draws(series.to_t(x), DRAWS, rng)

    def baselines(x: Floats, rng: np.random.Generator) -> dict[str, Floats]:
        last = -y[t == t.max()]
        return {"persistence": np.tile(last[:, None], len(x))}

    return _Found(draw, seen, _nats, baselines, None, (None, None), {"power_log_prob": 1.0}, ())


def _nats(better: Floats) -> Floats:
    """The log-probability of minus its logarithm, turned so that more is better."""
    return np.asarray(-np.exp(-better), np.float64)


def _independent(
    fitted: Sequence[Posterior], seen: Seen, group: NDArray[Any], rng: np.random.Generator
) -> Floats:
    """How many independent scores each of a group's counts for, given a fit that took all so."""
    many = np.full(len(seen.t), 1e6)
    mean = np.concatenate([each.scores(seen.t, many, rng) for each in fitted]).mean(axis=0)
    return independent(standardised(seen.share - mean, mean), group)


def _questions(series: Series, below: NDArray[np.bool_], count: int) -> Floats:
    """Questions behind each of `count` scores ahead and one more: their own, or what is usual."""
    n = series.questions
    asked = np.full(count + 1, np.median(n))
    asked[: int((~below).sum())] = n[~below]
    return np.where(np.isfinite(asked), asked, 1e6)


def _grid(series: Series, cut: float, x: Floats) -> Floats:
    """Scales from the smallest seen to the cut, and from there to the furthest asked for."""
    first, last = float(series.t.min()), float(series.to_t(np.append(x, cut)).max())
    middle = float(series.to_t(np.array(cut)))
    seen, ahead = np.linspace(first, middle, STEPS), np.linspace(middle, last, STEPS)
    return np.array([series.to_x(t) for t in (*seen, *ahead[1:])])


def _seen(
    series: Series, below: NDArray[np.bool_], flops: Floats | None, progress: Floats | None
) -> Seen:
    """The scores below the cut against their scale, or against `progress` in its units."""
    chance = 0.0 if series.chance is None else float(series.to_unit(np.array(series.chance)))
    t = series.t[below] if progress is None else progress
    if series.falling:
        stretch = SPAN / max(float(np.ptp(t)), SHORTEST)
    else:
        stretch = _flops_a_decade(series, below, flops) or FLOPS_A_DECADE.get(series.scale, 1.0)
    return Seen(t, series.unit[below], series.questions[below], chance, stretch)


def _flops_a_decade(series: Series, below: NDArray[np.bool_], flops: Floats | None) -> float | None:
    """Decades of FLOPs to a decade of the scale, by least squares over the scores below the cut.

    None where fewer than two scales have FLOPs, or these do not grow with scale.
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
    seen: Seen, members: Sequence[str], rng: np.random.Generator
) -> tuple[list[Posterior], dict[str, float]]:
    """Posteriors of the forms with as many draws as their evidence is worth."""
    forms = [form for form in FORMS if form.name in members]
    found = [posterior(form, seen, DRAWS, rng) for form in forms]
    evidence = np.array([each.evidence for each in found])
    weight = np.exp(evidence - evidence.max())
    weight /= weight.sum()
    kept = [
        replace(each, draws=each.draws[: round(DRAWS * share)])
        for each, share in zip(found, weight, strict=True)
    ]
    return [each for each in kept if len(each.draws)], {
        form.name: float(share) for form, share in zip(forms, weight, strict=True)
    }


def _emergence(
    t: Floats, series: Series, level: float
) -> tuple[float | None, tuple[float | None, float | None]]:
    """Median and interval of the scales `t` at which new models are half-way; None for never."""
    tail = (1 - level) / 2
    low, middle, high = np.quantile(t, [tail, 0.5, 1 - tail], method="inverted_cdf")

    def scale(at: float) -> float | None:
        return series.to_x(float(at)) if np.isfinite(at) and abs(at) < 300 else None

    ends = scale(low), scale(high)
    return scale(middle), (ends[1], ends[0]) if series.falling else ends


def _cautions(series: Series, below: NDArray[np.bool_], x: Floats) -> tuple[str, ...]:
    """What to doubt of any forecast from these scales."""
    if not len(x):
        return ()
    beyond = float(series.to_t(x).max() - series.t[below].max())
    span = float(np.ptp(series.t[below]))
    if beyond <= span:
        return ()
    what = "mostly the prior" if series.metric.bounded else "not what was seen"
    return (
        f"predicts {beyond:.1f} decades beyond {span:.1f} decades of data: what the line does "
        f"there is {what}",
    )


def _doubts(
    series: Series, below: NDArray[np.bool_], fitted: Sequence[Posterior]
) -> tuple[str, ...]:
    """What to doubt of these curves."""
    said = []
    if series.chance is None:
        said.append(
            f"the chance level is not known: the forecast takes it as {series.metric.worst:g}, "
            "the worst; give the right one with --chance"
        )
    last = np.array([series.t[below].max()])
    risen = [np.median(each.form.link(each.ability(last))) for each in fitted]
    if max(risen) < HARDLY:
        said.append(
            f"is hardly above chance at the cut ({max(risen):.0%} of the way to the best): that it "
            "will rise, and where, is taken from other tasks, not from these scores"
        )
    if below.sum() < ENOUGH:
        said.append(
            f"from {int(below.sum())} scores the spread between models is mostly the prior's: "
            "where models of one scale differ by 1 to 1.6 logits, intervals at a level of 90% from "
            "4 or 6 scores held 77% to 91% of simulated new ones"
        )
    count = sum(len(each.draws) for each in fitted)
    # Of a mixture: a form with few effective draws matters as far as its share goes.
    effective = 1 / sum((len(each.draws) / count) ** 2 / each.effective for each in fitted)
    if effective < FEWEST_DRAWS:
        said.append(
            f"the posterior is far from normal, so that intervals rest on {effective:.0f} "
            "independent draws and are rough: more scores below the cut make it more regular"
        )
    return tuple(said)
