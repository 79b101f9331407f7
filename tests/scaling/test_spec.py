"""A run's id is what the run is, and stays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from models.decoder.config import DIALECTS, ModelConfig
from scaling import spec
from scaling.planning.plan import Plan
from scaling.schedule import Schedule
from scaling.spec import (
    FORMER,
    FORMER_OF_MODELS,
    SCIENCE,
    Hardware,
    Optimizer,
    RunSpec,
    has_own_id,
    identity_of,
    planned_run,
    run_id_of,
    spec_of,
)
from scaling.store.records import fingerprint
from scaling.tasks.mix import TaskMix, TaskSpec

PlanOf = Callable[..., Plan]
MODEL = ModelConfig(256, 128, 2, 64, 4, 2, 16, 176)
BASE = RunSpec(
    run_id="",
    trunk_id="",
    run_kind="trunk",
    architecture="decoder",
    model=MODEL,
    corpus="0123456789ab",
    sequence_length=128,
    batch_sequences=8,
    seed=0,
    optimizer=Optimizer(0.9, 0.99, 0.1, 1.0),
    schedule=Schedule(0.01, 48, 400, "none", 0),
    dtype="float32",
    hardware=Hardware(),
    holdout_tokens=64_000,
    evaluate_every=976,
    checkpoint_at=(400,),
    checkpoint_every=976,
)
COOLDOWN = dataclasses.replace(
    BASE, run_kind="cooldown", schedule=Schedule(0.01, 48, 496, "1-sqrt", 96), checkpoint_at=()
)
COSINE = dataclasses.replace(
    BASE, run_kind="full", schedule=Schedule(0.01, 48, 496, "cosine", 448), seed=1
)
GPT2 = dataclasses.replace(
    BASE,
    model=dataclasses.replace(MODEL, **DIALECTS["gpt2"]),
    dtype="bfloat16",
    nominal_tokens=10**9,
    unique_tokens=10**6,
)
TASKS = dataclasses.replace(
    BASE, tasks=TaskMix(7, (TaskSpec("copy", {"length": 10}, 5.0), TaskSpec("addition")), (0,), 64)
)


@pytest.mark.parametrize(
    "run, run_id",
    [
        # 0dfb29499243 by recipe 1, bb8939a39ce5 by recipe 2 of bfloat16, which decayed tables
        (BASE, "5601ce724881"),
        (COOLDOWN, "cde4371ce920"),
        (COSINE, "8a9ef891b494"),
        (GPT2, "287491e3a459"),
        (TASKS, "60e1a5e6d8fc"),
    ],
    ids=["trunk", "cooldown", "cosine", "gpt2", "tasks"],
)
def test_the_ids_of_runs_are_these_for_ever(run: RunSpec, run_id: str) -> None:
    # Whoever must change one of these makes every finished run of everybody a stranger: add the
    # field to FORMER instead.
    assert run_id_of(run) == run_id


def test_a_run_of_an_earlier_recipe_has_its_own_id_and_another_program_none() -> None:
    """And a new study trains it under a new one."""
    earlier = dataclasses.replace(GPT2, run_id="bc68d2465c7c")  # recipe 1 of bfloat16
    assert has_own_id(earlier) and run_id_of(earlier) != earlier.run_id
    assert has_own_id(dataclasses.replace(GPT2, run_id=run_id_of(GPT2)))
    assert not has_own_id(dataclasses.replace(earlier, seed=1))
    assert has_own_id(dataclasses.replace(BASE, run_id="0dfb29499243"))
    recipe_3 = fingerprint({**identity_of(BASE), "recipe": 3})  # that float32 never had
    assert not has_own_id(dataclasses.replace(BASE, run_id=recipe_3))


def test_every_field_of_what_a_run_is_is_written_out() -> None:
    of_model = {f"model.{name}": value for name, value in FORMER_OF_MODELS["decoder"].items()}
    former = {**FORMER, **of_model}

    def check(value: Any, written: Any, path: str) -> None:
        for each in dataclasses.fields(value):
            found, place = getattr(value, each.name), f"{path}.{each.name}".removeprefix(".")
            if place in former and found == former[place]:
                assert each.name not in written
            elif dataclasses.is_dataclass(found):
                check(found, written[each.name], place)
            else:
                assert written[each.name] == found, place

    written = identity_of(COSINE)
    for name in ("model", "optimizer", "schedule"):
        check(getattr(COSINE, name), written[name], name)
    assert set(written) == {*SCIENCE, "recipe"}
    known = {each.name for each in dataclasses.fields(RunSpec)}
    assert set(SCIENCE) < known


@pytest.mark.parametrize(
    "change",
    [
        {"hardware": Hardware(1024, "scanned", "full", "plain", "chunked", "fsdp", 2, True)},
        {"holdout_tokens": 16_000},
        {"evaluate_every": 8},
        {"checkpoint_every": 8},
        {"checkpoint_at": (8, 400)},
        {"budget_flops": 1e12},
        {"variant": "training.beta1=0.9"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_layout_evaluation_and_labels_are_no_part_of_what_a_run_is(change: dict[str, Any]) -> None:
    for run in (BASE, COOLDOWN, COSINE, TASKS):
        assert run_id_of(dataclasses.replace(run, **change)) == run_id_of(run)


def test_what_tasks_are_asked_is_no_part_of_what_a_run_is_and_what_they_train_is() -> None:
    assert TASKS.tasks is not None
    trained = TASKS.tasks.tasks

    def changed(**fields: Any) -> str:
        tasks = dataclasses.replace(TASKS.tasks, **fields)  # type: ignore[type-var]
        return run_id_of(dataclasses.replace(TASKS, tasks=tasks))

    asked_alone = (*trained, TaskSpec("reverse", {}, 0.0))
    for judged in ({"shots": (0, 4)}, {"items": 9}, {"samples": 3}, {"tasks": asked_alone}):
        assert changed(**judged) == run_id_of(TASKS)
    for other in ({"sequences": 6}, {"tasks": trained[:1]}, {"tasks": trained[::-1]}):
        assert changed(**other) != run_id_of(TASKS)


def test_a_trunk_is_the_same_run_however_long_it_is() -> None:
    longer = dataclasses.replace(BASE, schedule=dataclasses.replace(BASE.schedule, steps=800))
    assert run_id_of(longer) == run_id_of(BASE)
    faster = dataclasses.replace(BASE, schedule=dataclasses.replace(BASE.schedule, peak=0.02))
    assert run_id_of(faster) != run_id_of(BASE)


@dataclasses.dataclass(frozen=True)
class Later(Optimizer):
    """The optimiser of a later version, with a field more."""

    schedule_free: float = 0.0


def with_later(**more: Any) -> RunSpec:
    return dataclasses.replace(BASE, optimizer=Later(0.9, 0.99, 0.1, 1.0, **more))


def test_a_field_that_is_added_later_renames_no_run_that_had_its_value_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(spec, "FORMER", {**FORMER, "optimizer.schedule_free": 0.0})
    assert run_id_of(with_later()) == run_id_of(BASE)
    assert run_id_of(with_later(schedule_free=0.5)) != run_id_of(BASE)


def test_a_default_that_changes_later_makes_no_run_another_and_no_other_run_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Of a field that was there from the start, and of one that was added later.
    made = ModelConfig.__init__.__defaults__
    assert made is not None and 1.0 in made
    other = tuple(
        0.5 if value == 1.0 and at == made.index(1.0) else value for at, value in enumerate(made)
    )
    monkeypatch.setattr(ModelConfig.__init__, "__defaults__", other)
    changed = ModelConfig(256, 128, 2, 64, 4, 2, 16, 176)
    assert changed != MODEL
    assert run_id_of(dataclasses.replace(BASE, model=changed)) != run_id_of(BASE)
    as_before = ModelConfig(256, 128, 2, 64, 4, 2, 16, 176, embedding_std=MODEL.embedding_std)
    assert run_id_of(dataclasses.replace(BASE, model=as_before)) == run_id_of(BASE)

    monkeypatch.setattr(spec, "FORMER", {**FORMER, "optimizer.schedule_free": 0.0})
    monkeypatch.setattr(Later.__init__, "__defaults__", (0.0, "adamw", 0.5))
    assert run_id_of(with_later()) != run_id_of(BASE)
    assert run_id_of(with_later(schedule_free=0.0)) == run_id_of(BASE)


def test_a_specification_that_lacks_a_later_field_has_the_value_of_its_time(plan: PlanOf) -> None:
    made = plan()
    config = planned_run(made.runs[0], made.corpus).config
    del config["model"]["dropout"]
    assert spec_of(config) == made.runs[0]
    assert "dropout" not in config["model"]  # nothing is changed in what was read


def test_a_run_of_before_that_asked_for_any_number_of_steps_a_call_is_read(plan: PlanOf) -> None:
    made = plan()
    run = dataclasses.replace(made.runs[0], hardware=Hardware(steps_per_call=1_000_000))
    assert spec_of(planned_run(run, made.corpus).config) == run


def test_a_grid_that_is_laid_out_otherwise_is_the_same_grid(plan: PlanOf) -> None:
    layouts: tuple[dict[str, Any], ...] = (
        {"steps_per_call": 3},
        {"microbatch_tokens": 64},
        {"layers": "scanned", "remat": "full"},
    )
    ids = [run.run_id for run in plan().runs]
    for hardware in layouts:
        assert [run.run_id for run in plan(hardware=hardware).runs] == ids
    assert [run.run_id for run in plan(evaluation={"tokens": 200}).runs] == ids
