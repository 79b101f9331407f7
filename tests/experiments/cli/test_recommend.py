"""`scaling recommend` joins a law, a ladder, rules, prices and figures as each of them has it."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.recommend.recommend import recommend
from experiments.cli.__main__ import main
from experiments.cli.join.shapes import shapes_of
from models.decoder.sizes import count_flops
from scaling.store.manifest import COUNTED, Manifest, read_manifest, write_manifest
from scaling.study import read_study

ROOT = Path(__file__).resolve().parents[3]
STUDY = ROOT / "experiments/accelerator.toml"
BESIROGLU = "published:besiroglu-2024"


def scaling(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    return main()


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A fit of runs on eight budgets around Besiroglu's optimum."""
    source = published("besiroglu-2024")
    rows = []
    for flops in np.geomspace(1e18, 1e20, 8):
        best = (flops / 120) ** 0.5
        rows += [(n, flops / 6 / n) for n in best * 2.0 ** np.arange(-2.5, 3)]
    table = pd.DataFrame(rows, columns=["params", "tokens"])
    noise = np.exp(0.001 * np.random.default_rng(0).normal(size=len(table)))
    loss = source.predict({name: table[name].to_numpy() for name in table}) * noise
    path = tmp_path_factory.mktemp("fits") / "mine.json"
    save_fit(fit(law("chinchilla"), table.assign(loss=loss), bootstrap=60), path)
    return path


def test_an_exact_budget_is_spent_to_the_flop_by_the_shape_that_is_named(
    monkeypatch, capsys, tmp_path
):
    out = tmp_path / "r.json"
    ask = (BESIROGLU, "--flops", "1e20", "--study", STUDY, "--flop-count", "exact")
    assert scaling(monkeypatch, "recommend", *ask, "--json", out) == 0
    written = json.loads(out.read_text())
    assert written["flop_count"] == "exact"
    [best] = written["recommendations"]
    study = read_study(STUDY)
    shapes = shapes_of(study, "params_total")
    config = shapes.ladder.shape(best["shape"]["n_layers"], best["shape"]["n_heads"])
    each = count_flops(config, study.data.sequence_length, "full").total
    assert each * best["tokens"] == pytest.approx(1e20, rel=1e-12)
    assert best["params"] == best["shape"]["params_total"]
    [shown] = written["shapes"]
    assert min(entry["excess_loss"] for entry in shown) == 0
    assert "counted exactly" in capsys.readouterr().out


def test_rules_use_the_shapes_own_count_and_the_studys_setting_stands_first(
    monkeypatch, capsys, tmp_path
):
    out = tmp_path / "r.json"
    ask = (BESIROGLU, "--flops", "1e20", "--study", STUDY, "--rules", "steplaw-2025")
    assert scaling(monkeypatch, "recommend", *ask, "--json", out) == 0
    written = json.loads(out.read_text())
    [best], [[own, step]] = written["recommendations"], written["rates"]
    assert own["rule"] == "study accelerator"
    n, d = best["shape"]["params_non_embedding"], best["tokens"]
    assert step["learning_rate"] == pytest.approx(1.79 * n**-0.713 * d**0.307)
    assert "N here counts" not in capsys.readouterr().out
    assert scaling(monkeypatch, "recommend", BESIROGLU, "--flops", "1e20", "--rules") == 0
    said = capsys.readouterr().out
    assert "deepseek-2024" in said
    assert "N here counts" in said


def test_the_law_and_the_runs_stand_beside_each_other_and_either_answers_when_asked(
    monkeypatch, capsys, tmp_path, saved
):
    told = {}
    for by in ("law", "runs"):
        out = tmp_path / f"{by}.json"
        ask = ("recommend", saved, "--flops", "1e21", "--by", by, "--json", out)
        assert scaling(monkeypatch, *ask) == 0
        [told[by]] = json.loads(out.read_text())["recommendations"]
    assert told["law"]["beside"]["params"] == told["runs"]["params"]
    assert told["runs"]["beside"]["params"] == told["law"]["params"]
    right = recommend(published("besiroglu-2024"), [1e21])[0].params
    assert told["runs"]["params"] == pytest.approx(right, rel=0.05)
    assert told["law"]["params"] == pytest.approx(right, rel=0.05)
    capsys.readouterr()
    # These runs are the law's own, so it describes them better than any valley.
    assert scaling(monkeypatch, "recommend", saved, "--flops", "1e21") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"N\* by the law \(the law predicts left-out runs near the optimum 0\.\d+ ×", said
    )
    assert re.search(r"own minima alone: \S+ .*; --by runs\)", said)


