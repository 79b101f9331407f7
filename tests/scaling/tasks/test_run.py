"""A run with tasks: its batches, what it answers, and that both come back after a kill."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from scaling.data.corpus import Corpus
from scaling.planning.plan import Plan
from scaling.spec import RunSpec
from scaling.tasks.evaluate import Evaluator
from scaling.training import evaluations, step
from scaling.training import loop as training
from scaling.training.inputs import evaluator_of
from scaling.training.jax_setup import configure_jax
from scaling.training.loop import Interrupted, Trained, train
from scaling.training.step import make_program

pytestmark = pytest.mark.slow  # trains tiny runs again and again

program_once = functools.cache(make_program)


@pytest.fixture(scope="module", autouse=True)
def programs(cache: Path) -> Iterator[None]:
    """Compile each program once, and the one evaluator."""
    configure_jax()
    evaluators: dict[str, Evaluator] = {}

    def evaluator_once(spec: RunSpec, *others: Any) -> Evaluator:
        if spec.run_id not in evaluators:
            evaluators[spec.run_id] = evaluator_of(spec, *others)
        return evaluators[spec.run_id]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluations, "evaluator_of", evaluator_once)
        patch.setattr(step, "make_program", program_once)
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A [tasks] section with a task of its own and one from a file, with choices."""
    file = tmp_path_factory.mktemp("tasks") / "letters.jsonl"
    choices = ["a", "b", "cd"]
    lines = [{"prompt": f"{n}?", "answer": choices[n % 3], "choices": choices} for n in range(60)]
    file.write_text("\n".join(map(json.dumps, lines)))
    return {
        "fraction": 0.25,
        "list": [{"task": "steps_direct", "steps": 1}, {"task": "jsonl", "file": str(file)}],
        "shots": [0, 1],
        "items": 12,
    }


@pytest.fixture(scope="module")
def runs(plan: Callable[..., Plan], tasks: dict[str, Any]) -> tuple[RunSpec, ...]:
    return plan(tasks=tasks).runs


@pytest.fixture(scope="module")
def undisturbed(
    runs: tuple[RunSpec, ...], corpus: Corpus, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    bring(runs[0], folder, corpus)
    return folder


def bring(run: RunSpec, results: Path, corpus: Corpus, **more: Any) -> Trained:
    return train(run, results / run.run_id, corpus, trunk=results / run.trunk_id, **more)


def evals(run: RunSpec, results: Path) -> pd.DataFrame:
    return pd.read_parquet(results / run.run_id / "evals.parquet")


def test_every_evaluation_point_has_every_metric_of_every_task(
    runs: tuple[RunSpec, ...], undisturbed: Path
) -> None:
    table = evals(runs[0], undisturbed)
    assert set(table["step"]) == {12, 24, 36, 40}
    context = table[table["task"] == "context"]
    assert set(context["metric"]) == {"icl_score", *(f"loss@{n}" for n in (1, 2, 4, 8, 16))}
    assert context["shots"].isna().all()
    tasks = table[~table["task"].isin(["holdout", "context"])]
    metrics = {"exact_match", "token_accuracy", "answer_logprob", "token_logprob", "edit_distance"}
    of_choices = {"choice_accuracy", "brier"}
    for (task, _, _), rows in tasks.groupby(["task", "step", "shots"]):
        assert set(rows["metric"]) == metrics | (of_choices if "jsonl" in task else set())
    assert len(tasks) == 4 * 2 * (5 + 7)
    assert tasks["value"].notna().all()


def test_a_killed_run_answers_the_same(
    runs: tuple[RunSpec, ...], corpus: Corpus, undisturbed: Path, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    def kill(progress: training.Progress) -> None:
        if progress.step == 28:  # after the evaluation at 24, whose checkpoint is there
            raise Killed

    with pytest.raises(Killed):
        bring(runs[0], tmp_path, corpus, report=kill)
    bring(runs[0], tmp_path, corpus)
    pd.testing.assert_frame_equal(
        evals(runs[0], tmp_path), evals(runs[0], undisturbed), check_exact=True
    )


def test_a_stopped_run_answers_the_same(
    runs: tuple[RunSpec, ...], corpus: Corpus, undisturbed: Path, tmp_path: Path
) -> None:
    calls = iter(range(4))  # past an evaluation, before the next checkpoint that was planned
    with pytest.raises(Interrupted):
        bring(runs[0], tmp_path, corpus, should_stop=lambda: next(calls, None) is None)
    bring(runs[0], tmp_path, corpus)
    pd.testing.assert_frame_equal(
        evals(runs[0], tmp_path), evals(runs[0], undisturbed), check_exact=True
    )
