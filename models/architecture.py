"""Models that other packages bring: a Flax module, and what it costs, under a name.

A package declares an entry point in the group `scaling_laws.architectures` whose object (a
module will do) has three functions; a study names it in `[model] overrides.architecture`. Only
installed packages are asked, so that no study or results folder can name code to be run.
"""

from __future__ import annotations

import hashlib
import inspect
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from models.decoder.config import ModelConfig

GROUP = "scaling_laws.architectures"


class Architecture(Protocol):
    """What the harness needs to know of a model."""

    def build(self, config: ModelConfig, *, rngs: Any, dtype: Any) -> Any:
        """An nnx.Module from token ids (B, T) to float32 logits (B, T, V).

        Where config.dropout is above 0, training calls it with keys (B,) too, one a sequence.
        """

    def count_params(self, config: ModelConfig) -> Any:
        """A ParamCount; training refuses one that the tree contradicts."""

    def count_flops(self, config: ModelConfig, sequence_length: int) -> Any:
        """FLOPs of one token in training, forward and backward, a FlopCount."""


def code_of(name: str) -> str:
    """A hash of the source file that defines an architecture's `build`.

    Part of a run's identity: another program is another run. What that file imports is not in it.
    """
    file = inspect.getsourcefile(inspect.unwrap(architecture(name).build))
    if file is None:
        raise ValueError(f"architecture = {name!r}: the source of its build() cannot be found")
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12]


@cache
def architecture(name: str) -> Architecture:
    """The architecture that an installed package declares under this name.

    Raises ValueError, naming those that are installed, if there is none or it lacks a function.
    """
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in found:
        raise ValueError(
            f"architecture = {name!r} is not installed; 'decoder' ships, and entry points in "
            f"{GROUP} add {', '.join(map(repr, found)) or 'none here'}"
        )
    try:
        loaded = found[name].load()
    except Exception as error:  # whatever another package's import raises
        raise ValueError(
            f"architecture = {name!r}: cannot load {found[name].value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    for function in ("build", "count_params", "count_flops"):
        if not callable(getattr(loaded, function, None)):
            raise ValueError(f"architecture = {name!r}: {found[name].value} has no {function}()")
    return loaded
