"""The model in PyTorch has the parameters of ours, and starts as it should."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

from models.decoder.config import DIALECTS, ModelConfig
from models.decoder.sizes import count_params

SHAPE = {"vocab_size": 300, "context_length": 32, "n_layers": 2, "d_model": 64, "d_ff": 160}
HEADS = {"n_heads": 4, "n_kv_heads": 2, "head_dim": 16}


@pytest.mark.parametrize("dialect", ["gpt2", "llama"])
def test_it_has_the_parameters_that_are_counted(
    dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if find_spec("torch") is None:
        assert not os.environ.get("SCALING_REQUIRE_AGREEMENT"), "torch is missing"
        pytest.skip("torch is not installed; `make test-extras` runs this")
    monkeypatch.syspath_prepend(str(Path("benchmarks").absolute()))
    import torch
    import torch_gpt

    config = ModelConfig(**{**DIALECTS[dialect], **SHAPE, **HEADS, "qk_norm": dialect == "llama"})
    model = torch_gpt.Gpt(config)
    assert sum(weight.numel() for weight in model.parameters()) == count_params(config).total
    tokens = torch.randint(0, 300, (2, 33))
    loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    # Weights of .02 say nothing yet: every token is as likely as another.
    assert float(loss) == pytest.approx(math.log(300), rel=0.02)
    padded = torch_gpt.Gpt(config, pad_to=128)
    assert padded.head.weight.shape[0] == 384
