"""What answers come from: a fit, or published coefficients."""

from __future__ import annotations

from typing import TypeAlias

from analysis.arguments import wrong_kind
from analysis.fitting.fit import Fit, Status
from analysis.fitting.result import refuse_level
from analysis.laws.published import Published
from scaling.store.records import Refusal

Source: TypeAlias = Fit | Published

LEVEL = 0.9  # of an answer from published coefficients


def level_of(source: Source, asked: float | None) -> float:
    """The level of an answer's intervals: what is asked, else the fit's own. Raises Refusal for
    none between 0 and 1."""
    own = source.interval.level if isinstance(source, Fit) else LEVEL
    level = own if asked is None else asked
    refuse_level(level)
    return level


def as_source(name: str, value: Source) -> Source:
    """`value`, which is the argument `name`. Raises Refusal unless answers can come from it."""
    if isinstance(value, Fit | Published):
        return value
    raise wrong_kind(
        name, value, "a fit",
        "Give what fit(law, runs) returned, load_fit(path) for a saved fit, or published(name).",
    )  # fmt: skip


def refuse_failed(source: Source) -> None:
    """Raises Refusal for a fit that failed."""
    if isinstance(source, Fit) and source.status is Status.FAILED:
        raise Refusal(
            f"the fit of {source.law.name} has status = failed ({source.reason}), so its "
            "coefficients predict no other run. Fit again with more or better runs."
        )


def column_of(source: Source) -> str:
    """The column of a run table that the source's N counts."""
    return source.params_column if isinstance(source, Published) else source.data.params_column


def loss_set_of(source: Source) -> str | None:
    """The validation set that the source's losses are on; null for any other text."""
    return None if isinstance(source, Published) else source.data.loss_set


def convention(source: Source) -> str:
    """Which parameters the source's N counts."""
    return source.params_convention if isinstance(source, Published) else source.data.params_column
