"""`scaling eval` asks a finished run what it was asked in training, and what it never was."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

from experiments.cli.__main__ import main
from models.sharding import make_mesh
from scaling.data.prepare import prepare as prepare_corpus
from scaling.launch.prepare import prepare
from scaling.launch.worker import train_run
from scaling.planning.layout import Target
from scaling.planning.plan import Plan, make_plan
from scaling.store.ready import run_folder
from scaling.store.records import write_json
from scaling.store.run_record import read_run
from scaling.study import parse_study
from scaling.training.restore import finished

STUDY: dict[str, Any] = {
    "name": "tiny",
    "model": {"head_dim": 8, "aspect_ratio": 16},
    "data": {"source": "set by the fixture", "sequence_length": 32, "holdout_fraction": 0.2},
    "training": {
        **{"schedule": "cosine", "batch_sequences": 4, "learning_rate": 0.01},
        **{"warmup_tokens": 128, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95},
        **{"clip_norm": 1.0, "round_to_steps": 4, "checkpoint_every_tokens": 4096},
    },
    "grid": {"kind": "product", "params": [3400], "tokens": [1024]},
    "evaluation": {"tokens": 400, "every_tokens": 1024},
    "tasks": {"fraction": 0.5, "list": [{"task": "addition", "digits": 1}], "items": 8},
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Plan:
    """A plan of one run."""
    source = tmp_path_factory.mktemp("corpus")
    for number in range(8):
        (source / f"{number}.txt").write_text(f"the union of {number} peoples " * (20 + number))
    raw = {**STUDY, "data": {**STUDY["data"], "source": str(source / "*.txt")}}
    study = parse_study(raw, "tiny.toml")
    return make_plan(study, prepare_corpus(study.data, cache / "corpora").info)


@pytest.fixture(scope="module")
def results(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with that run, completed."""
    results = tmp_path_factory.mktemp("results")
    (run,) = prepare(results, plan, b"")
    assert train_run(run_folder(results, run.run_id)) == "completed"
    return results


def scaling_eval(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["scaling", "eval", *map(str, arguments)])
    return main()


