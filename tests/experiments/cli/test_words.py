"""What a command is given is used, or refused: nothing goes unread."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli.__main__ import main

PUBLISHED = "published:besiroglu-2024"
SMOKE = Path(__file__).parents[3] / "experiments/smoke.toml"
FORGED = "\nWarning: forged"


@pytest.fixture
def refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """What a command that is refused says; a run table and a table of scores are there."""
    monkeypatch.chdir(tmp_path)
    params, tokens = (x.ravel() for x in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    loss = 1.8 + 400 / params**0.34 + 400 / tokens**0.3
    pd.DataFrame({"params": params, "tokens": tokens, "loss": loss}).to_csv("a.csv", index=False)
    scores().to_csv("s.csv", index=False)

    def run(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
        assert main() == 2
        return capsys.readouterr().err

    return run


def scores() -> pd.DataFrame:
    return pd.DataFrame({
        "task": "t", "metric": "exact_match", "params": [1e6, 3e6, 1e7, 3e7, 1e8, 3e8],
        "value": [0.01, 0.02, 0.1, 0.5, 0.8, 0.9], "n": 100,
    })  # fmt: skip


@pytest.mark.parametrize(
    "words, says",
    [
        (["fit", "a.csv", "--where", "loss>0", "--where", "tokens>0"], "--where is given twice"),
        (["fit", "a.csv", "--law", "chinchilla", "--law=kaplan_nd"], "--law is given twice"),
        (["fit", "a.csv", "--loss-column", "x", "--loss_column", "y"], "--loss-column is given tw"),
        (["fit", "a.csv", "--overwrite", "--overwrite"], "--overwrite is given twice"),
        (
            ["recommend", PUBLISHED, "--served", "1T", "--inference-tokens", "2T"],
            "--inference-tokens is given twice",
        ),
        (["fit", "a.csv", "--fix", "alpha=.3", "alpha=.4"], "alpha=.3 alpha=.4 gives alpha twice"),
        (["fit", "a.csv", "--prior", "E=1:1", "E=1:1"], "--prior E=1:1 E=1:1 gives E twice"),
        (["fit", "a.csv", "--unit", "tokens=1e3", "tokens=1"], "gives tokens twice"),
        (["fit", "a.csv", "--fix", "0.3"], "--fix '0.3': give NAME=VALUE"),
        (["emergence", "s.csv", "--scale", "params", "--n", "5", "6"], "--n 5 6 gives what has no"),
        (["emergence", "s.csv", "--scale", "params", "--chance", "t=0", "t=.1"], "gives t twice"),
        (["recommend", PUBLISHED, "--flops", "1e15", "1000T"], "--flops has 1e+15 twice"),
        (["recommend", PUBLISHED, "--flops", "1e20", "--rules", "x", "x"], "--rules has x twice"),
        (["compare", "a.csv", "--laws", "kaplan_nd,kaplan_nd"], "--laws has kaplan_nd twice"),
        (["plan", SMOKE, "--device", "h100-sxm", "h100-sxm"], "--device has h100-sxm twice"),
        (["emergence", "s.csv", "--scale", "params", "--at", "1T", "1e12"], "--at has 1e+12 twice"),
    ],
)
def test_what_would_be_lost_is_refused(
    refused: Callable[..., str], words: list[str], says: str
) -> None:
    assert says in refused(*words)


@pytest.mark.parametrize(
    "words, says",
    [
        (["--params", "1B", "--table", "a.csv"], "--table a.csv has the runs, and --params names"),
        (["--params", "1B", "--tokens", "1T", "--flops", "1e21"], "--flops is 6ND of --params and"),
        (
            ["--params", "1B", "--tokens", "1T", "--where", "loss>2"],
            "are for a table, and there is",
        ),
        (["--params", "1B", "--tokens", "1T", "--level", "0.99999999"], "is above 0.999"),
    ],
)
def test_a_prediction_ignores_nothing(
    refused: Callable[..., str], words: list[str], says: str
) -> None:
    assert says in refused("predict", PUBLISHED, *words)


@pytest.mark.parametrize("column", ["params", "tokens", "loss"])
def test_the_best_of_a_column_that_every_sweep_has_is_refused(
    refused: Callable[..., str], column: str
) -> None:
    assert f"--best-of {column}: the best of a sweep" in refused(
        "fit", "a.csv", "--best-of", column
    )


@pytest.mark.parametrize(
    "words, says",
    [
        (["--n", "1e300"], "is beyond 1e-30 to 1e+33"),
        (["--n", "0"], "'0' must be a positive"),
        (["--n", "1.5"], "'1.5' is 1.5, which is no whole number"),
        (["--n", "x"], "'x' is not a number"),
        (["--chance", "x"], "'x' is not a number such as 0.25"),
        (["--scale", "value"], "--scale value is of the scores"),
        (["--scale", "n"], "--scale n is of the scores"),
    ],
)
def test_what_an_option_of_scores_cannot_mean_is_said(
    refused: Callable[..., str], words: list[str], says: str
) -> None:
    scale = [] if "--scale" in words else ["--scale", "params"]
    assert says in refused("emergence", "s.csv", *scale, *words)


def test_half_a_question_is_none(refused: Callable[..., str]) -> None:
    scores().assign(n=1.5).to_csv("s.csv", index=False)
    said = refused("emergence", "s.csv", "--scale", "params")
    assert "n must be a whole number of questions; got 1.5" in said


@pytest.mark.parametrize(
    "words",
    [
        ["recommend", PUBLISHED, "--flops", "1e20", "--by"],
        ["emergence", "s.csv", "--scale", "params", "--method"],
        ["fit", "a.csv", "--loss-unit"],
    ],
)
@pytest.mark.parametrize("word", ["nope", "None"])
def test_none_is_no_word_to_choose(
    refused: Callable[..., str], words: list[str], word: str
) -> None:
    said = refused(*words, word)
    assert "Expected one of" in said and "None" not in said.replace("choice 'None'", "")


def test_a_whole_number_is_written_like_every_other(refused: Callable[..., str]) -> None:
    fit = "fit", "a.csv", "--bootstrap"
    assert "bootstrap = 1000000 is above 100,000" in refused(*fit, "1e6")
    assert "bootstrap = 200000 is above 100,000" in refused(*fit, "200k")
    assert "bootstrap = -1 is negative" in refused(*fit, "-1")
    assert "'1.5' is 1.5, which is no whole number" in refused(*fit, "1.5")


def test_a_name_is_written_out_once(refused: Callable[..., str]) -> None:
    said = refused("fit", "a.csv", "--loss-column", "a\x1b")
    assert r"no column 'a\x1b';" in said and r"\\x1b" not in said


def test_what_is_no_regular_file_is_not_to_be_deleted(refused: Callable[..., str]) -> None:
    said = refused("predict", "/dev/null", "--params", "1B")
    assert "/dev/null: it is no regular file" in said and "elete" not in said


@pytest.mark.parametrize("by", [[], ["--by", "family"]])
def test_a_name_in_a_table_makes_no_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    by: list[str],
) -> None:
    table = pd.concat([scores(), scores().assign(metric=f"m{FORGED}", chance=0)])
    table["status"] = ["completed"] * 11 + [f"x{FORGED}"]
    family = [f"{each}{FORGED}" for each in "aaabbb"]
    table = table.assign(task=FORGED, family=family * 2)
    table.to_csv(tmp_path / "s.csv", index=False)
    metrics = "--metric", "exact_match", f"m{FORGED}"
    words = (*metrics, "--scale", "params", "--bootstrap", "33", "--range", "0,1", *by)
    monkeypatch.setattr(sys, "argv", ["scaling", "emergence", str(tmp_path / "s.csv"), *words])
    assert main() == 0
    said = "".join(capsys.readouterr())
    assert r"\nWarning: forged / exact_match" in said or by
    assert "forged" in said
    assert not any(line.startswith("Warning: forged") for line in said.splitlines())
