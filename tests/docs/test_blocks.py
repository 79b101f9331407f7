"""Every block of code in README and docs/ is run, and what a page shows is what comes out.

What a block is follows from its language:

- `python` and `{code-cell}`: run in order, in one namespace a page. A `text` block that follows
  is what it prints.
- `console`: `$ scaling …` is run, and what stands below it is what it prints.
- `sh`: commands alone. Each is run where that takes seconds (see NOT_RUN), and its options exist.
- `toml`: a study or a part of one, which must be valid; or a rule file, or a `pyproject.toml`.
- `yaml`: a task of an engine that is not here: tests/docs/test_clusters.py has its tests.

A line `…` in what is shown stands for lines that are left out. Where a page shows what is no
longer printed, `PYTHONPATH=. python tests/docs/test_blocks.py PAGE …` writes those blocks anew.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot

from experiments.cli.__main__ import MODULES, main

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "experiments" / "README.md", *sorted(ROOT.glob("docs/*.md"))]
LEFT_OUT = "…"

# Commands that take long are run in the slow suite.
SLOW = re.compile(r"^\$ scaling (simulate|run|worker|eval|compare)\b|--plot", re.MULTILINE)

# Published scores of models, by columns model,params,tokens for their table of scores.
PYTHIA = "pythia_v1_core_evals.csv"
SIZES = {
    "70m": 70426624, "160m": 162322944, "410m": 405334016, "1b-bf16": 1011781632, "1b": 1011781632,
    "1.4b": 1414647808, "2.8b": 2775208960, "6.9b": 6857302016, "12b": 11846072320,
}  # fmt: skip

# Commands that no test here can run, and why; that their options exist is checked all the same.
NOT_RUN = {
    "make": "`make quickstart`, `make emergence` and others are steps of .ci/run",
    "pip": "it installs",
    "PYTHONPATH=. python benchmarks/": "minutes; tests/benchmarks has their tests",
    "scaling run experiments/": "minutes; `make quickstart` and `make emergence` run two of them",
    "ray ": "it starts servers, as tests/faults/test_ray.py does",
    "scaling run my_study.toml --launcher ray": "tests/faults/test_ray.py",
    "RAY_ADDRESS=": "tests/faults/test_ray.py",
    "scaling eval results/emergence": "it needs checkpoints, which are not in the repository",
    **{
        f"scaling {command}": "it needs a bucket; tests/scaling/store has its tests, with servers"
        for command in (
            *("run my_study.toml --results s3", "worker s3", "status s3", "fit s3", "plot s3"),
            *("sync results/my_study s3", "sync s3"),
        )
    },
    "scaling run my_study.toml --max-hours": "it ends with 75; tests/slurm has its test",
    "scaling run my_study.toml --launcher slurm": "it needs Slurm; tests/slurm has its test",
    "scaling tune my_study.toml": "minutes; tests/experiments/cli/test_tune.py has its tests",
    "scaling plan my_study.toml --compile": "it needs libtpu; tests/agreement has its test",
    "scaling worker /shared/": "two processes at once; tests/scaling/launch/test_hosts.py has them",
    "srun": "it needs Slurm",
}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int  # of its first line of text, from 1
    language: str
    text: str
    follows: str = ""  # the language of the block right above it, with nothing but blank between

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """A command of a console block and the lines that the page shows below it."""

    words: list[str]
    shown: list[str]
    line: int  # in the block, of the first line shown


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, but for directives that show no code."""
    found: list[Block] = []
    fence, start, ended, lines = "", 0, -9, page.read_text().splitlines()
    for i, line in enumerate(lines):
        opened = re.match(r"\s*(```+|:::+)(.*)", line)
        if not fence and opened:
            fence, language, start = opened[1], opened[2].strip().split(" ")[0], i + 1
        elif fence and line.strip() == fence:
            fence = ""
            above = (
                found[-1].language if found and not "".join(lines[ended + 1 : start - 1]) else ""
            )
            text = "\n".join(lines[start:i])
            found.append(Block(page, start + 1, language, text, above))
            ended = i
    return [
        block for block in found if block.language == "{code-cell}" or "{" not in block.language
    ]


def commands(block: Block) -> list[Command]:
    """The commands of a console block with what is shown below each."""
    found: list[Command] = []
    lines = iter(enumerate(block.text.splitlines()))
    for i, line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while command.endswith("\\"):
                i, more = next(lines)
                command = command[:-1] + more
            found.append(Command(shlex.split(command, comments=True), [], i + 1))
        else:
            assert found, f"{block}: a console block begins with a line `$ command`"
            found[-1].shown.append(line)
    return found


