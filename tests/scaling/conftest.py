"""A tiny corpus and a tiny study: one layer, two budgets, a few dozen steps."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from scaling.data.corpus import Corpus
from scaling.data.prepare import prepare
from scaling.planning.plan import Plan, make_plan
from scaling.study import DataSection, Study, parse_study

WORDS = (
    "we",
    "the",
    "people",
    "of",
    "a",
    "union",
    "in",
    "order",
    "to",
    "form",
    "justice",
    "for",
    "all",
)

STUDY: dict[str, Any] = {
    "name": "tiny",
    "model": {"head_dim": 8, "aspect_ratio": 16},
    "data": {"source": "set by the fixture", "sequence_length": 16, "holdout_fraction": 0.2},
    "training": {
        "schedule": "wsd",
        "batch_sequences": 4,
        "learning_rate": 0.02,
        "warmup_tokens": 256,
        "weight_decay": 0.1,
        "beta1": 0.9,
        "beta2": 0.95,
        "clip_norm": 1.0,
        "round_to_steps": 4,
        "checkpoint_every_tokens": 512,
    },
    # Calls of 4 steps of 64 tokens: branches at 20 of 24 and 40 of 48 steps.
    "grid": {"kind": "product", "params": [3400], "tokens": [1536, 3072]},
    "evaluation": {"tokens": 400, "every_tokens": 768},
    "hardware": {"steps_per_call": 4},
}


@pytest.fixture(scope="session")
def corpus_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A glob of 12 small text files."""
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    for number in range(12):
        text = " ".join(random.choice(WORDS, size=100 + 20 * number))
        (folder / f"{number:02d}.txt").write_text(text)
    return str(folder / "*.txt")


@pytest.fixture(scope="session")
def section() -> Callable[..., DataSection]:
    """The [data] section of a study."""

    def make(source: object = None, holdout_fraction: float = 0.2, **more: Any) -> DataSection:
        given = {"sequence_length": 16, "holdout_fraction": holdout_fraction, **more}
        if source is not None:
            given["source"] = str(source)
        return TypeAdapter(DataSection).validate_json(json.dumps(given))

    return make


@pytest.fixture(scope="session")
def corpus(corpus_source: str, section: Callable[..., DataSection], cache: Path) -> Corpus:
    return prepare(section(corpus_source), cache / "corpora")


@pytest.fixture(scope="session")
def table(corpus_source: str) -> Callable[..., dict[str, Any]]:
    """The study as TOML would give it, with fields of its sections replaced."""

    def make(**sections: Any) -> dict[str, Any]:
        raw = copy.deepcopy(STUDY)
        raw["data"]["source"] = corpus_source
        for name, value in sections.items():
            raw[name] = {**raw[name], **value} if isinstance(raw.get(name), dict) else value
        return raw

    return make


@pytest.fixture(scope="session")
def study(table: Callable[..., dict[str, Any]]) -> Callable[..., Study]:
    return lambda **sections: parse_study(table(**sections), "tiny.toml")


@pytest.fixture(scope="session")
def plan(study: Callable[..., Study], corpus: Corpus) -> Callable[..., Plan]:
    return lambda **sections: make_plan(study(**sections), corpus.info)