def test_a_budget_counted_exactly_keeps_why_it_was_decided_and_its_price(
    monkeypatch, tmp_path, saved
):
    out = tmp_path / "r.json"
    for by in ("law", "runs"):
        ask = ("--flops", "1e20", "--study", STUDY, "--flop-count", "exact", "--by", by)
        assert scaling(monkeypatch, "recommend", saved, *ask, "--json", out) == 0
        [best] = json.loads(out.read_text())["recommendations"]
        assert best["decided"]["by"] == by
        assert best["decided"]["reason"] == "as asked"
        assert best["decided"]["law_misfit"] < best["decided"]["misfit"]
        assert best["compute_ratio"] == pytest.approx(1, abs=0.01)
        assert (best["compute_ratio"] == 1) == (by == "runs")


@pytest.mark.slow
@pytest.mark.parametrize("by", ["law", "runs"])
def test_the_shape_named_best_is_the_best_of_the_shapes_shown(monkeypatch, tmp_path, saved, by):
    out = tmp_path / "r.json"
    budgets = [f"{c:.3g}" for c in np.geomspace(1e19, 1e21, 25)]
    ask = ("--flops", *budgets, "--study", STUDY, "--flop-count", "exact", "--by", by)
    assert scaling(monkeypatch, "recommend", saved, *ask, "--json", out) == 0
    written = json.loads(out.read_text())
    for best, shown in zip(written["recommendations"], written["shapes"], strict=True):
        [first] = [entry for entry in shown if entry["excess_loss"] == 0]
        assert (best["params"], best["tokens"]) == (first["params"], first["tokens"])
        assert best["law_loss"] == pytest.approx(first["loss"], rel=1e-12)


def test_other_laws_on_the_same_runs_stand_beside_without_being_named(
    monkeypatch, capsys, saved, tmp_path
):
    out = tmp_path / "r.json"
    ask = ("recommend", saved, "--flops", "1e21", "--beside", "--json", out)
    assert scaling(monkeypatch, *ask) == 0
    [beside] = json.loads(out.read_text())["beside"]
    own = [row for row in beside["others"] if row["own"]]
    assert own[0]["name"] == "the runs' own minima"
    assert len(own) == 5
    assert beside["own_params"] == [
        min(row["params"] for row in own),
        max(row["params"] for row in own),
    ]
    assert all(row["loss"] is None for row in beside["others"] if not row["own"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--flop-count", "exact"), "Give --study"),
        (("--by", "runs"), "give a fit, not a published law"),
        (("--beside", "--unique-tokens", "1B"), "without --unique-tokens 1B"),
        (("--rules", "nobody"), "no rule 'nobody'"),
        (("--device", "h100-sxm"), "--device needs --mfu"),
        (("--device", "h100-sxm", "--mfu", "40"), "Give 0.4 for 40%"),
        (("--mfu", "0.4"), "Give --device too"),
        (("--device", "abacus", "--mfu", "0.4"), "no device 'abacus'"),
        (("--device", "l4", "--mfu", "0.4"), "Give at least 2 devices"),
    ],
)
def test_what_cannot_be_joined_is_refused_with_the_remedy(monkeypatch, capsys, options, words):
    assert scaling(monkeypatch, "recommend", BESIROGLU, "--flops", "1e21", *options) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.out == ""  # no answer before all that was asked is known to be possible


@pytest.mark.parametrize("part", ["--beside", "--flat-bottom"])
def test_what_looks_around_a_training_run_is_refused_where_serving_is_paid_for_too(
    monkeypatch, capsys, part
):
    ask = ("recommend", BESIROGLU, "--loss", "2.1", "--served", "2T", part)
    assert scaling(monkeypatch, *ask) == 2
    assert "Give them without --inference-tokens 2T" in capsys.readouterr().err


@pytest.mark.slow
def test_figures_of_an_answer_are_written_for_published_laws_and_limited_data(
    monkeypatch, tmp_path
):
    for number, source in enumerate(
        ((BESIROGLU,), ("published:muennighoff-2023", "--unique-tokens", "25B"))
    ):
        folder = tmp_path / str(number)
        assert scaling(monkeypatch, "recommend", *source, "--flops", "1e22", "--plot", folder) == 0
        names = {path.stem for path in folder.glob("*.png")}
        assert names == {"loss_by_compute", "frontier", "tokens_per_param", "landscape"}