def typed(block: Block) -> list[str]:
    """The commands of an `sh` block, a line each."""
    joined = re.sub(r"\\\n\s*", "", block.text)
    lines = [re.sub(r"\s#\s.*", "", line).strip() for line in joined.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


ALL = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in ALL if block.language in languages]


# -- Running them ------------------------------------------------------------------------------


def _furnish(folder: Path) -> None:
    """Copies what the pages work on into a folder, under the names that they use."""
    reference = ROOT / "results" / "reference"
    shutil.copytree(reference, folder / "results" / "reference")
    for study in ("quickstart", "isoflop", "emergence"):
        shutil.copytree(reference / study, folder / "results" / study)
    shutil.copytree(ROOT / "experiments", folder / "experiments")
    shutil.copytree(ROOT / "benchmarks" / "results", folder / "benchmarks" / "results")
    shutil.copy(reference / "isoflop" / "runs.csv", folder / "my_runs.csv")
    smoke = (ROOT / "experiments" / "smoke.toml").read_text()
    (folder / "my_study.toml").write_text(smoke.replace('name = "smoke"', 'name = "my_study"'))
    curves = _two_schedules()
    curves.to_csv(folder / "my_curves.csv", index=False)
    curves[curves["curve"] == "decay"].to_csv(folder / "my_curve.csv", index=False)
    sizes = [
        curves.assign(params=n, curve=curves["curve"] + f" {n:g}", loss=curves["loss"] + 9 / n**0.3)
        for n in (1e6, 1e7, 1e8)
    ]
    pd.concat(sizes).to_csv(folder / "my_sizes.csv", index=False)


def _pythia(folder: Path) -> None:
    """Copies the published scores of Pythia, which are not in the repository; skips without."""
    data = Path(os.environ.get("SCALING_REFERENCE_DATA") or ROOT / "../shared/data")
    if not (data / "pythia" / PYTHIA).exists():
        pytest.skip(f"no reference data at {data / 'pythia'} (set SCALING_REFERENCE_DATA)")
    shutil.copy(data / "pythia" / PYTHIA, folder)
    rows = [
        f"pythia-{size}{suffix},{params},300e9"
        for size, params in SIZES.items()
        for suffix in ("", "-deduped")
    ]
    (folder / "models.csv").write_text("\n".join(["model,params,tokens", *rows, ""]))


def _two_schedules() -> pd.DataFrame:
    """Two loss curves of one model, by the multi-power law without noise."""
    steps = np.arange(1, 401)
    rates = {"constant": np.full(400, 5e-3), "decay": 5e-3 * (1 - steps / 500)}
    return pd.concat(
        pd.DataFrame(
            {
                "curve": name,
                "step": steps,
                "lr": rate,
                "loss": 1 + np.cumsum(rate) ** -0.3 - 2 * (5e-3 - rate),
            }
        )
        for name, rate in rates.items()
    )


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory of a page's blocks, whose figures are closed at its end."""
    _furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    yield tmp_path
    pyplot.close("all")


