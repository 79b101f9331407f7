"""Nothing that a user has is replaced by what a command writes."""

from __future__ import annotations

import inspect
import json
import os
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from analysis.figures.style import save
from experiments.cli.app import app
from experiments.cli.output import Output, is_answer, is_figure
from scaling.store import leftovers, records
from scaling.store.records import Refusal

ROOT = Path(__file__).resolve().parents[3]
FIT = ROOT / "results/reference/quickstart/fits/chinchilla.json"


def scaling(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    from experiments.cli.__main__ import main

    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    return main()


def test_every_command_that_writes_asks_before_it_replaces() -> None:
    writers = {
        name: inspect.signature(command).parameters for name, command in app.commands.items()
    }
    writers = {name: of for name, of in writers.items() if {"to_json", "out", "plot"} & {*of}}
    assert {"fit", "plot", "emergence", "simulate", "tune"} == {*writers}
    assert all({"output", "overwrite"} & {*of} for of in writers.values())


@pytest.mark.parametrize(
    "content",
    [
        "a,b\n1,2\n",
        '{"laws": []}\n',
        '{"written_by": "scaling-laws"}',
        '{"written_by": "scaling-laws", "sha256": "0"}',
        "[1]",
        "\x00",
    ],
)
def test_a_file_that_another_program_wrote_is_kept(
    content: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    mine = tmp_path / "mine"
    mine.write_text(content)
    assert scaling(monkeypatch, "laws", "--json", mine) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1 and f"--json {mine} exists" in said.err
    assert "--overwrite" in said.err and not said.out
    assert mine.read_text() == content
    assert scaling(monkeypatch, "laws", "--json", mine, "--overwrite") == 0
    assert is_answer(mine)


def test_a_file_of_ours_is_replaced_until_somebody_changes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = tmp_path / "answer.json"
    answer.touch()  # empty, as mktemp makes them
    for command in ("laws", "models", "models"):
        assert scaling(monkeypatch, command, "--json", answer) == 0
    with monkeypatch.context() as small:  # an answer may be larger than our other records are
        small.setattr(records, "MAX_JSON", 100)
        assert scaling(monkeypatch, "models", "--json", answer) == 0
    answer.write_text(answer.read_text().replace("pythia", "mine"))
    assert scaling(monkeypatch, "models", "--json", answer) == 2
    assert "this version of this program, or was changed since" in capsys.readouterr().err
    assert "mine" in answer.read_text()


def test_a_fit_and_what_is_no_file_are_not_replaced_by_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit = tmp_path / "fit.json"
    fit.write_bytes(FIT.read_bytes())
    for place in (fit, tmp_path, "/dev/null"):
        assert scaling(monkeypatch, "laws", "--json", place) == 2
        assert f"--json {place}" in capsys.readouterr().err
    assert fit.read_bytes() == FIT.read_bytes()
    assert scaling(monkeypatch, "laws", "--json", "/dev/null", "--overwrite") == 2
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]])
def test_a_link_is_no_place_for_an_output(
    overwrite: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    ours, link, pipe = (tmp_path / name for name in ("ours.json", "link.json", "pipe"))
    assert scaling(monkeypatch, "laws", "--json", ours) == 0
    os.mkfifo(pipe)
    for target in (ours, pipe, tmp_path / "nothing"):
        link.symlink_to(target)
        assert scaling(monkeypatch, "laws", "--json", link, *overwrite) == 2
        assert f"--json {link} is a link" in capsys.readouterr().err
        assert link.is_symlink()
        link.unlink()
    assert is_answer(ours) and pipe.is_fifo() and not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("there", [False, True])
def test_two_outputs_are_two_files(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "runs.csv").write_text("params,tokens,loss\n")
    file, other = tmp_path / "x.json", f"{tmp_path}/./x.json"
    if there:
        file.touch()
    command = "fit", tmp_path / "runs.csv", "--out", file, f"--json={other}", "--overwrite"
    assert scaling(monkeypatch, *command) == 2
    assert f"--out {file} and --json {other} are one file" in capsys.readouterr().err


def test_an_input_is_replaced_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prediction = ("predict", "published:besiroglu-2024", "--table", tmp_path / "runs.json")
    rows = [{"params": 1e9, "tokens": 2e10}]
    (tmp_path / "runs.json").write_text(json.dumps(rows))
    assert scaling(monkeypatch, *prediction, "--json", tmp_path / "runs.json") == 2
    assert "is read by this command" in capsys.readouterr().err
    assert json.loads((tmp_path / "runs.json").read_text()) == rows
    assert scaling(monkeypatch, *prediction, "--json", tmp_path / "runs.json", "--overwrite") == 0
    assert is_answer(tmp_path / "runs.json")


def test_of_another_programs_figure_no_more_is_read_than_shows_its_maker(tmp_path: Path) -> None:
    large = tmp_path / "large.png"
    with large.open("wb") as file:
        file.truncate(1 << 36)  # 64 GiB, of which the disk holds nothing
    assert not is_figure(large)
    with pytest.raises(Refusal, match=r"large.png exists, and was not written by this"):
        Output().refuse("figure", large, is_figure)


def test_figures_are_replaced_all_or_none(tmp_path: Path) -> None:
    mpl.use("agg")

    def draw(into: Path) -> list[Path]:
        return [path for name in ("a", "b") for path in save(Figure((2, 2)), into / name)]

    drawn = Output().draw(tmp_path, draw)
    assert [each.name for each in drawn] == ["a.png", "a.svg", "b.png", "b.svg"]
    assert Output().draw(tmp_path, draw) == drawn  # its own
    for name in ("a.svg", "a.png"):
        (tmp_path / name).unlink()
    (tmp_path / "b.svg").write_text("<svg>mine</svg>")
    with pytest.raises(Refusal, match=r"b\.svg exists, .*--overwrite"):
        Output().draw(tmp_path, draw)
    assert {each.name for each in tmp_path.iterdir()} == {"b.png", "b.svg"}
    Output(overwrite=True).draw(tmp_path, draw)
    assert "mine" not in (tmp_path / "b.svg").read_text()


def test_of_what_is_beside_the_figures_only_their_leftovers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpl.use("agg")
    monkeypatch.setattr(leftovers, "OLD_SECONDS", 0.0)
    mine, left = (tmp_path / f".{name}.{'0f' * 16}" for name in ("mine", "a.png"))
    mine.write_text("kept")
    left.write_text("of a killed process")
    Output().draw(tmp_path, lambda into: save(Figure((2, 2)), into / "a"))
    assert {each.name for each in tmp_path.iterdir()} == {"a.png", "a.svg", mine.name}
