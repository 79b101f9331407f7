"""What a source recommends at every budget, and how that is drawn.

Each way of answering has a colour; the band is the interval of the one that answers, and a star
stands at each run that was asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.figures import style
from analysis.figures.bulk import log_span
from analysis.figures.fitted import rows_of
from analysis.fitting.fit import Fit
from analysis.fitting.source import Source, convention, level_of
from analysis.interval import Interval
from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.laws.published import Published
from analysis.recommend.by_law import NoOptimum, law_for
from analysis.recommend.choose import choose
from analysis.recommend.landmarks import Landmark
from analysis.recommend.question import Question
from analysis.recommend.recommend import recommend
from analysis.recommend.recommendation import BY_IN_WORDS, By, Recommendation
from analysis.runs.columns.units import TOKEN
from analysis.text import count_of, human
from scaling.store.records import Refusal

DECADES_BEYOND = 2.0  # as far as the warnings of `recommend` stay short of "far"
PAST = 3.0  # × the largest budget asked for
POINTS = 25
WIDEST = 30.0  # × an answer: as far as its interval is drawn

Quantity = Literal["params", "tokens", "tokens_per_param", "loss", "flops"]

COLOURS: dict[By, str] = {"law": style.OWN, "runs": style.OTHERS[0], "both": style.OTHERS[3]}
STAR: dict[str, Any] = {
    "marker": "*", "markersize": 13, "color": style.INK, "markeredgecolor": "white",
    "markeredgewidth": 0.8, "linestyle": "",
}  # fmt: skip


@dataclass(frozen=True)
class Recommended:
    """Recommendations at rising budgets, and those that were asked for."""

    source: Source
    along: tuple[Recommendation, ...]
    asked: tuple[Recommendation, ...]
    runs: pd.DataFrame  # the columns of `_runs`; no row for a published law

    @property
    def flops(self) -> Interval:
        """The budgets it spans."""
        return Interval(self.along[0].flops, self.along[-1].flops)

    @property
    def seen(self) -> Interval:
        """The compute of the runs; those of a published law are not known, so all that it spans."""
        return self.flops if self.runs.empty else Interval(*self.runs["flops"].agg(["min", "max"]))

    @property
    def loss_unit(self) -> str:
        """What losses are in."""
        return self.source.data.loss_unit if isinstance(self.source, Fit) else TOKEN

    @property
    def level(self) -> float | None:
        """Of the intervals; None where there are none."""
        return next((e.interval.level for e in self.along if e.interval is not None), None)

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
        source, unique = self.source, self.along[0].question.unique_tokens
        known = source.name if isinstance(source, Published) else source.law.name
        return known + (f", {human(unique)} unique tokens" if unique else "")

    @property
    def counted(self) -> str:
        """The first words of a caption: the runs, and what N counts."""
        if isinstance(self.source, Fit):
            return style.counted(f"{len(self.runs)} runs (points)", convention(self.source))
        return f"N = {count_of(convention(self.source).rstrip('.'))}."

    def models(self, landmarks: Sequence[Landmark]) -> list[Landmark]:
        """The landmarks like those that the law is of, at the budgets it spans."""
        inside = self.flops.holds
        return [e for e in landmarks if e.decoder and e.flops is not None and inside(e.flops)]

    def places(self, x: Quantity, y: Quantity) -> list[tuple[float, float]]:
        """Where the runs and the stars are, which names must not cover."""
        stars = [(getattr(each, x), getattr(each, y)) for each in self.asked]
        return [*zip(self.runs[x], self.runs[y], strict=True), *stars]


def recommended(
    source: Source,
    asked: Sequence[Recommendation] = (),
    flops: Interval | None = None,
) -> Recommended:
    """What `source` recommends at budgets over `flops`: by default from its smallest run to two
    decades beyond its largest, or past the largest run asked for.

    `asked` are answers of `recommend`, whose way of answering, level and unique tokens hold for
    all budgets. Raises Refusal as `recommend` does, for a published law with neither `flops` nor
    `asked`, and where no budget has an optimum.
    """
    unique = asked[0].question.unique_tokens if asked else None
    law_for(source, Question(flops=1.0, unique_tokens=unique))  # refuses a failed fit
    runs = _runs(source)
    # A line turns from solid to dashed where the runs end, an answer stands on it.
    corners = [each.flops for each in asked]
    low, high = flops or _span(runs, corners)
    if not 0 < low < high < math.inf:
        raise Refusal(f"flops = {(low, high)} is no range: give two budgets, the smaller first.")
    corners += [] if runs.empty else [runs["flops"].min(), runs["flops"].max()]
    grid = np.geomspace(low, high, POINTS)
    grid = np.unique([*grid, *(c for c in corners if low < c < high)])
    if asked:
        chosen = next((each.chosen for each in asked if each.by != "law"), asked[0].chosen)
    else:
        chosen = choose(source)
    levels = (each.interval.level for each in asked if each.interval is not None)
    level = level_of(source, next(levels, None))
    along: list[Recommendation] = []
    for each in grid:
        with suppress(NoOptimum):
            along += recommend(
                source, float(each), unique_tokens=unique, level=level, chosen=chosen
            )
    if not along:
        raise NoOptimum(f"{source.law.name} has no optimum at any budget from {low:g} to {high:g}.")
    return Recommended(source, tuple(along), tuple(asked), runs)


def _runs(source: Source) -> pd.DataFrame:
    """Params, tokens, tokens_per_param, loss and flops = 6·N·D of each run fitted."""
    if not isinstance(source, Fit) or not {"params", "tokens"} <= set(source.table):
        return pd.DataFrame(columns=get_args(Quantity), dtype=float)
    table = rows_of(source)
    params, tokens = table["params"], table["tokens"]
    return pd.DataFrame(
        {
            **{"params": params, "tokens": tokens, "tokens_per_param": tokens / params},
            "loss": table[source.law.target],
            "flops": FLOPS_PER_PARAM_TOKEN * params * tokens,
        }
    )


def _span(runs: pd.DataFrame, asked: Sequence[float]) -> Interval:
    if runs.empty:
        if not asked:
            raise Refusal("flops is not given: a published law has no runs to take a range from.")
        return Interval(min(asked) / 100, max(asked) * 100)
    low, high = float(runs["flops"].min()), float(runs["flops"].max())
    return Interval(low, PAST * max(high, *asked) if asked else high * 10**DECADES_BEYOND)


# --- drawing ----------------------------------------------------------------------------------


def draw_ways(axes: Axes, found: Recommended, x: Quantity, y: Quantity, ways: Iterable[By]) -> None:
    """A line for each of `ways`, solid inside the runs' compute and dashed outside; against
    compute also the band, the interval of whoever answers."""
    for way in ways:
        said = found.by(way)
        if not said:
            continue
        flops, across, up = (
            np.array([getattr(each, name) for each in said]) for name in ("flops", x, y)
        )
        colour, label = COLOURS[way], BY_IN_WORDS[way]
        if way == "law":
            label += f" ({found.source.law.name})"
        if isinstance(found.source, Published):
            label = found.source.name
        if y == "loss":
            label = f"recommended run, by {label}"
        inside = (flops >= found.seen.low * (1 - 1e-9)) & (flops <= found.seen.high * (1 + 1e-9))
        axes.plot(across, up, color=colour, linewidth=1.3, linestyle=style.DASHED, zorder=3)
        axes.plot(across[inside], up[inside], color=colour, linewidth=2.2, label=label, zorder=3)
        if x == "flops":
            _band(axes, found, y, way)
    if not found.runs.empty:
        style.note(axes, "Lines: solid inside the compute of their own runs, dashed outside.")


def _band(axes: Axes, found: Recommended, name: Quantity, way: By) -> None:
    spans = np.array(
        [span if each.by == way and (span := each.span(name)) else (np.nan, np.nan)
         for each in found.along]
    )  # fmt: skip
    if np.isfinite(spans).any():
        label = f"{found.level:.0%} {'forecast of a run' if name == 'loss' else 'interval'}"
        axes.fill_between(
            [each.flops for each in found.along], *spans.T, color=COLOURS[way], alpha=0.16,
            linewidth=0, zorder=1, label=label,
        )  # fmt: skip


def draw_asked(axes: Axes, found: Recommended, name: Quantity) -> None:
    """A star at each run asked for, with its interval, above its compute."""
    for each in found.asked:
        x, y = each.flops, float(getattr(each, name))
        axes.axvline(x, color=style.INK, linewidth=0.8, linestyle=style.DOTTED, zorder=1)
        span = each.span(name)
        if span is not None:
            axes.plot([x, x], span, color=style.INK, linewidth=1.4, zorder=6)
        if each.interval is not None and not each.question.flops:
            ends = np.clip(each.interval.flops, None, 1e300)
            axes.plot(ends, [y, y], color=style.INK, linewidth=1.4, zorder=6)
        label = "recommended" if each is found.asked[0] else "_"
        axes.plot(x, y, zorder=7, label=label, **STAR)
    if found.asked:
        interval = "" if found.level is None else f", with its {found.level:.0%} interval"
        style.note(axes, f"Star: the run recommended{interval}.")


def limits(found: Recommended, name: Quantity, more: Sequence[float] = ()) -> Interval:
    """The y limits that hold the runs (of their losses the bulk), the answers, `more` and the
    intervals up to WIDEST."""
    values = [float(getattr(each, name)) for way in COLOURS for each in found.by(way)]
    values += [end for each in (*found.along, *found.asked) for end in ends(each, name)]
    runs = found.runs[name]
    values += [*more, *(log_span(runs) if name == "loss" and len(runs) else runs)]
    return style.with_room((min(values), max(values)))


def ends(each: Recommendation, name: Quantity) -> Interval:
    """The ends of an answer's interval, as far as they are drawn."""
    value = float(getattr(each, name))
    low, high = each.span(name) or (value, value)
    return Interval(max(low, value / WIDEST), min(high, value * WIDEST))
