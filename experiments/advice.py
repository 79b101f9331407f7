"""What comes with a recommendation: shapes, rates, other laws, costs, figures.

Each part is a text for the terminal and plain values for the JSON file under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis import beside, buildable, cost, flat, rates
from analysis.answer import Recommendation
from analysis.caution import Source
from analysis.fit import Fit, load_fit
from analysis.recommend import convention
from analysis.units import scientific
from analysis.valley import Valley
from experiments.devices import device_named
from experiments.fit_text import shapes_text
from experiments.shapes import Shapes
from models.devices import Device
from scaling.store.records import Refusal, read_json

COUNTS = {"all parameters": "params_total", "non-embedding": "params_non_embedding"}


@dataclass(frozen=True)
class Part:
    """One section of the answer."""

    name: str
    text: str
    value: Any


def nearest_shapes(advice: Sequence[Recommendation]) -> Part:
    """The nearest shape of each answer, which the recommendations themselves carry in JSON."""
    return Part("", shapes_text(advice), None)


def shapes_around(
    source: Source,
    advice: Sequence[Recommendation],
    shapes: Shapes,
    count: buildable.FlopCount,
) -> list[list[buildable.Choice]]:
    """Every shape of the ladder near each budget's N*, and what it loses by whom N* is from."""

    def ranked(each: Recommendation) -> Valley | None:
        if each.by == "law" or each.chosen is None or each.chosen.valley is None:
            return None
        return each.chosen.valley.through(each.params, each.flops)

    return [
        buildable.choices(source, each.ask, shapes.around(each.params), count, ranked(each))
        for each in advice
    ]


def shape_tables(
    advice: Sequence[Recommendation],
    offered: Sequence[Sequence[buildable.Choice]],
    count: buildable.FlopCount,
) -> Part:
    """The shapes offered for each budget."""
    texts = [
        buildable.to_text(each.flops, shown, count, each.by)
        for each, shown in zip(advice, offered, strict=True)
    ]
    return Part("shapes", "\n\n".join(texts), [buildable.to_json(shown) for shown in offered])


def flat_bottoms(source: Source, advice: Sequence[Recommendation], valley: Valley | None) -> Part:
    """The sizes nearly as good as N*, by the law and by the runs' own valley."""
    texts, values = [], []
    for each in advice:
        found = flat.flat_bottom(source, each.flops)
        runs = None if valley is None else flat.of_runs(valley, each.flops)
        reason = "" if each.chosen is None else each.chosen.reason
        texts.append(flat.to_text(found, runs, each.by, reason))
        values.append(flat.to_json(found, runs, each.by))
    return Part("flat_bottom", "\n\n".join(texts), values)


def others(
    source: Source, path: str, advice: Sequence[Recommendation], valley: Valley | None
) -> Part:
    """The runs' own valley, other laws on the same runs, the other counts of N, and the published
    answers."""
    own: list[Source] = [source]
    if isinstance(source, Fit):
        own += beside.refits(source)
        own += beside.by_count(source, read_json(Path(path)).get("conventions", []))
    found = [beside.beside(own, each.flops, valley) for each in advice]
    return Part(
        "beside", "\n\n".join(map(beside.to_text, found)), [beside.to_json(each) for each in found]
    )


def bills(
    advice: Sequence[Recommendation], device: cost.Device, count: int, mfu: float, dtype: str
) -> Part:
    """Time, money and memory of each answer."""
    found = [
        cost.cost(each.flops, each.params, device, count=count, mfu=mfu, dtype=dtype)
        for each in advice
    ]
    return Part("cost", "\n".join(map(cost.to_text, found)), [cost.to_json(each) for each in found])


# --- rates --------------------------------------------------------------------------------------


def rule_tables(
    source: Source, advice: Sequence[Recommendation], names: Sequence[str], shapes: Shapes | None
) -> Part:
    """Learning rate and batch for each answer, by the rules named: all published ones for none.

    With a ladder, the study's own setting stands first and N is counted as each rule counts it.
    """
    chosen = [_rule(name) for name in names or rates.RULES]
    texts, values = [], []
    for each in advice:
        found, warned = [], []
        if shapes is not None and each.shape is not None:
            found.append(shapes.rates(dict(each.shape)))
        for rule in chosen:
            params, same = _count(source, each, rule.params_column)
            found.append(rates.rates(rule, params, each.tokens, each.loss))
            if not same:
                warned.append(f"{rule.name} {rule.params_column}")
        text = rates.to_text(f"{scientific(each.flops)} FLOPs: learning rate and batch", found)
        if warned:
            text += (
                f"\n  N here counts {convention(source).rstrip('.')}; {', '.join(warned)}. "
                "With a --study the shape's own count is used."
            )
        texts.append(text)
        values.append(rates.to_json(found))
    return Part("rates", "\n\n".join(texts), values)


def _rule(name: str) -> rates.Rule:
    if name in rates.RULES or not name.endswith(".json"):
        return rates.rule_named(name)
    return rates.rule_of(load_fit(Path(name)), Path(name).stem)


def _count(source: Source, each: Recommendation, column: str) -> tuple[float, bool]:
    """N in a rule's count, and whether it is that."""
    if each.shape is not None and column in each.shape:
        return float(each.shape[column]), True
    known = convention(source)
    return each.params, COUNTS.get(known, known) == column


# --- figures ------------------------------------------------------------------------------------


def draw(source: Source, advice: Sequence[Recommendation], folder: Path) -> list[Path]:
    """The figures of the answers as PNG and SVG, from the runs to past the largest of them.

    Raises Refusal where a file cannot be written.
    """
    from analysis.plots import draw_recommended

    return draw_recommended(folder, source, advice)


# --- what is asked ------------------------------------------------------------------------------


def device_asked(name: str | None, own: Path | None, mfu: float | None) -> Device | None:
    """The device named, or none. Raises Refusal for one without the share of its peak, and for a
    share of none."""
    if name is None:
        if mfu is not None:
            raise Refusal(f"--mfu {mfu:g} is a share of a device's peak. Give --device too.")
        return None
    found = device_named(name, own)
    if mfu is None:
        raise Refusal("--device needs --mfu, the share of its peak you measured, e.g. 0.4.")
    return found


def collected(parts: Sequence[Part]) -> Mapping[str, Any]:
    """The values of the parts by name."""
    return {part.name: part.value for part in parts if part.name}
