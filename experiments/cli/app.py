"""The command line's frame: the app, the kinds of argument, and how they are read.

A command is a function in the module of its name, and its docstring is its help. There the two
halves of the project meet: `scaling/` makes run tables, `analysis/` reads them. Each command
imports what it needs when it is called, so that fitting never waits for jax.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial, wraps
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_type_hints

import tyro

from experiments.cli.words import KINDS, refuse_repeated
from scaling.quantity import parse_quantity
from scaling.store.records import Refusal

Described = TypeVar("Described")


NONE: Mapping[str, str] = MappingProxyType({})


class Failed(Exception):
    """The command did its work, and a run or a fit in it failed."""


class App:
    """The commands by name."""

    def __init__(self) -> None:
        self.commands: dict[str, Callable[..., None]] = {}
        self.former: dict[str, Mapping[str, str]] = {}  # of each command

    def command(
        self, function: Any = None, *, name: str | None = None, former: Mapping[str, str] = NONE
    ) -> Any:
        """Make a function a command, of its own name if no other is given.

        `former` maps old names of its options, which the help does not show, to the new ones.
        """
        if function is None:
            return partial(self.command, name=name, former=former)
        name = name or function.__name__
        self.commands[name], self.former[name] = described(function), former
        return function

    def cli(self, args: Sequence[str]) -> None:
        """Run the command that is the first of `args`; the others are its arguments."""
        command, former = self.commands[args[0]], self.former[args[0]]
        words = [re.sub(r"^[^=]+", lambda at: former.get(at[0], at[0]), word) for word in args[1:]]
        refuse_repeated(words)
        # Bound first, so that SystemExit is an end of tyro's and no other's.
        bound = tyro.cli(
            _binding(command), prog=f"scaling {args[0]}", description="", args=words, registry=KINDS
        )
        try:
            bound()
        except SystemExit as error:
            raise RuntimeError(f"{args[0]} was left by SystemExit({error.code!r})") from error


def _binding(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """What binds the command's arguments, and looks to tyro as the command does."""

    @wraps(command)
    def bind(*args: Any, **options: Any) -> Callable[[], None]:
        return partial(command, *args, **options)

    return bind


def described(options: Described) -> Described:
    """A function or class of options whose docstring and types tyro shows as they are meant.

    The text of each option in `Args:` becomes one line, which tyro then wraps once. A default is
    shown only where it is a value, and no option has a second form, such as None or --no-plot.
    """
    about, args, texts = inspect.cleandoc(options.__doc__ or "").partition("\nArgs:\n")
    # Where examples are all that follows the first line, their indent is taken for the margin.
    about = re.sub(r"(?m)^scaling ", "    scaling ", about)
    options.__doc__ = about + args + re.sub(r"\n {5,}", " ", texts)
    one_form = (tyro.conf.DisallowNone, tyro.conf.FlagCreatePairsOff)
    options.__annotations__ = {
        name: Annotated[hint, tyro.conf.arg(help_behavior_hint=_default), *one_form]
        for name, hint in get_type_hints(options, include_extras=True).items()
    }
    return options


def _default(value: str) -> str:
    return "" if value in ("", "''", "None", "False") else f"(default: {value})"


DESCRIPTION = "Train a scaling grid, fit its power laws, get compute-optimal recommendations."
EXAMPLES = """\
    scaling run experiments/quickstart.toml
    scaling fit results/quickstart --law chinchilla
    scaling recommend results/quickstart/fits/chinchilla.json --flops 1e15
    scaling fit my_runs.csv"""
CODES = "0 done, 1 a run or a fit failed, 2 bad input, 70 program at fault, 75 interrupted"


def overview(groups: Mapping[str, Iterable[str]]) -> str:
    """What `scaling --help` prints: every command in one line, by what it is for."""
    lines = [DESCRIPTION, "usage: scaling COMMAND …", "", EXAMPLES]
    for group, names in groups.items():
        lines += ["", group]
        lines += [f"  {name:<11}{summary(name)}" for name in names]
    lines += [
        "",
        "`scaling COMMAND --help` has examples and every option of a command; `scaling --version`",
        "prints the version. Numbers may be given as 1e21, 300B, 1.3M or 25k.",
        f"Exit codes: {CODES}.",
    ]
    return "\n".join(lines)


def about(command: str) -> str:
    """What a command does, with examples: its docstring without its options."""
    return (app.commands[command].__doc__ or "").partition("\n\nArgs:")[0]


def summary(command: str) -> str:
    """The first sentence of a command's help, without its full stop."""
    return " ".join(about(command).split("\n\n")[0].split()).removesuffix(".")


def version_text() -> str:
    """What `scaling --version` prints."""
    try:
        return f"scaling {version('scaling-laws')}"
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "scaling, not installed"


app = App()

StudyPath = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(
        metavar="STUDY.toml",
        help="A study file; experiments/quickstart.toml is a documented example.",
    ),
]
RunsPath = Annotated[
    tyro.conf.Positional[Path],
    tyro.conf.arg(
        metavar="RUNS", help="A results folder, or a table: CSV, JSON lines, Parquet, spreadsheet."
    ),
]
Directory = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(metavar="DIR", help="A folder, or an address, where `scaling run` wrote a plan."),
]
LawSource = Annotated[
    tyro.conf.Positional[str],
    tyro.conf.arg(
        metavar="FIT|published:NAME",
        help="A file that `scaling fit` wrote, or published coefficients from `scaling laws`.",
    ),
]
JsonFile = Annotated[
    Path | None,
    tyro.conf.arg(name="json", metavar="FILE", help="Write the result to this file too, as JSON."),
]
File = Annotated[Path | None, tyro.conf.arg(metavar="FILE")]
Folder = Annotated[Path | None, tyro.conf.arg(metavar="FOLDER")]
LawName = Annotated[str | None, tyro.conf.arg(metavar="NAME")]
Column = Annotated[str | None, tyro.conf.arg(metavar="COLUMN")]
# Numbers are words that `numbers` reads, so that 300B is accepted and a bad one refused by name.
Number = Annotated[str | None, tyro.conf.arg(metavar="NUMBER")]
Numbers = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NUMBER …")]
Assignments = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE …")]
Conditions = Annotated[tuple[str, ...], tyro.conf.arg(metavar="CONDITION …")]


def numbers(option: str, words: tuple[str, ...]) -> list[float]:
    """1e21, 300B, 25k as numbers. Raises Refusal naming the option."""
    try:
        return [parse_quantity(word) for word in words]
    except ValueError as error:
        raise Refusal(f"{option}: {error}.") from error


def number(option: str, word: str | None) -> float | None:
    """One number, or none. Raises Refusal naming the option."""
    return None if word is None else numbers(option, (word,))[0]
