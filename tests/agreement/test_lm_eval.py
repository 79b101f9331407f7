"""EleutherAI's lm-evaluation-harness asks a finished run, and its answers are the model's.

The harness is no part of the environment; `make test-extras` installs it and sets
SCALING_REQUIRE_AGREEMENT=1, under which its absence is a failure.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scaling.data.prepare import prepare as prepare_corpus
from scaling.launch.prepare import prepare
from scaling.launch.worker import train_run
from scaling.planning.plan import make_plan
from scaling.store.records import Refusal
from scaling.study import parse_study

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the harness's own imports
        import lm_eval
        from lm_eval.tasks import TaskManager

        from scaling.training.lm_eval import RunModel
except ImportError:
    if os.environ.get("SCALING_REQUIRE_AGREEMENT"):
        raise
    pytest.skip("lm-eval is not installed; make test-extras installs it", allow_module_level=True)

T = 32
# Deep in a text of one word over and over there is no doubt of what comes next.
TEXT = "the union of the people " * 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run that learned one sentence by heart."""
    source = tmp_path_factory.mktemp("corpus")
    for number in range(8):
        (source / f"{number}.txt").write_text(4 * TEXT + "." * number)
    study = parse_study(
        {
            "name": "tiny",
            "model": {"head_dim": 16, "aspect_ratio": 16},
            "data": {
                "source": str(source / "*.txt"),
                "sequence_length": T,
                "holdout_fraction": 0.2,
            },
            "training": {
                **{"schedule": "cosine", "batch_sequences": 4, "learning_rate": 0.01},
                **{"warmup_tokens": 1024, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
                **{"clip_norm": 1.0, "checkpoint_every_tokens": 4096},
            },
            "grid": {"kind": "product", "params": [12000], "tokens": [20480]},
            "evaluation": {"tokens": 400, "every_tokens": 20480},
        },
        "tiny.toml",
    )
    plan = make_plan(study, prepare_corpus(study.data, cache / "corpora").info)
    results = tmp_path_factory.mktemp("results")
    prepare(results, plan, b"")
    run = results / "runs" / plan.runs[0].run_id
    assert train_run(run) == "completed"
    return run


@pytest.fixture(scope="module")
def model(folder: Path) -> RunModel:
    return RunModel(folder)


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each) for each in arguments]


def losses(model: RunModel, tokens: Sequence[int]) -> np.ndarray:
    """Of each token after the first, from the program that evaluates runs."""
    sequences = model.run.program.layout.microbatch_sequences
    batch = np.tile(np.array(list(tokens), np.int32), (sequences, 1))
    return np.asarray(model.run.program.evaluate(model.run.params, batch), float)[0]


def test_likelihoods_are_the_losses_of_the_continuations_tokens(model: RunModel) -> None:
    # A space at the end of a context belongs to the continuation, says the harness.
    asked = [("the union", " of"), ("", "people"), ("th", "x"), ("the union of ", "the people")]
    lengths = [3, 6, 1, 11]
    found = model.loglikelihood(requests(*asked), disable_tqdm=True)
    for (before, after), length, (likelihood, _) in zip(asked, lengths, found, strict=True):
        expected = losses(model, [0, *(before + after).encode()])[-length:]
        assert likelihood == pytest.approx(-expected.sum(), rel=1e-4)
    assert [likeliest for _, likeliest in found] == [True, False, False, True]


def test_a_long_text_is_rolled_over_and_every_token_counted_once(model: RunModel) -> None:
    text = TEXT[: 2 * T + 7].encode()
    (found,) = model.loglikelihood_rolling(requests((text.decode(),)))
    # A window after the end of a document, one after the last token of that, and what is left
    # with a whole window before it.
    expected = [
        losses(model, [0, *text[:T]]),
        losses(model, text[T - 1 : 2 * T]),
        losses(model, text[-T - 1 :])[-7:],
    ]
    assert found == pytest.approx(-np.concatenate(expected).sum(), rel=1e-4)


def test_text_ends_where_the_task_says(model: RunModel) -> None:
    greedy = {"until": [" of"], "max_gen_toks": 16, "do_sample": False}
    long = {"until": ["\n"], "max_gen_toks": 1000}
    found = model.generate_until(requests(("people the un", greedy), ("people the un", long)))
    assert found[0] == "ion"
    assert found[1].startswith("ion of the") and len(found[1]) == T // 2


def test_options_that_would_be_ignored_and_texts_that_do_not_fit_are_refused(
    model: RunModel,
) -> None:
    with pytest.raises(Refusal, match="'num_beams' is not supported"):
        model.generate_until(requests(("a", {"num_beams": 4})))
    with pytest.raises(Refusal, match="40 tokens does not fit in sequence_length = 32"):
        model.loglikelihood(requests(("a", "b" * 40)), disable_tqdm=True)


def test_tasks_of_a_local_file_run_and_score_what_the_model_knows(
    model: RunModel, tmp_path: Path
) -> None:
    items = [
        {"prompt": "the union of the", "answer": " people", "choices": [" people", " xxxx"]},
        {
            "prompt": "the union of the people the",
            "answer": " union",
            "choices": [" zzz", " union"],
        },
        {"prompt": "the union of the people", "answer": " xxxx", "choices": [" the", " xxxx"]},
    ]
    data = tmp_path / "items.jsonl"
    data.write_text("\n".join(map(json.dumps, items)))
    shared = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        **{"test_split": "test", "doc_to_text": "{{prompt}}", "target_delimiter": ""},
    }
    choice = {
        **{"task": "own_choice", "output_type": "multiple_choice", **shared},
        **{"doc_to_choice": "choices", "doc_to_target": "{{choices.index(answer)}}"},
        "metric_list": [{"metric": "acc"}],
    }
    text = {
        **{"task": "own_text", "output_type": "generate_until", **shared},
        **{"doc_to_target": "{{answer}}", "metric_list": [{"metric": "exact_match"}]},
        "generation_kwargs": {"until": [" the", " of"], "max_gen_toks": 12, "do_sample": False},
    }
    rolling = {
        **{"task": "own_rolling", "output_type": "loglikelihood_rolling", **shared},
        **{"doc_to_text": "", "doc_to_target": "{{prompt}}"},
        "metric_list": [{"metric": "bits_per_byte"}],
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[choice, text, rolling],
            task_manager=TaskManager(include_defaults=False),
            bootstrap_iters=0,
        )["results"]
    assert found["own_choice"]["acc,none"] == pytest.approx(2 / 3)
    assert found["own_text"]["exact_match,none"] == pytest.approx(2 / 3)
    expected = [losses(model, [0, *item["prompt"].encode()]) for item in items]
    bits = sum(each.sum() for each in expected) / sum(map(len, expected)) / np.log(2)
    assert found["own_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-4)


def test_the_model_works_where_torch_is_not_installed() -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers'): sys.modules[name] = None\n"
        "import scaling.training.lm_eval\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
