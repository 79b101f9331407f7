"""What a command foresees is a line; what it does not is a fault of the program, and says so."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.files import load_fit
from experiments.cli import laws as laws_command
from experiments.cli import show as show_command
from experiments.cli.__main__ import main
from experiments.cli.app import app
from scaling.store.records import Refusal

Scaling = Callable[..., int]
SMOKE = Path(__file__).parents[3] / "experiments" / "smoke.toml"
ESCAPES = "\x1b[31mred\x1b[0m\x9b2J\r\u202e"
FORGED = f"{ESCAPES}\nscaling fit: error: forged"


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Scaling:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def run(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
        return main()

    return run


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `scaling laws` raise this."""

    def make(error: BaseException) -> None:
        def laws() -> None:
            raise error

        monkeypatch.setitem(app.commands, "laws", laws)

    assert laws_command and show_command
    return make


def run_table(path: Path, n: int = 4) -> Path:
    params, tokens = np.meshgrid(np.geomspace(1e6, 1e8, n), np.geomspace(1e8, 1e10, n))
    table = pd.DataFrame({"params": params.ravel(), "tokens": tokens.ravel()})
    table["loss"] = 1.8 + 400 / table["params"] ** 0.34 + 400 / table["tokens"] ** 0.3
    table.to_csv(path, index=False)
    return path


# --- exit codes ---


@pytest.mark.parametrize(
    "error", [KeyError("a bug"), SystemExit(0), SystemExit("x"), RecursionError()]
)
def test_what_no_module_foresaw_is_a_fault_of_the_program(
    scaling: Scaling,
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
) -> None:
    failing(error)
    assert scaling("laws") == 70
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("scaling laws: a fault of this program (") and not said.out
    details = Path(re.findall(r"details are in (\S+):", line)[0]).read_text()
    assert "Traceback" in details and "scaling laws" in details and "Python 3" in details


@pytest.mark.parametrize(
    "error, says",
    [
        (MemoryError("malloc of size 9"), "not enough memory (malloc of size 9). Give less"),
        (OSError(28, "No space left on device", "a\nb"), r"a\nb: No space left on device"),
        (OSError(28, "No space left on device"), "does not name: No space left on device"),
        (Refusal(f"[data] source = {FORGED}"), r"\x1b[31mred\x1b[0m\x9b2J\r\u202e\nscaling fit"),
    ],
)
def test_what_is_foreseen_is_one_line(
    scaling: Scaling,
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    says: str,
) -> None:
    failing(error)
    assert scaling("laws") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("scaling laws: error: ") and says in line


def test_several_refusals_are_several_lines() -> None:
    error = Refusal(["one\nthing", "another"], "Mend them.")
    assert error.lines == (r"one\nthing", "another Mend them.")
    assert str(error) == "one\\nthing\nanother Mend them."
    assert Refusal("cause", "remedy").cause == "cause"
    (line,) = Refusal(f"what is called {'x' * 10**6}", "Mend it.").lines
    assert len(line) < 4000 and line.startswith("what is") and line.endswith("xx Mend it.")


