"""The exact cost of a decoder, from its configuration alone."""

from __future__ import annotations

from typing import Literal

from models.counts import FlopCount, ParamCount
from models.decoder.config import ModelConfig

AttentionConvention = Literal["causal", "full"]


def count_params(config: ModelConfig) -> ParamCount:
    """Parameters of `config`, equal to the sizes in the model's parameter tree."""
    D, F = config.d_model, config.d_ff
    HK, GK = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    n_up = 2 if config.mlp == "swiglu" else 1
    matrices = D * HK + 2 * D * GK + HK * D + (n_up + 1) * D * F
    biases = (HK + 2 * GK + D + n_up * F + D) if config.biases else 0
    norm = D + (D if config.norm == "layer" and config.biases else 0)
    qk_norm = 2 * config.head_dim if config.qk_norm else 0
    final_norm = norm if config.norm_placement == "pre" else 0
    table = config.vocab_size * D
    positions = config.context_length * D if config.positions == "learned" else 0
    return ParamCount(
        embedding=table + positions,
        matrix=config.n_layers * matrices,
        vector=config.n_layers * (biases + 2 * norm + qk_norm) + final_norm,
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
    """
    params, T = count_params(config), sequence_length
    per_score = 12 * config.n_layers * config.n_heads * config.head_dim
    W = min(config.attention_window or T, T)
    return FlopCount(
        blocks=6 * params.matrix,
        attention=per_score * T if convention == "full" else per_score * (2 * T - W) * W // (2 * T),
        head=6 * params.head_matmul,
    )
