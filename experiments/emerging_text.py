"""What `scaling emergence` says on one screen of curves: thresholds, pairs of metrics, attempts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.emergence.attempts import (
    FLOPS_PER_TOKEN,
    WORTH,
    Tries,
    equal_compute,
    tries,
)
from analysis.emergence.metrics import attempts_of
from analysis.emergence.pairs import CAUTION, Predicted, apart, predict_exact_match
from analysis.emergence.series import write_scale
from analysis.units import Span, decimal, human, scientific, with_interval
from experiments.text import columns
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.emergence.curve import Curve, Estimate
    from analysis.emergence.scores import Assumed

MOST_LINES = 12  # of verdicts or of cautions on a screen
MOST_TASKS = 3  # named where several are assumed the same of
OPEN = "?"
OPEN_END = (
    f"{OPEN}: this end of the interval is open: the scores do not bound it near the scales seen."
)
Writer = Callable[[float, Span | None], str]


@dataclass(frozen=True)
class Part:
    """A passage of the screen, and its keys in the JSON."""

    text: str
    json: dict[str, Any]


def curves_text(curves: Sequence[Curve], assumed: Sequence[Assumed]) -> str:
    """A row a curve, what was assumed of it, and what to doubt of each."""
    rows = []
    for curve in curves:
        series = curve.series
        rows.append(
            (
                series.task, series.metric.name, str(len(series.x)), str(series.scales),
                curve.verdict, estimate(curve.threshold, series.write),
                estimate(curve.width_decades, decimal_width),
                share(curve.p_rise), share(curve.p_value),
            )
        )  # fmt: skip
    scale = curves[0].series.scale
    level = f"{100 * curves[0].level:g}%"
    header = (
        "task", "metric", "scores", "scales", "verdict", f"threshold in {scale} [{level}]",
        f"10-90% width, decades [{level}]", "p trend", "p sharp",
    )  # fmt: skip
    table = columns(header, rows)
    notes = [
        "threshold: where the fitted curve is half-way from its lowest level (chance, if known) to "
        "its highest. p trend: of no rise; p sharp: of a smooth rise."
    ]
    if any(OPEN in cell for row in rows for cell in row[5:7]):
        notes.append(OPEN_END)
    said = [_in_words(each) for each in curves]
    cautions: list[str] = []
    for curve in curves:
        for name, found in curve.thresholds.items():
            if name.startswith("reaches"):
                words = f"{name.replace('_', ' ')} at {estimate(found, curve.series.write)}"
                said.append(f"{curve.series.label}: {words}")
        cautions += [f"{curve.series.label}: {warning}" for warning in curve.warnings]
    # What is doubted of the scores themselves comes before what is doubted of the curve.
    own = [f"{each.series.label}: {caution}" for each in curves for caution in each.cautions]
    cautions = [*own, *(each for each in cautions if each not in own)]
    parts = [
        "\n".join([table, *notes]), assumed_text(curves, assumed),
        "\n".join([*_first(said), *_first(cautions)]),
    ]  # fmt: skip
    return "\n\n".join(parts)


def assumed_text(curves: Sequence[Curve], assumed: Sequence[Assumed]) -> str:
    """Range, chance level and questions that were taken for granted, and where they came from."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for curve, each in zip(curves, assumed, strict=True):
        series = curve.series
        low, high = series.metric.range
        lowest = float(series.from_unit(curve.fitted.floor[0]))
        chance = f"{lowest:.3g} fitted" if series.chance is None else f"{series.chance:.3g}"
        questions = series.n if series.n is not None else series.questions
        least, most = float(questions.min()), float(questions.max())
        count = (
            f"{least:,.0f}"
            if least == most or round(least) == round(most)
            else f"{least:,.0f} to {most:,.0f}"
        )
        key = (
            series.metric.name, f"{low:g} to {high:g} ({each.span})", f"{chance} ({each.chance})",
            each.n if least == float("inf") else f"{count} ({each.n})",
        )  # fmt: skip
        groups.setdefault(key, []).append(series.task)
    rows = []
    for (name, span, chance, count), tasks in groups.items():
        more = len(tasks) - MOST_TASKS
        named = "; ".join(tasks[:MOST_TASKS]) + (f" and {more} more" if more > 0 else "")
        rows.append((named, name, span, chance, count))
    header = ("assumed of", "metric", "range", "chance level", "questions a score")
    more = len(rows) - MOST_LINES
    left = f"\n… {more} more; --json FILE has all" if more > 0 else ""
    return columns(header, rows[:MOST_LINES]) + left


def decimal_width(value: float, span: Span | None) -> str:
    """A number of decades."""
    return f"{value:.2g}" if span is None else decimal(value, span)


def _in_words(curve: Curve) -> str:
    """Why this verdict, where the score leaves chance, and what single seeds say."""
    said = f"{curve.series.label}: {curve.verdict}: {curve.reason}"
    leaves = curve.thresholds.get("leaves_chance")
    if leaves is not None and leaves.value is not None:
        said += f"; a tenth of the rise is done at {estimate(leaves, curve.series.write)}"
    if curve.seeds is None:
        return said
    seeds = curve.seeds
    ends = [seeds.quantiles.get(name) for name in ("0.1", "0.5", "0.9")]
    low, middle, high = ("beyond" if end is None else curve.series.write(end) for end in ends)
    return (
        f"{said}; the threshold of {seeds.found} of {seeds.seeds} single seeds lies among the "
        f"scales, median {middle}, 10 to 90% of them {low} … {high}; {seeds.words}"
    )


