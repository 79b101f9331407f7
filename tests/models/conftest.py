"""Small models in both dialects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from models.decoder.config import DIALECTS, ModelConfig


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelConfig]:
    """A model of a dialect, with any field replaced; no two of its sizes are equal."""

    def make(dialect: str = "llama", **fields: Any) -> ModelConfig:
        shape = {
            "vocab_size": 40,
            "context_length": 24,
            "n_layers": 2,
            "d_model": 20,
            "n_heads": 4,
            "n_kv_heads": 4,
            "head_dim": 6,
            "d_ff": 28,
        }
        return ModelConfig(**{**shape, **DIALECTS[dialect], **fields})

    return make
