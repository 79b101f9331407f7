"""What the terminal shows of the rules of `scaling tune`: their cost where they were not fitted."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.interval import Interval
from analysis.runs.regret import Regret
from analysis.text import human, paragraph, scientific
from experiments.cli.text import rows_text


def regret_text(column: str, found: Sequence[Regret], level: float) -> str:
    """A row for each size and budget, and the largest and the mean of what is known."""
    rows = (
        {
            "params_non_embedding": human(each.params),
            "tokens": human(each.tokens),
            f"{column} by the others": scientific(each.value),
            f"loss above the least [{level:.0%}]": each.reason
            if each.nats is None
            else _nats(each.nats, each.interval),
            "of the least": "" if each.share is None else f"{each.share:.2%}",
        }
        for each in found
    )
    known = [each for each in found if each.nats is not None and each.share is not None]
    said = "What the rule costs, judged at each point by the rule of all other points."
    if known:
        worst = max(known, key=lambda each: each.share or 0.0)
        mean = sum(each.share or 0.0 for each in known) / len(known)
        said += (
            f" Over {len(known)} points {mean:.2%} of the loss in the mean, and at most "
            f"{worst.share:.2%}, at N = {human(worst.params)}, D = {human(worst.tokens)}."
        )
    return "\n".join([rows_text(rows), paragraph(said)])


def _nats(nats: float, span: Interval | None) -> str:
    """Four decimals: a tenth of what seeds of small models differ by."""
    ends = "" if span is None else f" [{span.low:.4f} … {span.high:.4f}]"
    return f"{nats:.4f}{ends}"
