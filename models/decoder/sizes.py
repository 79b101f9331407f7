"""The sizes of decoders: from a configuration to its exact count, and from a size to its shape."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from models.decoder.config import DIALECTS, ModelConfig, refuse_loud_head
from models.sizes import FlopCount, ParamCount, ParamsConvention, Rung, refuse_size, size_of

AttentionConvention = Literal["causal", "full"]


def count_params(config: ModelConfig) -> ParamCount:
    """Parameters of `config`, equal to the sizes in the model's parameter tree."""
    D, F = config.d_model, config.d_ff
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    n_up = 2 if config.mlp == "swiglu" else 1
    biases = (HK + 2 * GK + D + n_up * F + D) if config.biases else 0
    norm = D + (D if config.norm == "layer" and config.biases else 0)
    qk_norm = 2 * config.head_dim if config.qk_norm else 0
    final_norm = norm if config.norm_placement == "pre" else 0
    table = config.vocab_size * D
    positions = config.context_length * D if config.positions == "learned" else 0
    return ParamCount(
        embedding=table + positions,
        matrix=sum(rows * columns * count for (rows, columns), count in matrices(config).items()),
        vector=config.n_layers * (biases + 2 * norm + qk_norm) + final_norm,
        head=table if config.head == "untied" else 0,
        head_matmul=table,
    )


def matrices(config: ModelConfig) -> Mapping[tuple[int, int], int]:
    """The hidden matrices of `config` by their shape (inputs, outputs): how many there are."""
    D, F = config.d_model, config.d_ff
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    n_up = 2 if config.mlp == "swiglu" else 1
    of_layer = [(D, HK), (D, GK), (D, GK), (HK, D), *((D, F),) * n_up, (F, D)]
    return {shape: config.n_layers * count for shape, count in Counter(of_layer).items()}


def count_flops(
    config: ModelConfig, sequence_length: int, convention: AttentionConvention = "full"
) -> FlopCount:
    """FLOPs a token in training, forward and backward (three times the forward pass).

    `full` counts every score of the T × T square, 12·L·T·(H·K) a token, under a window too, as
    plain attention computes them; it is a convention, for other implementations skip most scores
    that the mask hides. `causal` counts those that the mask keeps, to leading order:
    6·L·T·(H·K), the half below the diagonal (Kaplan et al. 2020, table 1, and Chowdhery et al.
    2022, arXiv:2204.02311, appendix B, differ by this factor of 2), and under a window of W < T
    positions 12·L·(W − W²/2T)·(H·K), rounded down, which meets that half at W = T.
    """
    params, T = count_params(config), sequence_length
    per_score = 12 * config.n_layers * config.n_heads * config.head_dim
    W = min(config.attention_window or T, T)
    return FlopCount(
        blocks=6 * params.matrix,
        attention=per_score * T if convention == "full" else per_score * (2 * T - W) * W // (2 * T),
        head=6 * params.head_matmul,
    )


