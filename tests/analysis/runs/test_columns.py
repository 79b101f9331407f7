"""Columns are found by usual names, in the units that names say, and everything taken is said."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.runs.columns.names import candidates
from analysis.runs.columns.numbers import unit_words
from analysis.runs.columns.units import named_loss_unit, unit_of
from analysis.runs.files.load import load
from analysis.runs.table import read_runs, standardise, usable
from scaling.store.records import Refusal


def csv(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "runs.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.mark.parametrize(
    ("quantity", "names"),
    [
        ("params", "Params PARAMS n_params numParams N model_size size_M params_B n-params "
                   "config.n_params"),
        ("tokens", "Tokens train_tokens D num_tokens train_tokens_B train/num_input_tokens_seen"),
        ("loss", "Loss eval_loss val/loss val_loss evalLoss summary.eval_loss val_bpb ppl"),
    ],
)  # fmt: skip
def test_usual_names_are_known(quantity: str, names: str) -> None:
    for name in names.split():
        if name != "train/num_input_tokens_seen":
            assert candidates(quantity, ["run", name, "lr", "n", "d", "train_loss"]) == [name]


def test_what_a_column_is_taken_for_is_said(tmp_path: Path) -> None:
    table = read_runs(csv(tmp_path, "model_size,train_tokens_B,eval_loss", "57M,0.5,3.1"))
    assert table.loc[0, ["params", "tokens", "loss"]].tolist() == [5.7e7, 5e8, 3.1]
    assert table.attrs["notes"] == [
        "params is read from model_size",
        "tokens is read from train_tokens_B, times 1e9",
        "loss is read from eval_loss",
    ]
    assert table.attrs["columns"]["params"] == table.attrs["params_column"] == "model_size"


def test_a_column_of_the_very_name_is_taken_without_a_word(tmp_path: Path) -> None:
    table = read_runs(csv(tmp_path, "params,tokens,loss,n_params,val_bpb", "1e6,1e9,3,2,1"))
    assert (table["params"].iloc[0], table.attrs["notes"]) == (1e6, [])


def test_several_that_fit_are_refused_with_all_of_them_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        read_runs(csv(tmp_path, "n_params,model_size,tokens,eval_loss,val_loss", "1,1,2,3,3"))
    for words in ("hold params: n_params, model_size.", "hold loss: eval_loss, val_loss."):
        assert words in str(caught.value)


def test_all_that_is_wrong_with_a_file_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refusal) as caught:
        read_runs(
            csv(tmp_path, "model_size,flops,eval_loss", "57M,1e18,", "many,1e18,nan", "57M,1e18,3")
        )
    said = str(caught.value)
    assert "no column 'tokens'" in said and "--flops-column flops" in said
    assert "model_size is not a positive finite number in 1 of 3 rows: line 3 (many)" in said
    assert "eval_loss is not a positive finite number in 2 of 3 rows: line 2 (empty), " in said
    assert "line 3 (nan)" in said


def test_a_misspelt_column_is_answered_with_the_one_that_was_meant(tmp_path: Path) -> None:
    file = csv(tmp_path, "params,tokens,eval_loss,learning_rate", "1e6,1e9,3,0.1")
    with pytest.raises(Refusal, match=r"'eval_los'; it has .* Did you mean eval_loss\?"):
        read_runs(file, loss_column="eval_los")
    with pytest.raises(Refusal, match=r"'learning_rat'; it has .* Did you mean learning_rate\?"):
        read_runs(file, require=("learning_rat",))


def test_a_wide_table_is_told_what_a_run_table_is(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"no columns 'params', 'tokens' and 'loss'.*one row per run"):
        read_runs(csv(tmp_path, "step,L8-H768,L11-H1056", "5,4.2,4.0"))


def test_the_history_of_a_run_is_told_so(tmp_path: Path) -> None:
    rows = [f"{step},1e6,{step}e6,{'3.1' if step % 5 == 0 else ''}" for step in range(1, 11)]
    with pytest.raises(Refusal, match="history of a run, with one row per step"):
        read_runs(csv(tmp_path, "_step,n_params,train_tokens,val/loss", *rows))


@pytest.mark.parametrize(
    ("word", "value"), [("tokens=1e9", 1e9), ("tokens=billions", 1e9), ("tokens=B", 1e9)]
)
def test_a_unit_can_be_given(tmp_path: Path, word: str, value: float) -> None:
    assert unit_words([word]) == {"tokens": value}
    table = read_runs(csv(tmp_path, "params,tokens,loss", "1e6,0.5,3", "1e6,20M,3"),
                      units=unit_words([word]))  # fmt: skip
    assert table["tokens"].tolist() == [5e8, 2e7]  # a cell's own unit is its own


@pytest.mark.parametrize("word", ["tokens", "loss=2", "tokens=many", "tokens=-1", "tokens=1e300"])
def test_no_unit_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=word):
        unit_words([word])


def test_a_name_whose_unit_the_numbers_contradict_is_refused(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens_B,loss", "1e6,2e10,3")
    with pytest.raises(Refusal, match="Give --unit tokens=1 for 2e10"):
        read_runs(path)
    assert read_runs(path, units={"tokens": 1.0})["tokens"].tolist() == [2e10]


def test_a_unit_of_the_name_that_leads_beyond_what_anyone_trained_is_refused_with_both_readings(
    tmp_path: Path,
) -> None:
    path = csv(tmp_path, "params_M,tokens_M,loss", "1e6,2e8,3", "3.2e7,6e9,2")
    with pytest.raises(Refusal) as caught:
        read_runs(path)
    assert "3.2e+13 params, which nobody has trained" in str(caught.value)
    assert "--unit params=1 for 3.2e7, --unit params=1e6 for 3.2e+13." in str(caught.value)
    units = {"params": 1.0, "tokens": 1.0}
    assert read_runs(path, units=units)["params"].tolist() == [1e6, 3.2e7]
    assert read_runs(path, units={"params": 1e6, "tokens": 1e6})["params"].max() == 3.2e13


@pytest.mark.parametrize(
    ("name", "scale"),
    [("x_B", 1e9), ("paramsB", 1e9), ("size (M)", 1e6), ("x_bn", 1e9), ("x_Millions", 1e6),
     ("TOKENS_T", 1e12), ("x_b", 1.0), ("size_m", 1.0), ("step_t", 1.0), ("k", 1.0), ("B", 1.0)],
)  # fmt: skip
def test_a_letter_of_a_name_is_a_unit_as_a_capital_only(name: str, scale: float) -> None:
    assert unit_of(name) == scale


def test_flops_stand_in_for_tokens(tmp_path: Path) -> None:
    path = csv(tmp_path, "n_params,C,loss,tokens_trained", "1e6,6e15,3,4e9")
    table = read_runs(path, flops_column="C")
    assert table["tokens"].tolist() == [1e9]
    assert (
        "tokens is D = C / (6 N), with C from C and N from n_params; not used: tokens_trained"
        in (table.attrs["notes"])
    )


@pytest.mark.parametrize(
    ("name", "unit", "loss", "said"),
    [
        ("val_ppl", None, math.log(20), "nats/token"),
        ("perplexity", None, math.log(20), "nats/token"),
        ("end_bpc", None, 20 * math.log(2), "nats/character"),
        ("val_bpb", None, 20 * math.log(2), "nats/byte"),
        ("loss_bits", None, 20 * math.log(2), "nats/token"),
        ("loss", "bits", 20 * math.log(2), "nats/token"),
        ("val_bpb", "nats", 20.0, "nats/token"),
        ("eval_loss", None, 20.0, "nats/token"),
    ],
)
def test_a_loss_in_another_unit_is_read_in_nats(
    tmp_path: Path, name: str, unit: str | None, loss: float, said: str
) -> None:
    table = read_runs(csv(tmp_path, f"params,tokens,{name}", "1e6,1e9,20"),
                      loss_column=name, loss_unit=unit)  # type: ignore[arg-type]  # fmt: skip
    assert table["loss"].iloc[0] == pytest.approx(loss)
    assert table.attrs["loss_unit"] == said
    assert bool(table.attrs["notes"]) == (loss != 20.0)
    assert standardise(table)["loss"].iloc[0] == pytest.approx(loss)  # once


def test_bits_of_a_weight_are_no_loss() -> None:
    for name in ("bits", "quant_bits", "weight_bits", "bits_kv"):
        assert candidates("loss", ["params", "tokens", name]) == []
    assert candidates("loss", ["val_bits_per_token", "quant_bits"]) == ["val_bits_per_token"]
    assert named_loss_unit("bits_and_pieces") is None


def test_a_training_loss_is_read_where_there_is_no_other_and_said_to_be_one(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens,train_loss,quant_bits", "1e6,1e9,3,4")
    assert read_runs(path).attrs["notes"] == ["loss is read from train_loss: a training loss"]
    assert candidates("loss", ["train/loss", "train_ppl", "val_ppl"]) == ["val_ppl"]


def test_a_loss_beside_one_of_evaluation_is_taken_for_that_of_training(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens,loss,eval_loss", "1e6,1e9,3,3.2")
    table = read_runs(path)
    assert table["loss"].tolist() == standardise(table)["loss"].tolist() == [3.2]
    assert "eval_loss; the column loss is taken for the training" in table.attrs["notes"][0]
    assert read_runs(path, loss_column="loss")["loss"].tolist() == [3.0]
    assert standardise(load(path))["loss"].tolist() == [3.0]  # a program says what it means


def test_a_fit_of_bits_per_byte_never_says_nats_per_token(
    tmp_path: Path, grid: pd.DataFrame
) -> None:
    loss = 1.0 + 300 / grid["params"] ** 0.34 + 400 / grid["tokens"] ** 0.3
    grid.assign(val_bpb=loss).to_csv(tmp_path / "runs.csv", index=False)
    fitted = fit(law("chinchilla"), read_runs(tmp_path / "runs.csv"), bootstrap=0)
    assert fitted.coefficients["E"] == pytest.approx(math.log(2), rel=1e-3)
    assert "losses are in nats/byte, not nats/token" in fitted.cautions
    save_fit(fitted, tmp_path / "fit.json")
    assert load_fit(tmp_path / "fit.json").data.loss_unit == "nats/byte"


def test_active_beside_total_parameters_are_told_apart(tmp_path: Path) -> None:
    path = csv(tmp_path, "params_total,params_active,tokens,loss", "8e9,1e9,1e11,2.5")
    assert read_runs(path).attrs["notes"] == [
        "params is read from params_total, not from params_active"
    ]
    told = read_runs(path, params_column="params_active").attrs["notes"]
    assert told == ["params is read from params_active, not from params_total"]


@pytest.mark.parametrize(
    "word", ["completed", "COMPLETED", "done", "finished", "FINISHED", "success", "ok", "complete"]
)
def test_a_completed_run_goes_by_many_words(word: str) -> None:
    table = pd.DataFrame({"loss": [3.0, 9.0], "status": [word, "CANCELLED by 1000"]})
    found = usable(table)
    assert found.rows["loss"].tolist() == [3.0]
    assert found.excluded["reason"].tolist() == ["status CANCELLED by 1000"]


def test_an_unknown_status_is_left_out_by_name_with_the_known_ones() -> None:
    table = pd.DataFrame({"loss": [3.0, 3.0], "status": ["done", "archived"]})
    assert (
        "status archived (a completed run is called complete"
        in (usable(table).excluded["reason"].iloc[0])
    )
    with pytest.raises(Refusal, match="all 1 rows are left out: 1 with status archived"):
        usable(table[1:])


@pytest.mark.parametrize(
    ("cells", "kept"),
    [([0, 1, 137], [0]), ([0.0, np.nan, -9.0], [0, 1]), (["0", "0", "1"], [0, 1]),
     ([True, False, True], [0, 2]), (["True", "false", "TRUE"], [0, 2])],
)  # fmt: skip
def test_an_exit_code_of_zero_and_true_are_completed_runs(
    cells: list[object], kept: list[int]
) -> None:
    table = pd.DataFrame({"loss": [3.0, 2.9, 2.8], "status": cells})
    assert usable(table).rows.index.tolist() == kept
    table.attrs["completed"] = ("1", "137", "-9", "false")
    assert len(usable(table).rows) == 3


def test_other_words_of_a_completed_run_can_be_named(tmp_path: Path) -> None:
    rows = [
        "1e6,1e9,3,archived",
        "2e6,1e9,2.9,Ready Now",
        "3e6,1e9,2.8,crashed",
        "4e6,1e9,2.7,done",
    ]
    path = csv(tmp_path, "params,tokens,loss,status", *rows)
    assert len(usable(read_runs(path)).rows) == 1
    with pytest.raises(Refusal, match="or what --completed names"):
        usable(read_runs(path, where=["status!=done"]))
    found = usable(read_runs(path, completed=["archived", "ready now"]))
    assert found.rows["params"].tolist() == [1e6, 2e6, 4e6]
    assert found.excluded["reason"].tolist() == ["status crashed"]


@pytest.mark.parametrize(
    ("name", "cells"),
    [("diverged", [0, 1, 0]), ("is_crashed", [False, True, None]), ("Failed", ["no", "yes", ""])],
)
def test_a_run_that_a_column_marks_as_bad_is_left_out(name: str, cells: list[object]) -> None:
    found = usable(pd.DataFrame({"loss": [3.0, 9.0, 2.8], name: cells}))
    assert found.excluded["reason"].tolist() == [f"marked {name}"]
    assert found.rows["loss"].tolist() == [3.0, 2.8]


def test_where_marks_leave_no_run_it_is_said_how_a_column_of_another_meaning_is_read() -> None:
    with pytest.raises(Refusal, match=r"If killed says nothing of how a run ended, rename it\.$"):
        usable(pd.DataFrame({"loss": [3.0, 2.8], "status": "done", "killed": 1, "failed": 0}))


def test_a_column_of_numbers_marks_no_run() -> None:
    table = pd.DataFrame({"loss": [3.0, 2.9], "failed": [0.25, 1.0], "error": [1, 1]})
    assert len(usable(table).rows) == 2


def test_a_state_is_a_status_only_where_it_says_one(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens,loss,State", "1e6,1e9,3,finished", "1e6,1e9,,crashed")
    table = read_runs(path)
    assert table.attrs["notes"] == ["status is read from State"]
    assert usable(table).excluded["reason"].tolist() == ["State crashed"]
    assert len(usable(pd.DataFrame({"state": ["Utah", "Ohio"]})).rows) == 2
    assert len(usable(pd.DataFrame({"state": [35, 0]})).rows) == 2
    assert len(usable(pd.DataFrame({"run_status": [35, 0]})).rows) == 1


def test_budgets_go_by_many_names_unless_they_are_no_flops(tmp_path: Path) -> None:
    table = read_runs(csv(tmp_path, "params,tokens,loss,flops_budget", "1e6,1e9,3,6e15"))
    assert table["budget_flops"].tolist() == [6e15]
    assert table.attrs["notes"] == ["budget_flops is read from flops_budget"]
    dollars = read_runs(csv(tmp_path, "params,tokens,loss,budget", "1e6,1e9,3,500"))
    assert "budget_flops" not in dollars


def test_bad_rows_can_be_left_out_with_the_reasons(tmp_path: Path) -> None:
    rows = ["1e6,1e9,3", "1e6,1e9,nan", "1e6,lots,2.9", "1e6,1e9,", "2e6,1e9,2.8"]
    table = read_runs(csv(tmp_path, "params,tokens,eval_loss", *rows), drop_invalid=True)
    found = usable(table)
    assert found.rows["loss"].tolist() == [3.0, 2.8]
    assert found.excluded["reason"].tolist() == [
        "no eval_loss", "tokens is not a positive finite number", "no eval_loss"
    ]  # fmt: skip
    assert table["left_out"].tolist()[:2] == ["", "no eval_loss"]  # the rows stay, and say why


@pytest.mark.parametrize(
    ("condition", "kept"),
    [("loss>0", 2), ("loss!=''", 3), ("loss==''", 1), ("loss!=nan", 3), ("loss!=diverged", 3),
     ("params>=1M", 2), ("note!=''", 1)],
)  # fmt: skip
def test_conditions_can_drop_empty_and_text_cells(
    tmp_path: Path, condition: str, kept: int
) -> None:
    rows = ["57k,1e9,3,", "1M,1e9,,x", "2M,1e9,2.8,", "900k,1e9,diverged,"]
    table = read_runs(csv(tmp_path, "params,tokens,loss,note", *rows), where=[condition],
                      require=["params"])  # fmt: skip
    assert len(table) == kept


def test_conditions_on_params_and_tokens_are_in_parameters_and_tokens(tmp_path: Path) -> None:
    path = csv(tmp_path, "size_M,tokens,loss", "57,0.5,3", "98,1.5,2.9")
    table = read_runs(path, units={"tokens": 1e9}, where=["params>60M", "tokens>=1B"])
    assert table["size_M"].tolist() == [98]
    assert len(read_runs(path, units={"tokens": 1e9}, where=["size_M<60"])) == 1


def test_compute_that_contradicts_params_and_tokens_is_said_with_the_factor(tmp_path: Path) -> None:
    rows = ["1e6,1e9,3,6e15", "1e6,4e9,2.9,6e15", "1e6,1e9,2.9,7e15"]
    (said,) = read_runs(csv(tmp_path, "params,tokens,loss,total_flops", *rows)).attrs["doubts"]
    assert "6 N D is not total_flops in 1 of 3 rows, by a factor of up to 4 (line 3" in said


@pytest.mark.parametrize(
    ("name", "cell", "units"),
    [("train_flops_T", "6e3", {}), ("total_flops", "6e-3", {"flops": 1e18}), ("budget", "500", {}),
     ("compute", "12.5", {}), ("flops", "6PF", {}), ("flops_B", "6e6", {})],
)  # fmt: skip
def test_compute_in_another_unit_or_dollars_contradicts_nothing(
    tmp_path: Path, name: str, cell: str, units: dict[str, float]
) -> None:
    path = csv(tmp_path, f"params,tokens,loss,{name}", f"1e6,1e9,3,{cell}")
    assert read_runs(path, units=units).attrs["doubts"] == []


def test_no_run_sees_more_different_tokens_than_tokens(tmp_path: Path) -> None:
    path = csv(tmp_path, "params,tokens,loss,unique_tokens", "1e6,1e9,3,5e9", "1e6,1e9,3,5e8")
    table = read_runs(path)
    assert table["unique_tokens"].tolist() == [1e9, 5e8]
    assert "unique_tokens is above tokens in 1 of 2 rows (line 2)" in table.attrs["doubts"][0]


def test_rows_of_a_frame_may_share_a_label() -> None:
    table = pd.DataFrame({"params": ["1M", "2M"], "tokens": [1e9, 2e9], "loss": [3.0, np.nan]})
    table.index = pd.Index([4, 4])
    with pytest.raises(Refusal, match=r"loss is not .* in 1 of 2 rows: row 2 \(empty\)"):
        standardise(table)
    assert standardise(table.assign(loss=3.0))["params"].tolist() == [1e6, 2e6]
