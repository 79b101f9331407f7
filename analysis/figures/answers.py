"""What a source answers at every budget from its smallest run to beyond the largest question,
and how that is drawn: a colour for each way of answering, the band of the one that answers, a
star at each run that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.answer import NoOptimum, Recommendation, law_for
from analysis.caution import By, Source
from analysis.decide import WAYS, choose, decide
from analysis.expression import Array
from analysis.figures.bulk import log_span
from analysis.figures.fitted import rows_of
from analysis.figures.style import DASHED, INK, OTHERS, OWN
from analysis.fit import Fit
from analysis.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.published import Published
from analysis.recommend import convention
from analysis.runs.columns import TOKEN
from analysis.solve import Ask
from analysis.units import Span, count_of, human
from scaling.store.records import Refusal

DECADES_BEYOND = 2.0  # as far as the warnings of `recommend` stay short of "far"
PAST = 3.0  # × the largest budget asked for
POINTS = 25
WIDEST = 30.0  # × an answer: as far as its interval is drawn

Quantity = Literal["params", "tokens", "tokens_per_param", "loss"]

COLOURS: dict[By, str] = {"law": OWN, "runs": OTHERS[0], "both": OTHERS[3]}
STAR: dict[str, Any] = {
    "marker": "*", "markersize": 13, "color": INK, "markeredgecolor": "white",
    "markeredgewidth": 0.8, "linestyle": "",
}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """Recommendations at rising budgets, and those that were asked for."""

    source: Source
    along: tuple[Recommendation, ...]
    asked: tuple[Recommendation, ...]
    runs: pd.DataFrame  # params, tokens, loss and flops = 6·N·D; empty for a published law

    @property
    def flops(self) -> Span:
        """The budgets it spans."""
        return self.along[0].flops, self.along[-1].flops

    @property
    def across(self) -> Span:
        """Limits of an axis of compute, with room for the runs at its ends."""
        low, high = self.flops
        room = (high / low) ** 0.02
        return low / room, high * room

    @property
    def compute(self) -> Array:
        """6·N·D of each run."""
        return of_runs(self.runs, "flops")

    @property
    def seen(self) -> Span | None:
        """The compute of the runs."""
        if self.runs.empty:
            return None
        return float(self.compute.min()), float(self.compute.max())

    @property
    def loss_unit(self) -> str:
        """What losses are in."""
        return self.source.data.loss_unit if isinstance(self.source, Fit) else TOKEN

    @property
    def level(self) -> float | None:
        """Of the intervals; None where there are none."""
        found = [each.interval.level for each in self.along if each.interval is not None]
        return found[0] if found else None

    @property
    def ways(self) -> tuple[By, ...]:
        """Who answers at some budget."""
        return tuple(dict.fromkeys(each.by for each in self.along))

    def by(self, way: By) -> tuple[Recommendation, ...]:
        """What one way says at each budget, whether it is the answer there or not."""
        every = [r for each in self.along for r in (each, *each.others)]
        return tuple(each for each in every if each.by == way)

    @property
    def name(self) -> str:
        """The source in a title: the law and its runs, and the data where it is limited."""
        unique = self.along[0].ask.unique_tokens
        return source_name(self.source) + (f", {human(unique)} unique tokens" if unique else "")

    @property
    def counted(self) -> str:
        """The first words of a caption: the runs, and what N counts."""
        runs = "" if self.runs.empty else f"n = {len(self.runs)} runs (points). "
        return f"{runs}N = {count_of(convention(self.source).rstrip('.'))}. C = 6ND."


def answers(
    source: Source,
    asked: Sequence[Recommendation] = (),
    flops: Span | None = None,
) -> Answers:
    """What `source` recommends at budgets over `flops`: by default from its smallest run to two
    decades beyond its largest, or past the largest run asked for.

    `asked` are answers of `recommend`, whose way of answering, level and unique tokens hold for
    all budgets. Raises Refusal as `recommend` does, for a published law with neither `flops` nor
    `asked`, and where no budget has an optimum.
    """
    unique = asked[0].ask.unique_tokens if asked else None
    law_for(source, Ask(flops=1.0, unique_tokens=unique))  # refuses a failed fit
    runs = _runs(source)
    low, high = flops or _span(runs, [_compute(each) for each in asked])
    if not 0 < low < high < math.inf:
        raise Refusal(f"flops = {(low, high)} is no range: give two budgets, the smaller first.")
    grid = np.geomspace(low, high, POINTS)
    # A line turns from solid to dashed where the runs end, an answer stands on it.
    corners = [] if runs.empty else [runs["flops"].min(), runs["flops"].max()]
    corners += [_compute(each) for each in asked]
    grid = np.unique([*grid, *(c for c in corners if low < c < high)])
    if asked:
        chosen = next((each.chosen for each in asked if each.by != "law"), asked[0].chosen)
    else:
        chosen = choose(source)
    spans = [each.interval.level for each in asked if each.interval is not None]
    level = spans[0] if spans else source.interval.level if isinstance(source, Fit) else 0.9
    along: list[Recommendation] = []
    for each in grid:
        with suppress(NoOptimum):
            ask = Ask(flops=float(each), unique_tokens=unique)
            along += decide(source, [ask], level=level, chosen=chosen)
    if not along:
        raise NoOptimum(f"{source.law.name} has no optimum at any budget from {low:g} to {high:g}.")
    return Answers(source, tuple(along), tuple(asked), runs)


def source_name(source: Source) -> str:
    """How a title or a legend calls the source."""
    if isinstance(source, Published):
        return source.name
    return f"{source.law.name} fitted to {source.data.n} runs"


def _runs(source: Source) -> pd.DataFrame:
    if not isinstance(source, Fit) or not {"params", "tokens"} <= set(source.table):
        return pd.DataFrame()
    table = rows_of(source)
    runs = pd.DataFrame({name: table[name] for name in ("params", "tokens")})
    return runs.assign(
        loss=table[source.law.target],
        flops=FLOPS_PER_PARAM_TOKEN * runs["params"] * runs["tokens"],
    )


def _span(runs: pd.DataFrame, asked: Sequence[float]) -> Span:
    if runs.empty:
        if not asked:
            raise Refusal("flops is not given: a published law has no runs to take a range from.")
        return min(asked) / 100, max(asked) * 100
    low, high = float(runs["flops"].min()), float(runs["flops"].max())
    return low, PAST * max(high, *asked) if asked else high * 10**DECADES_BEYOND


def _compute(each: Recommendation) -> float:
    """6·N·D of a recommended run: the budget asked for, unless that was counted otherwise."""
    return FLOPS_PER_PARAM_TOKEN * each.params * each.tokens


# --- drawing ----------------------------------------------------------------------------------


def draw_ways(axes: Axes, found: Answers, name: Quantity, ways: Sequence[By]) -> None:
    """A line for each of `ways`, solid inside the runs' compute and dashed outside; the band is
    the interval of whoever answers."""
    for way in ways:
        said = found.by(way)
        if not said:
            continue
        flops = np.array([each.flops for each in said])
        value = np.array([getattr(each, name) for each in said])
        colour, label = COLOURS[way], line_label(found, way)
        if name == "loss":
            label = f"best run of each budget, by {label}"
        seen = found.seen or (flops[0], flops[-1])  # a published law's data are not known here
        inside = (flops >= seen[0] * (1 - 1e-9)) & (flops <= seen[1] * (1 + 1e-9))
        axes.plot(flops, value, color=colour, linewidth=1.3, linestyle=DASHED, zorder=3)
        axes.plot(flops[inside], value[inside], color=colour, linewidth=2.2, label=label, zorder=3)
        _band(axes, found, name, way)


def line_label(found: Answers, way: By) -> str:
    """How a legend calls a way of answering."""
    if isinstance(found.source, Published):
        return found.source.name
    return f"{WAYS[way]} ({found.source.law.name})" if way == "law" else WAYS[way]


def _band(axes: Axes, found: Answers, name: Quantity, way: By) -> None:
    spans = np.array(
        [span if each.by == way and (span := span_of(each, name)) else (np.nan, np.nan)
         for each in found.along]
    )  # fmt: skip
    if np.isfinite(spans).any():
        flops = [each.flops for each in found.along]
        said = f"its {found.level:.0%} {'forecast' if name == 'loss' else 'interval'}"
        axes.fill_between(
            flops, *spans.T, color=COLOURS[way], alpha=0.16, linewidth=0, zorder=1, label=said
        )


def span_of(each: Recommendation, name: Quantity) -> Span | None:
    """The interval of an answer; of its loss, where the run's should fall."""
    if each.interval is None:
        return None
    found: Span | None = getattr(each.interval, "run_loss" if name == "loss" else name)
    return found