@pytest.fixture
def doubted(saved, tmp_path) -> Path:
    """The same fit with a doubt about its runs."""
    path = tmp_path / "doubted.json"
    save_fit(load_fit(saved).doubted(["params from 0.01 to 1: likely billions"]), path)
    return path


@pytest.mark.parametrize(
    "ask",
    [
        ("predict", "--params", "1e9", "--tokens", "2e10"),
        ("recommend", "--flops", "1e21"),
        ("recommend", "--flops", "1e21", "--flat-bottom", "--beside"),
        ("recommend", "--flops", "1e20", "--study", STUDY, "--flop-count", "exact"),
        ("recommend", "--loss", "2.5"),
        ("recommend", "--flops", "1e21", "--unique-tokens", "5B"),
    ],
)
def test_every_answer_begins_with_what_is_doubtful_about_its_runs(
    monkeypatch, capsys, tmp_path, doubted, ask
):
    command, *options = ask
    out = tmp_path / "answer.json"
    assert scaling(monkeypatch, command, doubted, *options, "--json", out) == 0
    assert capsys.readouterr().out.startswith("Warning: Of the runs: params from 0.01 to 1")
    assert "likely billions" in json.loads(out.read_text())["warnings"][0]


def test_predict_says_what_it_assumes_and_takes_unique_tokens(monkeypatch, capsys, saved):
    run = ("predict", "published:muennighoff-2023", "--params", "1B", "--tokens", "20B")
    said = []
    for unique in ("20B", "300B", "2B"):
        assert scaling(monkeypatch, *run, "--unique-tokens", unique) == 0
        said.append(capsys.readouterr().out)
        assert "Assumed to be as in the published runs: text, tokenizer and recipe" in said[-1]
    fresh, more, few = (re.search(r"loss (\S+),", each).group(1) for each in said)
    assert fresh == more < few
    assert "no token repeats" in said[1]
    assert scaling(monkeypatch, *run, "--unique-tokens", "0") == 2
    assert scaling(monkeypatch, "predict", saved, *run[2:], "--unique-tokens", "2B") == 0
    assert "10 epochs" in capsys.readouterr().out


def test_shapes_are_headed_by_whom_their_losses_are(monkeypatch, capsys, saved):
    for by, heads in (("law", "loss"), ("runs", "loss by the law  above best by the runs")):
        ask = ("--flops", "1e20", "--study", STUDY, "--flop-count", "exact", "--by", by)
        assert scaling(monkeypatch, "recommend", saved, *ask) == 0
        assert heads in capsys.readouterr().out


def test_predict_reads_the_count_of_parameters_that_was_fitted(
    monkeypatch, capsys, tmp_path, saved
):
    rows = load_fit(saved).table
    table = rows.assign(params_total=2 * rows["params"]).rename(columns={"params": "params_body"})
    table.to_csv(tmp_path / "runs.csv", index=False)
    words = ("--params-column", "params_body", "--bootstrap", 0)
    assert scaling(monkeypatch, "fit", tmp_path / "runs.csv", *words) == 0
    by = ("predict", tmp_path / "runs.chinchilla.json", "--table", tmp_path / "runs.csv")
    capsys.readouterr()
    for more, count in (((), 1), (("--params-column", "params_total"), 2)):
        assert scaling(monkeypatch, *by, *more, "--json", tmp_path / "said.json") == 0
        said = json.loads((tmp_path / "said.json").read_text())
        assert said["predictions"][0]["params"] == pytest.approx(count * rows["params"].iloc[0])
        told = "N of the table is its column params_total, and the fit is by params_body"
        assert any(told in each for each in said["warnings"]) == (count == 2)


def test_every_device_named_has_its_cost(monkeypatch, tmp_path):
    out = tmp_path / "r.json"
    on = ("--device", "h100-sxm", "h200", "--count", 8, "--mfu", "0.4")
    ask = (BESIROGLU, "--flops", "1e20", "2e20", *on, "--json", out)
    assert scaling(monkeypatch, "recommend", *ask) == 0
    written = json.loads(out.read_text())["cost"]
    assert [each["device"] for each in written] == ["h100-sxm", "h200"] * 2
    assert written[2]["seconds"] == pytest.approx(2 * written[0]["seconds"])


