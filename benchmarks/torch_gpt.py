"""A decoder in PyTorch's own modules, as its users write one: what our speed is held against.

The same shapes and dialects as `models.decoder.config.ModelConfig` and the same parameters, but for
a vocabulary that is padded where `pad_to` says so, as nanoGPT pads it for the matrix units. Needs
torch 2.5 or newer, and nothing of this repository.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = c.n_heads, c.n_kv_heads, c.head_dim
        self.widths = [c.n_heads * c.head_dim, *[c.n_kv_heads * c.head_dim] * 2]
        self.qkv = nn.Linear(c.d_model, sum(self.widths), bias=c.biases)
        self.out = nn.Linear(c.n_heads * c.head_dim, c.d_model, bias=c.biases)
        self.q_norm = nn.RMSNorm(c.head_dim, c.norm_epsilon) if c.qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(c.head_dim, c.norm_epsilon) if c.qk_norm else nn.Identity()

    def forward(self, x: torch.Tensor, turns: torch.Tensor | None) -> torch.Tensor:
        B, T, _ = x.shape
        q, k, v = self.qkv(x).split(self.widths, dim=-1)
        q = self.q_norm(q.view(B, T, self.heads, self.size)).transpose(1, 2)
        k = self.k_norm(k.view(B, T, self.kv_heads, self.size)).transpose(1, 2)
        v = v.view(B, T, self.kv_heads, self.size).transpose(1, 2)
        if turns is not None:
            q, k = rotated(q, turns).type_as(v), rotated(k, turns).type_as(v)
        grouped = self.heads != self.kv_heads
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return self.out(mixed.transpose(1, 2).reshape(B, T, -1))


def rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Rotary positions (Su et al. 2021, arXiv:2104.09864), on halves; turns (2, T, K/2)."""
    one, two = x.chunk(2, dim=-1)
    cos, sin = turns
    return torch.cat([one * cos - two * sin, two * cos + one * sin], dim=-1)


class Mlp(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.gated = c.mlp == "swiglu"
        self.up = nn.Linear(c.d_model, (1 + self.gated) * c.d_ff, bias=c.biases)
        self.down = nn.Linear(c.d_ff, c.d_model, bias=c.biases)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.gated:
            gate, up = self.up(x).chunk(2, dim=-1)
            return self.down(F.silu(gate) * up)
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.attention_norm, self.attention = norm(c), Attention(c)
        self.mlp_norm, self.mlp = norm(c), Mlp(c)

    def forward(self, x: torch.Tensor, turns: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), turns)
        return x + self.mlp(self.mlp_norm(x))


def norm(c: Any) -> nn.Module:
    if c.norm == "rms":
        return nn.RMSNorm(c.d_model, eps=c.norm_epsilon)
    return nn.LayerNorm(c.d_model, eps=c.norm_epsilon, bias=c.biases)


class Gpt(nn.Module):
    """Of `c`, a ModelConfig: tokens (B, T) and targets (B, T) to their mean cross-entropy."""

    def __init__(self, c: Any, pad_to: int = 1) -> None:
        super().__init__()
        vocabulary = -(-c.vocab_size // pad_to) * pad_to
        self.embedding = nn.Embedding(vocabulary, c.d_model)
        learned = c.positions == "learned"
        self.positions = nn.Embedding(c.context_length, c.d_model) if learned else None
        self.blocks = nn.ModuleList([Block(c) for _ in range(c.n_layers)])
        self.norm = norm(c)
        self.head = nn.Linear(c.d_model, vocabulary, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(weight)
        if c.head == "tied":
            self.head.weight = self.embedding.weight
        turns = None if learned else angles(c)
        self.register_buffer("turns", turns, persistent=False)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        T = tokens.shape[1]
        x = self.embedding(tokens)
        if self.positions is not None:
            x = x + self.positions.weight[:T]
        turns = None if self.turns is None else self.turns[:, :T]
        for block in self.blocks:
            x = block(x, turns)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def angles(c: Any) -> torch.Tensor:
    """Cosines and sines, (2, T, K/2)."""
    rates = c.rope_theta ** (-torch.arange(0, c.head_dim, 2).float() / c.head_dim)
    turned = torch.arange(c.context_length).float()[:, None] * rates
    return torch.stack([turned.cos(), turned.sin()])


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all contenders: decay on matrices alone, one fused kernel."""
    weights = [w for w in model.parameters() if w.dim() > 1]
    vectors = [w for w in model.parameters() if w.dim() <= 1]
    groups = [
        {"params": weights, "weight_decay": 0.1},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99), eps=1e-8, fused=True)
