"""`scaling emergence` says on one screen and in JSON what was found, or why there is no curve."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from analysis.emergence.response.estimate import Estimate
from analysis.emergence.scores.metrics import Metric
from analysis.emergence.scores.series import Series
from experiments.cli.__main__ import main
from experiments.cli.output import Output
from experiments.cli.render.emergence import pass_at_k_part
from scaling.store.records import Refusal, write_table


@pytest.fixture
def scores_csv(tmp_path: Path) -> Path:
    """Twelve models of a task by two metrics, exact match the fourth power of the other."""
    params = np.geomspace(1e6, 1e10, 12)
    token = expit(2.0 * np.log10(params / 1e7))
    table = pd.DataFrame({"task": "add", "params": params, "n": 500})
    parts = [table.assign(metric="exact_match", value=np.round(token**4 * 500) / 500),
             table.assign(metric="token_accuracy", value=token)]  # fmt: skip
    pd.concat(parts).to_csv(tmp_path / "scores.csv", index=False)
    return tmp_path / "scores.csv"


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


def test_curves_pairs_and_forecasts_stand_on_the_screen_and_in_the_json(
    scores_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = scores_csv.with_name("found.json")
    words = ("--metric", "exact_match", "token_accuracy", "--cut", "1B", "--at", "1T")
    settings = ("--answer-length", 4, "--bootstrap", 33, "--json", file)
    assert scaling(
        monkeypatch, "emergence", scores_csv, "--scale", "params", *words, *settings
    ) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "threshold in params" in printed and "token_accuracy^4 predicts" in printed
    assert "from the scores up to params = 1B" in printed
    assert re.search(r"add / exact_match +1T +[\d.]+ \[[\d.]+ … [\d.]+\] +-\n", printed)
    assert re.search(r"add / exact_match +10B +[\d.]+ \[[\d.]+ … [\d.]+\] +0\.\d+\n", printed)
    assert "0 to 1 (by its name)" in printed and "500 (column n)" in printed
    found = json.loads(file.read_text())
    first = found["curves"][0]
    needed = {"task", "metric", "verdict", "threshold", "thresholds", "p_value", "width_decades"}
    assert needed | {"warnings", "breakthroughness", "linearity", "resolution"} <= set(first)
    assert first["verdict"] in ("sharp", "smooth", "none", "undetermined")
    assert {"value", "interval"} <= set(first["threshold"])
    assert found["notes"] == found["excluded"] == []
    assert first["resolution"] == pytest.approx(1 / 500)
    assert found["pairs"]["predicted"][0]["explained"] == pytest.approx(1, abs=0.01)
    assert [each["method"] for each in found["forecasts"][0]["judged"]] == [
        "auto", "persistence", "plain logistic"
    ]  # fmt: skip
    predictions = found["forecasts"][0]["predictions"]
    assert len(predictions) == 4  # three models above the cut, and 1T
    assert [each["observed"] is None for each in predictions] == [False, False, False, True]
    assert first["assumed"] == {"span": "by its name", "chance": "answers are written",
                                "n": "column n"}  # fmt: skip


def test_thresholds_fall_with_the_number_of_samples() -> None:
    params = np.geomspace(1e6, 1e9, 8)
    one = expit(2.5 * np.log10(params / 1e8))
    curves = [
        SimpleNamespace(
            series=Series("add", Metric(f"pass@{k}", 0.0, 1.0), "params", params,
                          1 - (1 - one) ** k, chance=0.0),
            threshold=Estimate(1e8 / k, None, ""),
        )
        for k in (1, 8)
    ]  # fmt: skip
    part = pass_at_k_part(curves, tokens=100.0)  # type: ignore[arg-type]
    assert part is not None and "2·N FLOPs per token" in part.text
    assert "threshold by number of samples" in part.text
    (found,) = part.json["attempts"]
    assert found["thresholds"]["slope"] == pytest.approx(-1)
    assert len(found["laws"]) == 8 and min(each["k"] for each in found["equal_compute"]) == 1
    a_token = pass_at_k_part(curves, tokens=None)  # type: ignore[arg-type]
    assert a_token is not None and "FLOPs per token  best N" in a_token.text
    against_d = [
        SimpleNamespace(series=replace(each.series, scale="tokens"), threshold=each.threshold)
        for each in curves
    ]
    with pytest.raises(Refusal, match="--scale is tokens"):
        pass_at_k_part(against_d, tokens=100.0)  # type: ignore[arg-type]


def test_a_level_is_written_as_it_was_asked_for(
    scores_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--metric", "exact_match", "--scale", "params", "--level", "0.975", "--at", "1T")
    assert scaling(monkeypatch, "emergence", scores_csv, *asked) == 0
    out = capsys.readouterr().out
    assert "threshold in params [97.5%]" in out and "forecast, median [97.5%]" in out


@pytest.mark.slow
def test_scaling_plot_draws_the_scores_of_a_study_without_a_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = np.geomspace(1e4, 1e6, 8)
    scores = pd.DataFrame({"run_id": list("abcdefgh"), "task": "add", "metric": "exact_match"})
    scores = scores.assign(params=params, value=np.linspace(0, 1, 8), n=100, chance=0.0, shots=0)
    scores.to_parquet(tmp_path / "scores.parquet")
    pd.DataFrame({"params_total": params, "tokens": 1e6, "loss": 2.0}).to_parquet(
        tmp_path / "runs.parquet"
    )
    assert scaling(monkeypatch, "plot", tmp_path) == 0
    assert "figures/emergence.png" in capsys.readouterr().out.replace("\\", "/")
    assert (tmp_path / "figures" / "emergence.svg").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--metric", "exact_match", "--scale", "flop"), "'flop' is no column"),
        (("--scale", "params"), "mixes 2 metrics"),
        (("--metric", "bleu", "--scale", "params"), "it has exact_match"),
        (("--metric", "exact_match", "--scale", "params", "--chance", "a"), "TASK=NUMBER"),
        (("--metric", "exact_match", "--scale", "params", "--chance", "typo=0.25"), "it has add"),
        (("--metric", "exact_match", "--scale", "params", "--n", "typo=25"), "it has add"),
        (("--metric", "exact_match", "--scale", "params", "--method", "logistic"), "Give --cut"),
        (("--metric", "exact_match", "--scale", "params", "--on", "model"), "Give --join"),
        (("--metric", "exact_match", "--scale", "params", "--answer-length", "4"), "no task has"),
        (("--metric", "exact_match", "--scale", "params", "--answer-tokens", "4"), "pass@1"),
        (("--metric", "exact_match", "--scale", "params", "--bootstrap", "0"), "Give 33 or more"),
        (("--metric", "exact_match", "--scale", "params", "--bootstrap", "-1"), "Give 33 or more"),
        (("--metric", "exact_match", "--scale", "params", "--range", "7"), "WORST,BEST"),
        (("--metric", "exact_match", "--scale", "params", "--by", "layers"), "no column 'layers'"),
        (("--metric", "exact_match", "--scale", "params", "--run-column", "r"), "no column 'r'"),
        (
            ("--metric", "exact_match", "--scale", "params", "--cut", "1B", "--method", "two_step"),
            "column `loss`",
        ),
        (("--metric", "exact_match", "--scale", "params", "--level", "90"), "--level 90"),
        (("--metric", "exact_match", "--scale", "params", "--level", "0.999"), "0.99 or less"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(
    scores_csv: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    said: str,
) -> None:
    assert scaling(monkeypatch, "emergence", scores_csv, *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_scores_that_changed_since_they_were_written_give_no_answer(
    scores_csv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = pd.read_csv(scores_csv)
    answers, folder = scores_csv.with_name("scores.json"), scores_csv.with_name("results")
    Output(answers).write({"scores": rows.to_dict("records")})
    write_table(folder / "scores.parquet", rows)
    words = ("--scale", "params", "--metric", "exact_match", "--bootstrap", 33)
    score = np.float64(rows["value"][5])
    for source, old, new in (
        (answers, f'"value": {score}'.encode(), b'"value": 0.5'),
        (folder / "scores.parquet", score.tobytes(), np.float64(0.5).tobytes()),
    ):
        place = source if source == answers else folder
        assert scaling(monkeypatch, "emergence", place, *words) == 0
        data = source.read_bytes()
        assert old in data
        source.write_bytes(data.replace(old, new, 1))
        assert scaling(monkeypatch, "emergence", place, *words) == 2
        said = capsys.readouterr().err
        assert f"{source} is not as" in said and "has changed since it was written" in said