def test_the_names_of_version_0_1_are_accepted(monkeypatch, tmp_path):
    answers = []
    for names in (("--inference-tokens", "2T"), ("--served", "2T"), ("--served=2T",)):
        out = tmp_path / "r.json"
        assert (
            scaling(monkeypatch, "recommend", BESIROGLU, "--loss", 2.1, *names, "--json", out) == 0
        )
        answers.append(json.loads(out.read_text()))
    assert answers[0] == answers[1] == answers[2]


def beside_its_study(folder: Path, saved: Path) -> tuple[Path, Path]:
    """A results folder with its plan, a run table and a fit; returns the study and the fit."""
    (folder / "fits").mkdir()
    for file in saved.parent.glob("mine*"):
        shutil.copy(file, folder / "fits")
    study = Path(shutil.copy(STUDY, folder / "study.toml"))
    rows = load_fit(saved).table[["params", "tokens", "loss"]]
    table = rows.assign(run_id=[f"{number:012x}" for number in range(len(rows))])
    table.to_parquet(folder / "runs.parquet")
    each = {"run_kind": "full", "first_step": 0, "steps": 1, "flops": 1.0, "config": {}}
    columns = dict.fromkeys(COUNTED, 1)
    runs = [{**each, "run_id": i, "trunk_id": i, "columns": columns} for i in table["run_id"]]
    digest = hashlib.sha256(study.read_bytes()).hexdigest()
    write_manifest(
        folder, Manifest.made(study="s", study_sha256=digest, source_sha256="", runs=runs)
    )
    return study, folder / "fits/mine.json"


def test_the_study_beside_a_fit_is_the_one_that_was_planned_or_none(
    monkeypatch, capsys, tmp_path, saved
):
    study, fit = beside_its_study(tmp_path, saved)
    ask = ("recommend", fit, "--flops", "1e20")
    digest = hashlib.sha256(study.read_bytes()).hexdigest()
    assert scaling(monkeypatch, *ask) == 0
    assert "Nearest shapes" in capsys.readouterr().out
    study.write_bytes(study.read_bytes() + b"\n")
    assert scaling(monkeypatch, *ask) == 2
    said = capsys.readouterr().err
    assert f"{study} is not the study {digest[:12]} that was planned" in said and "--study" in said
    assert scaling(monkeypatch, *ask, "--study", STUDY) == 0


def test_no_shapes_are_built_of_a_study_whose_runs_were_not_fitted(
    monkeypatch, capsys, tmp_path, saved
):
    study, fit = beside_its_study(tmp_path, saved)
    ask = ("recommend", fit, "--flops", "1e20")
    plan, table = read_manifest(tmp_path), pd.read_parquet(tmp_path / "runs.parquet")
    write_manifest(tmp_path, plan.changed(runs=[run.model_dump() for run in plan.runs[1:]]))
    assert scaling(monkeypatch, *ask) == 2  # planned anew, and nothing trained yet
    assert f"1 of {len(table)} runs in" in capsys.readouterr().err
    write_manifest(tmp_path, plan)
    table.assign(loss=table["loss"] * 1.01).to_parquet(tmp_path / "runs.parquet")
    assert scaling(monkeypatch, *ask) == 2  # planned and trained anew
    said = " ".join(capsys.readouterr().err.split())
    assert "fitted runs are not in" in said and f"Fit {tmp_path} again" in said
    (tmp_path / "runs.parquet").unlink()
    assert scaling(monkeypatch, *ask) == 2
    assert "runs.parquet" in capsys.readouterr().err
    assert scaling(monkeypatch, *ask, "--study", study) == 0


def test_the_rate_of_a_mup_study_is_that_of_its_base_and_of_no_other_size(
    monkeypatch, capsys, tmp_path
):
    study, out = tmp_path / "mup.toml", tmp_path / "r.json"
    text = Path(STUDY).read_text()
    text = re.sub(r"(?m)^learning_rate = .*$", "learning_rate = 0.5", text)
    study.write_text(text.replace("[model]", '[model]\nparametrization = "mup"'))
    ask = (BESIROGLU, "--flops", "1e20", "--study", study, "--rules", "steplaw-2025")
    assert scaling(monkeypatch, "recommend", *ask, "--json", out) == 0
    [[own, step]] = json.loads(out.read_text())["rates"]
    assert own["learning_rate"] is None and step["learning_rate"]
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"µP: 0\.5 at its base, 0\.\d+ times as wide and 0\.\d+ times as deep", said)
    assert "peak rates differ" not in said
