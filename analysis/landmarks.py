"""Models everyone knows, as points beside a law: size, tokens, and who printed the numbers."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scaling.store.records import Refusal

SHIPPED = Path(__file__).with_name("landmarks.toml")
FIELDS = {
    "name", "year", "params", "params_active", "tokens", "source", "undisclosed", "architecture",
}  # fmt: skip
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
        return 6.0 * self.params_active * self.tokens


@cache
def landmarks(path: Path = SHIPPED) -> tuple[Landmark, ...]:
    """The models of a TOML file like the one shipped, in its order.

    Raises Refusal naming the model and the field for one without a source, with an unknown field,
    with a number that is not positive, or that leaves a number out without saying so.
    """
    try:
        entries = tomllib.loads(path.read_text()).get("model", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise Refusal(f"cannot read landmarks from {path}: {error}.") from error
    return tuple(_landmark(entry, path) for entry in entries)


def _landmark(entry: dict[str, Any], path: Path) -> Landmark:
    name = entry.get("name", "a model without a name")
    unknown = set(entry) - FIELDS
    if unknown:
        raise Refusal(
            f"{path}: {name} has a field {sorted(unknown)[0]!r}. Known: {sorted(FIELDS)}."
        )
    for field in ("name", "year", "source"):
        if not entry.get(field):
            raise Refusal(f"{path}: {name} has no {field}. Every landmark says where it is from.")
    for field in ("params", "params_active", "tokens"):
        value = entry.get(field)
        if value is not None and not 0 < value < math.inf:
            raise Refusal(f"{path}: {name} has {field} = {value}; it must be positive.")
    hidden = entry.get("undisclosed", "")
    if not hidden and ("params" not in entry or "tokens" not in entry):
        raise Refusal(f"{path}: {name} leaves out params or tokens; say so in `undisclosed`.")
    architecture = entry.get("architecture", "decoder")
    if architecture not in ARCHITECTURES:
        raise Refusal(
            f"{path}: {name} has architecture = {architecture!r}. Give one of "
            f"{', '.join(ARCHITECTURES)}."
        )
    params = entry.get("params")
    active = entry.get("params_active", None if "active" in hidden else params)
    return Landmark(
        name=str(name),
        year=int(entry["year"]),
        params=None if params is None else float(params),
        params_active=None if active is None else float(active),
        tokens=None if entry.get("tokens") is None else float(entry["tokens"]),
        source=str(entry["source"]),
        undisclosed=str(hidden),
        architecture=architecture,
    )
