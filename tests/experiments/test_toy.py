"""A family of models that one short file adds is planned, trained, resumed, counted and fitted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli.__main__ import main

STUDY = """
name = "bags"

[model]
architecture = "bag"
expansion = 2

[data]
source = "{source}"
sequence_length = 16
holdout_fraction = 0.2

[training]
schedule = "wsd"
batch_sequences = 8
learning_rate = 0.02
warmup_tokens = 512
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
round_to_steps = 4

[hardware]
steps_per_call = 4

[grid]
kind = "product"
params_convention = "active"
params = ["5k", "10k", "20k"]
tokens = [4096, 6144, 8192]

[evaluation]
tokens = 500
every_tokens = 8192
"""


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    def command(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
        return main()

    return command


@pytest.mark.slow
def test_a_study_of_bags_ends_in_a_law(
    toy: str, scaling: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = np.random.default_rng(0).choice(["we", "the", "people", "of", "a", "union"], 20_000)
    documents = [" ".join(part) for part in np.split(words, 20)]
    source = tmp_path / "text.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    study = tmp_path / "bags.toml"
    study.write_text(STUDY.format(source=source))

    assert scaling("plan", study) == 0
    assert "9 points from 12 runs" in capsys.readouterr().out
    assert scaling("run", study, "--results", tmp_path / "results") == 0

    runs = pd.read_parquet(tmp_path / "results" / "bags" / "runs.parquet")
    assert set(runs["status"]) == {"completed"}
    assert set(runs["architecture"]) == {"bag"}
    assert (runs["params_active"] == runs["params_total"]).all()
    assert (runs["params_total"] == runs["width"] * (512 + 2 * runs["width"] + 2 + 512 - 256)).all()
    assert (runs["flops_6nd"] == 6 * runs["params_total"] * runs["tokens"]).all()

    assert scaling("fit", tmp_path / "results" / "bags", "--bootstrap", 0) == 0
    assert "chinchilla" in capsys.readouterr().out
