"""The shapes that a study's ladder can build near a size, counted exactly."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from analysis.recommend.hyperparameters import Rates
from analysis.recommend.shapes import Built
from models.architecture import architecture
from models.sizes import Ladder, ParamsConvention
from scaling.data.tokenizer import vocabulary
from scaling.planning.grid import flops_per_token, ladder_of
from scaling.planning.hyperparameters import hyperparameters
from scaling.planning.rules import rule_of
from scaling.study import Study

SPAN = 4.0  # shapes from a quarter of a size to four times it, wider than any flat bottom of 1%
STEP = 1.12  # between the sizes looked up in the ladder, which come within 5%

_CONVENTIONS: dict[str, ParamsConvention] = {
    "params_non_embedding": "non_embedding",
    "params_matmul": "matmul",
    "params_active": "active",
}


@dataclass(frozen=True)
class Shapes:
    """The ladder of a study, under one count of parameters."""

    study: Study
    ladder: Ladder
    convention: ParamsConvention

    def nearest(self, params: float) -> dict[str, Any] | None:
        """The shape nearest to a size, with its `error`; None where none is near."""
        try:
            rung = self.ladder.nearest(params, self.convention)
        except ValueError:  # smaller than the smallest shape, or larger than any model
            return None
        return {**self._built(rung.target).shape, "error": rung.error}

    def around(self, params: float) -> list[Built]:
        """The different shapes from `params`/4 to 4·`params`."""
        steps, found = math.ceil(math.log(SPAN) / math.log(STEP)), {}
        for target in params * STEP ** np.arange(-steps, steps + 1):
            with suppress(ValueError):  # none so small, or so large
                built = self._built(float(target))
                found[built.params] = built
        return list(found.values())

    def rates(self, shape: dict[str, Any]) -> Rates:
        """The learning rate and batch size that the study itself sets for a shape."""
        training = self.study.training
        family = architecture(self.study.model.architecture)
        config = family.config(**{f.name: shape[f.name] for f in fields(family.config)})
        found = hyperparameters(self.study, family.count_params(config))
        rule, formula = training.learning_rate, "a number"
        if isinstance(rule, str):
            formula = f"{rule}: {rule_of(rule, 'learning_rate').formula}"
        rate: float | None = found.learning_rate
        if base := family.ratios(config):
            # No array but at the base has this rate, so it stands beside no other rule's.
            formula = (
                f"µP: {rate:g} at its base, {1 / base.width:.3g} times as wide and "
                f"{1 / base.depth:.3g} times as deep"
            )
            rate = None
        return Rates(
            f"study {self.study.name}",
            f"its [training], {formula}",
            rate,
            found.batch_sequences * self.study.data.sequence_length,
            (),
        )

    def _built(self, target: float) -> Built:
        family = architecture(self.study.model.architecture)
        rung = self.ladder.nearest(target, self.convention)
        counts, shape = rung.counts, family.shape(rung.config)
        return Built(
            float(rung.params),
            flops_per_token(self.study, rung.config),
            {
                **vars(rung.config),
                "shape": " × ".join(map(str, shape.values())),
                "dimensions": " × ".join(shape),
                "params": rung.params,
                "params_total": counts.total,
                "params_non_embedding": counts.non_embedding,
                "params_matmul": counts.matmul,
                "params_active": counts.active,
            },
        )


def shapes_of(study: Study, params_column: str) -> Shapes | None:
    """The shapes of a study, N counted as in this column of a run table; None for presets."""
    if study.grid.presets:
        return None
    ladder = ladder_of(study, vocabulary(study.data))
    return Shapes(study, ladder, _CONVENTIONS.get(params_column, "total"))
