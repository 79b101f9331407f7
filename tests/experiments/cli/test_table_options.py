"""Every command that reads a run table takes the same options, and says what it took for what."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from analysis.fitting.files import load_fit
from analysis.laws.published import published
from experiments.cli import compare, emergence, fit, predict, recommend, simulate
from experiments.cli.app import app
from experiments.cli.render.run import runs_text
from scaling.store.records import Refusal

COMMANDS = (compare, predict, recommend, emergence, fit, simulate)  # importing registers them
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A company's log: sizes as 57M, tokens in billions, a crashed run, one loss not a number."""
    truth = published("besiroglu-2024")
    sizes = [(n * 1e6, r) for n in (57, 98, 180, 310, 570, 1180) for r in (10, 25, 60)]
    rows = pd.DataFrame({"params": [n for n, _ in sizes], "tokens": [n * r for n, r in sizes]})
    loss = truth.predict({"params": rows["params"], "tokens": rows["tokens"]})
    table = pd.DataFrame({
        "model_size": [f"{n / 1e6:g}M" for n in rows["params"]], "train_tokens_B":
        rows["tokens"] / 1e9, "eval_loss": loss.round(6), "State": "finished",
    })  # fmt: skip
    table.loc[len(table)] = ["57M", 1.0, None, "finished"]
    table.loc[len(table)] = ["57M", 1.0, None, "crashed"]
    table.to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


@pytest.fixture
def scaling(capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    def run(line: str) -> str:
        app.cli(shlex.split(line))
        return "".join(capsys.readouterr())

    return run


def test_a_log_as_people_have_it_is_fitted_and_its_reading_is_said(
    log: Path, scaling: Callable[[str], str]
) -> None:
    with pytest.raises(Refusal, match=r"eval_loss is not .* in 1 of 20 rows: line 20 \(empty\)"):
        scaling(f"fit {log}")
    said = scaling(f"fit {log} --drop-invalid --bootstrap 0")
    for line in (
        "log.csv: params is read from model_size",
        "log.csv: tokens is read from train_tokens_B, times 1e9",
        "log.csv: loss is read from eval_loss",
        "log.csv: status is read from State",
        "left out: 1 row, no eval_loss",
        "left out: 1 row, State crashed",
        "chinchilla on 18 runs",
    ):
        assert line in said


@pytest.mark.parametrize(
    "line",
    ["compare {} --laws chinchilla,kaplan_nd", "predict published:besiroglu-2024 --table {}",
     "simulate {root}/experiments/smoke.toml --law published:besiroglu-2024 --noise-from {}"],
)  # fmt: skip
def test_the_other_commands_read_it_alike(
    log: Path, scaling: Callable[[str], str], line: str
) -> None:
    where = line.format(log, root=ROOT)
    with pytest.raises(Refusal, match=r"--unit 'tokens=many'"):
        scaling(f"{where} --unit tokens=many")
    with pytest.raises(Refusal, match="--where 'model_size>9B' leaves none"):
        scaling(f"{where} --where 'model_size>9B'")
    if not line.startswith("simulate"):
        said = scaling(f"{where} --drop-invalid")
        assert "log.csv: params is read from model_size" in said


def test_scores_are_read_with_the_same_numbers_and_names(
    tmp_path: Path, scaling: Callable[[str], str]
) -> None:
    rows = "".join(f"{10**i}M;0,{i}5\n" for i in range(1, 7))
    (tmp_path / "scores.csv").write_text(f"n_params;exact_match\n{rows}")
    said = scaling(
        f"emergence {tmp_path}/scores.csv --scale params --metric exact_match "
        "--value-columns exact_match --bootstrap 33"
    )
    assert "params is read from n_params" in said and "exact_match" in said


def test_runs_that_would_print_the_same_show_what_they_differ_in() -> None:
    repeat, isoflop = (
        runs_text(pd.read_csv(ROOT / f"results/reference/{name}/runs.csv"))
        for name in ("repeat", "isoflop")
    )
    assert repeat.splitlines()[0].endswith("status     variant")
    assert isoflop.splitlines()[0].endswith("status")


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    """A run table with losses on two sets, each by a law of its own."""
    truths = {"": "besiroglu-2024", "_web": "chinchilla-2022", "_code": "besiroglu-2024"}
    sizes = [(n * 1e6, r) for n in (57, 98, 180, 310, 570, 1180) for r in (10, 25, 60)]
    rows = pd.DataFrame({"params": [n for n, _ in sizes], "tokens": [n * r for n, r in sizes]})
    for name, truth in truths.items():
        rows[f"loss{name}"] = published(truth).predict(rows)
        rows[f"loss{name}_stderr"] = 0.01
    rows.to_csv(tmp_path / "runs.csv", index=False)
    return tmp_path / "runs.csv"


def test_the_loss_on_a_set_is_fitted_kept_apart_and_named_in_every_answer(
    judged: Path, scaling: Callable[[str], str]
) -> None:
    own = scaling(f"fit {judged} --bootstrap 0")
    assert "validation set" not in own
    said = scaling(f"fit {judged} --loss-set web --bootstrap 0")
    file = judged.with_name("runs.chinchilla.web.json")
    assert "loss on the validation set web" in " ".join(said.split()) and str(file) in said
    found = load_fit(file)
    assert found.data.loss_set == "web"
    assert found.coefficients == pytest.approx(published("chinchilla-2022").coefficients, rel=1e-3)
    other = load_fit(judged.with_name("runs.chinchilla.json"))
    assert other.data.loss_set is None
    assert other.coefficients == pytest.approx(published("besiroglu-2024").coefficients, rel=1e-3)
    for line in (
        f"recommend {file} --flops 1e21",
        f"predict {file} --params 1e9 --tokens 2e10",
    ):
        assert "loss" in (text := " ".join(scaling(line).split()))
        assert "on the validation set web" in text
    assert "loss.png" in scaling(f"plot {judged} --loss-set web")
    with pytest.raises(Refusal, match=r"no fit --loss-set code\. First: scaling fit .*-set code,"):
        scaling(f"plot {judged} --loss-set code")
    assert "chinchilla" in scaling(f"compare {judged} --laws chinchilla --loss-set code")


def test_a_set_that_no_run_was_judged_on_is_refused_with_those_that_are_there(
    judged: Path, scaling: Callable[[str], str]
) -> None:
    said = (
        r"--loss-set wbe: .*runs\.csv has no column loss_wbe\. Did you mean web\? Give one of "
        r"web, code, or name the text in \[evaluation\] sets"
    )
    for command in (f"fit {judged}", f"compare {judged} --laws chinchilla"):
        with pytest.raises(Refusal, match=said):
            scaling(f"{command} --loss-set wbe")
    with pytest.raises(Refusal, match="both name the loss to read"):
        scaling(f"fit {judged} --loss-set web --loss-column loss_web")
