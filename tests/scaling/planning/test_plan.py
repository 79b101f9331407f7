"""A plan is known to the last step before anything is trained."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from models.decoder.sizes import count_params
from scaling.data.corpus import Corpus, CorpusInfo
from scaling.planning import estimate
from scaling.planning.plan import Plan, make_plan, plan_table
from scaling.spec import RunSpec, planned_run, read_spec, run_columns, spec_of, spent_flops
from scaling.store.manifest import Manifest, read_manifest, write_manifest
from scaling.store.records import Refusal, write_json
from scaling.study import Study, parse_study

PlanOf = Callable[..., Plan]
StudyOf = Callable[..., Study]


def by_tokens(plan: Plan) -> dict[int, RunSpec]:
    return {run.tokens: run for run in plan.points}


def trunk(plan: Plan) -> RunSpec:
    (only,) = (run for run in plan.runs if run.run_kind == "trunk")
    return only


def test_every_budget_is_a_branch_of_one_trunk(plan: PlanOf) -> None:
    runs = plan().runs
    assert [run.run_kind for run in runs] == ["trunk", "cooldown", "cooldown"]
    assert {run.trunk_id for run in runs} == {runs[0].run_id}
    assert runs[0].checkpoint_at == tuple(run.first_step for run in runs[1:])
    assert runs[0].schedule.steps == runs[2].first_step


def test_a_cooldown_takes_the_last_fifth(plan: PlanOf) -> None:
    long = by_tokens(plan())[3072]
    assert (long.schedule.steps, long.first_step) == (48, 40)  # 8 of 9.6 steps, in multiples of 4


def test_steps_of_every_kind_are_multiples_of_what_d_is_rounded_to(plan: PlanOf) -> None:
    for unit in (1, 3, 8):
        for run in plan(training={"round_to_steps": unit}).runs:
            counted = {run.schedule.steps, run.first_step, run.evaluate_every, *run.checkpoint_at}
            assert not any(step % unit for step in counted)
            assert run.checkpoint_every is not None and run.checkpoint_every % unit == 0


def test_tokens_are_rounded_to_the_nearest_multiple(plan: PlanOf) -> None:
    # Multiples of 4·4·16 = 256 tokens.
    assert set(by_tokens(plan(grid={"tokens": [1600, 3300]}))) == {1536, 3328}


def test_ids_are_the_same_in_another_process(
    table: Callable[..., dict[str, Any]], corpus: Corpus
) -> None:
    code = (
        "from scaling.planning.plan import *; from scaling.study import *\n"
        "from scaling.data.corpus import *\n"
        f"study = parse_study({table()!r}, ''); info = {corpus.info!r}\n"
        "print(*(run.run_id for run in make_plan(study, info).runs))"
    )
    command = [sys.executable, "-c", code]
    other = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert other == [run.run_id for run in make_plan(parse_study(table(), ""), corpus.info).runs]


def test_a_new_budget_extends_its_trunk_and_moves_no_other_run(plan: PlanOf) -> None:
    short, long = plan(), plan(grid={"tokens": [6144, 1536, 2304, 3072]})
    assert trunk(long).run_id == trunk(short).run_id
    assert trunk(long).schedule.steps > trunk(short).schedule.steps
    assert set(trunk(short).checkpoint_at) < set(trunk(long).checkpoint_at)
    for tokens, run in by_tokens(short).items():
        assert by_tokens(long)[tokens] == run


def test_how_often_files_are_written_is_no_part_of_a_runs_identity(plan: PlanOf) -> None:
    often = plan(training={"checkpoint_every_tokens": 256})
    assert [run.run_id for run in often.runs] == [run.run_id for run in plan().runs]


@pytest.mark.parametrize(
    "change",
    [
        {"grid": {"seeds": [1]}},
        {"training": {"learning_rate_factor": 2.0}},
        {"training": {"weight_decay": 0.2}},
        {"training": {"beta2": 0.9}},
        {"training": {"batch_sequences": 8}},
        {"training": {"warmup_tokens": 128}},
        {"training": {"nominal_tokens": 3072}},
        {"training": {"cooldown_shape": "linear"}},
        {"training": {"cooldown_fraction": 0.5}},
        {"model": {"overrides": {"head": "tied", "embedding_std": 0.02}}},
        {"model": {"parametrization": "mup"}},
        {"training": {"optimizer": "muon"}},
        {"model": {"overrides": {"norm_epsilon": 1e-6}}},
        {"model": {"overrides": {"dropout": 0.1}}},
        {"model": {"overrides": {"norm_placement": "post"}}},
        {"model": {"overrides": {"positions": "sinusoidal"}}},
        {"training": {"z_loss": 1e-4}},
        {"training": {"compute_dtype": "bfloat16"}},
    ],
    ids=str,
)
def test_what_changes_a_result_changes_the_ids_of_its_points(
    plan: PlanOf, change: dict[str, Any]
) -> None:
    before, after = ({run.run_id for run in p.points} for p in (plan(), plan(**change)))
    assert not before & after


def test_another_text_is_another_run(study: StudyOf, corpus: Corpus, plan: PlanOf) -> None:
    other = dataclasses.replace(corpus.info, fingerprint="0" * 12)
    assert trunk(make_plan(study(), other)).run_id != trunk(plan()).run_id


def test_replicates_are_more_seeds_at_the_smallest_budget(plan: PlanOf) -> None:
    got = plan(grid={"replicate_seeds": [1, 2]}).points
    assert [(run.seed, run.tokens) for run in got] == [(0, 1536), (0, 3072), (1, 1536), (2, 1536)]


def test_a_cosine_study_trains_every_budget_from_the_start(plan: PlanOf) -> None:
    runs = plan(training={"schedule": "cosine"}).runs
    assert [run.run_kind for run in runs] == ["full", "full"]
    assert all(run.first_step == 0 and run.trunk_id == run.run_id for run in runs)
    assert all(run.schedule.decay_start == run.schedule.warmup_steps for run in runs)


def test_shared_trunks_are_counted_once(plan: PlanOf) -> None:
    made = plan()
    per_step = made.runs[0].flops_per_token * 64
    assert made.flops_spent == per_step * (40 + 4 + 8)
    assert made.flops_unshared == per_step * (24 + 48)


def test_flops_6nd_gives_back_n_and_d(plan: PlanOf) -> None:
    for run in plan().points:
        assert run.flops_6nd / 6 / run.tokens == count_params(run.model).total
        assert run.flops_6nd / 6 / count_params(run.model).total == run.tokens


def test_cells_above_the_limit_are_left_out_and_listed(plan: PlanOf) -> None:
    cost = plan().points[-1].flops_6nd
    sweep = {"training.learning_rate_factor": [1.0, 2.0]}
    capped = plan(grid={"max_run_flops": 0.9 * cost}, sweep=sweep)
    assert {run.tokens for run in capped.points} == {1536}
    assert [(cell.tokens, cell.flops_6nd) for cell in capped.left_out] == [(3072.0, cost)]
    assert "max_run_flops" in capped.left_out[0].reason


def test_a_size_is_laid_out_once_however_many_runs_it_has(
    plan: PlanOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[RunSpec] = []
    laid_out = estimate.layout_of
    monkeypatch.setattr(
        estimate, "layout_of", lambda run, target: asked.append(run) or laid_out(run, target)
    )
    made = plan(grid={"seeds": [0, 1, 2]})
    memory = plan_table(made).set_index("run_id")["memory_bytes"]
    assert len(asked) == len(made.rungs) < len(made.runs)
    assert all(memory[run.run_id] == estimate.worker_memory(run) for run in made.runs)


def test_the_table_has_a_row_a_run_and_its_costs_add_up(plan: PlanOf) -> None:
    made = plan()
    rows = plan_table(made)
    assert rows["run_id"].tolist() == [run.run_id for run in made.runs]
    assert rows["flops_spent"].sum() == sum(map(spent_flops, made.runs))
    assert (rows["params_error"] == rows["params_non_embedding"] / 3400 - 1).all()
    assert (rows[["hours", "memory_bytes"]] > 0).all(axis=None)


@pytest.mark.parametrize(
    "sections, words",
    [
        ({"training": {"warmup_tokens": 320}}, r"warmup_tokens = 320 is 21% of 1,536 tokens with"),
        ({"grid": {"tokens": [1e9]}}, r"more than the .* allow_repeats"),
        (
            {"grid": {"tokens": [1536, 1550]}},
            r"round to the same run",
        ),
        ({"grid": {"params": [3400, 3401]}}, r"params = 3400 and params = 3401 round to the same"),
        ({"grid": {"params": [10]}}, "less than half of the smallest shape"),
        ({"grid": {"params": [1e21]}}, "not FLOPs"),
        ({"grid": {"max_run_flops": 1}}, "leaves no budget"),
        ({"training": {"learning_rate": "magic"}}, r"\[training\] learning_rate = 'magic'"),
        ({"training": {"beta2": "magic"}}, r"\[training\] beta2 = 'magic'"),
        ({"training": {"warmup_tokens": "magic"}}, r"\[training\] warmup_tokens = 'magic'"),
        ({"training": {"batch_sequences": 10_000}}, "less than one batch"),
        ({"hardware": {"microbatch_tokens": 3}}, "microbatch_tokens = 3 is less than one sequence"),
        ({"training": {"cooldown_fraction": 0.95}}, "would start inside the warmup"),
        (
            {"model": {"overrides": {"norm": "batch"}}},
            "norm = 'batch': Input should be 'rms' or 'layer'",
        ),
        ({"model": {"overrides": {"heads": 3}}}, "heads"),
        (
            {"model": {"overrides": {"dropout": 1}}},
            r"\[model\].* dropout = 1.0 must be in \[0, 1\)",
        ),
        ({"model": {"overrides": {"drop_out": 0.1}}}, "Did you mean dropout"),
        (
            {"model": {"overrides": {"norm_placement": "post", "parallel": True}}},
            'norm_placement = "post" has no place in parallel blocks',
        ),
        ({"model": {"overrides": {"rope_theta": "big"}}}, r"\[model\]"),
        ({"model": {"head_dim": 7}}, "head_dim = 7 is 7 dimensions"),
        (
            {"model": {"overrides": {"head": "tied"}}},
            'embedding_std = 1 with head = "tied" and d_model = 16: .* deviation of 4,',
        ),
        (
            {"model": {"parametrization": "mup"}, "training": {"learning_rate": "sotu-bytes"}},
            r"learning_rate = 'sotu-bytes' follows size, and so does .*Give the rate at base_width",
        ),
        ({"training": {"optimizer": "lion"}}, r"optimizer = 'lion': .*'adamw' or 'muon'"),
        ({"model": {"base_width": 0}}, r"base_width = 0"),
        ({"model": {"overrides": {"parametrization": "mup"}}}, "parametrization"),
    ],
    ids=str,
)
def test_a_plan_that_would_mislead_is_refused(
    plan: PlanOf, sections: dict[str, Any], words: str
) -> None:
    if sections.get("training", {}).get("batch_sequences"):
        sections = {**sections, "grid": {"tokens": [1e7]}}
    with pytest.raises(Refusal, match=words):
        plan(**sections)


def test_everything_that_is_wrong_with_a_study_is_said_at_once(plan: PlanOf) -> None:
    with pytest.raises(Refusal) as caught:
        plan(
            grid={"params": [10, 3400, 13000], "tokens": [1536, 10**9]},
            training={"warmup_tokens": 640, "beta2": 0.9},
        )
    lines = str(caught.value).splitlines()
    for words in ("smallest shape", "warmup_tokens = 640 is 42%", "allow_repeats"):
        assert sum(words in line for line in lines) == 1, words
    assert len(lines) == 3


def test_a_study_of_long_warmups_may_have_them_up_to_its_cooldowns(plan: PlanOf) -> None:
    long = {"warmup_tokens": 320, "allow_long_warmup": True}
    made, usual = plan(training=long), plan(training={"warmup_tokens": 128})
    assert {run.schedule.warmup_steps * run.batch_tokens for run in made.runs} == {320}
    again = plan(training={"warmup_tokens": 128, "allow_long_warmup": True})
    assert [run.run_id for run in again.runs] == [run.run_id for run in usual.runs]
    with pytest.raises(Refusal, match="would start inside the warmup"):
        plan(training={**long, "warmup_tokens": 1400})
    with pytest.raises(Refusal, match=r"warmup_tokens = 4,?096 is"):  # no cooldown refuses it there
        plan(training={**long, "schedule": "cosine", "warmup_tokens": 4096})


def test_the_values_that_a_refusal_names_are_planned(plan: PlanOf) -> None:
    with pytest.raises(Refusal) as caught:
        plan(training={"warmup_tokens": 320})
    said = re.search(r"warmup_tokens = (\S+) at most, or tokens from (\S+) on", str(caught.value))
    assert said is not None
    warmup, tokens = (int(each.replace(",", "")) for each in said.groups())
    assert plan(training={"warmup_tokens": warmup}).runs
    assert plan(training={"warmup_tokens": 320}, grid={"tokens": [tokens, 3072]}).runs
    with pytest.raises(Refusal) as caught:
        plan(grid={"tokens": [1536, "1M"]})
    most = re.search(r"Give tokens up to (\S+), more text", str(caught.value))
    assert most is not None and plan(grid={"tokens": [1536, int(most[1].replace(",", ""))]}).runs


def test_a_warmup_of_exactly_a_fifth_is_allowed(plan: PlanOf) -> None:
    assert trunk(plan(training={"warmup_tokens": 320}, grid={"tokens": [1600 + 256]}))


def test_repeats_are_allowed_by_leave_alone(plan: PlanOf, corpus: Corpus) -> None:
    made = plan(grid={"tokens": [3072, 1e5]}, data={"allow_repeats": True})
    assert max(run.tokens for run in made.points) > corpus.info.train_tokens


def test_a_cap_makes_epochs_of_few_tokens(plan: PlanOf) -> None:
    sweep = {"data.unique_tokens": [768, 3072]}
    made = plan(data={"allow_repeats": True}, sweep=sweep)
    table = plan_table(made)
    points = table[table["run_kind"] == "cooldown"]
    found = sorted(zip(points["tokens"], points["unique_tokens"], strict=True))
    assert found == [(1536, 768), (1536, 1536), (3072, 768), (3072, 3072)]
    assert len({run.trunk_id for run in made.runs}) == 2  # another cap, another order of batches


def test_a_cap_needs_leave_to_repeat_and_a_corpus_that_holds_it(plan: PlanOf) -> None:
    with pytest.raises(Refusal, match=r"tokens = 1,536; 3,072 are more than the 768 of"):
        plan(data={"unique_tokens": 768})
    with pytest.raises(Refusal, match=r"unique_tokens = 40 is 32 in whole .* one batch of 64"):
        plan(data={"unique_tokens": 40, "allow_repeats": True})
    with pytest.raises(Refusal, match=r"unique_tokens = 1,000,000 is more than the .* corpus"):
        plan(data={"unique_tokens": "1M", "allow_repeats": True})


def test_a_corpus_shorter_than_a_batch_is_refused_even_with_repeats(study: StudyOf) -> None:
    info = CorpusInfo("0" * 12, "short.txt", 256, 1, 60, 1, 60, 59)
    with pytest.raises(Refusal, match=r"'short.txt' has 48 tokens to train on"):
        make_plan(study(data={"allow_repeats": True}), info)


def test_a_specification_survives_its_file(plan: PlanOf, tmp_path: Path) -> None:
    for made in (plan(), plan(training={"schedule": "cosine"})):
        runs = [planned_run(run, made.corpus) for run in made.runs]
        digests = {"study_sha256": "", "source_sha256": ""}
        write_manifest(tmp_path, Manifest.made(study="", runs=runs, **digests))
        read = read_manifest(tmp_path)
        for run, planned in zip(made.runs, read.runs, strict=True):
            assert spec_of(planned.config) == run
            assert planned.columns == run_columns(run, made.corpus)
            assert planned.flops == spent_flops(run)
            write_json(tmp_path / run.run_id / "run.json", read.planned_record(planned).plain())
            assert read_spec(tmp_path / run.run_id) == run


def test_the_base_of_mup_is_no_part_of_a_standard_run(plan: PlanOf) -> None:
    ids = [[run.run_id for run in plan(model=model).runs] for model in ({}, {"base_width": 64})]
    assert ids[0] == ids[1]
    other = plan(model={"parametrization": "mup", "base_width": 64}).runs
    assert {run.run_id for run in plan(model={"parametrization": "mup"}).runs}.isdisjoint(
        run.run_id for run in other
    )
    model = run_columns(other[0], plan().corpus)
    assert (model["parametrization"], model["base_width"], model["base_depth"]) == ("mup", 64, 2)


def test_parametrizations_and_optimisers_are_swept(plan: PlanOf) -> None:
    sweep = {
        "model.parametrization": ["standard", "mup"],
        "training.optimizer": ["adamw", "muon"],
    }
    made = plan(sweep=sweep)
    columns = [run_columns(run, made.corpus) for run in made.points]
    assert {(each["parametrization"], each["optimizer"]) for each in columns} == {
        (parametrization, optimizer)
        for parametrization in ("standard", "mup")
        for optimizer in ("adamw", "muon")
    }


def test_the_flops_of_muon_are_part_of_a_run_and_a_column(plan: PlanOf) -> None:
    muon = plan(training={"optimizer": "muon"})
    for run, other in zip(muon.points, plan().points, strict=True):
        row, adamw = (run_columns(each, muon.corpus) for each in (run, other))
        assert row["flops_optimizer"] == run.optimizer_flops * run.schedule.steps > 0
        assert row["flops"] == pytest.approx(adamw["flops"] + row["flops_optimizer"])
        assert adamw["flops_optimizer"] == 0
        parts = ("flops_blocks", "flops_attention", "flops_head", "flops_optimizer")
        assert row["flops"] == pytest.approx(sum(row[part] for part in parts))
