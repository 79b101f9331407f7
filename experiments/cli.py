"""The command line's frame: the app, the kinds of argument, and how they are read.

The commands are functions whose docstrings are their help, in `training.py`, `fitting.py` and
`deciding.py`. There the two halves of the project meet: `scaling/` makes run tables, `analysis/`
reads them. Each command imports what it needs, so that fitting never waits for jax.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from scaling.quantity import parse_quantity
from scaling.store.paths import refuse_address
from scaling.store.records import Refusal

if TYPE_CHECKING:
    from analysis.fit import Fit
    from analysis.published import Published


class Failed(Exception):
    """The command did its work, and a run or a fit in it failed."""


class App(tyro.extras.SubcommandApp):
    """Collects the commands."""

    description = "Train a scaling grid, fit its power laws, get compute-optimal recommendations."


EXAMPLES = """\
    scaling run experiments/quickstart.toml
    scaling fit results/quickstart --law chinchilla
    scaling recommend results/quickstart/fits/chinchilla.json --flops 1e15
    scaling plot results/quickstart"""
CODES = "0 done, 1 a run or a fit failed, 2 bad input, 75 interrupted"


def overview(groups: Mapping[str, Iterable[str]]) -> str:
    """What `scaling --help` prints: every command in a line, by what it is for."""
    lines = [f"usage: scaling COMMAND …    {app.description}", "", EXAMPLES]
    for group, names in groups.items():
        lines += ["", group]
        lines += [f"  {name:<11}{summary(name)}" for name in names]
    lines += [
        "",
        "`scaling COMMAND --help` has every option of a command. Quantities read 1e21, 300B, 1.3M "
        "or 25k.",
        f"Exit codes: {CODES}.",
    ]
    return "\n".join(lines)


def summary(command: str) -> str:
    """The first sentence of a command's help, without its full stop."""
    text = inspect.getdoc(app._subcommands[command].target) or ""
    return " ".join(text.split("\n\n")[0].split()).removesuffix(".")


app = App()

StudyPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="STUDY.toml")]
RunsPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS")]
Directory = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
LawSource = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FIT|published:NAME")]
JsonFile = Annotated[Path | None, tyro.conf.arg(name="json", metavar="FILE")]
# Numbers come as words and are read by `numbers`, so that a bad one is refused in our words.
Number = Annotated[str | None, tyro.conf.arg(metavar="NUMBER")]
Numbers = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER …")]
Assignments = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")]
Conditions = Annotated[tuple[str, ...], tyro.conf.arg(metavar="CONDITION …")]


def refuse_addresses(words: Sequence[str]) -> None:
    """Raise Refusal for a word of the command line that is an address, such as s3://bucket/runs.

    No command takes one, and as a path it would be a folder here.
    """
    for before, word in pairwise(["", *words]):
        option, is_option, value = word.partition("=") if word.startswith("--") else ("", "", word)
        if not is_option:
            option = before if before.startswith("--") else "argument"
        refuse_address(option, value)


def refuse_overwriting(words: Sequence[str]) -> None:
    """Raise Refusal where --json or --out names a file that another word of the command names."""
    parts = [
        part for word in words for part in (word.split("=", 1) if word.startswith("--") else [word])
    ]
    for at, (option, target) in enumerate(pairwise(parts)):
        if option not in ("--json", "--out") or not _is_file(target):
            continue
        others = [each for each in (*parts[:at], *parts[at + 2 :]) if _is_file(each)]
        if any(Path(each).samefile(target) for each in others):
            raise Refusal(
                f"{option} {target} is read by this command, which would overwrite it. Give "
                f"another file with {option}."
            )


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except (OSError, ValueError):  # a condition may be longer than any path
        return False


def numbers(option: str, words: tuple[str, ...]) -> list[float]:
    """1e21, 300B, 25k as numbers. Raises Refusal naming the option."""
    try:
        return [parse_quantity(word) for word in words]
    except ValueError as error:
        raise Refusal(f"{option}: {error}.") from error


def number(option: str, word: str | None) -> float | None:
    """One number, or none. Raises Refusal naming the option."""
    return None if word is None else numbers(option, (word,))[0]


def law_source(text: str) -> Fit | Published:
    """A saved fit, or published coefficients."""
    if text.startswith("published:"):
        from analysis.published import published

        return published(text.removeprefix("published:"))
    from analysis.fit import load_fit

    if Path(text).suffix in (".csv", ".parquet") or Path(text).is_dir():
        raise Refusal(f"{text} is no fit. Give `scaling fit {text}` first, then the file it names.")
    return load_fit(Path(text))
