"""The result of comparing laws: their errors at each cut, and which of them the runs separate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from analysis.fitting.effective_clusters import FEWEST
from analysis.interval import Interval
from analysis.plain import plain
from analysis.text import counted, paragraph, scientific, text_table

# Of the table that is printed.
COLUMNS = ("fitted up to", "law", "runs", "scored", "mean error", "inside 90%", "(curve)", "fit")
SHORT = 40  # characters of a reason that a cell of the table holds; a longer one becomes a note


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
    """A law against the one of least error, on the same later runs."""

    law: str
    error: float  # mean over the later runs, each counted once
    excess: float  # of that error over the least one
    interval: Interval | None  # of `excess`, at the level of the comparison; None: too few clusters

    @property
    def separated(self) -> bool:
        """Whether the runs show its error to be the larger."""
        return self.interval is not None and self.interval[0] > 0

    def sentence(self, level: float) -> str:
        """How much larger its error is."""
        said = f"The error of {self.law} is larger by {self.excess:.2%} of the loss"
        if self.interval is None:
            return (
                f"{said}; no interval of that, which takes {FEWEST} independent later runs and "
                "intervals of the fits"
            )
        low, high = self.interval
        return f"{said}, {level:.0%} interval {low:.2%} … {high:.2%}"


@dataclass(frozen=True, repr=False)
class Comparison:
    """The laws at each cut, and whether the runs separate their errors. It prints as `text`."""

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
        """Which law forecasts best, by how much, and from how many runs, in words."""
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
        source = f"from {counted(self.clusters, 'independent later run')}"
        unclear = [each for each in self.rivals if not each.separated]
        if not unclear:
            # Of several the one that is nearest to none.
            nearest = min(self.rivals, key=lambda each: each.interval[0] if each.interval else 0.0)
            return f"{said} {nearest.sentence(self.level)}, {source}."
        names = " and ".join(each.law for each in unclear)
        differences = ". ".join(each.sentence(self.level) for each in unclear)
        return (
            f"{said} But these runs cannot separate it from {names}. {differences}, {source}. "
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

    def text(self) -> str:
        """The scores of each law at each cut, the mean errors, notes, warnings and the verdict."""
        reasons = dict.fromkeys(score.reason for cut in self.cuts for score in cut.laws)
        long = [reason for reason in reasons if len(reason) > SHORT]
        notes = {reason: f"note {number}" for number, reason in enumerate(long, 1)}
        rows = [
            [
                scientific(cut.flops), score.law, str(score.n_fit), str(score.n_test),
                _percent(score.mean_abs_rel_error, 2), _percent(score.coverage, 0),
                _percent(score.curve_coverage, 0), notes.get(score.reason, score.reason),
            ]
            for cut in self.cuts
            for score in cut.laws
        ]  # fmt: skip
        means = [(self.least, self.error), *((each.law, each.error) for each in self.rivals)]
        rows += [
            ["each run once", law, "", str(self.later), _percent(error, 2), "", "", ""]
            for law, error in means
        ]
        explained = "\n".join(paragraph(f"{name}: {reason}") for reason, name in notes.items())
        # The verdict comes last, for readers of the last lines alone.
        warned = [paragraph(f"Warning: {each}") for each in self.warnings]
        parts = [text_table(COLUMNS, rows), explained, *warned, paragraph(self.verdict)]
        return "\n\n".join(filter(None, parts))

    __repr__ = __str__ = text

    def to_json(self) -> dict[str, Any]:
        """The comparison as plain values at full precision."""
        return {
            "cuts": plain(self.cuts),
            "cuts_compared": list(self.shared),
            "best": self.best,
            "least": {"law": self.least, "mean_abs_rel_error": self.error},
            "rivals": plain(self.rivals),
            "level": self.level,
            "later_runs": self.later,
            "clusters": self.clusters,
            "warnings": list(self.warnings),
        }

    def frame(self) -> pd.DataFrame:
        """One row for each law at each cut: the cut's `flops`, and the fields of `Score`."""
        return pd.DataFrame(
            [{"flops": cut.flops, **asdict(score)} for cut in self.cuts for score in cut.laws]
        )


def _percent(share: float, digits: int) -> str:
    return "" if math.isnan(share) else f"{share:.{digits}%}"
