"""The screen and JSON of `scaling emergence`: thresholds, pairs of metrics, pass@k."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from analysis.emergence.big_bench import breakthroughness, linearity
from analysis.emergence.exact_match import CAUTION as MEANS_CAUTION
from analysis.emergence.pass_at_k import CAUTION as SAMPLES_CAUTION
from analysis.emergence.pass_at_k import (
    FLOPS_PER_TOKEN,
    PassAtK,
    equal_compute,
    pass_at_k_by_task,
)
from analysis.emergence.scores.metrics import samples_of
from analysis.emergence.scores.series import write_scale
from analysis.interval import Interval
from analysis.text import decimal, human, scientific, text_table, with_interval
from experiments.cli.text import Part
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.emergence.exact_match import Predicted
    from analysis.emergence.inference.analyse import Curve, Estimate
    from analysis.emergence.scores.read import Assumed, Scores

MOST_LINES = 12  # of verdicts or of cautions on a screen
MOST_TASKS = 3  # named where the same is assumed for several
EQUAL = 0.005  # decades between thresholds: no difference at the digits printed
OPEN = "?"
OPEN_END = f"{OPEN}: an open end of an interval: the scores do not bound it near their scales."
Writer = Callable[[float, Interval | None], str]


def curves_part(curves: Sequence[Curve], found: Scores) -> Part:
    """A table with one row per curve, then what was assumed, the verdicts and the warnings."""
    own = [f"{each.series.label}: {caution}" for each in curves for caution in each.cautions]
    warnings = [f"{each.series.label}: {warning}" for each in curves for warning in each.warnings]
    # Warnings about the scores themselves come before those about the curve.
    cautions = list(dict.fromkeys([*own, *warnings]))
    said = [*map(_in_words, curves), *(line for each in curves for line in _reached(each))]
    lines = [
        *(_table(curves), "", assumed_text(curves, found.assumed), ""),
        *_first(said), *_first(cautions), *found.left_out(), *found.notes,
    ]  # fmt: skip
    results = [
        {
            **curve.to_json(),
            "assumed": asdict(assumed),
            "breakthroughness": breakthroughness(curve.series.t, curve.series.unit),
            "linearity": linearity(curve.series.t, curve.series.unit),
            "resolution": curve.series.resolution,
        }
        for curve, assumed in zip(curves, found.assumed, strict=True)
    ]
    kept = {"curves": results, "excluded": found.left_out(), "notes": list(found.notes)}
    return Part("\n".join(lines), kept)


def _table(curves: Sequence[Curve]) -> str:
    rows = [
        (
            curve.series.task, curve.series.metric.name, str(len(curve.series.x)),
            str(curve.series.scales), curve.verdict, estimate(curve.threshold, curve.series.write),
            estimate(curve.width_decades, _decades), _p_value(curve.p_trend),
            _p_value(curve.p_sharp),
        )
        for curve in curves
    ]  # fmt: skip
    level = f"{100 * curves[0].level:g}%"
    header = (
        "task", "metric", "scores", "scales", "verdict",
        f"threshold in {curves[0].series.scale} [{level}]", f"10-90% width, decades [{level}]",
        "p trend", "p sharp",
    )  # fmt: skip
    lines = [
        text_table(header, rows),
        "threshold: scale at which the curve is midway from its lowest level (chance, if known) to "
        "its highest. p trend: p-value of no rise; p sharp: p-value of a smooth rise.",
    ]
    if any(OPEN in cell for row in rows for cell in row[5:7]):
        lines.append(OPEN_END)
    return "\n".join(lines)


def assumed_text(curves: Sequence[Curve], assumed: Sequence[Assumed]) -> str:
    """Range, chance level and number of questions that were assumed, with their sources."""
    groups: dict[tuple[str, str, str, str], list[str]] = {}
    for curve, each in zip(curves, assumed, strict=True):
        series = curve.series
        low, high = series.metric.range
        lowest = float(series.from_unit(curve.fitted.curves.floor[0]))
        chance = f"{lowest:.3g} fitted" if series.chance is None else f"{series.chance:.3g}"
        least, most = float(series.questions.min()), float(series.questions.max())
        one = least == most or round(least) == round(most)
        count = f"{least:,.0f}" if one else f"{least:,.0f} to {most:,.0f}"
        key = (
            series.metric.name, f"{low:g} to {high:g} ({each.span})", f"{chance} ({each.chance})",
            each.n if math.isinf(least) else f"{count} ({each.n})",
        )  # fmt: skip
        groups.setdefault(key, []).append(series.task)
    rows = []
    for key, tasks in groups.items():
        more = len(tasks) - MOST_TASKS
        named = "; ".join(tasks[:MOST_TASKS]) + (f" and {more} more" if more > 0 else "")
        rows.append((named, *key))
    header = ("assumed for", "metric", "range", "chance level", "questions per score")
    return "\n".join([text_table(header, rows[:MOST_LINES]), *_more(rows)])


def _decades(value: float, span: Interval | None) -> str:
    return f"{value:.2g}" if span is None else decimal(value, span)


def _in_words(curve: Curve) -> str:
    """The reason of the verdict, where the score leaves chance, and the thresholds of seeds."""
    said = f"{curve.series.label}: {curve.verdict}: {curve.reason}"
    leaves = curve.thresholds["leaves_chance"]
    if leaves.value is not None:
        said += f"; 10% of the rise is reached at {estimate(leaves, curve.series.write)}"
    if curve.seeds is None:
        return said
    seeds = curve.seeds
    ends = [seeds.quantiles.get(name) for name in ("0.1", "0.5", "0.9")]
    low, middle, high = ("beyond" if end is None else curve.series.write(end) for end in ends)
    return (
        f"{said}; the threshold of {seeds.found} of {seeds.seeds} single seeds lies among the "
        f"scales, median {middle}, 10 to 90% of them {low} … {high}; {seeds.words}"
    )


def _reached(curve: Curve) -> list[str]:
    """The scales at which the scores of --reach are reached."""
    return [
        f"{curve.series.label}: {name.replace('_', ' ')}: {estimate(found, curve.series.write)}"
        for name, found in curve.thresholds.items()
        if name.startswith("reaches")
    ]


def _first(lines: list[str]) -> list[str]:
    """The lines that fit on a screen, and how many more there are."""
    return [*lines[:MOST_LINES], *_more(lines)]


def _more(lines: Sequence[object]) -> list[str]:
    """How many lines do not fit on a screen; nothing where all do."""
    more = len(lines) - MOST_LINES
    return [f"… {more} more; --json FILE has all"] if more > 0 else []


def estimate(found: Estimate, write: Writer) -> str:
    """`value [low … high]`, an open end as "?", or why there is no value."""
    if found.value is None:
        return found.reason.partition(":")[0]
    if found.interval is None or all(map(math.isfinite, found.interval)):
        return with_interval(write, found.value, found.interval)
    low, high = (write(end, None) if math.isfinite(end) else OPEN for end in found.interval)
    return f"{write(found.value, None)} [{low} … {high}]"


def _p_value(value: float | None) -> str:
    """A p-value to two digits; a dash where none was computed."""
    return "-" if value is None else f"{value:.2g}"


# --- pairs of metrics --------------------------------------------------------------------------


def pairs_part(curves: Sequence[Curve], predicted: Sequence[Predicted]) -> Part | None:
    """The metrics of each task compared; None if every task has only one."""
    single = [each for each in curves if samples_of(each.series.metric.name) is None]
    differences = _differences(single)
    lines = [*differences, *(each.sentence for each in predicted)]
    if not lines:
        return None
    lines += [MEANS_CAUTION] * bool(predicted)
    kept = {"apart": differences, "predicted": [each.to_json() for each in predicted]}
    return Part("\n".join(lines), {"pairs": kept})


def _differences(curves: Sequence[Curve]) -> list[str]:
    """Sentences that compare thresholds and widths of a task's first metric with its others."""
    by_task: dict[str, list[Curve]] = {}
    for curve in curves:
        by_task.setdefault(curve.series.task, []).append(curve)
    return [
        f"{task}: {_earlier(same[0], other)}; 10-90% widths {_width(same[0])} and {_width(other)} "
        "decades"
        for task, same in by_task.items()
        for other in same[1:]
    ]


