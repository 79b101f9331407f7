"""Points of a grid are those that were asked for, in compute as in sizes and tokens."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from models.decoder.presets import preset
from models.decoder.sizes import count_flops, count_params, matrices
from scaling.data.corpus import CorpusInfo
from scaling.optimizers import step_flops
from scaling.planning.grid import cells, flops_per_token, ladder_of
from scaling.planning.plan import Plan, make_plan, plan_table
from scaling.planning.sweep import variants
from scaling.store.records import Refusal
from scaling.study import Study, parse_study

StudyOf = Callable[..., Study]
PlanOf = Callable[..., Plan]


@pytest.fixture(scope="module")
def gridded(table: Callable[..., dict[str, Any]]) -> StudyOf:
    """The tiny study with another grid."""

    def make(grid: dict[str, Any], **sections: Any) -> Study:
        raw = table(**sections)
        raw["grid"] = grid
        raw["model"] = {name: v for name, v in raw["model"].items() if v is not None}
        return parse_study(raw, "tiny.toml")

    return make


LADDERLESS = {"head_dim": None, "aspect_ratio": None}
ISOFLOP = {
    "kind": "isoflop",
    "budgets": [1e10, 4e10],
    "flop_count": "6nd",
    "params_convention": "total",
    "center_tokens_per_param": 1.0,
    "sizes": 5,
    "span": 16.0,
}


@pytest.mark.parametrize("flop_count", ["6nd", "exact"])
def test_every_size_of_an_isoflop_budget_costs_the_budget(
    gridded: StudyOf, flop_count: str
) -> None:
    for cell in cells(gridded({**ISOFLOP, "flop_count": flop_count}), 256):
        config = cell.rung.config
        per_token = {
            "6nd": 6 * count_params(config).total,
            "exact": count_flops(config, 16, "full").total,
        }[flop_count]
        assert cell.tokens * per_token == pytest.approx(cell.budget_flops, rel=1e-12)


def test_centred_sizes_lie_evenly_around_the_expected_optimum(gridded: StudyOf) -> None:
    found = cells(gridded(ISOFLOP), 256)
    for budget in (1e10, 4e10):
        targets = sorted(cell.rung.target for cell in found if cell.budget_flops == budget)
        assert targets[2] == pytest.approx(math.sqrt(budget / 6))  # C = 6·N·D at D = N
        assert [t / targets[2] for t in targets] == pytest.approx([1 / 4, 1 / 2, 1, 2, 4])


def test_centers_can_be_given_for_every_budget(gridded: StudyOf) -> None:
    grid = {**ISOFLOP, "center_params": ["20k", "50k"]}
    del grid["center_tokens_per_param"]
    found = cells(gridded(grid), 256)
    for budget, center in ((1e10, 2e4), (4e10, 5e4)):
        targets = [cell.rung.target for cell in found if cell.budget_flops == budget]
        assert math.prod(targets) ** (1 / 5) == pytest.approx(center)


def test_a_size_of_two_budgets_is_one_trunk_and_two_branches(gridded: StudyOf, corpus: Any) -> None:
    sizes = {"flop_count": "6nd", "params": [3400, 13000], "budgets": [1e10, 2e10]}
    study = gridded({"kind": "isoflop", **sizes}, data={"allow_repeats": True})
    runs = make_plan(study, corpus.info).runs
    assert [run.run_kind for run in runs] == ["trunk", "cooldown", "cooldown"] * 2
    for run in runs:
        if run.run_kind == "cooldown":
            assert run.flops_6nd == pytest.approx(run.budget_flops, rel=0.01)
        else:
            assert run.budget_flops is None


def test_the_budget_is_a_column_of_the_run_table_and_no_part_of_a_runs_identity(
    gridded: StudyOf, plan: PlanOf, corpus: Any
) -> None:
    (product,) = (run for run in plan().points if run.tokens == 1536)
    budget = product.flops_6nd
    grid = {"kind": "isoflop", "budgets": [budget], "flop_count": "6nd", "params": [3400]}
    made = make_plan(gridded(grid), corpus.info)
    (point,) = made.points
    assert point.run_id == product.run_id
    row = plan_table(made).set_index("run_id").loc[point.run_id]
    assert row["budget_flops"] == budget
    assert plan_table(plan())["budget_flops"].isna().all()


def test_a_ladder_trains_every_size_on_multiples_of_its_own_parameters(gridded: StudyOf) -> None:
    grid = {"kind": "ladder", "params": [3400, 13000], "tokens_per_param": [2, 0.5]}
    found = cells(gridded(grid), 256)
    assert [cell.tokens / cell.rung.params for cell in found] == [0.5, 2, 0.5, 2]


def test_presets_take_the_corpus_vocabulary_and_the_studys_length(gridded: StudyOf) -> None:
    grid = {"kind": "product", "presets": ["pythia-14m"], "tokens": [1536]}
    ((cell,), shape) = cells(gridded(grid, model=LADDERLESS), 256), preset("pythia-14m").config
    config = cell.rung.config
    assert (config.n_layers, config.d_model, config.d_ff) == (
        shape.n_layers,
        shape.d_model,
        shape.d_ff,
    )
    assert (config.vocab_size, config.context_length) == (256, 16)
    assert config.parallel == shape.parallel is True


@pytest.mark.parametrize(
    "change, words",
    [
        ({"sizes": None}, r"\[grid\] sizes goes with .* give it"),
        ({"params": [3400]}, r"params and center_tokens_per_param is given"),
        ({"center_params": [1e4]}, r"and center_params is given"),
        ({"center_tokens_per_param": None, "center_params": [1e4]}, "1 values for 2 budgets"),
        ({"params_convention": "matmul"}, r"params_convention = 'matmul' would center elsewhere"),
        ({"span": 1.0}, r"span = 1.0: .* greater than 1"),
        ({"sizes": 2}, r"sizes = 2: .*greater than or equal to 3"),
        ({"budgets": []}, r"budgets = .*at least 1 item"),
        ({"flop_count": None}, r"flop_count is missing"),
        ({"tokens": [1e6]}, r"tokens is not a known field"),
    ],
    ids=str,
)
def test_an_isoflop_grid_that_contradicts_itself_is_refused(
    gridded: StudyOf, change: dict[str, Any], words: str
) -> None:
    grid = {name: v for name, v in {**ISOFLOP, **change}.items() if v is not None}
    with pytest.raises(Refusal, match=rf"^tiny.toml: .*{words}"):
        gridded(grid)


def test_every_cell_that_whole_steps_miss_is_refused_with_what_fits(
    gridded: StudyOf, corpus: Any
) -> None:
    grid = {"kind": "isoflop", "budgets": [1e7], "flop_count": "6nd", "params": [3400, 9000]}
    with pytest.raises(Refusal) as caught:
        make_plan(gridded(grid), corpus.info)
    said = re.search(
        r"budgets: 1e\+07 FLOPs on 3,376, 6,984 parameters would be rounded by more than 1%.*"
        r"Give budgets from (\S+) FLOPs on",
        str(caught.value),
    )
    assert said is not None
    larger = {**grid, "budgets": [float(said[1])]}
    assert len(make_plan(gridded(larger, data={"allow_repeats": True}), corpus.info).points) == 2


def test_all_sizes_of_one_shape_are_named_and_how_many_shapes_there_are(gridded: StudyOf) -> None:
    grid = {**ISOFLOP, "sizes": 9, "span": 2.0}
    with pytest.raises(Refusal, match=r"\(9 sizes make \d shapes\); .* the same shape") as caught:
        cells(gridded(grid), 256)
    said = re.search(r"Give sizes = (\d) or span = (\S+)\.$", str(caught.value))
    assert said is not None
    assert len(cells(gridded({**grid, "sizes": int(said[1])}), 256)) == 2 * int(said[1])
    assert len(cells(gridded({**grid, "span": float(said[2])}), 256)) == 18


def test_every_budget_too_small_for_its_sizes_is_named_with_one_that_is_not(
    gridded: StudyOf,
) -> None:
    with pytest.raises(Refusal) as caught:
        cells(gridded({**ISOFLOP, "budgets": [1e7, 2e7]}), 256)
    first, second = str(caught.value).splitlines()
    assert "of 1e+07 FLOPs" in first and "of 2e+07 FLOPs" in second
    (least,) = {re.search(r"budgets from (\S+) FLOPs on", line)[1] for line in (first, second)}  # type: ignore[index]
    assert len(cells(gridded({**ISOFLOP, "budgets": [1.01 * float(least)]}), 256)) == 5


def test_the_multiple_that_a_refusal_names_fit_every_cell(gridded: StudyOf, corpus: Any) -> None:
    grid = {"kind": "isoflop", "budgets": [4e8], "flop_count": "6nd", "params": [3400]}

    def planned(round_to_steps: int) -> Plan:
        more = {"round_to_steps": round_to_steps}
        study = gridded(grid, training=more, data={"allow_repeats": True})
        return make_plan(study, corpus.info)

    with pytest.raises(Refusal, match=r"or \[training\] round_to_steps = 15\.$"):
        planned(16)
    assert len(planned(15).points) == 1


def test_what_is_refused_for_its_tokens_is_refused_for_nothing_else(
    gridded: StudyOf, corpus: Any
) -> None:
    # Both round to one call, which would be one run, and is shorter than its warmup.
    grid = {"kind": "product", "params": [3400], "tokens": [60, 70]}
    with pytest.raises(Refusal, match=r"^\[grid\] tokens = 60; 70 would be rounded .*$"):
        make_plan(gridded(grid), corpus.info)


def test_unknown_presets_are_refused_by_name(gridded: StudyOf) -> None:
    grid = {"kind": "product", "presets": ["pythia-71m"], "tokens": [1536]}
    with pytest.raises(Refusal, match=r"\[grid\] presets .*pythia-70m"):
        cells(gridded(grid, model=LADDERLESS), 256)


# --- sweeps -----------------------------------------------------------------------------------


def test_a_sweep_is_every_combination_of_its_values(study: StudyOf) -> None:
    sweep = {"training.batch_sequences": [4, 8], "model.overrides.qk_norm": [False, True]}
    found = [
        (v.study.training.batch_sequences, v.study.model.overrides["qk_norm"])
        for v in variants(study(sweep=sweep))
    ]
    assert found == [(4, False), (4, True), (8, False), (8, True)]


def test_without_a_sweep_there_is_one_variant(study: StudyOf) -> None:
    ((only,), same) = variants(study()), study()
    assert (only.study, only.label) == (same, None)


def test_every_swept_value_is_a_column(plan: PlanOf) -> None:
    sweep = {
        "training.batch_sequences": [4, 8],
        "training.learning_rate": [0.01, 0.02],
        "data.sequence_length": [16, 32],
        "model.overrides.qk_norm": [False, True],
        "training.weight_decay": [0.0, 0.1],
    }
    rows = plan_table(plan(grid={"tokens": [3072]}, sweep=sweep))
    points = rows[rows["run_kind"] == "cooldown"]
    names = ["batch_sequences", "learning_rate", "sequence_length", "qk_norm", "weight_decay"]
    assert len(points.drop_duplicates(names)) == len(points) == points["variant"].nunique() == 32


@pytest.mark.parametrize(
    "path, values",
    [
        ("training.learning_rate_factor", [0.5, 1]),
        ("training.cooldown_fraction", [0.2, 0.5]),
        ("model.aspect_ratio", [4, 16]),
        ("model.overrides.norm", ["rms", "layer"]),
        ("data.unique_tokens", [3072, 4096]),
    ],
)
def test_the_column_variant_tells_any_swept_values_apart(
    plan: PlanOf, path: str, values: list[Any]
) -> None:
    data = {"allow_repeats": True}
    rows = plan_table(plan(data=data, grid={"params": [13000]}, sweep={path: values}))
    points = rows[rows["run_kind"] == "cooldown"]
    expected = {f"{path}={json.dumps(value)}" for value in values}
    assert set(points["variant"]) == expected
    assert plan_table(plan())["variant"].isna().all()


def test_variants_that_differ_in_their_cooldown_share_a_trunk(plan: PlanOf) -> None:
    made = plan(sweep={"training.cooldown_fraction": [0.2, 0.5]})
    (trunk,) = (run for run in made.runs if run.run_kind == "trunk")
    starts = {run.first_step for run in made.points}
    assert (len(made.points), trunk.checkpoint_at) == (4, tuple(sorted(starts)))


@pytest.mark.parametrize(
    "sweep, words",
    [
        ({"training.batch_sequence": [4]}, "batch_sequence is not a known field"),
        ({"training.batch_sequences": ["x"]}, r"batch_sequences = 'x'"),
        ({"training.batch_sequences": []}, "at least 1 item"),
        ({"training": [1]}, r'"training" cannot be swept'),
        ({"grid.params": [1]}, r"belong in \[grid\]"),
        ({"data.source": ["a", "b"]}, "another corpus"),
        ({"training.beta1.x": [1]}, "beta1 has none"),
        ({"model.overrides.qk_nrom": [True]}, "overrides.qk_nrom is not a known field"),
    ],
    ids=str,
)
def test_a_sweep_over_what_is_no_field_is_refused(
    plan: PlanOf, sweep: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        plan(sweep=sweep)


@pytest.mark.parametrize(
    "sections, words",
    [
        (
            {"sweep": {"training.learning_rate_factor": [1, 1.0]}},
            "=1 and .*=1.0 train the same run",
        ),
        (
            {"sweep": {"training.checkpoint_every_tokens": [512, 1024]}},
            "=512 and .* train the same",
        ),
        ({"grid": {"seeds": [0, 0]}}, r"\[grid\] seed 0 is given twice"),
        ({"grid": {"replicate_seeds": [0]}}, r"\[grid\] seed 0 is given twice"),
    ],
    ids=str,
)
def test_what_makes_one_run_twice_is_named(
    plan: PlanOf, sections: dict[str, Any], words: str
) -> None:
    with pytest.raises(Refusal, match=words):
        plan(**sections)


def test_presets_of_one_shape_are_named(gridded: StudyOf) -> None:
    grid = {"kind": "product", "presets": ["llama-7b", "llama-2-7b"], "tokens": [1536]}
    with pytest.raises(Refusal, match="llama-7b and llama-2-7b round to the same shape"):
        cells(gridded(grid, model=LADDERLESS), 256)


def test_a_ladder_that_presets_would_ignore_is_refused(gridded: StudyOf) -> None:
    grid = {"kind": "product", "presets": ["pythia-14m"], "tokens": [1536]}
    with pytest.raises(Refusal, match=r"\[model\] head_dim would change nothing"):
        gridded(grid)


def test_a_ladder_of_sizes_needs_what_makes_it(table: Callable[..., dict[str, Any]]) -> None:
    raw = table()
    raw["model"] = {}
    said = r"\[model\] head_dim is missing.*\n.*\[model\] aspect_ratio is missing"
    with pytest.raises(Refusal, match=said):
        parse_study(raw, "tiny.toml")
    del raw["training"]["beta1"]  # nor is it kept for another try
    with pytest.raises(Refusal, match=f"{said}.*\n.*beta1 is missing"):
        parse_study(raw, "tiny.toml")


def test_numbers_that_are_none_are_refused_in_overrides(plan: PlanOf) -> None:
    for name in ("logit_softcap", "embedding_std"):
        with pytest.raises(Refusal, match=f"{name} = nan"):
            plan(model={"overrides": {name: float("nan")}})


def test_a_corpus_of_another_vocabulary_changes_the_shapes(gridded: StudyOf) -> None:
    grid = {"kind": "product", "params": [3400], "tokens": [1536]}
    info = CorpusInfo("0" * 12, "x", 1000, 1, 10**6, 1, 100, 99)
    (run,) = make_plan(gridded(grid), info).points
    assert run.model.vocab_size == 1000


def test_equal_compute_counts_what_the_optimiser_multiplies(gridded: StudyOf) -> None:
    study = gridded({**ISOFLOP, "flop_count": "exact"}, training={"optimizer": "muon"})
    for cell in cells(study, 256):
        config = cell.rung.config
        of_step = step_flops("muon", matrices(config))
        per_token = count_flops(config, 16, "full").total + of_step / (4 * 16)
        assert cell.tokens * per_token == pytest.approx(cell.budget_flops, rel=1e-12)


def test_the_flops_of_a_shape_ask_for_no_rate(gridded: StudyOf) -> None:
    """Kaplan's is below zero from 12 billion parameters on."""
    training = {"optimizer": "muon", "learning_rate": "kaplan-2020"}
    study = gridded({"kind": "product", "params": [3400], "tokens": [1536]}, training=training)
    large = ladder_of(study, 256).nearest(2e10, "total").config
    of_step = step_flops("muon", matrices(large)) / (4 * 16)
    assert flops_per_token(study, large) == count_flops(large, 16, "full").total + of_step