def _first(lines: list[str]) -> list[str]:
    """The lines that fit a screen, and how many more there are."""
    more = len(lines) - MOST_LINES
    return lines if more <= 0 else [*lines[:MOST_LINES], f"… {more} more; --json FILE has all"]


def estimate(found: Estimate, write: Writer) -> str:
    """`value [low … high]`, an open end as "?", or why there is no value."""
    if found.value is None:
        return found.reason.partition(":")[0] or "cannot be told"
    return between(found.value, found.interval, write)


def between(value: float, interval: tuple[float | None, float | None] | None, write: Writer) -> str:
    """`value [low … high]`, an open end as "?"."""
    if interval is None:
        return write(value, None)
    low, high = interval
    if low is not None and high is not None:
        return with_interval(write, value, (low, high))
    ends = [OPEN if end is None else write(end, None) for end in interval]
    return f"{write(value, None)} [{ends[0]} … {ends[1]}]"


def share(value: float | None) -> str:
    """A p-value to two digits; a dash where none was computed."""
    return "-" if value is None else f"{value:.2g}"


# --- pairs and attempts ------------------------------------------------------------------------


def predicted_of(
    curves: Sequence[Curve], table: pd.DataFrame, length: float | None
) -> list[Predicted]:
    """Exact match as another metric predicts it, of each task that has the two."""
    tasks = dict.fromkeys(each.series.task for each in curves)
    found = (predict_exact_match(table, task, length) for task in tasks)
    return [each for each in found if each is not None]


def pairs_part(curves: Sequence[Curve], predicted: Sequence[Predicted]) -> Part | None:
    """Metrics of one task side by side; None if every task has one."""
    single = [each for each in curves if attempts_of(each.series.metric.name) is None]
    lines = [*apart(single), *(each.sentence for each in predicted), *[CAUTION] * bool(predicted)]
    if not lines:
        return None
    kept = {"apart": apart(single), "predicted": [each.to_json() for each in predicted]}
    return Part("\n".join(lines), {"pairs": kept})


def attempts_part(curves: Sequence[Curve], tokens: float | None) -> Part | None:
    """Thresholds by number of attempts, and size against attempts; None without pass@k.

    `tokens` are read and written an attempt; without them FLOPs are given a token. Raises Refusal
    for `tokens` with another scale than params, or without pass@k.
    """
    found = tries(curves)
    if tokens is not None and not found:
        raise Refusal(
            "--answer-tokens is the price of an attempt, and there are no metrics pass@1, pass@2 "
            "and so on of one task. Name them with --metric, or leave it out."
        )
    if not found:
        return None
    if tokens is not None and found[0].scale != "params":
        raise Refusal(
            f"--answer-tokens sets N against attempts, and --scale is {found[0].scale}. "
            "Give --scale params."
        )
    lines, kept = [], []
    for each in found:
        write = partial(write_scale, each.scale)
        lines.append(f"{each.task}: threshold by attempts")
        lines.append(
            columns(
                ("k", f"threshold in {each.scale}"),
                [(str(k), estimate(at, write)) for k, at in each.thresholds.items()],
            )
        )
        if each.moved is not None:
            lines.append(each.moved.sentence)
        lines += _first(
            [
                f"at {each.scale} {write(x)}, pass@k = exp(-{law.a:.3g}·"
                f"k^-{law.b:.2g}), to within {law.error:.3f} up to k = {law.most}"
                for x, law in each.laws.items()
            ]
        )
        entry = each.to_json()
        if each.scale == "params":
            text, entry["equal_compute"] = _against_size(each, tokens)
            lines.append(text)
        kept.append(entry)
    return Part("\n".join([*lines, WORTH]), {"attempts": kept})


def _against_size(found: Tries, tokens: float | None) -> tuple[str, list[dict[str, Any]]]:
    """The best size at the price of one attempt of each."""
    if not found.laws:
        return "no size has a power law in k, so sizes and attempts are not compared", []
    each = 1.0 if tokens is None else tokens
    rows, kept = [], []
    for params in sorted(found.laws):
        budget = FLOPS_PER_TOKEN * params * each
        options = equal_compute(found.laws, budget, each)
        kept += [{"budget": budget, **option.__dict__} for option in options]
        best = options[0]
        rows.append(
            (
                scientific(budget), human(best.params), str(best.k), f"{best.solved:.3f}",
                "beyond the attempts seen" if best.beyond else "",
            )
        )  # fmt: skip
    price = "FLOPs a token" if tokens is None else "FLOPs a question"
    more = [] if len(rows) <= MOST_LINES else [f"… {len(rows) - MOST_LINES} more budgets"]
    table = columns((price, "best N", "k", "solved", ""), rows[:MOST_LINES])
    title = f"size against attempts at {FLOPS_PER_TOKEN:g}·N FLOPs a token"
    return "\n".join([title, table, *more]), kept
