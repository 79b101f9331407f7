"""What is shown with a recommendation: shapes, learning rates, other laws, costs, figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.fitting.files import load_fit
from analysis.fitting.fit import Fit
from analysis.fitting.source import Source, column_of, convention
from analysis.recommend.cost import cost
from analysis.recommend.flat_bottom import flat_bottom
from analysis.recommend.hyperparameters import RULES, RatesByRule, Rule, rates, rule_named, rule_of
from analysis.recommend.recommendation import Recommendation
from analysis.recommend.rivals import by_count, refits, rival_answers
from analysis.recommend.shapes import Offered
from analysis.text import human, scientific
from experiments.cli.join.devices import DeviceOptions
from experiments.cli.join.shapes import Shapes
from experiments.cli.text import Part
from models.devices import Device
from scaling.store.records import Refusal, read_json


def nearest_shapes(advice: Sequence[Recommendation]) -> Part:
    """The nearest shape of the study's ladder to each answer, which carries it in JSON itself."""
    lines = ["Nearest shapes of the study's ladder"]
    for each in advice:
        shape = each.shape
        built = "no shape of the ladder is near"
        if shape is not None:
            built = f"{shape['shape']} ({shape['dimensions']}), "
            built += f"{human(shape['params'])} parameters ({shape['error']:+.1%})"
        lines.append(f"  {scientific(each.flops)} FLOPs: {built}")
    return Part("\n".join(lines), {})


def shape_tables(offered: Sequence[Offered]) -> Part:
    """The shapes offered for each budget."""
    texts = [each.text() for each in offered]
    return Part("\n\n".join(texts), {"shapes": [each.json() for each in offered]})


def flat_bottoms(source: Source, advice: Sequence[Recommendation]) -> Part:
    """The sizes nearly as good as N*, by the law and by the runs' own valley."""
    found = [flat_bottom(source, each.flops, advice[0].valley, each.by) for each in advice]
    texts = [flat.text(each.reason) for flat, each in zip(found, advice, strict=True)]
    return Part("\n\n".join(texts), {"flat_bottom": [each.json() for each in found]})


def others(source: Source, path: str, advice: Sequence[Recommendation]) -> Part:
    """What other ways recommend: the runs' own valley, other laws on the same runs, the other
    counts of N, and published laws."""
    own: list[Source] = [source]
    if isinstance(source, Fit):
        own += refits(source)
        own += by_count(source, read_json(Path(path)).get("conventions", []))
    found = [rival_answers(own, each.flops, advice[0].valley) for each in advice]
    texts = [each.text() for each in found]
    return Part("\n\n".join(texts), {"beside": [each.json() for each in found]})


def costs(
    advice: Sequence[Recommendation], devices: Sequence[Device], options: DeviceOptions
) -> Part:
    """Time, money and memory of each answer on each device. Raises Refusal as `cost` does."""
    if options.mfu is None:
        raise Refusal("--device needs --mfu, the share of its peak that you measured, e.g. 0.4.")
    on: dict[str, Any] = {
        "count": options.count,
        "mfu": options.mfu,
        "dtype": options.dtype or "bf16",
    }
    found = [cost(e.flops, e.params, device, **on) for e in advice for device in devices]
    texts = [each.text() for each in found]
    return Part("\n".join(texts), {"cost": [each.json() for each in found]})


# --- rates --------------------------------------------------------------------------------------


def rule_tables(
    source: Source, advice: Sequence[Recommendation], names: Sequence[str], shapes: Shapes | None
) -> Part:
    """Learning rate and batch size for each answer, by the rules named, or by all published rules.

    With a ladder, the study's own setting comes first, and N is counted as each rule counts it.
    """
    chosen = [_rule(name) for name in names or RULES]
    texts, values = [], []
    for each in advice:
        found, warned = [], []
        if shapes is not None and each.shape is not None:
            found.append(shapes.rates(dict(each.shape)))
        for rule in chosen:
            params, same = _count(source, each, rule.params_column)
            found.append(rates(rule, params, each.tokens, each.loss))
            if not same:
                warned.append(f"{rule.name} {rule.params_column}")
        table = RatesByRule(each.flops, tuple(found))
        text = table.text()
        if warned:
            text += (
                f"\n  N here counts {convention(source).rstrip('.')}; {', '.join(warned)}. "
                "With a --study the shape's own count is used."
            )
        texts.append(text)
        values.append(table.json())
    return Part("\n\n".join(texts), {"rates": values})


def _rule(name: str) -> Rule:
    if name in RULES or not name.endswith(".json"):
        return rule_named(name)
    return rule_of(load_fit(Path(name)), Path(name).stem)


def _count(source: Source, each: Recommendation, column: str) -> tuple[float, bool]:
    """N by a rule's count where it is known, else by the law's; and whether it is the rule's."""
    if each.shape is not None and column in each.shape:
        return float(each.shape[column]), True
    return each.params, column_of(source) == column


# --- figures ------------------------------------------------------------------------------------


def draw(source: Source, advice: Sequence[Recommendation], folder: Path) -> list[Path]:
    """The figures of the answers as PNG and SVG, from the runs to past the largest of them.

    Raises Refusal where a file cannot be written.
    """
    from analysis.figures.study import draw_recommended

    return draw_recommended(folder, source, advice)
