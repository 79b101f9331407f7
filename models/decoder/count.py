"""The exact cost of a model, from its configuration alone.

Parameters and FLOPs are counted by component, so that every convention in the literature
(Kaplan's non-embedding N, Chinchilla's total N, 6ND, attention included or not) is a sum of
parts, never a second formula. All numbers are Python integers: nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from models.architecture import architecture
from models.decoder.config import ModelConfig

AttentionConvention = Literal["causal", "full"]


@dataclass(frozen=True)
class ParamCount:
    """Parameters by component."""

    embedding: int  # token table; with a tied head also the head's matrix
    positions: int  # learned position table; sinusoids are no parameters
    block_matrices: int  # the matrices of all blocks, the ones that multiply
    block_vectors: int  # biases and norm scales of all blocks
    final_norm: int  # 0 of a post-norm decoder
    head: int  # an untied output matrix; 0 when tied
    head_matmul: int  # the matrix the output multiplies by, tied or not

    @property
    def total(self) -> int:
        """Every trained number; Hoffmann et al. 2022 count N so."""
        return self.embedding + self.positions + self.non_embedding + self.head

    @property
    def non_embedding(self) -> int:
        """Blocks and final norm: N of Kaplan et al. 2020, section 2.1 (biases, norms included)."""
        return self.block_matrices + self.block_vectors + self.final_norm

    @property
    def matmul(self) -> int:
        """Block matrices and output head: the parameters that cost two FLOPs a token forward."""
        return self.block_matrices + self.head_matmul


@dataclass(frozen=True)
class FlopCount:
    """FLOPs of one token, forward and backward, by component."""

    blocks: int
    attention: int  # scores and their weighted sum
    head: int
    lookup: int  # an embedding lookup moves memory and multiplies nothing

    @property
    def total(self) -> int:
        return self.blocks + self.attention + self.head + self.lookup


def count_params(config: ModelConfig) -> ParamCount:
    """Parameters of `config`, equal to the sizes in the model's parameter tree."""
    if config.architecture != "decoder":
        own: ParamCount = architecture(config.architecture).count_params(config)
        return own
    D, F = config.d_model, config.d_ff
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    n_up = 2 if config.mlp == "swiglu" else 1
    matrices = D * HK + 2 * D * GK + HK * D + (n_up + 1) * D * F
    biases = (HK + 2 * GK + D + n_up * F + D) if config.biases else 0
    norm = D + (D if config.norm == "layer" and config.biases else 0)
    qk_norm = 2 * config.head_dim if config.qk_norm else 0
    table = config.vocab_size * D
    return ParamCount(
        embedding=table,
        positions=config.context_length * D if config.positions == "learned" else 0,
        block_matrices=config.n_layers * matrices,
        block_vectors=config.n_layers * (biases + 2 * norm + qk_norm),
        final_norm=norm if config.norm_placement == "pre" else 0,
        head=table if config.head == "untied" else 0,
        head_matmul=table,
    )


def count_flops(
    config: ModelConfig, sequence_length: int, convention: AttentionConvention = "full"
) -> FlopCount:
    """FLOPs a token in training, forward and backward (three times the forward pass).

    `full` counts every score the program computes, 12·L·T·(H·K) a token, under a window too: it
    masks scores and skips none. `causal` counts those that the mask keeps, to leading order:
    6·L·T·(H·K), the half below the diagonal (Kaplan et al. 2020, table 1, and Chowdhery et al.
    2022, arXiv:2204.02311, appendix B, differ by this factor of 2), and under a window of W < T
    positions 12·L·(W − W²/2T)·(H·K), rounded down, which meets that half at W = T.
    An architecture of another package has its own count, whatever the convention.
    """
    if config.architecture != "decoder":
        own: FlopCount = architecture(config.architecture).count_flops(config, sequence_length)
        return own
    params, T = count_params(config), sequence_length
    per_score = 12 * config.n_layers * config.n_heads * config.head_dim
    W = min(config.attention_window or T, T)
    return FlopCount(
        blocks=6 * params.block_matrices,
        attention=per_score * T if convention == "full" else per_score * (2 * T - W) * W // (2 * T),
        head=6 * params.head_matmul,
        lookup=0,
    )
