"""The registry: a law is one formula over columns of a run table.

Prediction, derivatives, the structure a fit may exploit and the printed formula all follow
from the definition. A new law is a few lines here, or in anyone's own file: `Law` needs no
registration to be fitted.

    N, E, A, alpha = feature("N", "params"), amplitude("E"), amplitude("A"), exponent("alpha")
    mine = Law("mine", E + A / N**alpha, source="my notebook, page 3")
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from analysis.expression import (
    Array,
    Expr,
    Symbol,
    amplitude,
    evaluate,
    exponent,
    feature,
    symbols,
)
from scaling.records import Refusal


@dataclass(frozen=True)
class Law:
    """A formula for the loss (nats/token unless the table says otherwise)."""

    name: str
    loss: Expr
    source: str
    note: str = ""  # where the law holds, when that is not "everywhere"
    target: str = "loss"  # column the law predicts

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

    @property
    def formula(self) -> str:
        return f"L = {self.loss}"

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
        return np.asarray(evaluate([self.loss], values)[0], dtype=float)


N, D, C = feature("N", "params"), feature("D", "tokens"), feature("C", "flops")
E, A, B = amplitude("E"), amplitude("A"), amplitude("B")
alpha, beta = exponent("alpha"), exponent("beta")

_HOFFMANN = "Hoffmann et al. 2022, arXiv:2203.15556, eq. 10 (approach 3)"
_KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361, "


def _scale(name: str, column: str) -> Expr:
    """A constant such as N_c that divides a feature; L(N_c) = 1, far above the data."""
    return amplitude(name, near=column, start_lower=-1.0, start_upper=12.0)


def _kaplan(letter: str, x: Expr, equation: str, note: str) -> list[Law]:
    """One of Kaplan's single-variable laws, pure and with an irreducible floor."""
    symbol = x.symbol
    assert symbol is not None
    scale = _scale(f"{letter}_c", symbol.column)
    power = exponent(f"alpha_{letter}", start_lower=0.02, start_upper=1.0)
    # As a fraction to a power the two constants keep their published meaning.
    amplitude_term = (scale / x) ** power
    name = f"kaplan_{letter.lower()}"
    return [
        Law(name, amplitude_term, _KAPLAN + equation, note),
        Law(
            f"{name}_floor",
            E + A / x ** exponent(f"alpha_{letter}"),
            _KAPLAN + f"{equation}, with an irreducible loss added (Henighan et al. 2020, "
            "arXiv:2010.14701, eq. 1.1)",
            note,
        ),
    ]


_DEFINITIONS = [
    Law("chinchilla", E + A / N**alpha + B / D**beta, _HOFFMANN),
    *_kaplan("N", N, "eq. 1.1", "models trained to convergence on ample data"),
    *_kaplan("D", D, "eq. 1.2", "large models stopped early on limited data"),
    *_kaplan("C", C, "eq. 1.3", "the compute-efficient frontier, C = 6·N·D"),
]

LAWS: Mapping[str, Law] = {law.name: law for law in _DEFINITIONS}


def law(name: str) -> Law:
    """The law of that name. Raises Refusal listing the names."""
    if name not in LAWS:
        raise Refusal(f"no law {name!r}. Known: {', '.join(LAWS)}.")
    return LAWS[name]
