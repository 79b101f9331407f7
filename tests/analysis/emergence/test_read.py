"""Scores of any shape become curves, and what cannot be one is refused with the remedy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.emergence.scores.query import PerTask, ScoreQuery
from analysis.emergence.scores.read import Assumed, Scores, losses, read_scores, scores
from scaling.store.records import MADE_BY, Refusal, sealed

PARAMS = [1e7, 1e8, 1e9]


def long(**columns: object) -> pd.DataFrame:
    table = {"task": "add", "metric": "exact_match", "params": PARAMS, "value": [0.0, 0.1, 0.9]}
    return pd.DataFrame({**table, **columns})


def asked(table: pd.DataFrame, **ask: object) -> Scores:
    return scores(table, ScoreQuery(**{"scale": "params", **ask}))  # type: ignore[arg-type]


def test_a_long_table_becomes_a_curve_a_task() -> None:
    table = pd.concat([long(n=100), long(task="spell", n=100)])
    found = asked(table)
    assert [each.task for each in found.series] == ["add", "spell"]
    assert found.series[0].value.tolist() == [0.0, 0.1, 0.9]
    assert found.series[0].n is not None and found.series[0].n.tolist() == [100.0] * 3
    assert found.series[0].chance == 0.0  # who writes an answer by guessing is not right


def test_wide_long_and_parquet_tables_give_the_same_curve(tmp_path: Path) -> None:
    wide = pd.DataFrame({"size": PARAMS, "add": [0.0, 0.1, 0.9], "spell": [0.2, 0.3, 0.4]})
    wide.to_parquet(tmp_path / "wide.parquet")
    ask = ScoreQuery("size", metrics=("exact_match",), value_columns=("add", "spell"))
    one, other = read_scores(tmp_path / "wide.parquet", ask).series
    assert one.value.tolist() == asked(long()).series[0].value.tolist()
    assert one.x.tolist() == PARAMS and other.task == "spell"


def test_columns_of_other_names_and_a_table_of_models_are_joined(tmp_path: Path) -> None:
    models = pd.DataFrame({"Model": ["a", "b", "c"], "N": PARAMS, "note": "x"})
    models.to_csv(tmp_path / "models.csv", index=False)
    rows = pd.DataFrame({"Model": ["a", "b", "c", "d"], "Task": "add", "acc": [0.2, 0.3, 0.9, 0.5]})
    rows.to_csv(tmp_path / "mine.csv", index=False)
    ask = ScoreQuery(
        "N", metrics=("acc",), columns={"task": "Task", "value": "acc"}, chance=PerTask(0.25),
        join=tmp_path / "models.csv",
    )  # fmt: skip
    found = read_scores(tmp_path / "mine.csv", ask)
    assert found.series[0].x.tolist() == PARAMS and found.series[0].chance == 0.25
    assert found.left_out() == ["1 of 4 rows left out: no N"]


def test_a_missing_score_is_left_out_and_counted_and_never_zero() -> None:
    found = asked(long(value=[0.2, None, 0.9]))
    assert found.series[0].value.tolist() == [0.2, 0.9]
    assert found.left_out() == ["1 of 3 rows left out: no score"]


def test_the_same_scores_four_times_are_the_scores_once() -> None:
    table = pd.concat([long(note=f"export {i}") for i in range(4)], ignore_index=True)
    found = asked(table)
    assert found.series[0].value.tolist() == [0.0, 0.1, 0.9]
    assert found.left_out() == ["9 of 12 rows left out: repeats of other rows"]
    assert found.notes[0].startswith("rows 4, 5, 6, 7, 8, 9 and 3 more repeat rows 1, 2 and 3")


@pytest.mark.parametrize("column", ["seed", "run_id", "model", "group"])
def test_models_that_score_alike_are_no_repeats(column: str) -> None:
    found = asked(pd.concat([long(**{column: each}) for each in "ab"], ignore_index=True))
    assert len(found.series[0].x) == 6 and found.left_out() == []


def test_rows_of_a_wide_table_repeat_as_a_whole() -> None:
    wide = pd.DataFrame({"params": [*PARAMS, 1e7, 1e7], "a": [0.0, 0.1, 0.9, 0.0, 0.0],
                         "b": [0.2, 0.3, 0.4, 0.1, 0.2]})  # fmt: skip
    found = asked(wide, metrics=("exact_match",), value_columns=("a", "b"))
    assert found.series[0].value.tolist() == [0.0, 0.1, 0.9, 0.0]
    assert found.notes[0].startswith("row 5 repeats row 1: ")


def test_scores_of_runs_that_did_not_end_are_left_out_with_a_count() -> None:
    table = long(status=["finished", "crashed", "finished"])
    found = asked(table)
    assert found.series[0].value.tolist() == [0.0, 0.9]
    assert found.left_out() == ["1 of 3 rows left out: status crashed"]
    odd = long(status="archived")
    with pytest.raises(Refusal, match=r"no score is left.*name their status with --completed"):
        asked(odd)
    odd.attrs["completed"] = ("archived",)
    assert len(asked(odd).series[0].x) == 3


def test_only_ends_of_a_decay_are_read_of_runs_unless_all_are_asked_for() -> None:
    table = pd.concat([long(final=True, run_kind="cooldown"), long(final=False, run_kind="full"),
                       long(final=True, run_kind="trunk")])  # fmt: skip
    assert len(asked(table).series[0].x) == 3
    assert len(asked(table, steps="all").series[0].x) == 9
    assert [line.split(":")[0] for line in asked(table).left_out()] == ["3 of 9 rows left out"] * 2


def test_a_results_folder_without_a_table_of_scores_is_joined_by_run(tmp_path: Path) -> None:
    runs = pd.DataFrame({"run_id": ["a", "b"], "params_total": [1e7, 1e8], "tokens": [1e9, 2e9]})
    runs.to_parquet(tmp_path / "runs.parquet")
    for run in ("a", "b"):
        folder = tmp_path / "runs" / run
        folder.mkdir(parents=True)
        evals = {"run": run, "step": [5, 10], "task": "add", "metric": "exact_match", "n": 64}
        pd.DataFrame({**evals, "value": [0.1, 0.5]}).to_parquet(folder / "evals.parquet")
    found = read_scores(tmp_path, ScoreQuery("params"))
    assert found.series[0].x.tolist() == [1e7, 1e8]
    assert found.series[0].value.tolist() == [0.5, 0.5]  # of the last step
    assert read_scores(tmp_path, ScoreQuery("flops")).series[0].x.tolist() == [6e16, 1.2e18]


def test_loss_is_a_scale_whose_progress_is_downwards() -> None:
    found = asked(long(loss=[4.0, 3.0, 2.0]), scale="loss").series[0]
    assert found.falling and np.all(np.diff(found.t) > 0)


def test_shots_are_curves_of_their_own() -> None:
    found = asked(pd.concat([long(shots=0), long(shots=5)]))
    assert [each.task for each in found.series] == ["add, 0-shot", "add, 5-shot"]


def test_a_level_of_guessing_may_differ_by_task() -> None:
    table = pd.concat([long(metric="acc"), long(metric="acc", task="two")])
    found = asked(table, chance=PerTask(0.25, {"two": 0.5}))
    assert [each.chance for each in found.series] == [0.25, 0.5]
    by_column = asked(long(metric="acc", chance=0.2)).series[0]
    assert by_column.chance == 0.2


def test_questions_may_differ_by_task_and_every_source_is_said() -> None:
    found = asked(pd.concat([long(), long(task="two", n=7)]), n=PerTask(None, {"add": 1000.0}))
    assert found.assumed[0] == Assumed("by its name", "answers are written", "--n")
    assert found.series[0].n is not None and found.series[0].n.tolist() == [1000.0] * 3
    assert found.assumed[1].n == "column n"
    percent = asked(long(chance=0.0, hits=9.0), span=(0.0, 1.0), columns={"n": "hits"})
    assert percent.assumed[0] == Assumed("--range", "column chance", "column hits")


def test_a_column_n_that_is_known_of_some_rows_only_is_said_not_to_be_used() -> None:
    found = asked(long(n=[10, None, 10]))
    assert found.series[0].n is None and "for 2 of 3 rows only" in found.assumed[0].n


def test_the_loss_of_an_evaluation_is_taken_before_any_other() -> None:
    found = asked(long(loss=[5.0, 5.0, 5.1], eval_loss=[4.0, 3.0, 2.0]), scale="loss")
    assert found.series[0].x.tolist() == [4.0, 3.0, 2.0]
    assert found.notes[0] == "loss is read from eval_loss"
    rows = long(loss=[5.0, 5.0, 5.1], val_loss=[4.0, 3.0, 2.0], val_ppl=1.0)
    found = losses(rows)
    assert found is not None and found.tolist() == [4.0, 3.0, 2.0]


def checkpoints(**columns: object) -> pd.DataFrame:
    """Two trunks of a size each at three lengths, and a cooldown of each, which is not scored."""
    table = {"task": "add", "metric": "exact_match", "tokens": [1e6, 2e6, 4e6] * 2,
             "value": [0.0, 0.1, 0.9, 0.0, 0.2, 0.8], "trunk_id": [*"aaabbb"],
             "run_id": [*"aacbbd"], "seed": 0}  # fmt: skip
    return pd.DataFrame({**table, **columns})


def test_a_cooldown_is_of_one_run_with_its_trunk() -> None:
    run = asked(checkpoints(), scale="tokens").series[0].run
    assert run is not None and len(np.unique(run)) == 2
    alone = asked(checkpoints().drop(columns="trunk_id"), scale="tokens").series[0]
    assert alone.run is not None and len(np.unique(alone.run)) == 4
    assert alone.group is not None and alone.group.tolist() == alone.run.tolist()


def test_the_seeds_of_one_model_are_runs_and_a_family_is_none() -> None:
    table = checkpoints(model="m", seed=[0, 0, 0, 1, 1, 1]).drop(columns=["run_id", "trunk_id"])
    run = asked(table, scale="tokens").series[0].run
    assert run is not None and len(np.unique(run)) == 2
    family = table.assign(params=[1e5, 2e5, 4e5] * 2)
    found = asked(family, scale="tokens")
    assert found.series[0].run is None and "name its column with --run-column" in found.notes[-1]
    assert not any("--run-column" in note for note in asked(long()).notes)  # one size, one run
    with pytest.raises(Refusal, match=r"one value at 3 sizes.*--group-column"):
        asked(family, scale="tokens", columns={"run": "model"})


def test_models_of_several_sizes_at_one_length_are_no_seeds() -> None:
    table = checkpoints(params=[1e5] * 3 + [4e5] * 3, n_layers=[1] * 3 + [2] * 3)
    found = asked(table, scale="tokens")
    assert found.series[0].seed is None
    assert "differ in params and n_layers too" in found.notes[0]
    alike = asked(checkpoints(params=1e5), scale="tokens")
    assert alike.series[0].seed is not None and alike.notes == ()


def test_a_curve_of_each_value_of_a_column() -> None:
    table = checkpoints(params=[1e5] * 3 + [4e5] * 3, metric="acc")
    found = asked(table, scale="tokens", by=("params",), chance=PerTask(None, {"add": 0.25}))
    assert [each.task for each in found.series] == ["add, params=100k", "add, params=400k"]
    assert [each.chance for each in found.series] == [0.25, 0.25]
    assert found.series[0].seed is not None and found.notes == ()
    with pytest.raises(Refusal, match=r"no column 'parms'.*Did you mean params"):
        asked(table, scale="tokens", by=("parms",))


def test_rows_without_a_value_of_by_are_left_out_and_values_that_read_alike_are_written_out() -> (
    None
):
    table = pd.concat([long(width=1e6), long(width=1.0001e6), long(width=None)])
    found = asked(table, by=("width",))
    assert [each.task for each in found.series] == ["add, width=1e6", "add, width=1000100"]
    assert found.left_out() == ["3 of 9 rows left out: no width"]


@pytest.mark.parametrize("column", ["params", "params_total", "value", "task", "metric"])
def test_what_makes_a_curve_does_not_tell_curves_apart(column: str) -> None:
    table = long().rename(columns={"params": "params_total"} if column == "params_total" else {})
    with pytest.raises(Refusal, match=f"--by {column} is the "):
        asked(table, by=(column,))


@pytest.mark.parametrize("option", ["task", "metric", "value"])
def test_columns_of_a_long_and_of_a_wide_table_are_not_asked_of_one(option: str) -> None:
    wide = pd.DataFrame({"params": PARAMS, "add": [0.0, 0.1, 0.9]})
    ask = {"metrics": ("exact_match",), "value_columns": ("add",), "columns": {option: "typo"}}
    with pytest.raises(Refusal, match=f"--{option}-column is for a table with one row per score"):
        asked(wide, **ask)


@pytest.mark.parametrize("empty", [None, ""])
def test_a_row_without_a_run_is_left_out_and_counted_and_the_runs_stay(empty: str | None) -> None:
    """One empty cell of a hundred made checkpoints independent: .28 of flat tables rose."""
    found = asked(checkpoints(trunk_id=None, run_id=[*"aaabb", empty]), scale="tokens")
    run = found.series[0].run
    assert run is not None and run.tolist() == ["a 0"] * 3 + ["b 0"] * 2
    assert found.left_out() == ["1 of 6 rows left out: the column of training runs is empty"]
    named = asked(checkpoints(job=[*"aaabb", empty]), scale="tokens", columns={"run": "job"})
    assert named.series[0].run is not None and named.left_out() == found.left_out()


def test_a_run_without_a_seed_stays_a_run() -> None:
    found = asked(checkpoints(seed=[0, 0, 0, None, None, None]), scale="tokens")
    run = found.series[0].run
    assert run is not None and run.tolist() == ["a 0.0"] * 3 + ["b"] * 3
    assert found.notes == ("3 of 6 rows have no seed: seeds are not compared",)


def test_a_model_without_a_family_is_one_of_its_own() -> None:
    found = asked(long(group=["a", None, "a"]))
    assert found.series[0].group is not None
    assert found.series[0].group.tolist() == ["a", "row 1", "a"]
    assert found.notes[0].startswith("1 of 3 rows have no group: each of them counts as")


def test_runs_that_are_read_from_the_names_of_models_are_said_and_may_be_undone() -> None:
    table = checkpoints(model=[*"aaabbb"]).drop(columns=["trunk_id", "run_id", "seed"])
    found = asked(table, scale="tokens")
    assert found.series[0].run is not None
    assert found.notes[0].startswith("run is read from column model (2 runs)")
    undone = asked(table, scale="tokens", columns={"group": "model"}).series[0]
    assert undone.run is None and undone.group is not None and undone.group.tolist() == [*"aaabbb"]


def test_a_model_at_several_flops_may_be_a_family() -> None:
    table = checkpoints(model=[*"aaabbb"]).drop(columns=["trunk_id", "run_id", "seed"])
    table = table.rename(columns={"tokens": "flops"})
    found = asked(table, scale="flops")
    assert found.series[0].run is None and "name its column with --run-column" in found.notes[-1]
    assert asked(table, scale="flops", columns={"run": "model"}).series[0].run is not None
    assert asked(table.assign(params=1e5), scale="flops").series[0].run is not None


@pytest.mark.parametrize("scale", ["loss", "eval_loss", "val_loss", "nll", "bits_per_byte", "ppl"])
def test_a_loss_of_any_name_is_read_downwards(scale: str) -> None:
    found = asked(long(**{scale: [4.0, 3.0, 2.0]}), scale=scale).series[0]
    assert found.falling and found.write(2.31) == "2.310"
    assert not asked(long()).series[0].falling


def test_seeds_of_several_learning_rates_are_not_compared() -> None:
    table = pd.concat([long(seed=seed, learning_rate=rate) for seed in (0, 1) for rate in (1, 2)])
    found = asked(table)
    assert found.series[0].seed is None and "differ in learning_rate too" in found.notes[0]
    one = asked(table[table["learning_rate"] == 1])
    assert one.series[0].seed is not None and one.notes == ()
    apart = asked(table, by=("learning_rate",))
    assert all(each.seed is not None for each in apart.series) and apart.notes == ()


def test_only_columns_that_leave_a_curve_are_named_for_by() -> None:
    """An isoFLOP grid: by both params and tokens every score would be a curve of its own."""
    params, tokens = [1e5, 2e5, 2e5, 4e5], [2e6, 1e6, 4e6, 2e6]
    table = pd.DataFrame({"task": "add", "metric": "exact_match", "params": params * 2,
                          "tokens": [*tokens, *(8 * each for each in tokens)],
                          "value": np.linspace(0, 1, 8)})  # fmt: skip
    found = asked(table, scale="flops")
    assert found.notes[0].endswith("give --by params")
    assert len(asked(table, scale="flops", by=("params",)).series) == 3
    alone = table.iloc[:4].assign(flops=[1e18, 1e18, 2e18, 2e18], params=[1, 2, 3, 4])
    assert asked(alone, scale="flops").notes[0].endswith("seeds are not compared.")


def test_scores_of_unknown_shots_are_a_curve_of_their_own() -> None:
    found = asked(pd.concat([long(shots=0), long(shots=5), long(shots=None)]))
    assert found.series[2].task == "add, shots not given"


@pytest.mark.parametrize("lines", [False, True])
def test_a_table_in_json_is_read(tmp_path: Path, lines: bool) -> None:
    file = tmp_path / "scores.json"
    long().to_json(file, orient="records", lines=lines)
    assert read_scores(file, ScoreQuery("params")).series[0].value.tolist() == [0.0, 0.1, 0.9]
    odd = tmp_path / "odd.json"
    long(status="archived").to_json(odd, orient="records", lines=lines)
    assert len(read_scores(odd, ScoreQuery("params", completed=("archived",))).series) == 1


def test_what_scaling_eval_writes_is_read(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    file.write_text(json.dumps({"scores": long(shots=0, n=64).to_dict("records")}))
    assert read_scores(file, ScoreQuery("params")).series[0].value.tolist() == [0.0, 0.1, 0.9]
    file.write_text(json.dumps({"runs": []}))
    with pytest.raises(Refusal, match="scaling eval --json"):
        read_scores(file, ScoreQuery("params"))


def test_a_sha256_of_another_is_of_anything_and_a_meant_edit_is_read(tmp_path: Path) -> None:
    file = tmp_path / "scores.json"
    given = {"scores": long().to_dict("records"), "sha256": "0" * 64}  # of the model, say
    file.write_text(json.dumps(given))
    assert len(read_scores(file, ScoreQuery("params")).series) == 1
    ours = sealed({**given, "written_by": MADE_BY})
    file.write_text(json.dumps({**ours, "note": "edited"}))
    with pytest.raises(Refusal, match="if the change is meant, remove its written_by and sha256"):
        read_scores(file, ScoreQuery("params"))
    file.write_text(json.dumps({"scores": ours["scores"], "note": "edited"}))
    assert len(read_scores(file, ScoreQuery("params")).series) == 1


@pytest.mark.parametrize(
    ("table", "ask", "words"),
    [
        (long(value=[0.0, 20.0, 55.0]), {}, "In percent? Give --range 0,100"),
        (long(value=[0.0, 0.5, -0.2]), {}, "-0.2 lies outside 0 to 1"),
        (long(params=1e8), {}, "all 3 scores are at one scale, params = 1e+08"),
        (long(metric=["acc", "bleu", "acc"]), {}, "mixes 2 metrics"),
        (long(metric="acc"), {}, "no chance level"),
        (long(metric="Accuracy"), {}, "no chance level"),
        (long(), {"chance": PerTask(None, {"typo": 0.25})}, "typo=0.25: the table has no such"),
        (long(chance=[0.25, 0.25, 0.5]), {}, "2 levels of chance"),
        (long(), {"scale": "flop"}, "'flop' is no column"),
        (long(size_M=PARAMS).drop(columns="params"), {}, "1e+15 params, which nobody has trained"),
        (long(), {"metrics": ("bleu",)}, "it has exact_match"),
        (long(), {"tasks": ("sub",)}, "it has add"),
        (long(task="addition"), {"tasks": ("additoin",)}, "Did you mean addition?"),
        (long(), {"metrics": ("exact_mach",)}, "Did you mean exact_match?"),
        (long(task="spell"), {"chance": PerTask(None, {"spel": 0.25})}, "Did you mean spell?"),
        (long(task="spell"), {"n": PerTask(None, {"spel": 25})}, "Did you mean spell?"),
        (long(value=["0.1", "n.a", "0.2"]), {}, "value = 'n.a' in row 2"),
        (long(value=[0.1, np.inf, 0.2]), {}, "not a finite number"),
        (long(metric="zeal"), {}, "--range WORST,BEST"),
        (long(value=None), {}, "no score is left"),
        (long(task=["a", None, "a"]), {}, "no task in row 2"),
        (long(value=[True, False, True]), {}, "holds true and false, not numbers"),
        (long(value=[0.1, 0.2, 10**400]), {}, "no number|not a finite number"),
        (long(params=pd.to_datetime(["2020", "2021", "2022"])), {}, "not numbers"),
        (long(), {"value_columns": ("x",), "metrics": ("exact_match",)}, "no column 'x'"),
        (long().iloc[:0], {}, "has no rows"),
    ],
)
def test_what_is_no_curve_is_refused_with_the_remedy(
    table: pd.DataFrame, ask: dict[str, object], words: str
) -> None:
    with pytest.raises(Refusal, match=words.replace("?", r"\?").replace("+", r"\+")):
        asked(table, **ask)


def test_percent_is_read_when_it_is_declared() -> None:
    found = asked(long(value=[0.0, 20.0, 55.0]), span=(0.0, 100.0)).series[0]
    assert found.unit.tolist() == [0.0, 0.2, 0.55]


def test_a_join_that_is_not_one_row_a_model_is_refused(tmp_path: Path) -> None:
    pd.DataFrame({"Model": ["a", "a"], "N": [1, 2]}).to_csv(tmp_path / "models.csv", index=False)
    pd.DataFrame({"Model": ["a"], "value": [0.5]}).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(Refusal, match="Model = 'a' twice"):
        read_scores(tmp_path / "mine.csv", ScoreQuery("N", join=tmp_path / "models.csv"))


def test_a_join_of_text_with_numbers_is_refused(tmp_path: Path) -> None:
    scores = "s,task,metric,value\n1.5,a,acc,0.5\n"
    (tmp_path / "mine.csv").write_text(scores)
    (tmp_path / "models.csv").write_text("s,N\nabc,1e6\n")
    with pytest.raises(Refusal, match=r"s is 1\.5 in the scores and abc in --join"):
        read_scores(tmp_path / "mine.csv", ScoreQuery("N", join=tmp_path / "models.csv"))