@pytest.fixture
def evaluated(results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scores that a command writes."""

    def run(*options: object) -> pd.DataFrame:
        out = tmp_path / "scores.json"
        assert scaling_eval(monkeypatch, results, *options, "--json", out) == 0
        return pd.DataFrame(json.loads(out.read_text())["scores"])

    return run


def test_a_finished_run_answers_as_it_did_at_the_end_of_its_training(
    results: Path, evaluated: Any
) -> None:
    found = evaluated("--items", 8)
    (folder,) = (results / "runs").iterdir()
    trained = pd.read_parquet(folder / "evals.parquet")
    trained = trained[(trained["task"] == "addition digits=1")]
    assert len(trained) == len(found) > 4
    merged = found.merge(trained, on=["task", "shots", "metric"], validate="1:1")
    assert merged["value_x"].tolist() == pytest.approx(merged["value_y"].tolist(), rel=1e-5)
    assert found["n"].tolist() == [8] * len(found)
    assert found["run_id"].unique().tolist() == [folder.name]


def test_a_run_is_asked_whatever_its_training_needed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Devices that do not divide its batch, of another kind than its record asks for, and small."""
    (folder,) = (results / "runs").iterdir()
    copied = tmp_path / "runs" / folder.name
    shutil.copytree(folder, copied)
    record = read_run(copied)
    hardware = {"attention": "cudnn", "layers": "scanned", "microbatch_tokens": 40}
    config = {**record.config, "hardware": {**record.config["hardware"], **hardware}}
    write_json(copied / "run.json", record.changed(config=config).plain())
    expected = finished(folder)
    for target in (Target("cpu", 3), Target("tpu", 6, memory=1e4)):
        monkeypatch.setattr("scaling.training.restore.target_here", lambda target=target: target)
        monkeypatch.setattr("scaling.training.restore.mesh_of", lambda _: make_mesh())
        run = finished(copied)
        assert jax.tree.all(jax.tree.map(jnp.array_equal, run.params, expected.params))
        assert run.program.layout.devices == math.gcd(4, target.devices)


@pytest.mark.slow
def test_a_run_of_an_earlier_recipe_is_asked(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained before bfloat16 had another one; planned anew, it is another run."""
    study = replace(plan.study, training=replace(plan.study.training, compute_dtype="bfloat16"))
    with monkeypatch.context() as before:
        before.setattr("scaling.spec.RECIPES", {"bfloat16": 1})
        (run,) = prepare(tmp_path, make_plan(study, plan.corpus), b"")
        assert train_run(run_folder(tmp_path, run.run_id)) == "completed"
    assert scaling_eval(monkeypatch, tmp_path, "--items", 8) == 0
    assert run.run_id not in {each.run_id for each in make_plan(study, plan.corpus).runs}


def test_tasks_it_never_saw_and_those_of_a_file_are_asked_with_examples_and_samples(
    evaluated: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.jsonl"
    items = [{"prompt": f"{n}?", "answer": "yes", "choices": ["yes", "no"]} for n in range(60)]
    file.write_text("\n".join(map(json.dumps, items)))
    found = evaluated(
        "--task", "subtraction digits=1", file, "--shots", 1, "--samples", 2, "--items", 3
    )
    assert set(found["shots"]) == {1}
    assert found["task"].nunique() == 2
    assert {"exact_match", "choice_accuracy", "pass@1", "pass@2"} <= set(found["metric"])
    accuracy = found[found["metric"] == "choice_accuracy"]
    assert accuracy["chance"].tolist() == [0.5]
    assert "choice_accuracy" in capsys.readouterr().out


def test_the_loss_by_position_is_that_of_the_held_out_windows(
    results: Path, evaluated: Any
) -> None:
    found = evaluated("--task", "position").set_index("metric")
    assert list(found.index) == ["icl_score", *(f"loss@{each}" for each in (1, 2, 4, 8, 16, 32))]
    # Words of a few letters that come again and again are the easier the more of them are known.
    assert found["value"]["loss@32"] < found["value"]["loss@1"]
    assert abs(found["value"][1:].mean() - found["loss"].iloc[0]) < 0.5
    assert len(set(found["n"])) == 1
    # The same under the same name as where it was measured while the run was trained.
    (folder,) = (results / "runs").iterdir()
    trained = pd.read_parquet(folder / "evals.parquet")
    trained = trained[trained["task"] == "context"].set_index("metric")["value"]
    assert found["value"].to_dict() == pytest.approx(trained.to_dict(), rel=1e-5)
    assert set(found["task"]) == {"context"}


def test_the_held_out_documents_that_are_judged_are_said(
    evaluated: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated("--task", "context")
    printed = capsys.readouterr().out
    assert re.search(r"context: \d+ windows of 32 tokens, from \d+ of the \d+ held-out", printed)
    assert "Next: scaling emergence" in printed


@pytest.mark.parametrize(
    "options, words",
    [
        (["--task", "juggling"], "--task 'juggling': task = 'juggling' is not known"),
        (["--task", "addition digits"], "'digits' is not PARAMETER=VALUE"),
        (["--task", "addition digits=9"], "--task 'addition digits=9': .* digits = 9"),
        (["--task", "nowhere.jsonl"], "cannot read tasks nowhere.jsonl"),
        (
            ["--task", "addition", "sort", "addition digits=2"],
            "--task has 'addition digits=2' twice",
        ),
        (["--shots", "-1"], "--shots -1: give at least 0"),
        (["--samples", "0"], "--samples 0: give at least 1"),
        (["--shots", "20"], "shots = 20: 'addition digits=1' with its examples"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    words: str,
) -> None:
    assert scaling_eval(monkeypatch, results, *options) == 2
    assert re.search(words, capsys.readouterr().err)


def test_a_run_without_its_checkpoint_fails_and_the_others_are_asked(
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    (folder,) = (results / "runs").iterdir()
    other = tmp_path / "other" / "runs" / folder.name
    shutil.copytree(folder, other)
    shutil.rmtree(other / "checkpoints")
    assert scaling_eval(monkeypatch, tmp_path / "other") == 2
    assert "no checkpoint of its last step" in capsys.readouterr().err
    assert scaling_eval(monkeypatch, other, folder, "--items", 8) == 1
    told = capsys.readouterr()
    assert folder.name in told.out and "1 of 2 runs could not be evaluated" in told.err


def test_a_run_whose_record_is_damaged_is_named_and_the_others_are_asked(
    results: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    shutil.copytree(results, tmp_path / "two")
    damaged = tmp_path / "two" / "runs" / ("f" * 12)
    damaged.mkdir()
    (damaged / "run.json").write_text("{")
    assert scaling_eval(monkeypatch, tmp_path / "two", "--items", 8) == 1
    told = capsys.readouterr()
    assert "exact_match" in told.out and "1 of 2 runs could not be evaluated" in told.err
    assert "ffffffffffff/run.json cannot be used: it is not valid JSON" in told.err


def test_a_file_that_is_missing_is_noticed_before_any_model_is_brought_back(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "scaling.training.restore.finished", lambda folder: pytest.fail("brought back")
    )
    assert scaling_eval(monkeypatch, results, "--task", "nowhere.jsonl") == 2
    assert "cannot read tasks nowhere.jsonl" in capsys.readouterr().err


def test_what_is_no_completed_run_is_refused(
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert scaling_eval(monkeypatch, tmp_path) == 2
    assert "holds no runs" in capsys.readouterr().err
    (run,) = prepare(tmp_path, plan, b"")
    assert scaling_eval(monkeypatch, tmp_path) == 2
    assert "has no completed run" in capsys.readouterr().err
    assert scaling_eval(monkeypatch, run_folder(tmp_path, run.run_id)) == 2
    assert "is planned: only a completed run" in capsys.readouterr().err
