"""Runs that were judged on other held-out windows than now asked are judged again, not trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from experiments.cli.status import looked_at
from scaling.data.corpus import Corpus
from scaling.data.sets import prepare_sets
from scaling.launch.prepare import manifest_of, prepare
from scaling.launch.worker import train_run
from scaling.planning.plan import Plan
from scaling.spec import config_of, spec_of
from scaling.store import ready
from scaling.store.manifest import write_manifest
from scaling.store.ready import run_folder
from scaling.store.results import unfinished
from scaling.store.run_record import is_judged_alike
from scaling.store.steps import read_steps
from scaling.store.table import JUDGED_OTHERWISE, collect, publish_table
from scaling.training import loop

PlanOf = Callable[..., Plan]


class Killed(BaseException):
    pass


def finish(results: Path, plan: Plan) -> pd.DataFrame:
    """Bring all runs of a plan to their end in this process; returns the run table."""
    for run in prepare(results, plan, b""):
        assert train_run(run_folder(results, run.run_id)) == "completed"
    return publish_table(results).table.set_index("run_id")


def no_training(patch: pytest.MonkeyPatch) -> None:
    def advance(*_: Any) -> Any:
        raise AssertionError("a step was trained")

    patch.setattr(loop._Loop, "_advance", advance)


def test_runs_judged_on_other_windows_are_judged_again_and_never_mixed(
    plan: PlanOf, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = plan(evaluation={"tokens": 100}), plan(evaluation={"tokens": 400})
    first = finish(tmp_path / "results", few)
    expected = finish(tmp_path / "other", many)
    assert (first["loss"] != expected["loss"]).all()

    results = tmp_path / "results"
    wanted = manifest_of(results, many, b"")
    assert len(unfinished(results, wanted)) == len(many.runs)
    before = collect(results, wanted).table
    assert before["loss"].isna().all() and set(before["status"]) == {JUDGED_OTHERWISE}

    # Killed between the parts of setting a judgement aside, it is done again.
    unpublish, steps = ready.unpublish, len(read_steps(run_folder(results, many.runs[0].run_id)))

    def killed(folder: Path) -> None:
        unpublish(folder)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ready, "unpublish", killed)
        prepare(results, many, b"")
    with monkeypatch.context() as patch:
        no_training(patch)
        after = finish(results, many)
    pd.testing.assert_frame_equal(
        after.drop(columns="tokens_per_s"), expected.drop(columns="tokens_per_s"), check_exact=True
    )
    # What was judged on the way on the other windows is gone, what was logged is there.
    logged = read_steps(run_folder(results, many.runs[0].run_id))
    assert len(logged) == steps and logged["val_loss"].notna().sum() == 1
    assert logged["val_loss"].iloc[-1] == after.loc[many.runs[0].run_id, "loss"]
    assert unfinished(results, wanted) == []


@pytest.mark.slow
def test_what_a_half_trained_run_was_judged_on_its_way_is_not_mixed_with_other_windows(
    plan: PlanOf, tmp_path: Path
) -> None:
    few, many = (plan(evaluation={"tokens": tokens}) for tokens in (100, 400))
    trunk, stops = few.runs[0], iter([*[False] * 8, *[True] * 100])
    prepare(tmp_path, few, b"")
    assert train_run(run_folder(tmp_path, trunk.run_id), lambda: next(stops)) == "planned"
    finish(tmp_path, many)
    whole = finish(tmp_path / "fresh", many)
    for name in whole.index:
        ours, fresh = (
            read_steps(run_folder(each, name)).set_index("step")["val_loss"].dropna()
            for each in (tmp_path, tmp_path / "fresh")
        )
        assert len(ours) and (ours == fresh[ours.index]).all()


def test_another_judgement_is_no_addition_to_a_plan(plan: PlanOf, tmp_path: Path) -> None:
    few, many = (
        manifest_of(tmp_path, plan(evaluation={"tokens": tokens}), b"") for tokens in (100, 400)
    )
    assert few.extends(few) and not many.extends(few)


def test_the_status_says_that_a_run_was_judged_otherwise(plan: PlanOf, tmp_path: Path) -> None:
    finish(tmp_path, plan(evaluation={"tokens": 100}))
    write_manifest(tmp_path, manifest_of(tmp_path, plan(evaluation={"tokens": 400}), b""))
    for row in looked_at(tmp_path).runs:
        assert (row["status"], row["loss"]) == (JUDGED_OTHERWISE, None)


@pytest.fixture
def other_texts(tmp_path: Path) -> dict[str, str]:
    """Two sets: the words of the corpus in an order of their own, and what it has never seen."""
    random = np.random.default_rng(5)
    for name, words in {"near": ["we", "the", "people", "of"], "far": ["QZ", "XK", "JV"]}.items():
        texts = [" ".join(random.choice(words, 60)) for _ in range(5)]
        (tmp_path / f"{name}.txt").write_text("\0".join(texts))
    return {name: str(tmp_path / f"{name}.txt") for name in ("near", "far")}


def test_a_set_that_is_added_later_judges_finished_runs_and_trains_none(
    plan: PlanOf,
    corpus: Corpus,
    other_texts: dict[str, str],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results, asked = tmp_path / "results", plan()
    before = finish(results, asked)
    sets = prepare_sets(other_texts, asked.study.data, corpus, cache / "corpora")
    named = {name: text.info.fingerprint for name, text in sets.items()}
    with_sets = asked.judged_on(named)
    assert [run.run_id for run in with_sets.runs] == [run.run_id for run in asked.runs]

    manifest = manifest_of(results, with_sets, b"")
    assert {*named.values()} < {*manifest.corpora}  # whose tokens every worker checks
    with monkeypatch.context() as patch:
        no_training(patch)
        after = finish(results, with_sets)
    columns = [f"{what}_{name}" for name in named for what in ("loss", "bits_per_byte")]
    columns += [f"loss_{name}_stderr" for name in named]
    assert {*after.columns} == {*before.columns, *columns}
    pd.testing.assert_frame_equal(
        after[before.columns].drop(columns="tokens_per_s"),
        before.drop(columns="tokens_per_s"),
        check_exact=True,
    )
    assert (after["loss_near"] < after["loss_far"]).all()
    assert (after[columns] > 0).all(axis=None)
    # Of bytes, all but the end of a document are text.
    info = sets["far"].info
    assert after["bits_per_byte_far"].to_numpy() == pytest.approx(
        after["loss_far"] / np.log(2) * info.holdout_tokens / info.holdout_bytes, rel=0.05
    )
    # Those of whoever had the sets from the beginning.
    pd.testing.assert_frame_equal(
        after[columns], finish(tmp_path / "fresh", with_sets)[columns], check_exact=True
    )
    assert unfinished(results, manifest) == []


def test_runs_of_before_windows_were_packed_are_judged_again(plan: PlanOf) -> None:
    config = config_of(plan().runs[0])
    old = {name: value for name, value in config.items() if name != "holdout_windows"}
    assert spec_of(old).run_id == config["run_id"] and not is_judged_alike(old, config)


def test_runs_of_before_there_were_sets_are_judged_as_a_study_without_them(plan: PlanOf) -> None:
    config = config_of(plan().runs[0])
    old = {name: value for name, value in config.items() if name != "sets"}
    assert is_judged_alike(old, config) and spec_of(old).sets == ()
    assert not is_judged_alike(old, config_of(plan().judged_on({"web": "0" * 12}).runs[0]))
