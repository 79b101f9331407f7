"""What a plan refuses before and after it reads its text, and what it says of the rest."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.planning import Planned, plan_study
from scaling.records import Refusal
from scaling.study import parse_study
from scaling.tasks.jsonl import read_items

COPY = {"task": "copy", "length": 26}
ADDITION = {"task": "addition", "digits": 1}


@pytest.fixture
def planned(tmp_path: Path, cache: Path) -> Callable[..., Planned]:
    """The plan of a small study with these tasks."""
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text("the union of the people " * (20 + number))

    def make(tasks: dict[str, Any], **data: Any) -> Planned:
        raw: dict[str, Any] = {
            "name": "tiny",
            "model": {"head_dim": 8, "aspect_ratio": 16},
            "data": {
                **{"source": str(tmp_path / "*.txt"), "sequence_length": 16},
                **{"holdout_fraction": 0.2, "allow_repeats": True, **data},
            },
            "training": {
                **{"schedule": "cosine", "batch_sequences": 4, "learning_rate": 0.01},
                **{"warmup_tokens": 128, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
                **{"clip_norm": 1.0, "steps_per_call": 4},
            },
            "grid": {"kind": "product", "params": [3400], "tokens": [1024]},
            "evaluation": {"tokens": 400, "every_tokens": 1024},
            "tasks": {"fraction": 0.5, "items": 8, **tasks},
        }
        return plan_study(parse_study(raw, "tiny.toml"))

    return make


def test_tasks_that_fit_are_planned(planned: Callable[..., Planned]) -> None:
    assert planned({"list": [ADDITION], "shots": [0, 1]}).plan.runs


def test_questions_that_fit_no_sequence_are_refused(planned: Callable[..., Planned]) -> None:
    with pytest.raises(Refusal, match=r"shots = 9: 'addition digits=1' with its examples"):
        planned({"list": [ADDITION], "shots": [0, 9]})


def test_items_that_fit_no_window_are_refused(planned: Callable[..., Planned]) -> None:
    said = r"copy length=26: an item takes 5\d of sequence_length = 16 tokens, and windows cut it"
    with pytest.raises(Refusal, match=said):
        planned({"list": [COPY]})


def test_tasks_on_tokens_without_texts_are_refused(
    planned: Callable[..., Planned], tmp_path: Path
) -> None:
    tokens = np.random.default_rng(0).integers(1, 300, 5000).astype(np.uint16)
    tokens[::50] = 0
    tokens.tofile(tmp_path / "tokens.bin")
    given = {"token_dtype": "uint16", "vocab_size": 300, "end_token": 0}
    with pytest.raises(Refusal, match=r"\[tasks\] the corpus .* is tokens without a tokenizer"):
        planned({"list": [ADDITION]}, source=str(tmp_path / "tokens.bin"), **given)


def test_a_file_of_which_nothing_may_be_trained_on_is_refused(
    planned: Callable[..., Planned], tmp_path: Path
) -> None:
    every, file = tmp_path / "every.jsonl", tmp_path / "held_out.jsonl"
    lines = [json.dumps({"prompt": f"{n}?", "answer": "1"}) for n in range(40)]
    every.write_text("\n".join(lines))
    held_out = [item.held_out for item in read_items(every)[0]]
    file.write_text("\n".join(line for line, out in zip(lines, held_out, strict=True) if out))
    with pytest.raises(Refusal, match=r"jsonl held_out-.*: every item is for evaluation"):
        planned({"list": [{"task": "jsonl", "file": str(file)}]})
    asked_only = {"list": [ADDITION, {"task": "jsonl", "file": str(file), "weight": 0}]}
    assert planned(asked_only).plan.runs
