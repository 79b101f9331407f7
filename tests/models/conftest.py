"""Small models in both dialects, and the FLOPs of a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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


@pytest.fixture(scope="session")
def dot_flops() -> Callable[[Any], int]:
    """Counts the FLOPs of the matrix products of a jaxpr."""
    return _dot_flops


def _dot_flops(jaxpr: Any) -> int:
    """Two FLOPs a multiply-add of every dot_general, in loops and nested programs too."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            inner = math.prod(shape[axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * inner
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        total += times * sum(_dot_flops(inner) for inner in _nested(equation.params))
    return total


def _nested(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns"):
                yield item
            elif hasattr(getattr(item, "jaxpr", None), "eqns"):
                yield item.jaxpr
