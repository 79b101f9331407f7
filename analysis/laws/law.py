"""A law: one formula over columns of a run table.

Prediction, derivatives, the structure that a fit may exploit and the printed formula all follow
from the definition, which a notebook or an installed package can hold as well as `catalogue`.

    N, E, A, alpha = feature("N", "params"), floor("E"), amplitude("A"), exponent("alpha")
    mine = Law("mine", E + A / N**alpha, source="my notebook, page 3")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from analysis.arguments import wrong_kind
from analysis.array import Array
from analysis.laws.formula import Expr, Symbol, upright
from analysis.laws.jets import evaluate
from analysis.laws.structure import addends, ordered, symbols
from scaling.store.records import Refusal


@dataclass(frozen=True)
class Law:
    """A formula for one column (the loss, in nats/token unless the table says otherwise).

    Raises Refusal for a formula that is text and not made of `floor`, `feature` and the like.
    """

    name: str
    loss: Expr
    source: str = ""  # where it was published, or who says so
    note: str = ""  # what else to know: where it holds, what its letters mean
    target: str = "loss"  # column the law predicts
    text: str = ""  # the formula in words of its own, where written out it would not be read
    within: str = ""  # a simpler law of the catalogue with some of the same coefficients
    origin: Law | None = None  # the law that became this one when some letters were given
    given: Mapping[str, float] = field(default_factory=dict, hash=False)  # what was given, by name

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Expr):
            raise wrong_kind(
                "loss", self.loss, "a formula",
                "Build it from floor, amplitude, exponent and feature: "
                "floor('E') + amplitude('A') / feature('N', 'params') ** exponent('alpha').",
            )  # fmt: skip

    @property
    def fitted(self) -> Law:
        """The law whose runs gave the coefficients: this one, unless letters were given since."""
        return self.origin or self

    @cached_property
    def symbols(self) -> Mapping[str, Symbol]:
        return {s.name: s for node in symbols(self.loss) if (s := node.symbol) is not None}

    @cached_property
    def features(self) -> tuple[str, ...]:
        """Columns of the run table the law needs, e.g. `params`, `tokens`."""
        return tuple(s.column for s in self.symbols.values() if s.feature)

    @cached_property
    def coefficients(self) -> tuple[str, ...]:
        return tuple(s.name for s in self.symbols.values() if not s.feature)

    @cached_property
    def floors(self) -> tuple[str, ...]:
        """Coefficients that stand alone in the sum, whatever they are called: what remains of the
        loss at infinite scale."""
        alone = [term.symbol for term in addends(self.loss) if term.symbol is not None]
        return tuple(s.name for s in alone if s.positive)

    @cached_property
    def amplitudes(self) -> tuple[str, ...]:
        """Values of terms at N = 1 or D = 1, far from all runs; no floor, however declared."""
        declared = (name for name in self.coefficients if self.symbols[name].intercept)
        return tuple(name for name in declared if name not in self.floors)

    @cached_property
    def form(self) -> Expr:
        """What the formula says in whatever order: laws of one form are one object in it."""
        return ordered(self.loss)

    @property
    def formula(self) -> str:
        """The law as one line of text."""
        return f"{'L' if self.target == 'loss' else self.target} = {self.text or self.loss}"

    @property
    def latex(self) -> str:
        """The law as LaTeX, without dollar signs."""
        return f"{'L' if self.target == 'loss' else upright(self.target)} = {self.loss.latex}"

    def _repr_latex_(self) -> str:
        """What a notebook shows."""
        return f"${self.latex}$"

    def predict(self, coefficients: Mapping[str, Any], features: Mapping[str, Any]) -> Array:
        """Loss at the features (by column name); arrays broadcast, so draws[:, None] works.

        Raises Refusal naming a coefficient or a feature that is missing.
        """
        values: dict[str, Any] = {}
        for name, symbol in self.symbols.items():
            source, key = (features, symbol.column) if symbol.feature else (coefficients, name)
            if key not in source:
                kind = "feature" if symbol.feature else "coefficient"
                raise Refusal(f"{self.name} needs the {kind} {key!r}; given: {', '.join(source)}.")
            values[name] = np.asarray(source[key], dtype=float)
        return np.asarray(evaluate(self.loss, values), dtype=float)
