"""What a decoder is made of: one frozen configuration, two named dialects.

The fields are orthogonal: a dialect is a set of values, never a code path of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Positions = Literal["rotary", "learned", "none"]
Norm = Literal["rms", "layer"]
Mlp = Literal["swiglu", "gelu"]
Head = Literal["untied", "tied"]


@dataclass(frozen=True)
class ModelConfig:
    """The shape and the dialect of a decoder-only transformer.

    Raises ValueError, naming the field, for a shape that cannot be built.
    """

    vocab_size: int
    context_length: int  # positions a sequence may have; sizes the learned table, if any
    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int  # key-value heads, each shared by n_heads / n_kv_heads query heads
    head_dim: int
    d_ff: int  # hidden width of the MLP
    positions: Positions = "rotary"
    norm: Norm = "rms"
    mlp: Mlp = "swiglu"
    head: Head = "untied"
    biases: bool = False
    # Unit embeddings: with 0.02 and no warm start, models under 1M parameters sit on a bigram
    # plateau for millions of tokens, and their losses follow no power law.
    embedding_std: float = 1.0
    rope_theta: float = 10_000.0  # Su et al. 2021, arXiv:2104.09864, section 3.3
    norm_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        for name in _SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be at least 1")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                choices = ", ".join(map(repr, allowed))
                raise ValueError(f"{name} = {getattr(self, name)!r} must be one of {choices}")
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_kv_heads = {self.n_kv_heads} does not divide n_heads = {self.n_heads}"
            )
        if self.positions == "rotary" and self.head_dim % 2:
            raise ValueError(
                f"head_dim = {self.head_dim} must be even for rotary positions, which turn pairs"
            )
        for name in ("embedding_std", "rope_theta", "norm_epsilon"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} = {getattr(self, name)} must be positive and finite")


_SIZES = (
    *("vocab_size", "context_length", "n_layers", "d_model"),
    *("n_heads", "n_kv_heads", "head_dim", "d_ff"),
)
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "positions": get_args(Positions),
    "norm": get_args(Norm),
    "mlp": get_args(Mlp),
    "head": get_args(Head),
    "biases": (False, True),
}

# Values of the dialect fields; shapes come from a ladder or are given.
DIALECTS: Mapping[str, Mapping[str, Any]] = {
    # Touvron et al. 2023, arXiv:2302.13971, section 2.2 (embedding_std is ours, see above).
    "llama": {
        "positions": "rotary",
        "norm": "rms",
        "mlp": "swiglu",
        "head": "untied",
        "biases": False,
    },
    # Radford et al. 2019, section 2.3, and the released weights.
    "gpt2": {
        "positions": "learned",
        "norm": "layer",
        "mlp": "gelu",
        "head": "tied",
        "biases": True,
        "embedding_std": 0.02,
    },
}
