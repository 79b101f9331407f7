"""What the [model] section of a study says of a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from models.architecture import Settings
from models.decoder.config import ModelConfig
from models.parametrization import Parametrization

# Every field of a model that is no size, and what it may hold.
_HINTS = get_type_hints(ModelConfig)
_OWN = ("parametrization", "base_width", "base_depth")  # fields of [model] themselves
_OVERRIDABLE = {
    f.name: _HINTS[f.name]
    for f in fields(ModelConfig)
    if f.default is not MISSING and f.name not in _OWN
}
Overrides = TypedDict("Overrides", _OVERRIDABLE, total=False)  # type: ignore[misc]
Overrides.__pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[attr-defined]


@dataclass(frozen=True, kw_only=True)
class PresetSettings(Settings):
    """Changes of a published shape."""

    overrides: Overrides = field(default_factory=dict)  # type: ignore[assignment]
    parametrization: Parametrization = "standard"
    # What "mup" counts width and depth from: numbers of the residual stream, and layers. Those that
    # Dey et al. 2025 (arXiv:2505.01618) tuned at, unless given.
    base_width: Annotated[int, Field(ge=1, lt=2**31)] = 256
    base_depth: Annotated[int, Field(ge=1, lt=2**31)] = 2

    @property
    def parametrized(self) -> Mapping[str, Any]:
        """Fields of a model; the base is one of "mup" alone."""
        if self.parametrization == "standard":
            return {}
        return {name: getattr(self, name) for name in _OWN}


@dataclass(frozen=True, kw_only=True)
class DecoderSettings(PresetSettings):
    """A ladder of decoders: what stays fixed while the model grows."""

    head_dim: Annotated[int, Field(ge=1, lt=2**31)]
    aspect_ratio: Annotated[float, Field(ge=1e-3, le=1e6)]  # d_model / n_layers aimed at
    dialect: Literal["llama", "gpt2"] = "llama"
    queries_per_kv: Annotated[int, Field(ge=1, lt=2**31)] = 1