@dataclass(frozen=True)
class Ladder:
    """A family of shapes: what stays fixed while the model grows.

    Width is a multiple of head_dim and depth follows an aspect ratio; the loss depends weakly on
    the aspect ratio over a wide range (Kaplan et al. 2020, arXiv:2001.08361, section 3.1, figure
    5), so the ladder may bend the ratio to meet the target.
    """

    vocab_size: int
    context_length: int
    dialect: Literal["llama", "gpt2"]
    head_dim: int
    aspect_ratio: float  # d_model / n_layers aimed at
    queries_per_kv: int = 1  # query heads that share a key-value head; 1 is multi-head
    fields: Mapping[str, Any] = field(default_factory=dict)  # dialect fields to override

    def shape(self, n_layers: int, n_heads: int) -> ModelConfig:
        """The member with this depth and number of heads; d_ff is 8/3·d (SwiGLU) or 4·d (other)."""
        dialect = {**DIALECTS[self.dialect], **self.fields}
        d_model = n_heads * self.head_dim
        d_ff = 8 * math.ceil(d_model / 3) if dialect["mlp"] == "swiglu" else 4 * d_model
        return ModelConfig(
            vocab_size=self.vocab_size,
            context_length=self.context_length,
            n_layers=n_layers,
            d_model=d_model,
            n_heads=n_heads,
            n_kv_heads=max(1, n_heads // self.queries_per_kv),
            head_dim=self.head_dim,
            d_ff=d_ff,
            **dialect,
        )

    def smallest(self) -> ModelConfig:
        """The member with the fewest parameters: one layer of one head."""
        return self.shape(1, 1)

    def nearest(self, target: float, convention: ParamsConvention) -> Rung:
        """The shape nearest to so many parameters, as `nearest` says, if it can be trained."""
        rung = nearest(self, target, convention)
        refuse_loud_head(rung.config)
        return rung

    def candidates(self, target: float, convention: ParamsConvention) -> Iterator[ModelConfig]:
        """Shapes within 2× of the aspect ratio: of widths around `target`, the depths around it.

        Raises ValueError where no width of up to 4,096 heads is large enough.
        """
        q, low, high = self.queries_per_kv, 1 - 1.2 * _CLOSE, 1 + 1.2 * _CLOSE
        heads = [*range(1, min(q, _MOST_HEADS + 1)), *range(q, _MOST_HEADS + 1, q)]
        # Where the deepest shape of a width is too small, that of a narrower one is worse.
        start = bisect_left(
            heads, True, key=lambda n: self._width(n, convention).largest >= low * target
        )
        if start == len(heads):
            raise ValueError(
                f"params = {target:.4g} takes more than {_MOST_HEADS} heads of {self.head_dim}; "
                "give a larger head_dim"
            )
        for n_heads in heads[max(0, start - 1) :]:
            width = self._width(n_heads, convention)
            too_large = width.smallest > high * target
            shallow = self.shape(width.shallowest, n_heads)
            if too_large and count_params(shallow).non_embedding > 4 * target:
                return
            # Depths beyond those about 5% from the target are worse than them, so a width costs a
            # handful of shapes however deep it may be.
            depths = (
                1 + math.floor((low * target - width.one) / width.layer),
                1 + math.ceil((high * target - width.one) / width.layer),
            )
            first, last = (min(max(d, width.shallowest), width.deepest) for d in depths)
            for n_layers in range(first, last + 1):
                yield self.shape(n_layers, n_heads)
            if too_large:
                return  # wider ones are larger still

    def _width(self, n_heads: int, convention: ParamsConvention) -> _Width:
        d_model = n_heads * self.head_dim
        one, two = (
            size_of(count_params(self.shape(depth, n_heads)), convention) for depth in (1, 2)
        )
        return _Width(
            shallowest=max(1, math.ceil(d_model / (2 * self.aspect_ratio))),
            deepest=max(1, math.floor(2 * d_model / self.aspect_ratio)),
            one=one,
            layer=two - one,
        )


@dataclass(frozen=True)
class _Width:
    """The shapes of one width within 2× of the aspect ratio, whose size is affine in depth."""

    shallowest: int
    deepest: int
    one: int  # parameters of one layer with all that is not in layers
    layer: int  # of each further layer

    @property
    def smallest(self) -> int:
        return self.one + (self.shallowest - 1) * self.layer

    @property
    def largest(self) -> int:
        return self.one + (self.deepest - 1) * self.layer


_MOST_HEADS = 1 << 12  # published models have up to 128
# Rungs this close to the target count as hits; among them the aspect ratio decides.
_CLOSE = 0.05


def nearest(ladder: Ladder, target: float, convention: ParamsConvention) -> Rung:
    """The rung nearest to `target` parameters.

    Among shapes within 5% of the target the one nearest to the aspect ratio wins; if there is
    none, the one nearest to the target. Raises ValueError for a target below the smallest shape's
    half, where no shape means what was asked, and for one above any model.
    """
    smallest = ladder.smallest()
    refuse_size(target, size_of(count_params(smallest), convention), convention)
    rungs = [
        Rung(config, count_params(config), target, convention)
        for config in [smallest, *ladder.candidates(target, convention)]
    ]

    def distance(rung: Rung) -> tuple[float, float]:
        miss = abs(math.log(rung.params / rung.target))
        aspect = rung.config.d_model / rung.config.n_layers / ladder.aspect_ratio
        return (max(miss, _CLOSE), abs(math.log(aspect)))

    return min(rungs, key=distance)