def _earlier(one: Curve, other: Curve) -> str:
    """Which of two metrics reaches its threshold first, and by how much."""
    here, there = one.threshold.value, other.threshold.value
    if here is None or there is None:
        return "the threshold of one of them is not known"
    ahead = float(one.series.to_t(there) - one.series.to_t(here))
    if abs(ahead) < EQUAL:
        return "both reach their threshold together"
    first = one if ahead > 0 else other
    return f"{first.series.metric.name} reaches its threshold {abs(ahead):.2f} decades earlier"


def _width(curve: Curve) -> str:
    value = curve.width_decades.value
    width = "unknown" if value is None else f"{value:.2g}"
    return f"{width} ({curve.series.metric.name})"


# --- pass@k ------------------------------------------------------------------------------------


def pass_at_k_part(curves: Sequence[Curve], tokens: float | None) -> Part | None:
    """Thresholds by number of samples, and size against samples; None without pass@k.

    `tokens` are read and written per sample; without them FLOPs are per token. Raises Refusal
    for `tokens` with another scale than params, or without pass@k.
    """
    found = pass_at_k_by_task(curves)
    if tokens is not None and not found:
        raise Refusal(
            "--answer-tokens is the cost of a sample, and there are no metrics pass@1, pass@2 "
            "and so on of one task. Name them with --metric, or leave it out."
        )
    if not found:
        return None
    if tokens is not None and found[0].scale != "params":
        raise Refusal(
            f"--answer-tokens compares N with samples, and --scale is {found[0].scale}. "
            "Give --scale params."
        )
    lines, kept = [], []
    for each in found:
        write = partial(write_scale, each.scale)
        rows = [(str(k), estimate(at, write)) for k, at in each.thresholds.items()]
        lines.append(f"{each.task}: threshold by number of samples")
        lines.append(text_table(("k", f"threshold in {each.scale}"), rows))
        if each.moved is not None:
            lines.append(each.moved.sentence)
        laws = [
            f"at {each.scale} {write(x, None)}, pass@k = exp(-{law.a:.3g}·k^-{law.b:.2g}), to "
            f"within {law.error:.3f} up to k = {law.most}"
            for x, law in each.laws.items()
        ]
        lines += _first(laws)
        entry = each.to_json()
        if each.scale == "params":
            size = _against_size(each, tokens)
            lines.append(size.text)
            entry |= size.json
        kept.append(entry)
    return Part("\n".join([*lines, SAMPLES_CAUTION]), {"attempts": kept})


def _against_size(found: PassAtK, tokens: float | None) -> Part:
    """The best size at the cost of one sample of each."""
    if not found.laws:
        text = "no size has a power law in k, so sizes and samples are not compared"
        return Part(text, {"equal_compute": []})
    per_sample = 1.0 if tokens is None else tokens
    rows, kept = [], []
    for params in sorted(found.laws):
        budget = FLOPS_PER_TOKEN * params * per_sample
        options = equal_compute(found.laws, budget, per_sample)
        kept += [{"budget": budget, **option.__dict__} for option in options]
        best = options[0]
        beyond = "more samples than observed" if best.beyond else ""
        size = scientific(budget), human(best.params), str(best.k)
        rows.append((*size, f"{best.solved:.3f}", beyond))
    cost = "FLOPs per token" if tokens is None else "FLOPs per question"
    table = text_table((cost, "best N", "k", "solved", ""), rows[:MOST_LINES])
    title = f"size against samples at {FLOPS_PER_TOKEN:g}·N FLOPs per token"
    return Part("\n".join([title, table, *_more(rows)]), {"equal_compute": kept})
