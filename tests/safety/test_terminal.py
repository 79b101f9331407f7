"""What a file says is shown, and a terminal obeys none of it."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.text import MOST_ROWS, printable, text_table
from experiments.cli.progress import Preparation, Taking, Watch
from experiments.cli.status import status_text
from experiments.cli.text import say
from scaling.launch.output import Printable, drawing_on

CLEAR = "\x1b[2J\x1b]0;title\x07"


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_printable(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@pytest.mark.parametrize(
    "text, shown",
    [
        ("loss 2.3 ± 0.1 · 1×32 → größer", "loss 2.3 ± 0.1 · 1×32 → größer"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("one\r\ntwo\tthree", "one\\r\\ntwo\\tthree"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),  # read from right to left
        ("a\u200bb\x9b2J\udc80", "a\\u200bb\\x9b2J\\udc80"),
    ],
)
def test_what_it_would_obey_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def row(**fields: Any) -> dict[str, Any]:
    common = {"run_id": "0" * 12, "run_kind": "full", "params_non_embedding": 5, "tokens": 20}
    return {**common, "seed": 0, "status": "failed", "step": None, "loss": None, **fields}


def test_the_reason_of_a_failure_cannot_forge_a_row_of_the_status() -> None:
    reason = f"log: {CLEAR}\n000000000000  full  5  20  0  completed"
    said = status_text([row(reason=reason)])
    assert len(said.splitlines()) == 4  # header, the run, nothing, the tally
    assert "\\x1b[2J\\x1b]0;title\\x07\\n0000" in said and "\x1b" not in said


def test_a_message_about_a_hostile_file_is_harmless(tmp_path: Path) -> None:
    path = tmp_path / f"{CLEAR}.toml"
    path.write_text('"\\u001b[2J" = 1\n')  # a key, as TOML escapes it
    command = [sys.executable, "-m", "experiments.cli", "plan", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "\\x1b[2J" in done.stderr
    assert "\x1b" not in done.stderr + done.stdout


def test_a_terminal_without_the_letters_gets_them_written_out() -> None:
    code = "from experiments.cli.text import say; say('1 × 2 → 3')"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(Path(__file__).parents[2])},
        check=True,
    )
    assert done.stdout == b"1 \\xd7 2 \\u2192 3\n"


def test_say_keeps_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo\x07")
    assert capsys.readouterr().out == "one\ntwo\\x07\n"


def test_of_very_many_rows_the_middle_is_left_out_and_the_remedy_said() -> None:
    few = text_table(["n"], [[str(n)] for n in range(MOST_ROWS)]).splitlines()
    assert len(few) == 1 + MOST_ROWS
    many = text_table(["n"], [[str(n)] for n in range(10_000)]).splitlines()
    assert len(many) == 2 + MOST_ROWS
    assert [many[1], many[-1]] == ["0", "9999"]
    assert many[1 + MOST_ROWS // 2] == "… 9,800 more of 10,000 rows; --json FILE has them all"


def test_of_very_many_runs_those_that_need_a_look_are_shown() -> None:
    rows = [row(run_id=f"{n:012x}", status="completed", reason=None) for n in range(10_000)]
    rows[5000] = row(run_id="5" * 12, reason="out of memory")
    said = status_text(rows)
    assert "out of memory" in said and "9999 completed, 1 failed" in said
    assert len(said.splitlines()) < MOST_ROWS + 5


@pytest.mark.parametrize(
    "encoding, terminal, shown",
    [
        ("utf-8", False, "1 × \\x1b[1m2\\x1b[0m\\r\n\\x9b2J\\udcff\n"),
        ("utf-8", True, "1 × \x1b[1m2\x1b[0m\\r\n\\x9b2J\\udcff\n"),  # colours are for terminals
        ("ascii", False, "1 \\xd7 \\x1b[1m2\\x1b[0m\\r\n\\x9b2J\\udcff\n"),
    ],
)
def test_a_stream_is_sent_printable_lines_alone(encoding: str, terminal: bool, shown: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    print("1 × \x1b[1m2\x1b[0m\r\n\x9b2J\udcff", file=Printable(stream), flush=True)
    assert stream.buffer.getvalue().decode(encoding) == shown  # type: ignore[attr-defined]
    assert drawing_on(Printable(stream)) is stream and drawing_on(stream) is stream  # type: ignore[arg-type]


@pytest.mark.parametrize("bar", [Watch, Taking, Preparation])
def test_a_bar_is_drawn_and_what_is_printed_meanwhile_is_printable(
    bar: type[Watch | Taking | Preparation], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    stream.isatty = lambda: True  # type: ignore[method-assign]
    streams = Printable(stream), Printable(stream)
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    with bar():
        for file in (sys.stdout, sys.stderr):
            print("a \x1b[2J\x1b]0;title\x07 name", file=file, flush=True)
    assert (sys.stdout, sys.stderr) == streams
    stream.flush()
    shown = stream.buffer.getvalue().decode()  # type: ignore[attr-defined]
    assert shown.count("a \\x1b[2J\\x1b]0;title\\x07 name") == 2 == shown.count("\\x1b[2J")
    assert "\x1b[?25l" in shown and "\\x1b[?25l" not in shown  # its own codes are obeyed


def test_what_goes_to_a_file_goes_there_while_a_bar_is_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", Printable(stream))
    with Watch():
        print("a warning", file=sys.stderr)
    assert capsys.readouterr().err == "a warning\n"
    stream.flush()
    assert b"warning" not in stream.buffer.getvalue()  # type: ignore[attr-defined]
