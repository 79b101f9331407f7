"""Where a study meets the law it is meant for: its plan, and shapes for a recommendation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.count import count_params
from models.ladder import Ladder, ParamsConvention, nearest
from scaling.data import BYTE_VOCAB, Corpus, DataSpec, prepare
from scaling.hardware import cache_folder
from scaling.plan import Plan, ladder_of, make_plan
from scaling.records import Refusal
from scaling.study import Study

MIN_SIZES = 3  # two sizes fit any exponent and any floor
MAX_CONDITION = 1e6  # a grid has about 1e3, a single ray 5.6e8


@dataclass(frozen=True)
class Planned:
    """A plan, its tokenised corpus, and how well its design identifies the study's law."""

    plan: Plan
    corpus: Corpus
    condition_number: float | None  # null when the study names no law


def plan_study(study: Study) -> Planned:
    """Tokenise the corpus (once) and plan the runs.

    Raises Refusal where a study cannot be trained, and where it names a law that its grid cannot
    identify: fewer than three sizes, a single ray D = kN, or a condition number above 1e6.
    """
    corpus = prepare(
        DataSpec(study.data.source, study.data.holdout_fraction), cache_folder() / "corpora"
    )
    plan = make_plan(study, corpus.info)
    return Planned(plan, corpus, _identifies(plan))


def _identifies(plan: Plan) -> float | None:
    from analysis.laws import law
    from analysis.quality import condition_number

    if plan.study.law is None:
        return None
    law(plan.study.law)  # refuses an unknown name
    params = np.array([count_params(run.model).total for run in plan.points], float)
    tokens = np.array([run.tokens for run in plan.points], float)
    sizes = len(np.unique(params))
    if sizes < MIN_SIZES:
        raise Refusal(
            f"[grid] params has {sizes} sizes; {plan.study.law} needs at least {MIN_SIZES} to "
            "tell its exponent from its floor. Give more sizes, or remove law."
        )
    try:
        condition = condition_number(params, tokens)
    except Refusal as error:
        raise Refusal(f"[grid] cannot identify law = {plan.study.law!r}: {error}") from error
    if condition > MAX_CONDITION:
        raise Refusal(
            f"[grid] cannot identify law = {plan.study.law!r}: condition number {condition:.2g} "
            f"above {MAX_CONDITION:.0e}. Spread params and tokens over a wider grid."
        )
    return condition


def builder(study: Study, params_column: str) -> Callable[[float], dict[str, Any]]:
    """A function from N* to the nearest shape of the study's ladder, as plain values.

    `params_column` is the convention N* is counted in, a column of the run table.
    """
    ladder: Ladder = ladder_of(study, BYTE_VOCAB)
    conventions: dict[str, ParamsConvention] = {
        "params_non_embedding": "non_embedding",
        "params_matmul": "matmul",
    }
    convention = conventions.get(params_column, "total")

    def build(params: float) -> dict[str, Any]:
        rung = nearest(ladder, params, convention)
        return {
            "n_layers": rung.config.n_layers,
            "d_model": rung.config.d_model,
            "n_heads": rung.config.n_heads,
            "n_kv_heads": rung.config.n_kv_heads,
            "d_ff": rung.config.d_ff,
            "params": rung.params,
            "error": rung.error,
        }

    return build
