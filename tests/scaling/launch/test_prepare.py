"""A results folder is made ready for workers, and what is finished there stays."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from scaling.launch.prepare import prepare
from scaling.planning.plan import Plan
from scaling.store.attempt import attempt
from scaling.store.ready import run_folder
from scaling.store.records import Refusal, read_json, write_json
from scaling.store.run_record import Status, read_run
from scaling.store.table import publish_table


def ready(
    results: Path, plan: Plan, toml: bytes = b"", retry: tuple[Status, ...] = ()
) -> list[Path]:
    """The folders of the runs that are to be trained."""
    return [run_folder(results, run.run_id) for run in prepare(results, plan, toml, retry)]


def statuses(folders: list[Path]) -> list[str]:
    return [read_run(folder).status for folder in folders]


def test_a_results_folder_that_cannot_be_written_is_refused(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="Choose another folder"):
        prepare(tmp_path / "file", plan(), b"")


def test_the_study_and_every_run_of_its_plan_are_laid_out_trunks_before_branches(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan(grid={"seeds": [0, 1], "replicate_seeds": [2]})
    folders = ready(tmp_path, made, b"the study")
    assert (tmp_path / "study.toml").read_bytes() == b"the study"
    assert [folder.name for folder in folders] == [run.run_id for run in made.runs]
    seen: set[str] = set()
    for folder in folders:
        seen.add(folder.name)
        assert read_run(folder).trunk_id in seen


@pytest.mark.parametrize("name", ["runs.parquet", "scores.parquet"])
def test_a_table_beside_the_very_study_is_kept(
    plan: Callable[..., Plan], tmp_path: Path, name: str
) -> None:
    """As a colleague gives both away, without the runs. A killed launch leaves no table."""
    (tmp_path / "study.toml").write_text("the study")
    (tmp_path / name).write_text("mine")
    with pytest.raises(Refusal, match=rf"{name} is .*Move it away"):
        prepare(tmp_path, plan(), b"the study")
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["study.toml", "plan.csv", "runs.parquet", "scores.parquet"])
def test_a_file_of_the_users_in_the_place_of_ours_is_kept(
    plan: Callable[..., Plan], tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(Refusal, match=rf"{name} is .*Move it away, or name another folder"):
        prepare(tmp_path, plan(), b"the study")
    assert (tmp_path / name).read_text() == "mine" and not (tmp_path / "plan.json").exists()
    (tmp_path / name).rename(tmp_path / "elsewhere")
    for toml in (b"the study", b"the study, and more"):
        prepare(tmp_path, plan(), toml)  # ours gives way to ours


def test_labels_of_finished_runs_are_those_of_the_study_as_it_is_now(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan()
    for folder in ready(tmp_path, made):
        with attempt(folder) as mine:
            mine.record("completed", result={"loss": 1.0})
    relabelled = replace(made, runs=tuple(replace(run, budget_flops=1e9) for run in made.runs))
    assert publish_table(tmp_path).table["budget_flops"].isna().all()
    assert prepare(tmp_path, relabelled, b"") == []
    assert set(publish_table(tmp_path).table["budget_flops"]) == {1e9}


def finish(folder: Path) -> None:
    """Publish a run as if it had been trained."""
    with attempt(folder) as mine:
        mine.begin()
        for name in ("steps.parquet", "evals.parquet"):
            (mine.folder / name).write_bytes(b"a table of " + name.encode())
        mine.publish(read_json(folder / "run.json")["config"]["schedule"]["steps"], {"loss": 2.5})


def test_damaged_tables_of_a_finished_run_are_reported_and_it_is_trained_again_when_asked(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan()
    folders = ready(tmp_path, made)
    for folder in folders:
        finish(folder)
    damaged = folders[1]
    (damaged / "evals.parquet").write_bytes(b"a table of evels.parquet")
    published = publish_table(tmp_path)
    assert set(published.damaged) == {damaged.name}
    assert "evals.parquet has changed since it was written" in published.damaged[damaged.name]
    row = published.table.set_index("run_id").loc[damaged.name]
    assert row["status"] == "failed" and pd.isna(row["loss"])
    assert prepare(tmp_path, made, b"") == []
    assert ready(tmp_path, made, retry=("failed",)) == [damaged]
    assert (damaged / "evals.unreadable").read_bytes() == b"a table of evels.parquet"
    assert read_json(damaged / "run.json")["status"] == "planned"


def test_a_damaged_record_of_a_finished_run_is_made_again_from_its_publication(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    made = plan()
    first, *_ = ready(tmp_path, made)
    finish(first)
    path = first / "run.json"
    written = path.read_text()
    path.write_text(written.replace("2.5", "2.7"))
    assert set(publish_table(tmp_path).damaged) == {first.name}
    prepare(tmp_path, made, b"")
    assert path.read_text() == written and "2.7" in path.with_suffix(".unreadable").read_text()


def test_to_lay_out_a_grid_the_disk_is_waited_for_three_times_however_many_runs_it_has(
    plan: Callable[..., Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[int] = []
    monkeypatch.setattr(os, "fsync", waits.append)
    folders = ready(tmp_path, plan(grid={"seeds": [0, 1, 2]}))
    assert len(waits) == 3 and statuses(folders) == ["planned"] * 9
    (folders[1] / "run.json").write_text("")  # as a power cut may leave it
    assert ready(tmp_path, plan(grid={"seeds": [0, 1, 2]})) == folders
    assert statuses(folders) == ["planned"] * 9


@pytest.mark.parametrize("place", ["runs", "runs/{run}", "runs/{run}/attempts"])
def test_nothing_is_written_through_a_link(
    plan: Callable[..., Plan], tmp_path: Path, place: str
) -> None:
    made, away = plan(), tmp_path / "away"
    away.mkdir()
    link = tmp_path / "results" / place.format(run=made.runs[0].run_id)
    link.parent.mkdir(parents=True)
    link.symlink_to(away)
    with pytest.raises(Refusal, match="is a link to another place"):
        prepare(tmp_path / "results", made, b"")
    assert list(away.iterdir()) == [] and not (tmp_path / "results" / "study.toml").exists()


def test_a_finished_trunk_is_planned_again_when_a_budget_needs_it_longer(
    plan: Callable[..., Plan], tmp_path: Path
) -> None:
    trunk, *branches = ready(tmp_path, plan())
    for folder in (trunk, *branches):
        write_json(folder / "run.json", read_run(folder).changed(status="completed").plain())
    assert ready(tmp_path, plan()) == []
    assert ready(tmp_path, plan(grid={"tokens": [1536]})) == []
    again, new = ready(tmp_path, plan(grid={"tokens": [1536, 3072, 4096]}))
    assert again == trunk and new not in branches
