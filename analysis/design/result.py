"""The simulated studies of one plan: as numbers, as a DataFrame, as JSON and in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis.array import Array
from analysis.design.noise import Noise
from analysis.fitting.result import Status
from analysis.interval import Interval, percentiles
from analysis.laws.law import Law
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.laws.published import Published
from analysis.text import decimal, human, paragraph, scientific, text_table

MOSTLY = 0.5  # of the studies: more are a fact about the plan, not chance
NAN = float("nan")
# How a number at a budget is called in a table.
LABELS = {"params_exponent": "a in N* ∝ C^a", "params": "N*", "tokens": "D*", "loss": "loss"}
_ENDED = {
    Status.WEAKLY_IDENTIFIED: "leave coefficients undetermined",
    Status.AT_BOUND: "end at a bound",
    Status.FAILED: "fail",
}


class Key(NamedTuple):
    """A number that every study estimates."""

    name: str  # a coefficient; at a budget params, tokens, loss, an exponent or excess_loss
    flops: float | None = None  # the budget; None: a coefficient


@dataclass(frozen=True)
class Summary:
    """One number over the simulated studies; NaN where no study has it."""

    truth: float | None  # None: a coefficient that the true law does not have
    median: float
    spread: Interval  # central interval of the estimates: how far they really scatter
    interval_width: float  # median width of the studies' own intervals
    interval_factor: float | None  # median of √(high/low); None unless all ends are positive
    coverage: float | None  # share of the studies' intervals that contain the truth
    intervals: int  # number of studies with an interval


@dataclass(frozen=True)
class Simulation:
    """The simulated studies of one plan. `str()` of it is `text()`."""

    truth: Published
    law: Law  # fitted
    plan: pd.DataFrame  # one row per run: params, tokens, trunk_id where it has one
    noise: Noise
    level: float  # of all intervals
    flops: tuple[float, ...]
    studies: Mapping[Key, Array]  # (repeats, 3): estimate, low and high; NaN where a study has none
    truths: Mapping[Key, float]
    statuses: tuple[Status, ...]  # of the fits, one per study
    reasons: tuple[str, ...]
    warnings: Mapping[str, int]  # of the fits, and in how many studies each appears

    @property
    def repeats(self) -> int:
        """Number of studies."""
        return len(self.statuses)

    @property
    def misspecified(self) -> bool:
        """Whether another law is fitted than the one the losses follow."""
        return self.law.loss != self.truth.law.loss

    @property
    def trunks(self) -> int:
        """Number of trunks in the plan; runs without a trunk_id count as one each."""
        return int(self.plan["trunk_id"].nunique()) if "trunk_id" in self.plan else len(self.plan)

    @property
    def flops_max(self) -> float:
        """6·N·D of the plan's largest run."""
        return float((FLOPS_PER_PARAM_TOKEN * self.plan["params"] * self.plan["tokens"]).max())

    def summary(self, key: Key) -> Summary:
        """What the studies say of one number, over those that have it."""
        values = self.studies[key]
        estimates = values[np.isfinite(values[:, 0]), 0]
        low, high = values[~np.isnan(values).any(axis=1), 1:].T
        truth = self.truths.get(key)
        ends = percentiles(estimates, self.level) if len(estimates) else (NAN, NAN)
        factor = coverage = None
        if len(low) and (low > 0).all():
            with np.errstate(invalid="ignore"):
                factor = _median(np.sqrt(high / low))
        if len(low) and truth is not None:
            coverage = float(np.mean((low <= truth) & (truth <= high)))
        spread, width = Interval(*map(float, ends)), _median(high - low)
        return Summary(truth, _median(estimates), spread, width, factor, coverage, len(low))

    def excess_loss(self, flops: float) -> float:
        """The regret: by which share following a study's recommendation raises the loss above the
        true optimum's, at most in a share `level` of the studies. Infinite where more of them give
        no recommendation."""
        values = self.studies[Key("excess_loss", flops)][:, 0]
        lost = np.where(np.isfinite(values), values, np.inf)
        return float(np.quantile(lost, self.level, method="higher"))

    def share(self, status: Status) -> float:
        """The share of studies whose fit ended with this status."""
        return self.statuses.count(status) / self.repeats

    def reasons_for(self, status: Status) -> list[tuple[str, int]]:
        """Why fits ended with this status, and how many did so, most frequent first."""
        pairs = zip(self.statuses, self.reasons, strict=True)
        return Counter(reason for each, reason in pairs if each is status).most_common()

    def frame(self) -> pd.DataFrame:
        """One row per coefficient, whose flops are NaN, and per number at a budget: name, flops,
        truth, median, low and high (of the spread), interval_width, interval_factor, coverage and
        intervals, as in `Summary`."""
        rows = []
        for key in self._keys():
            found = asdict(self.summary(key))
            first = {each: found.pop(each) for each in ("truth", "median")}
            rows.append({**key._asdict(), **first, **found.pop("spread")._asdict(), **found})
        kinds = dict.fromkeys(["flops", "truth", "interval_factor", "coverage"], float)
        return pd.DataFrame(rows).astype(kinds)

    def json(self) -> dict[str, Any]:
        """The plain values that `scaling simulate --json` writes, without those of the plan."""

        def entry(name: str, flops: float | None = None) -> dict[str, Any]:
            return asdict(self.summary(Key(name, flops)))

        exponents = ("params_exponent", "tokens_exponent")
        return {
            "truth": {
                "law": self.truth.law.name,
                "name": self.truth.name,
                "coefficients": dict(self.truth.coefficients),
            },
            "law": self.law.name,
            "noise": asdict(self.noise),
            "repeats": self.repeats,
            "level": self.level,
            "coefficients": {name: entry(name) for name in self.law.coefficients},
            "allocation": {name: entry(name, c) for c in self.flops[:1] for name in exponents},
            "recommendations": [
                {
                    "flops": budget,
                    **{name: entry(name, budget) for name in LABELS},
                    "excess_loss": self.excess_loss(budget),
                }
                for budget in self.flops
            ],
            "status": {
                status.value: {
                    "share": self.share(status),
                    "reasons": {} if status is Status.CONVERGED else dict(self.reasons_for(status)),
                }
                for status in Status
            },
            "warnings": dict(self.warnings),
        }

    def text(self) -> str:
        """The plan, a table of every number, and what they mean in sentences."""
        noise, plan = self.noise, self.plan
        falls = f", falling as the loss to the power {noise.power:g}" if noise.power else ""
        fitted = f"; fitted: {self.law.name}" if self.misspecified else ""
        few, many = (
            f"{human(s.min())} … {human(s.max())}" for s in (plan["params"], plan["tokens"])
        )
        head = (
            f"Plan: {len(plan)} runs on {self.trunks} trunks, N {few} "
            f"({self.truth.params_convention}), D {many}, up to {scientific(self.flops_max)} "
            f"FLOPs (6ND)\nTruth: {self.truth.law.name} ({self.truth.name}){fitted}; "
            f"{self.repeats} studies\nNoise of log loss: {noise.shared:.2%} of a trunk, "
            f"{noise.own:.2%} of a run{falls}, {noise.source}"
        )
        header = ["", "truth", "median", f"{self.level:.0%} of studies", "interval width",
                  "coverage"]  # fmt: skip
        rows = [self._row(key) for key in self._keys()]
        return "\n".join([head, "", text_table(header, rows), "", *map(paragraph, self.verdict())])

    __str__ = text

    def verdict(self) -> Iterator[str]:
        """What the plan would determine, and what went wrong in the studies, in sentences."""
        if self.share(Status.CONVERGED) < MOSTLY:
            yield (
                f"This plan would not determine {self.law.name}: only "
                f"{self.share(Status.CONVERGED):.0%} of the studies end with an identified fit."
            )
        for budget in self.flops:
            yield self._at_budget(budget)
        yield from self._coverage()
        for status, word in _ENDED.items():
            if share := self.share(status):
                why, count = self.reasons_for(status)[0]
                yield f"{share:.0%} of the fits {word}; the commonest reason ({count} fits): {why}."
        for warning, count in self.warnings.items():
            if count > MOSTLY * self.repeats:
                yield f"Most of the fits warn: {warning}."
        if self.misspecified:
            yield (
                f"{self.law.name} is not the law that made the losses: the median study is off by "
                "an error of form, which no interval covers."
            )

    def _keys(self) -> list[Key]:
        """What is shown: the coefficients, then the numbers of each budget."""
        return [
            *(Key(name) for name in self.law.coefficients),
            *(Key(name, budget) for budget in self.flops for name in LABELS),
        ]

    def _label(self, key: Key) -> str:
        return key.name if key.flops is None else f"{LABELS[key.name]}, {scientific(key.flops)}"

    def _row(self, key: Key) -> list[str]:
        found = self.summary(key)
        # A count, or an amplitude that is as large as one.
        write = human if max(abs(found.median), abs(found.truth or 0.0)) >= 1000 else decimal
        width = write(found.interval_width)
        if self._by_factor(key) and found.interval_factor is not None:
            width = f"×/÷ {found.interval_factor:.3g}"
        low, high = found.spread
        return [
            self._label(key),
            "" if found.truth is None else write(found.truth),
            write(found.median, found.spread),
            f"{write(low, found.spread)} … {write(high, found.spread)}",
            width,
            "" if found.coverage is None else f"{found.coverage:.0%}",
        ]

    def _by_factor(self, key: Key) -> bool:
        """Whether the number's error is a factor."""
        if key.flops is not None:
            return key.name in ("params", "tokens")
        return self.law.symbols[key.name].positive and key.name not in self.law.floors

    def _at_budget(self, budget: float) -> str:
        exponent, params, loss = (
            self.summary(Key(name, budget)) for name in ("params_exponent", "params", "loss")
        )
        at = f"{scientific(budget)} FLOPs"
        if not params.intervals:
            return f"At {at} no study gives an interval."
        narrow = any((each.coverage or 0.0) < self._least for each in (exponent, params, loss))
        slope = ""
        if budget == self.flops[0]:
            slope = f"the allocation exponent to ±{exponent.interval_width / 2:.2g}, "
        excess = self.excess_loss(budget)
        regret = (
            f"Following its recommendation would cost at most {excess:.2%} of excess loss in "
            f"{self.level:.0%} of the studies."
        )
        if math.isinf(excess):
            regret = f"More than {1 - self.level:.0%} of the studies give no recommendation."
        return (
            f"This plan would {'claim to ' * narrow}determine {slope}N* at {at} to within a factor "
            f"of {params.interval_factor:.3g} and the loss there to "
            f"±{loss.interval_width / 2 / loss.median:.1%} ({self.level:.0%} intervals). {regret}"
        )

    @property
    def _chance(self) -> float:
        """Standard deviation of a coverage over so many studies."""
        return math.sqrt(self.level * (1 - self.level) / self.repeats)

    @property
    def _least(self) -> float:
        """A coverage below this is not chance alone."""
        return self.level - 2 * self._chance

    def _coverage(self) -> Iterator[str]:
        """How often the intervals contain the truth, against their level."""
        found = {self._label(key): self.summary(key).coverage for key in self._keys()}
        known = {label: each for label, each in found.items() if each is not None}
        if not known:
            return
        worst = min(known, key=lambda label: known[label])
        narrow = f": too seldom for {worst}, whose interval is too narrow."
        yield (
            f"The intervals contain the truth in {known[worst]:.0%} to {max(known.values()):.0%} "
            f"of the studies (nominally {self.level:.0%}; the standard error of these shares is "
            f"{self._chance:.0%})" + (narrow if known[worst] < self._least else ".")
        )


def _median(values: Array) -> float:
    return float(np.median(values)) if len(values) else NAN
