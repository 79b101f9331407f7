"""How to spend a compute budget: the N*, D* and loss that a fitted or published law asks for.

Here is the way in (`recommend`) and the way out (`Recommendations`). `question` holds what can be
asked, `choose` decides between the law and the runs, `by_law` computes what the law answers,
`warnings` says what is doubtful about an answer, `summary` writes it for the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.arguments import as_number, as_numbers
from analysis.fitting.source import Source, as_source, convention, level_of
from analysis.forecast.warnings import source_warnings
from analysis.laws.published import Published
from analysis.recommend.choose import answer_as_chosen, choose_for
from analysis.recommend.question import FlopCount, Question
from analysis.recommend.recommendation import Alone, Build, Choice, Recommendation
from analysis.recommend.summary import html, text
from scaling.store.records import Refusal

Numbers: TypeAlias = ArrayLike | None  # one number or several


@dataclass(frozen=True, repr=False)
class Recommendations(Sequence[Recommendation]):
    """The answers to several questions put to one source. It prints as the text of the terminal."""

    source: Source
    answers: tuple[Recommendation, ...]  # at least one
    flop_count: FlopCount = "6nd"

    @overload
    def __getitem__(self, index: int) -> Recommendation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Recommendation]: ...
    def __getitem__(self, index: int | slice) -> Recommendation | Sequence[Recommendation]:
        return self.answers[index]

    def __len__(self) -> int:
        return len(self.answers)

    def text(self) -> str:
        """What is doubtful about the source, a table with a row for each question, where N* is
        from, and what is doubtful about the answers."""
        return text(self.source, self.answers, self.flop_count)

    __repr__ = __str__ = text

    def _repr_html_(self) -> str:
        return html(self.source, self.answers, self.flop_count)

    def frame(self) -> pd.DataFrame:
        """One row for each question.

        flops, params, tokens, loss and tokens_per_param, each with `_low` and `_high` of its
        interval (NaN without one; that of the loss is where the run's should fall); `by`, where N*
        is from; N* by each way alone (`params_by_law`, `params_by_runs`, NaN where it did not
        answer); `decades_beyond` the data (NaN: not known) and `warnings`, a tuple.
        """
        return pd.DataFrame([_row(each) for each in self.answers])

    def json(self) -> dict[str, Any]:
        """The plain values that `scaling recommend --json` writes."""
        source = self.source
        return {
            "law": source.law.name,
            "source": source.name if isinstance(source, Published) else "fit",
            "by": self.answers[0].by,
            "params_convention": convention(source),
            "flop_count": self.flop_count,
            "warnings": source_warnings(source),
            "recommendations": [each.json() for each in self.answers],
        }


def _row(each: Recommendation) -> dict[str, Any]:
    names = ("flops", "params", "tokens", "loss", "tokens_per_param")
    nan = float("nan")
    row: dict[str, Any] = {name: getattr(each, name) for name in names}
    for name in names:
        row[f"{name}_low"], row[f"{name}_high"] = each.span(name) or (nan, nan)
    by_way = {alone.by: alone.params for alone in each.alone}
    beyond = each.decades_beyond_data
    return row | {
        "by": each.by,
        "params_by_law": by_way.get("law", nan),
        "params_by_runs": by_way.get("runs", nan),
        "decades_beyond": nan if beyond is None else beyond,
        "warnings": each.warnings,
    }


def recommend(
    source: Source,
    flops: Numbers = None,
    *,
    loss: Numbers = None,
    params: Numbers = None,
    tokens: Numbers = None,
    served: float = 0.0,
    unique_tokens: Numbers = None,
    by: Alone | None = None,
    level: float | None = None,
    build: Build | None = None,
    chosen: Choice | None = None,
) -> Recommendations:
    """The run to train for each question, in the order given.

    A question is one or two of `flops` (a budget C = 6ND: the run of least loss), `loss` in
    nats/token (the run of least compute), `params` and `tokens`; each is one number or several,
    and one number goes with every one of several. `served` tokens in use and `unique_tokens` that
    exist: see `Question`. Budgets are divided `by` the law's optimum (closed form for the
    Chinchilla law, Hoffmann et al. 2022, eq. 4, and its like, numeric for other laws of params and
    tokens) or by the valley of the runs' own losses; by default as `choose` finds (pass what it
    found as `chosen` to find it once). `level` is that of the intervals, by default the fit's;
    `build` maps N to the nearest buildable shape, attached as it comes.

    Raises Refusal for arguments of the wrong kind, a failed fit, a law that is not of both params
    and tokens, no question or one that cannot be asked (see `Question`), a budget below every run
    of the fit, and a question without an answer.
    """
    source = as_source("source", source)
    served = as_number("served", served)
    conditions = {"flops": flops, "loss": loss, "params": params, "tokens": tokens}
    questions = _questions({**conditions, "unique_tokens": unique_tokens}, served)
    level = level_of(source, level)
    if chosen is None:
        chosen = choose_for(source, questions, by)
    answers = [
        answer_as_chosen(source, each, chosen, by=by, level=level, build=build)
        for each in questions
    ]
    return Recommendations(source, tuple(answers))


def _questions(given: dict[str, Numbers], served: float) -> list[Question]:
    columns = {
        name: as_numbers(name, values) for name, values in given.items() if values is not None
    }
    if empty := [name for name, values in columns.items() if not len(values)]:
        raise Refusal(f"{empty[0]} is empty: nothing is asked. Give a number, e.g. flops = 1e21.")
    try:
        rows = zip(*np.broadcast_arrays(*columns.values()), strict=True)
    except ValueError:
        counts = " and ".join(f"{len(values)} of {name}" for name, values in columns.items())
        raise Refusal(f"{counts} are given: give equally many, or one for all.") from None
    asked = [dict(zip(columns, map(float, row), strict=True)) for row in rows] or [{}]
    return [Question(**each, served=served) for each in asked]
