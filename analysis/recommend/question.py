"""What a recommendation is asked, and how its compute is counted."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from analysis.text import human, scientific
from scaling.store.records import Refusal

# 6·N·D, or exactly what the shapes of a ladder cost.
FlopCount: TypeAlias = Literal["6nd", "exact"]

CONDITIONS = ("flops", "loss", "params", "tokens")


@dataclass(frozen=True)
class Question:
    """What is known about the run: one or two of a budget, a loss, a size and tokens.

    With `loss` alone, `served` tokens over the model's life are paid for too, at 2N FLOPs each.
    `unique_tokens` makes tokens beyond it repeats. Raises Refusal for conditions that contradict
    each other and for numbers that are not positive and finite.
    """

    flops: float | None = None  # C = 6ND, training
    loss: float | None = None  # nats/token
    params: float | None = None
    tokens: float | None = None
    served: float = 0.0  # tokens read and written in use
    unique_tokens: float | None = None  # different tokens that exist; None: always enough

    def __post_init__(self) -> None:
        given = self.given
        for name, value in given.items():
            if not (math.isfinite(value) and value > 0):
                raise Refusal(f"{name} = {value:g} is not possible: give a positive finite number.")
        if not 1 <= len(given) <= 2:
            raise Refusal(
                f"{' and '.join(given) or 'nothing'} is given: ask for one or two of flops, loss, "
                "params and tokens."
            )
        if set(given) == {"flops", "loss"}:
            raise Refusal(
                "flops and loss are both given: one follows from the other. Give the budget, or "
                "the loss to reach."
            )
        if not (math.isfinite(self.served) and self.served >= 0):
            raise Refusal(f"served = {self.served:g} is not a number of tokens.")
        if self.unique_tokens is not None and not 0 < self.unique_tokens < math.inf:
            raise Refusal(
                f"unique_tokens = {self.unique_tokens:g} is not possible: give a positive finite "
                "number, or leave it out where data never repeats."
            )
        if self.served and set(given) != {"loss"}:
            raise Refusal("served tokens change the choice for a target loss: give loss alone.")

    @property
    def given(self) -> dict[str, float]:
        """The conditions by name."""
        values = {name: getattr(self, name) for name in CONDITIONS}
        return {name: value for name, value in values.items() if value is not None}

    @property
    def budget(self) -> float | None:
        """The compute to divide, where that is all that is asked; else None."""
        return self.flops if set(self.given) == {"flops"} else None

    def __str__(self) -> str:
        write = {"flops": scientific, "loss": "{:g}".format, "params": human, "tokens": human}
        units = {"flops": " FLOPs", "loss": "", "params": " parameters", "tokens": " tokens"}
        parts = [
            ("loss " if name == "loss" else "") + write[name](value) + units[name]
            for name, value in self.given.items()
        ]
        if self.served:
            parts.append(f"{human(self.served)} tokens served")
        if self.unique_tokens is not None:
            parts.append(f"{human(self.unique_tokens)} unique tokens")
        return ", ".join(parts)
