"""The decoder as one of the architectures: its counts, shapes, leaves and memory in one place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from models.architecture import Architecture, Attention, Execution, Platform
from models.decoder import memory
from models.decoder.attention_choice import chosen, refusal
from models.decoder.config import ModelConfig, refuse_loud_head
from models.decoder.presets import preset
from models.decoder.settings import DecoderSettings, PresetSettings
from models.decoder.sizes import Ladder, count_flops, count_params, matrices
from models.output import Losses
from models.parametrization import Ratios
from models.sizes import FlopCount, Leaf, ParamCount

if TYPE_CHECKING:
    import jax
    from flax import nnx

    from models.decoder.model import Decoder

# How the rows and columns of a matrix are divided, by the module that owns it: those that lead into
# attention and MLP along their columns, those that lead back along their rows, so that each needs
# one reduction (Shoeybi et al. 2019, arXiv:1909.08053, section 3).
INTO = ("fsdp", "tensor")
BACK = ("tensor", "fsdp")
LEAVES: Mapping[str, Leaf] = {
    **dict.fromkeys(("q", "k", "v", "gate", "up"), Leaf("matrix", INTO, deep=True)),
    **dict.fromkeys(("out", "down"), Leaf("matrix", BACK, deep=True)),
    "embedding": Leaf("embedding", BACK),
    "positions": Leaf("embedding", (None, "fsdp")),
    "head": Leaf("head", INTO),
}


class DecoderArchitecture(Architecture):
    """Decoder-only transformers; models/decoder/config.py says of what kinds."""

    config = ModelConfig
    settings = DecoderSettings
    preset_settings = PresetSettings
    # Radford et al. 2019 (GPT-2).
    usual: Mapping[str, str] = {"head_dim": "64", "aspect_ratio": "64"}
    smaller = "a smaller head_dim"

    def ladder(self, settings: DecoderSettings, vocab_size: int, context_length: int) -> Ladder:
        return Ladder(
            vocab_size=vocab_size,
            context_length=context_length,
            dialect=settings.dialect,
            head_dim=settings.head_dim,
            aspect_ratio=settings.aspect_ratio,
            queries_per_kv=settings.queries_per_kv,
            fields={**settings.overrides, **settings.parametrized},
        )

    def preset(
        self, name: str, settings: PresetSettings, vocab_size: int, context_length: int
    ) -> ModelConfig:
        config = replace(
            preset(name).config,
            vocab_size=vocab_size,
            context_length=context_length,
            **settings.overrides,
            **settings.parametrized,
        )
        refuse_loud_head(config)
        return config

    def build(self, config: ModelConfig, rngs: nnx.Rngs, execution: Execution) -> Decoder:
        import jax.numpy as jnp

        from models.decoder.model import Decoder

        return Decoder(
            config,
            rngs=rngs,
            dtype=jnp.dtype(execution.dtype),
            layers=execution.layers,
            remat=execution.remat,
            loss=execution.loss,
            attention=execution.attention,
        )

    def losses(
        self,
        module: Any,  # a Decoder
        tokens_BxT: jax.Array,
        targets_BxT: jax.Array,
        keys_B: jax.Array | None = None,
    ) -> Losses:
        return module.losses(tokens_BxT, targets_BxT, keys_B)

    def count_params(self, config: ModelConfig) -> ParamCount:
        return count_params(config)

    def matrices(self, config: ModelConfig) -> Mapping[tuple[int, int], int]:
        return matrices(config)

    def ratios(self, config: ModelConfig) -> Ratios | None:
        return config.ratios if config.parametrization == "mup" else None

    def count_flops(self, config: ModelConfig, sequence_length: int) -> FlopCount:
        return count_flops(config, sequence_length, "full")

    def count_causal_flops(self, config: ModelConfig, sequence_length: int) -> FlopCount:
        return count_flops(config, sequence_length, "causal")

    def attention(
        self,
        config: ModelConfig,
        sequence_length: int,
        dtype: str,
        platform: Platform,
        capability: float | None = None,
    ) -> Attention:
        return chosen(config, sequence_length, dtype, platform, capability)

    def check_attention(
        self,
        config: ModelConfig,
        sequence_length: int,
        dtype: str,
        platform: Platform,
        asked: Attention,
        capability: float | None = None,
    ) -> None:
        if wrong := refusal(config, sequence_length, dtype, platform, asked, capability):
            raise ValueError(wrong)

    def leaf(self, path: Sequence[str], dimensions: int) -> Leaf:
        # Those of scanned layers have two dimensions.
        if path[-1] in ("bias", "scale"):
            return Leaf("vector", deep="blocks" in path)
        return next(LEAVES[name] for name in reversed(path) if name in LEAVES)

    def check(self, execution: Execution) -> None:
        """Every way of running is one of its own."""

    def drops(self, config: ModelConfig) -> bool:
        return config.dropout > 0

    def activation_bytes(self, config: ModelConfig, execution: Execution) -> float:
        return memory.activation_bytes(config, execution)

    def working_bytes(self, config: ModelConfig, execution: Execution) -> float:
        return memory.working_bytes(config, execution)

    def depth(self, config: ModelConfig) -> int:
        return config.n_layers

    def held_whole(self, config: ModelConfig) -> int:
        """One layer, and the table or the head."""
        params = count_params(config)
        return params.non_embedding // config.n_layers + config.vocab_size * config.d_model

    def shape(self, config: ModelConfig) -> Mapping[str, int | str]:
        shared = "" if config.n_kv_heads == config.n_heads else f"/{config.n_kv_heads}"
        return {
            "layers": config.n_layers,
            "width": config.d_model,
            "heads": f"{config.n_heads}{shared}",
        }


DECODER = DecoderArchitecture()
