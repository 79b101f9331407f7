"""What a decoder's backward pass reads, in bytes a token: by configuration alone.

Derived from what jax keeps of each function, and from what compilers make of it: see
tests/scaling/planning/test_memory.py, which compiles steps for a CPU, and tests/agreement, which
compiles them for a TPU. D, H, G, K, F, L, T as in models/decoder/model.py.
"""

from __future__ import annotations

from collections.abc import Mapping

from models.architecture import Execution, Remat
from models.decoder.config import ModelConfig

# Gradients that are held at once while a layer's backward pass runs, in parts of what it reads.
BACKWARD = 0.6
# Blocks of queries see about this part of all scores (models/decoder/attention_kernels.py).
SEEN = 0.6
# Memory that libtpu reserves for arrays of all layers, in parts of what they hold.
STACKED: Mapping[Remat, float] = {"none": 1.3, "dots": 1.5, "full": 1.3}
LANES = 128  # of a TPU: its arrays have whole ones along their last axis


def activation_bytes(config: ModelConfig, execution: Execution) -> float:
    """What is kept of all layers, and of the norm before the head."""
    stacked = execution.layers == "scanned" and execution.attention == "splash"
    layers = config.n_layers * _kept(config, execution)
    layers *= STACKED[execution.remat] if stacked else 1.0
    return layers + 2 * execution.bytes_each * config.d_model


def working_bytes(config: ModelConfig, execution: Execution) -> float:
    """What one layer's backward pass needs beside: what it makes again, and gradients."""
    c, on_cpu = config, execution.attention in ("blocks", "plain")
    read = _every(c, execution) if on_cpu else _read(c, execution)
    if c.qk_norm and execution.attention == "splash":
        # Float32, with sums over each head that have one number, and so one lane in use.
        read += (c.n_heads + c.n_kv_heads) * 8 * (_head_dim(c, execution) + LANES)
    again = read - _kept(c, execution) if execution.remat != "none" else 0.0
    return max(0.0, again) + BACKWARD * read


def _kept(config: ModelConfig, execution: Execution) -> float:
    """Of one layer."""
    c, size = config, execution.bytes_each
    if execution.layers == "unrolled" and (
        execution.attention == "blocks"
        or (execution.attention == "plain" and execution.remat == "none")
    ):
        return _every(c, execution)
    if execution.remat == "full":
        return size * c.d_model
    mixed = c.n_heads * _head_dim(c, execution)
    if execution.remat == "dots":
        # cuDNN's attention is kept as if it were a product (models/decoder/remat.py).
        fused = execution.attention == "cudnn"
        return size * (_products(c, execution) + fused * mixed) + 4 * fused * c.n_heads
    if execution.attention == "splash" and execution.layers == "unrolled":
        # libtpu makes norms and activations again, inside the products that read them.
        return size * (_products(c, execution) + mixed + _turned(c, execution)) + 4 * c.n_heads
    return _read(c, execution)


def _read(config: ModelConfig, execution: Execution) -> float:
    """What the backward pass of one layer reads: what goes into its functions, and its scores."""
    c = config
    numbers = _products(c, execution) + c.n_heads * _head_dim(c, execution)
    numbers += _turned(c, execution) + 2 * c.d_model + c.d_ff
    return execution.bytes_each * numbers + _scores(c, execution)


def _every(config: ModelConfig, execution: Execution) -> float:
    """What a CPU keeps of unrolled layers: every array that a gradient reads, made again or not,
    for its compiler takes what is made again for what was made before."""
    c, size = config, execution.bytes_each
    heads = (c.n_heads + c.n_kv_heads) * c.head_dim
    norms = (2 * c.d_model + (heads if c.qk_norm else 0)) * (4 + 4 + size)
    mlp = (6 if c.mlp == "swiglu" else 5) * c.d_ff
    return norms + size * (2 * heads + mlp) + _scores(c, execution)


def _products(config: ModelConfig, execution: Execution) -> int:
    """Numbers that a layer reads and that its products with parameters make, but for the last."""
    c = config
    heads = (c.n_heads + 2 * c.n_kv_heads) * _head_dim(c, execution)
    ups = 2 if c.mlp == "swiglu" else 1  # matrices that lead into the MLP's hidden width
    return c.d_model + heads + c.d_model + ups * c.d_ff


def _turned(config: ModelConfig, execution: Execution) -> int:
    """Queries and keys after their norm, beside those before it."""
    c = config
    return (c.n_heads + c.n_kv_heads) * _head_dim(c, execution) if c.qk_norm else 0


def _head_dim(config: ModelConfig, execution: Execution) -> int:
    """Of a head, with what fills a TPU's lanes."""
    if execution.attention != "splash":
        return config.head_dim
    return -(-config.head_dim // LANES) * LANES


def _scores(config: ModelConfig, execution: Execution) -> float:
    c, size = config, execution.bytes_each
    H, T, HK = c.n_heads, c.context_length, c.n_heads * c.head_dim
    if execution.attention == "plain":
        return (4 + size) * H * T
    if execution.attention == "blocks":
        return size * SEEN * H * T + 4 * HK
    return 4 * H  # ln Z alone
