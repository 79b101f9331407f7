"""Well-known models, as points to compare a law with: size, tokens, and the source of both."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from analysis.laws.optimum import FLOPS_PER_PARAM_TOKEN

SHIPPED = Path(__file__).with_name("landmarks.toml")
ARCHITECTURES = ("decoder", "encoder", "encoder-decoder")


@dataclass(frozen=True)
class Landmark:
    """One model. None: its makers did not print the number."""

    name: str
    year: int
    params: float | None  # all
    params_active: float | None  # at work on one token
    tokens: float | None
    source: str
    undisclosed: str  # what was not printed, in words; empty if nothing
    architecture: str = "decoder"  # one of ARCHITECTURES

    @property
    def decoder(self) -> bool:
        """Whether it predicts every next token, as the runs of the laws here do."""
        return self.architecture == "decoder"

    @property
    def flops(self) -> float | None:
        """6·N·D with the active N, which does the work."""
        if self.params_active is None or self.tokens is None:
            return None
        return FLOPS_PER_PARAM_TOKEN * self.params_active * self.tokens


@cache
def landmarks() -> tuple[Landmark, ...]:
    """The models of `landmarks.toml`, in its order."""
    return tuple(_landmark(**entry) for entry in tomllib.loads(SHIPPED.read_text())["model"])


def _landmark(undisclosed: str = "", **entry: Any) -> Landmark:
    """A model of the file. All parameters are active unless it says otherwise."""
    params = entry.setdefault("params", None)
    entry.setdefault("params_active", None if "active" in undisclosed else params)
    return Landmark(**{"tokens": None, **entry}, undisclosed=undisclosed)
