"""One answer: the run that is recommended, the intervals of its numbers, and where N* is from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from analysis.interval import Interval
from analysis.laws.inverse import FLOPS_PER_PARAM_SERVED
from analysis.plain import plain

if TYPE_CHECKING:
    from analysis.allocation.valley import PriorShare, Valley
    from analysis.recommend.question import Question

# Where N* is from: the law's optimum, the minima of the runs' own losses, or a mean of both.
Alone: TypeAlias = Literal["law", "runs"]
By: TypeAlias = Alone | Literal["both"]
BY_IN_WORDS: Mapping[By, str] = {
    "law": "the law",
    "runs": "the runs' own minima",
    "both": "law and runs together",
}
Shape: TypeAlias = Mapping[str, Any]  # plain values only: analysis knows no model classes
Build: TypeAlias = Callable[[float], Shape | None]  # the nearest shape that can be built for an N


@dataclass(frozen=True)
class AnswerIntervals:
    """The central interval of each number that holds a share `level` of the draws' answers."""

    level: float
    flops: Interval
    params: Interval
    tokens: Interval
    loss: Interval | None  # in which the run's loss should fall (see `forecast`); as asked if asked
    curve_loss: Interval  # of the curve alone, at the run that answers
    tokens_per_param: Interval
    params_exponent: Interval

    @property
    def tokens_exponent(self) -> Interval:
        """Of 1 − a, the exponent of D*."""
        low, high = self.params_exponent
        return Interval(1 - high, 1 - low)


@dataclass(frozen=True)
class Choice:
    """Who answers, and why."""

    by: By
    valley: Valley | None  # None: the runs show none, or are not asked
    reason: str  # "" where there was nothing to choose
    law_weight: float = 0.0  # of the law's ln N* where both answer


@dataclass(frozen=True)
class Recommendation:
    """The run that answers a question, under C = 6ND with the law's own N."""

    question: Question
    flops: float  # C, training
    params: float  # N
    tokens: float  # D
    loss: float  # nats/token; of the run, as it is forecast
    law_loss: float  # by the law alone
    compute_ratio: float  # C over the least C for this loss; 1 for a compute-optimal run
    params_exponent: float  # a in N* ∝ C^a near this budget; D* ∝ C^(1 - a)
    interval: AnswerIntervals | None  # None: the source has no draws
    decades_beyond_data: float | None  # log10(C / largest C fitted), 0 inside; None: unknown
    worth_of_last_token: float  # as a share of a fresh one; below 1 where data repeats
    shape: Shape | None  # nearest buildable, as `build` gave it
    warnings: tuple[str, ...]
    by: By = "law"
    others: tuple[Recommendation, ...] = ()  # what each other way answers alone
    chosen: Choice | None = None  # why `by` answers; None: nobody chose

    @property
    def tokens_per_param(self) -> float:
        """D/N."""
        return self.tokens / self.params

    @property
    def tokens_exponent(self) -> float:
        """1 − a, the exponent of D*."""
        return 1.0 - self.params_exponent

    @property
    def epochs(self) -> float:
        """Passes over the unique tokens; at most one where they are never short."""
        unique = self.question.unique_tokens
        return 1.0 if unique is None else self.tokens / unique

    @property
    def total_flops(self) -> float:
        """Training and serving."""
        return self.flops + FLOPS_PER_PARAM_SERVED * self.params * self.question.served

    @property
    def valley(self) -> Valley | None:
        """The valley of the runs that was chosen from; None where there is none."""
        return None if self.chosen is None else self.chosen.valley

    @property
    def reason(self) -> str:
        """Why `by` answers; "" where there was nothing to choose."""
        return "" if self.chosen is None else self.chosen.reason

    @property
    def by_in_words(self) -> str:
        """Where N* is from, as in "the law"."""
        return BY_IN_WORDS[self.by]

    @property
    def alone(self) -> tuple[Recommendation, ...]:
        """What the law and the runs answer each for itself, in the order answer, others."""
        return tuple(each for each in (self, *self.others) if each.by != "both")

    def span(self, name: str) -> Interval | None:
        """The interval of a number by its name; None where there is none."""
        return None if self.interval is None else getattr(self.interval, name)

    def json(self) -> dict[str, Any]:
        """Plain values at full precision."""
        numbers = (
            *("flops", "params", "tokens", "loss", "law_loss", "tokens_per_param", "compute_ratio"),
            *("total_flops", "epochs", "worth_of_last_token", "params_exponent"),
            *("tokens_exponent", "decades_beyond_data", "by"),
        )
        others = [
            {"by": o.by, "params": o.params, "tokens": o.tokens, "interval": o.span("params")}
            for o in self.others
        ]
        interval = plain(self.interval)
        if self.interval is not None:
            interval["tokens_exponent"] = self.interval.tokens_exponent
        values: dict[str, Any] = plain(
            {
                "asked": {name: value for name, value in vars(self.question).items() if value},
                **{name: getattr(self, name) for name in numbers},
                "interval": interval,
                "shape": self.shape,
                "decided": self._choice(),
                "beside": others[0] if others else None,
                "others": others,
                "warnings": self.warnings,
            }
        )
        return values

    def _choice(self) -> dict[str, Any]:
        """Who answered and why, how the law weighs against the runs, the mean |residual| of log
        loss near the optimum of both (at runs left out of them), and how far the runs' minima rest
        on priors."""
        valley = self.valley
        compared = valley if valley is not None and valley.compared else None
        weight = self.chosen.law_weight if self.chosen and self.by == "both" else 0.0
        return {
            "by": self.by,
            "reason": self.reason,
            "law_weight": 1.0 if self.by == "law" else weight,
            "law_misfit": None if compared is None else compared.law_misfit,
            "misfit": None if compared is None else compared.misfit,
            "priors": [] if valley is None else [self._prior(valley, p) for p in valley.priors],
        }

    def _prior(self, valley: Valley, prior: PriorShare) -> dict[str, Any]:
        names = ("of", "mean", "sd", "share", "without")
        values = {name: getattr(prior, name) for name in names}
        return {**values, "params_without": valley.params_without(prior, self.flops)}
