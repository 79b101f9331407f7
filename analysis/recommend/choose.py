"""Who says where N* is: the law, the runs' own valley, or a mean of both.

The law answers where it describes runs it was not fitted to far better than the valley does, or
where the runs show no valley; the runs where it does no better, since laws that fit as well place
the optimum worse (benchmarks/decisions.py). In between, ln N* is a mean of both, whose weights go
smoothly from one to the other, and its interval covers both. Every answer comes with those of the
other ways.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from analysis.allocation.valley import DRAWS, Valley, valley
from analysis.fitting.effective_clusters import FEWEST
from analysis.fitting.fit import Fit, Status
from analysis.fitting.source import Source
from analysis.interval import Interval, mixture
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.recommend.by_law import NoOptimum, answer
from analysis.recommend.question import Question
from analysis.recommend.recommendation import (
    Alone,
    Build,
    By,
    Choice,
    Recommendation,
)
from analysis.recommend.warnings import warnings_of_both
from analysis.text import human
from scaling.store.records import Refusal


def choose(source: Source, by: Alone | None = None, draws: int = DRAWS) -> Choice:
    """Who answers for budgets of fresh data; `by` as asked, or None for what the runs say.

    Raises Refusal for `by` runs that show no valley.
    """
    if not isinstance(source, Fit):
        if by == "runs":
            raise Refusal("--by runs needs runs: give a fit, not a published law.")
        return Choice("law", None, "a published law comes without runs")
    if source.status is Status.FAILED:
        return Choice("law", None, "")
    try:
        found = valley(source, draws=draws if len(source.draws) else 0)
    except Refusal as refusal:
        if by == "runs":
            raise
        # The remedy, to answer by the law, is what is done here.
        return Choice("law", None, refusal.cause.rstrip("."))
    if by is not None:
        return Choice(by, found, "as asked")
    weight = found.law_weight
    best: By = "law" if weight == 1 else "both" if weight > 0 else "runs"
    return Choice(best, found, _evidence(found), weight)


def choose_for(source: Source, questions: Sequence[Question], by: Alone | None) -> Choice:
    """Who answers these questions: as `choose`, unless none of them divides a budget.

    A fit's valley takes a second, and no other question needs it.
    """
    divides = any(each.budget is not None for each in questions)
    if isinstance(source, Fit) and by != "runs" and not divides:
        return Choice("law", None, "")
    return choose(source, by)


def _evidence(found: Valley) -> str:
    """Why the choice was made."""
    if not found.compared:
        return (
            f"the runs are of fewer than {FEWEST} clusters, too few to leave one out and compare "
            "law and runs: the runs answer, as they do where the law is no better; train more "
            "trunks to compare them"
        )
    share, error = found.law_misfit / found.misfit, found.misfit_se / found.misfit
    said = (
        f"the law predicts left-out runs near the optimum {share:.2f} × as badly as a local "
        f"quadratic does, with a standard error of {error:.2f}"
    )
    if 0 < (weight := found.law_weight) < 1:
        said += f"; in ln N* the law has weight {weight:.2f} and the runs {1 - weight:.2f}"
    if found.one_sided:
        said += "; on one side of the valley there are almost no runs"
    return said


def not_by_runs(question: Question, found: Valley | None) -> str:
    """Why runs cannot answer a question, or "": they answer only for budgets of fresh data.

    Unique tokens that N* leaves to spare are such data.
    """
    if question.budget is None:
        return "the minima of runs answer only questions about a budget"
    if question.unique_tokens is None or found is None:
        return ""
    tokens = question.budget / FLOPS_PER_PARAM_TOKEN / _size(found, question.budget)
    if tokens <= question.unique_tokens:
        return ""
    unique = human(question.unique_tokens)
    return f"the runs' own minima are of fresh data, and {unique} tokens repeat there"


def answer_as_chosen(
    source: Source,
    question: Question,
    chosen: Choice,
    *,
    by: Alone | None = None,
    level: float | None = None,
    build: Build | None = None,
) -> Recommendation:
    """One question answered by whom is `chosen` for budgets of fresh data, other questions by the
    law; with what each other way answers.

    By the runs, or by both, the loss is what the law gives at their N*. `by` is what was asked
    for. Raises Refusal as `answer` does, and for `by` runs of a question that they cannot answer.
    """
    asked, found = _Asked(source, question, level, build), chosen.valley
    if why := not_by_runs(question, found):
        if by == "runs":
            raise Refusal(
                f"{question}: --by runs divides a budget of fresh data ({why}). Give --flops "
                "alone, or --by law."
            )
        if chosen.by != "law" or not chosen.reason:
            chosen = replace(chosen, by="law", reason=why)
        found = None
    law = None
    try:
        law = asked.by_law()
    except NoOptimum:
        if found is None or by == "law":
            raise
        if chosen.by != "runs":
            chosen = replace(chosen, by="runs", reason="the law has no optimum there")
    runs = None if found is None else asked.by_runs(found)
    others = [each for each in (law, runs) if each is not None]
    if law is not None and runs is not None and chosen.by == "both":
        first = asked.by_both(law, runs, chosen.law_weight)
    else:
        [first] = [each for each in others if each.by == chosen.by]
        others.remove(first)
    answered = replace(first, others=tuple(others), chosen=chosen)
    return replace(answered, warnings=(*answered.warnings, *warnings_of_both(answered)))


@dataclass(frozen=True)
class _Asked:
    """A question to a source, and the ways to answer it."""

    source: Source
    question: Question
    level: float | None
    build: Build | None

    def by_law(self) -> Recommendation:
        return answer(self.source, self.question, level=self.level, build=self.build)

    def by_runs(self, found: Valley) -> Recommendation:
        """The run at the valley's N*, and what the law says of it."""
        run = self._run(_size(found, self._flops), "runs")
        if run.interval is None or not len(found.draws):
            return replace(run, params_exponent=found.slope)
        level = run.interval.level
        spans = found.interval(self._flops, level), found.exponent_interval(level)
        return self._with(run, found.slope, *spans)

    def by_both(self, law: Recommendation, runs: Recommendation, weight: float) -> Recommendation:
        """The run at the mean ln N* of the law, which has `weight`, and of the runs."""
        logs = math.log(law.params), math.log(runs.params)
        exponents = law.params_exponent, runs.params_exponent
        run = self._run(math.exp(np.average(logs, weights=(weight, 1 - weight))), "both")
        exponent = float(np.average(exponents, weights=(weight, 1 - weight)))
        if run.interval is None or law.interval is None or runs.interval is None:
            return replace(run, params_exponent=exponent)
        spans = law.interval, runs.interval
        level = run.interval.level
        with np.errstate(divide="ignore", over="ignore"):
            ends = [Interval(*np.log(each.params)) for each in spans]
            params = Interval(*np.exp(mixture(logs, ends, weight, level)).tolist())
        of_exponent = mixture(exponents, [each.params_exponent for each in spans], weight, level)
        return self._with(run, exponent, params, of_exponent)

    @property
    def _flops(self) -> float:
        assert self.question.budget is not None
        return self.question.budget

    def _run(self, params: float, by: By) -> Recommendation:
        """The run of a size that spends the budget, as the law has it."""
        # Fresh data needs no limit, unless the law is one of unique tokens.
        known = "unique_tokens" in self.source.law.features
        unique = self.question.unique_tokens if known else None
        tokens = self._flops / FLOPS_PER_PARAM_TOKEN / params
        run = Question(params=params, tokens=tokens, unique_tokens=unique)
        found = answer(self.source, run, level=self.level, build=self.build, by=by)
        return replace(found, question=self.question, flops=self._flops)

    def _with(
        self, run: Recommendation, exponent: float, params: Interval, of_exponent: Interval
    ) -> Recommendation:
        """The run with the exponent of N*, and with the intervals of N* and of the exponent."""
        assert run.interval is not None
        with np.errstate(divide="ignore"):
            largest_first = np.array(params)[::-1]
            tokens = self._flops / FLOPS_PER_PARAM_TOKEN / largest_first
            ratio = tokens / largest_first
        interval = replace(
            run.interval,
            flops=Interval(self._flops, self._flops),
            params=params,
            tokens=Interval(*tokens.tolist()),
            tokens_per_param=Interval(*ratio.tolist()),
            params_exponent=of_exponent,
        )
        return replace(run, params_exponent=exponent, interval=interval)


def _size(found: Valley, flops: float) -> float:
    """N* by the runs, of at least one parameter and one token."""
    return min(max(found.params(flops), 1.0), flops / FLOPS_PER_PARAM_TOKEN)