def draw_asked(axes: Axes, found: Answers, name: Quantity) -> None:
    """A star at each run asked for, with its interval, above its compute."""
    for each in found.asked:
        x, y = _compute(each), float(getattr(each, name))
        axes.axvline(x, color=INK, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
        span = span_of(each, name)
        if span is not None:
            axes.plot([x, x], span, color=INK, linewidth=1.4, zorder=6)
        if each.interval is not None and not each.ask.flops:
            ends = np.clip(each.interval.flops, None, 1e300)
            axes.plot(ends, [y, y], color=INK, linewidth=1.4, zorder=6)
        label = "recommended" if each is found.asked[0] else "_"
        axes.plot(x, y, zorder=7, label=label, **STAR)


def limits(found: Answers, name: Quantity, more: Sequence[float] = ()) -> Span:
    """The y limits that hold the runs (of their losses the bulk), the answers, `more` and the
    intervals up to WIDEST."""
    values = [float(getattr(each, name)) for way in COLOURS for each in found.by(way)]
    values += [float(getattr(each, name)) for each in found.asked]
    runs = of_runs(found.runs, name)
    values += [*more, *(log_span(runs) if name == "loss" and len(runs) else runs)]
    low, high = min(values), max(values)
    spans = [end for each in (*found.along, *found.asked) for end in ends(each, name)]
    low, high = min([low, *spans]), max([high, *spans])
    room = (high / low) ** 0.05
    return low / room, high * room


def ends(each: Recommendation, name: Quantity) -> Span:
    """The ends of an answer's interval, as far as they are drawn."""
    value = float(getattr(each, name))
    low, high = span_of(each, name) or (value, value)
    return max(low, value / WIDEST), min(high, value * WIDEST)


def drawn_at(
    found: Answers, x: Quantity | Literal["flops"], y: Quantity
) -> list[tuple[float, float]]:
    """Where the runs and the stars are, which names must not cover."""
    runs = zip(of_runs(found.runs, x), of_runs(found.runs, y), strict=True)
    stars = [
        (_compute(each) if x == "flops" else getattr(each, x), getattr(each, y))
        for each in found.asked
    ]
    return [*runs, *stars]


def of_runs(runs: pd.DataFrame, name: Quantity | Literal["flops"]) -> Array:
    """The quantity of each run; of none without runs."""
    if runs.empty:
        return np.array([])
    values = runs["tokens"] / runs["params"] if name == "tokens_per_param" else runs[name]
    return values.to_numpy(dtype=float)