# --- what is printed ---


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
@pytest.mark.parametrize("words", [["models", "--help"], ["laws"], ["models", "gpt2"], ["--help"]])
def test_a_stdout_gets_what_it_can_spell(
    scaling: Scaling, monkeypatch: pytest.MonkeyPatch, encoding: str, words: list[str]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    with suppress(SystemExit):  # of tyro, after its help
        assert scaling(*words) == 0
    stream.flush()
    written = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert written and (encoding != "ascii" or written.isascii())


def test_an_output_that_was_closed_before_stops_nothing(
    scaling: Scaling, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert scaling("laws", "--json", tmp_path / "laws.json") == 0
    assert json.loads((tmp_path / "laws.json").read_text())
    assert scaling("fit", "nothing.csv") == 2


@pytest.mark.parametrize(
    "words",
    [
        ["fit", FORGED], ["plan", f"{FORGED}.toml"], ["fit", "a.csv", f"--{FORGED}", "x"], [FORGED],
        ["fit", "a.csv", "--objective", FORGED], ["fit", "a.csv", "--seed", FORGED],
        ["fit", "a.csv", "--law", FORGED], ["status", FORGED], ["show", FORGED],
        ["predict", FORGED, "--params", "1"], ["predict", "published:x", "--params", FORGED],
        ["fit", "a.csv", "--where", FORGED], ["fit", "a.csv", "--json", f"{FORGED}.json"],
        ["plan", "a.toml", "--device", FORGED], ["emergence", FORGED, "--scale", "params"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("terminal", [False, True])
def test_no_name_commands_the_terminal(
    scaling: Scaling,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    terminal: bool,
) -> None:
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
    run_table(Path("a.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        try:
            assert scaling(*words, *(["--bootstrap", "0"] if "--json" in words else [])) in (0, 2)
        except SystemExit as ended:  # of tyro
            assert ended.code == 2
    said = "".join(capsys.readouterr())
    obeyed = re.sub(r"\x1b\[[0-9;]*m", "", said) if terminal else said  # colours of tyro's
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", obeyed)
    assert not any(line.startswith("scaling fit: error: forged") for line in said.splitlines())


def test_a_fit_under_a_name_of_two_lines_is_told_of_in_one(
    scaling: Scaling, capsys: pytest.CaptureFixture[str]
) -> None:
    table = run_table(Path("one\ntwo.csv"))
    assert scaling("fit", table, "--bootstrap", "0") == 0
    assert r"Fitted chinchilla → one\ntwo.chinchilla.json" in capsys.readouterr().out
    assert load_fit(Path("one\ntwo.chinchilla.json")).data.n == 16


# --- options ---


@pytest.mark.parametrize(
    "words, says",
    [
        (["fit", "a.csv", "--seed", "-1"], "seed = -1 is negative"),
        (["fit", "a.csv", "--bootstrap", "1000000000"], "bootstrap = 1000000000 is above 100,000"),
        (["fit", "a.csv", "--fix", "E=1e300"], "fixed E = 1e+300"),
        (["fit", "a.csv", "--prior", "E=1:1e-320"], "sd = "),
        (["fit", "a.csv", "--prior", "E=1e300:1"], "value = 1e+300"),
        (["fit", "a.csv", "--json", "."], ". is no name for a fit"),
        (["laws", "--json", "."], "--json . is no regular file"),
        (["run", SMOKE, "--dry-run", "--workers", "1000000000"], "--workers 1000000000: give at m"),
        (["prepare", SMOKE, "--processes", "1000000000"], "--processes 1000000000: give at most"),
        (["laws", "--json", "a.csv/x.json"], "cannot write a.csv/x.json"),
        (["predict", "published:besiroglu-2024", "--params", "1e200", "--tokens", "1"], "--params"),
        (["recommend", "published:besiroglu-2024", "--flops", "1e300"], "is beyond 1e-30 to 1e+33"),
        (["emergence", "s.csv", "--scale", "params", "--n", "1e300"], "--n '1e300'"),
        (["emergence", "s.csv", "--scale", "params", "--n", "1e18"], "at most 1e+09; got 1e+18"),
        (["emergence", "s.csv", "--scale", "params", "--seed", "-1"], "seed = -1 is negative"),
        (
            ["emergence", "s.csv", "--scale", "params", "--bootstrap", "999999999"],
            "is above 100,000",
        ),
    ],
)
def test_a_number_that_cannot_be_meant_is_refused_at_once(
    scaling: Scaling, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    run_table(Path("a.csv"))
    scores = {"task": "t", "metric": "exact_match", "params": [1e6, 3e6, 1e7, 3e7, 1e8, 3e8]}
    table = pd.DataFrame({**scores, "value": [0.01, 0.02, 0.1, 0.5, 0.8, 0.9]})
    table.to_csv("s.csv", index=False)
    assert scaling(*words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_rows_that_no_arithmetic_holds_are_refused(
    scaling: Scaling, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(run_table(Path("a.csv")))
    table.loc[3, "loss"] = 1e-29
    table.to_csv("a.csv", index=False)
    assert scaling("fit", "a.csv", "--bootstrap", "0") in (0, 1, 2)
    assert "fault" not in capsys.readouterr().err
