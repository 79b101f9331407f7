"""`scaling simulate` from the words a user types to numbers, figure and refusals."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import pytest

from experiments.cli import simulate
from experiments.cli.__main__ import REFUSED, main

STUDY = "experiments/accelerator.toml"  # its data are nowhere
PUBLISHED = "published:besiroglu-2024"


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", "simulate", *map(str, words)])
    return main()


def test_a_plan_is_judged_without_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [STUDY, "--law", PUBLISHED, "--noise", 0.002, "--seed-noise", 0.003,
             "--flops", "1e21", "1e22", "--repeats", 5]  # fmt: skip
    files = ["--json", tmp_path / "told.json", "--plot", tmp_path / "figures"]
    assert scaling(monkeypatch, *words, *files) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "69 runs on 40 trunks" in printed
    assert "0.30% of a trunk, 0.20% of a run, as given" in printed
    assert "determine the allocation exponent to ±0.1" in printed
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["plan"]["params_column"], told["repeats"]) == ("params_total", 5)
    assert told["coefficients"]["alpha"]["truth"] == 0.3478
    assert [each["flops"] for each in told["recommendations"]] == [1e21, 1e22]
    span = told["recommendations"][0]["params"]["spread"]
    assert span[0] < told["recommendations"][0]["params"]["median"] < span[1]
    drawn = {path.name for path in (tmp_path / "figures").iterdir()}
    assert drawn == {"simulated_studies.png", "simulated_studies.svg"}


def test_the_published_law_decides_what_n_counts_and_the_replicates_the_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [STUDY, "--law", "published:kaplan-2020", "--fit-law", "chinchilla",
             "--noise-from", "results/reference/isoflop/runs.csv", "--repeats", 1]  # fmt: skip
    assert scaling(monkeypatch, *words, "--json", tmp_path / "told.json") == 0
    assert "from 28 replicates of" in capsys.readouterr().out
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["plan"]["params_column"] == "params_non_embedding"
    assert told["coefficients"]["E"]["truth"] is None
    # By default the power of ten above the largest run, which is just below 1e20 in this count.
    assert [each["flops"] for each in told["recommendations"]] == [1e20]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--noise", "0"], "noise = 0 is no standard deviation"),
        (["--noise", "0.1", "--noise-from", "results/reference/isoflop/runs.csv"], "Leave one out"),
        (["--flops", "1e9"], "below every run of the plan"),
        (["--fit-law", "kaplan_c"], "kaplan_c predicts from flops"),
        (["--repeats", "0"], "repeats = 0"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_line(
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert scaling(monkeypatch, STUDY, "--law", PUBLISHED, *words) == REFUSED
    assert said in " ".join(capsys.readouterr().err.split())


def test_variants_of_a_sweep_are_no_replicates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = Path("experiments/accelerator.toml").read_text()
    study = tmp_path / "swept.toml"
    study.write_text(text + '\n[sweep]\n"training.clip_norm" = [1.0, 2.0]\n')
    assert scaling(monkeypatch, study, "--law", PUBLISHED) == REFUSED
    assert "[sweep] training.clip_norm" in capsys.readouterr().err


def test_what_takes_long_says_how_long_after_the_first_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([0.0, *(5.0 * k for k in range(1, 7))])
    monkeypatch.setattr(simulate.time, "monotonic", lambda: next(clock))
    assert list(simulate._progress(range(6))) == list(range(6))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "1/6 studies simulated, 25 s left"
    assert len(lines) == 2  # then every ten seconds


def test_a_fit_that_is_the_truth_brings_the_noise_of_its_own_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pilot = Path("results/reference/quickstart/fits/chinchilla.json")
    words = ["experiments/quickstart.toml", "--law", pilot, "--repeats", 1]
    assert scaling(monkeypatch, *words) == 0
    printed = capsys.readouterr().out
    assert "from 44 replicates of the fit's own runs" in " ".join(printed.split())
    [line] = [each for each in printed.splitlines() if each.startswith("Noise of log loss")]
    shared, own = (float(each) for each in re.findall(r"([\d.]+)% of", line))
    # Its runs scatter by 1.1% (`lack_of_fit.replicate_sd`), those of the default by .7%.
    assert math.hypot(shared, own) == pytest.approx(1.1, abs=0.1)
    assert "Warning" not in printed


def test_a_law_that_gives_losses_above_those_of_guessing_is_said_to_be_of_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experiments/quickstart.toml", "--law", PUBLISHED, "--repeats", 1]
    assert scaling(monkeypatch, *words, "--json", tmp_path / "told.json") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Warning: the law gives 55 of 55 runs a loss above 5.55 nats/token" in printed
    [said] = json.loads((tmp_path / "told.json").read_text())["plan"]["warnings"]
    assert "among the 256 tokens" in said
