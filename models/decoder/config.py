"""What a decoder is made of: one frozen configuration, two named dialects.

The fields are orthogonal: a dialect is a set of values, never a code path of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from models.parametrization import Parametrization, Ratios

Positions = Literal["rotary", "learned", "sinusoidal", "none"]
Norm = Literal["rms", "layer"]
NormPlacement = Literal["pre", "post"]
# "gelu" is the tanh form, "gelu_exact" the one with erf; "relu2" is max(0, x)² (So et al. 2021,
# Primer, arXiv:2109.08668).
Mlp = Literal["swiglu", "gelu", "gelu_exact", "relu2"]
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
    # Leading share of head_dim that rotary positions turn (Black et al. 2022, GPT-NeoX,
    # arXiv:2204.06745, section 2.1.1: a quarter).
    rotary_fraction: float = 1.0
    # A query sees itself and the attention_window − 1 positions before it (Jiang et al. 2023,
    # Mistral, arXiv:2310.06825, section 2).
    attention_window: int | None = None
    # RMS norm of queries and keys, each head by itself, before rotary positions: as Qwen3 (Yang et
    # al. 2025, arXiv:2505.09388, section 2); idea of Henry et al. 2020, arXiv:2010.04245.
    qk_norm: bool = False
    # cap·tanh(x / cap) of attention scores and of logits (Gemma 2, arXiv:2408.00118, section 2).
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    # Attention and MLP read the same input and add to it together (GPT-NeoX, section 2.1.2), each
    # through its own norm.
    parallel: bool = False
    # "pre" norms what attention and MLP read, and once more after all blocks; "post" norms each sum
    # and has no other norm (Vaswani et al. 2017, arXiv:1706.03762, section 3.1, and GPT-1).
    norm_placement: NormPlacement = "pre"
    # Share of numbers that training sets to 0: of the embeddings with their positions, of attention
    # probabilities, and of what attention and MLP add (Radford et al. 2018, GPT-1, section 4.1).
    dropout: float = 0.0
    # How initial values, rates and sums follow the size (models/parametrization.py). At the base,
    # of so many numbers in the residual stream and so many layers, "mup" is "standard" but for the
    # scale of attention scores.
    parametrization: Parametrization = "standard"
    base_width: int | None = None
    base_depth: int | None = None

    @property
    def ratios(self) -> Ratios:
        """Its width and depth over those of the base; 1 without one."""
        if self.base_width is None or self.base_depth is None:
            return Ratios()
        return Ratios(self.d_model / self.base_width, self.n_layers / self.base_depth)

    @property
    def head_std(self) -> float:
        """Standard deviation of a head of its own at the start."""
        return (self.base_width or self.d_model) ** -0.5

    def back_std(self, n_in: int) -> float:
        """That of a matrix that leads back to the residual stream: so that all layers add about as
        much as one does."""
        return float((2 * (self.base_depth or self.n_layers) * n_in) ** -0.5)

    @property
    def rotary_dim(self) -> int:
        """Dimensions of a head that rotary positions turn; the rest passes unturned."""
        return round(self.head_dim * self.rotary_fraction)

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
        for name in ("embedding_std", "rope_theta", "norm_epsilon", *_CAPS):
            value = getattr(self, name)
            if value is None and name in _CAPS:
                continue
            if not 0 < value < float("inf"):
                raise ValueError(f"{name} = {value} must be positive and finite")
        if not 0 < self.rotary_fraction <= 1:
            raise ValueError(f"rotary_fraction = {self.rotary_fraction} must be in (0, 1]")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout = {self.dropout} must be in [0, 1)")
        if self.parallel and self.norm_placement == "post":
            raise ValueError(
                'norm_placement = "post" has no place in parallel blocks, whose two parts read one '
                'input through norms; give norm_placement = "pre", or parallel = false'
            )
        self._check_parametrization()
        turned = self.head_dim * self.rotary_fraction
        if self.positions == "rotary" and (self.rotary_dim % 2 or turned != self.rotary_dim):
            raise ValueError(
                f"rotary_fraction = {self.rotary_fraction} of head_dim = {self.head_dim} is "
                f"{turned:g} dimensions; rotary positions turn pairs, so give an even number"
            )
        window = self.attention_window
        if window is not None and (type(window) is not int or window < 1):
            raise ValueError(
                f"attention_window = {window!r} must be a whole number of positions, at least 1, "
                "or None to see the whole past"
            )

    def _check_parametrization(self) -> None:
        for name in ("base_width", "base_depth"):
            base = getattr(self, name)
            if self.parametrization == "standard" and base is not None:
                raise ValueError(
                    f'{name} = {base!r} is read with parametrization = "mup" alone; remove it'
                )
            if self.parametrization == "mup" and (type(base) is not int or base < 1):
                raise ValueError(
                    f'{name} = {base!r}: parametrization = "mup" needs a whole number, at least 1'
                )
        if self.parametrization == "mup" and self.norm_placement == "post":
            raise ValueError(
                'parametrization = "mup" is for blocks that norm what they read; give '
                'norm_placement = "pre", or parametrization = "standard"'
            )


def refuse_loud_head(config: ModelConfig) -> None:
    """Raises ValueError for an embedding that is too large to be the head as well.

    Of configurations that are to be trained: runs of before that had one are read as they are.
    """
    spread = config.embedding_std * config.d_model**0.5 / config.ratios.width
    if config.head == "tied" and spread > _MOST_SPREAD:
        raise ValueError(
            f'embedding_std = {config.embedding_std:g} with head = "tied" and d_model = '
            f"{config.d_model}: logits would start with a standard deviation of {spread:.3g}, and "
            "the loss far above ln V. Give overrides embedding_std = 0.02 (GPT-2's), or head = "
            '"untied"'
        )


# Of logits at the start, over that of what the head reads; GPT-3's largest has 2.2.
_MOST_SPREAD = 3.0

_SIZES = (
    *("vocab_size", "context_length", "n_layers", "d_model"),
    *("n_heads", "n_kv_heads", "head_dim", "d_ff"),
)
_CHOICES: Mapping[str, tuple[Any, ...]] = {
    "parametrization": get_args(Parametrization),
    "positions": get_args(Positions),
    "norm": get_args(Norm),
    "norm_placement": get_args(NormPlacement),
    "mlp": get_args(Mlp),
    "head": get_args(Head),
    "biases": (False, True),
    "qk_norm": (False, True),
    "parallel": (False, True),
}
_CAPS = ("attention_softcap", "logit_softcap")

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