def scaling(words: list[str]) -> tuple[int, str]:
    """Exit code of a command and what it prints: what it says on stderr where it fails."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    try:
        sys.argv = words
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        sys.argv = before
    return code, err.getvalue() if code else out.getvalue()


NUMBER = re.compile(r"\d+(?:\.\d+)?")


def is_shown_by(line: str, printed: str) -> bool:
    """Whether two lines agree, but for one unit in the last place of each number.

    Another processor sums in another order, and what then lies a rounding beside .6305 is printed
    as .630 or .631.
    """
    line, printed = line.rstrip(), printed.rstrip()
    if line == printed:
        return True
    if NUMBER.sub("#", line) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(line), NUMBER.findall(printed), strict=True)
    return all(
        one == other or (_places(one) == _places(other) > 0 and _units_apart(one, other) <= 1)
        for one, other in pairs
    )


def _places(number: str) -> int:
    return len(number.partition(".")[2])


def _units_apart(one: str, other: str) -> int:
    return abs(int(one.replace(".", "")) - int(other.replace(".", "")))


def not_shown_right(shown: list[str], printed: list[str]) -> str | None:
    """The first shown line that is not printed, or not there; None where all are.

    Lines that follow each other on the page follow each other in what is printed, unless `…`
    stands between them; so do the first and the last.
    """
    at, anywhere = 0, False
    for line in shown:
        if line.strip() == LEFT_OUT:
            anywhere = True
            continue
        ahead = range(at, len(printed) if anywhere else min(at + 1, len(printed)))
        found = next((i for i in ahead if is_shown_by(line, printed[i])), None)
        if found is None:
            return line
        at, anywhere = found + 1, False
    return None if anywhere or at == len(printed) else f"(nothing, before {printed[at]!r})"


def _run(command: Command) -> list[str]:
    """What a command prints, a line each; it must end as what is shown says."""
    code, text = scaling(command.words)
    refused = any(": error: " in line for line in command.shown)
    assert (code != 0) == refused, f"{shlex.join(command.words)} ended with {code}\n{text}"
    return text.rstrip("\n").splitlines()


def _check(block: Block, command: Command) -> None:
    if command.words[0] != "scaling":
        assert command.words[0] in NOT_RUN, f"{block}: {command.words}"
        return
    printed = _run(command)
    wrong = not_shown_right(command.shown, printed) if command.shown else None
    assert wrong is None, f"{block} shows {wrong!r}, which is not printed there:\n" + "\n".join(
        printed
    )


def _is_apart(block: Block) -> bool:
    return bool(SLOW.search(block.text)) or PYTHIA in block.text


def _cell(block: Block) -> str:
    """The code of a block, but for that of a cell which only the building of the page needs."""
    options = [line for line in block.text.splitlines() if line.startswith(":")]
    if any("remove-cell" in option for option in options):
        return ""
    return "\n".join(line for line in block.text.splitlines() if not line.startswith(":"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_is_what_comes_out(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, printed = ModuleType("page"), ""
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses ask for it
    for block in blocks(page):
        if block.language in ("python", "{code-cell}"):
            code = compile(_cell(block), str(block), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, module.__dict__)
            printed = out.getvalue()
        elif block.language == "text":
            lines = printed.rstrip("\n").splitlines()
            wrong = not_shown_right(block.text.splitlines(), lines)
            assert wrong is None, f"{block} shows {wrong!r}, which is not printed:\n{printed}"
        elif block.language == "console" and not _is_apart(block):
            for command in commands(block):
                _check(block, command)


@pytest.mark.slow
@pytest.mark.parametrize("block", [b for b in of("console") if SLOW.search(b.text)], ids=str)
def test_what_a_page_shows_of_a_slow_command_is_what_comes_out(block: Block, folder: Path) -> None:
    for command in commands(block):
        _check(block, command)


@pytest.mark.parametrize("block", [b for b in of("console") if PYTHIA in b.text], ids=str)
def test_what_a_page_shows_of_published_scores_is_what_comes_out(
    block: Block, folder: Path
) -> None:
    _pythia(folder)
    for command in commands(block):
        _check(block, command)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.page == page for block in of("sh"))],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_commands_without_output_end_well(page: Path, folder: Path) -> None:
    for block in of("sh"):
        for line in typed(block) if block.page == page else []:
            if not any(line.removeprefix(".venv/bin/").startswith(each) for each in NOT_RUN):
                words = shlex.split(line.removeprefix(".venv/bin/"))[1:]
                # A process each: a worker ends the one it is in.
                done = subprocess.run(
                    [sys.executable, "-m", "experiments.cli", *words],
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                    capture_output=True,
                    text=True,
                )
                assert done.returncode == 0, f"{block}: {line}\n{done.stderr}"


# -- What needs no running ---------------------------------------------------------------------


def test_no_block_is_left_untested() -> None:
    known = {"python", "{code-cell}", "console", "sh", "toml", "text", "yaml"}
    assert [str(block) for block in ALL if block.language not in known] == []
    alone = [b for b in of("text") if b.follows not in ("python", "{code-cell}")]
    assert [str(block) for block in alone] == [], "text blocks follow the Python that prints them"


@functools.cache
def _options(command: str) -> set[str]:
    """The options of a command, as its help lists them."""
    from experiments.cli.app import app

    for module in dict.fromkeys(MODULES.values()):
        import_module(f"experiments.cli.{module}")
    helped = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(helped):
        app.cli([command, "--help"])
    return {*re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", helped.getvalue()), "--help"}


def _mentioned(page: Path) -> Iterator[tuple[str, set[str]]]:
    """Commands of `scaling` on a page, in blocks and in the text, with their options."""
    text = re.sub(r"\\\n\s*", " ", page.read_text())
    for line in re.findall(r"^.*\bscaling [a-z]+\b.*$", text, re.MULTILINE):
        code = re.findall(r"`(scaling [^`]+)`", line) or re.findall(
            r"^(?:\$ |\.venv/bin/)?(scaling [a-z]+\b.*)", line
        )
        for each in code:
            command = each.split()[1]
            yield command, set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", each.split(" # ")[0]))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_and_option_on_a_page_exists(page: Path) -> None:
    for command, options in _mentioned(page):
        if command.isupper() or command.endswith("COMMAND"):
            continue
        assert command in MODULES, f"{page.name}: scaling {command}"
        assert options <= _options(command), f"{page.name}: scaling {command}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_on_a_page_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [block.text for block in blocks(page) if block.language in ("sh", "console")]
    code += re.findall(r"`(make [^`]+)`", page.read_text())
    named = re.findall(r"^(?:\$ )?make ((?:[a-z-]+ ?)+)", "\n".join(code), re.MULTILINE)
    assert {word for words in named for word in words.split()} <= targets


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_a_study_on_a_page_is_a_valid_study(block: Block) -> None:
    from pydantic import TypeAdapter

    from scaling.planning.rules import Rule
    from scaling.study import parse_study

    raw = tomllib.loads(block.text)
    if "project" in raw:
        return
    if "gives" in raw:
        assert TypeAdapter(Rule).validate_json(json.dumps(raw)).formula
        return
    base = tomllib.loads((ROOT / "experiments" / "quickstart.toml").read_text())
    del base["law"]  # a part of a study need not be a grid that identifies it
    assert parse_study(raw if {"grid", "data", "training"} <= set(raw) else base | raw, str(block))


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_a_line_that_is_not_printed_is_noticed() -> None:
    printed = ["a", "b", "c", "d"]
    assert not_shown_right(["a", "…", "c", "d"], printed) is None
    assert not_shown_right(["…", "b", "…"], printed) is None
    assert not_shown_right(["a", "c", "d"], printed) == "c"
    assert not_shown_right(["a", "…", "d", "c"], printed) == "c"
    assert not_shown_right(["a", "b"], printed) == "(nothing, before 'c')"
    assert not_shown_right(["b", "…"], printed) == "b"


def test_the_last_digit_may_be_another_processors() -> None:
    assert is_shown_by("of 12: 0.630 [0.5]", "of 12: 0.631 [0.5]")
    for other in ("of 13: 0.630 [0.5]", "of 12: 0.632 [0.5]", "of 12: 0.63 [0.5]", "of 12: 0.630"):
        assert not is_shown_by("of 12: 0.630 [0.5]", other)


# -- Writing them anew -------------------------------------------------------------------------


def renewed(shown: list[str], printed: list[str]) -> list[str]:
    """What is printed, shortened as the page has it: by the lines that are like those shown."""
    kept: set[int] = set()
    at = 0
    for line in (each for each in shown if each.strip() != LEFT_OUT):
        alike = [difflib.SequenceMatcher(None, line, each).ratio() for each in printed[at:]]
        if alike and max(alike) > 0.6:
            at += alike.index(max(alike)) + 1
            kept.add(at - 1)
            # A paragraph is shown to its end.
            while at < len(printed) and len(printed[at - 1]) > 80 and printed[at].startswith("  "):
                kept.add(at)
                at += 1
    lines: list[str] = []
    for i, line in enumerate(printed):
        if i in kept:
            lines.append(line)
        elif lines[-1:] != [LEFT_OUT]:
            lines.append(LEFT_OUT)
    return lines


def renew(page: Path) -> None:
    """Write the outputs of a page's console blocks anew."""
    lines = page.read_text().splitlines()
    for block in reversed([b for b in blocks(page) if b.language == "console"]):
        printed = [_run(c) if c.words[0] == "scaling" else [] for c in commands(block)]
        for command, text in reversed(list(zip(commands(block), printed, strict=True))):
            if command.shown and not_shown_right(command.shown, text) is not None:
                first = block.line - 1 + command.line
                lines[first : first + len(command.shown)] = renewed(command.shown, text)
    page.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    import tempfile

    for chosen in map(Path, sys.argv[1:]) if sys.argv[1:] else PAGES:
        with tempfile.TemporaryDirectory() as place:
            _furnish(Path(place))
            with contextlib.suppress(pytest.skip.Exception):
                _pythia(Path(place))
            os.chdir(place)
            renew(ROOT / chosen)
        os.chdir(ROOT)
