"""What every test of the command line checks: that it advises only what there is."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from typing import TextIO

import numpy as np
import pandas as pd
import pytest

from experiments import cli
from experiments.cli import text as words
from experiments.cli.__main__ import MODULES
from scaling.planning.plan import Plan
from scaling.spec import run_columns

# Commands import late. A test that replaces a function would give it for good to a module that is
# imported meanwhile, so all are imported before any test.
for _module in walk_packages(cli.__path__, "experiments.cli."):
    import_module(_module.name)

_OPTION = r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*"


class Options:
    """The options of commands, as their help lists them, and those that a message names."""

    @staticmethod
    @functools.cache
    def of(command: str) -> set[str]:
        from experiments.cli.app import app

        helped = io.StringIO()
        with contextlib.suppress(SystemExit), contextlib.redirect_stdout(helped):
            app.cli([command, "--help"])
        return set(re.findall(_OPTION, helped.getvalue())) | {"--help"}

    @staticmethod
    def named(text: str) -> set[str]:
        """The options in a text, but for those of pip, which has its own."""
        return set(re.findall(_OPTION, re.sub(r"\bpip [a-z]+.*", "", text)))

    def foreign(self, text: str, own: set[str]) -> set[str]:
        """The options named that are not in `own`, nor of the command that is named before them."""
        found = set()
        for part in re.split(r"(?=\bscaling [a-z]+)", text):
            other = re.match(r"scaling ([a-z]+)", part)
            theirs = self.of(other[1]) if other and other[1] in MODULES else set()
            found |= self.named(part) - own - theirs
        return found


@pytest.fixture(scope="session")
def advised() -> Options:
    for command in MODULES:  # before any test: one of them may break the help of a command
        Options.of(command)
    return Options()


@pytest.fixture(autouse=True)
def refusals_advise_only_what_there_is(monkeypatch: pytest.MonkeyPatch, advised: Options) -> None:
    say = words.say

    def checked(text: str, file: TextIO | None = None) -> None:
        refused = re.match(r"scaling ([a-z]+): error: ", text)
        if file is sys.stderr and refused:
            own = advised.of(refused[1])
            message = text.removeprefix(refused[0])
            # Of a fit that was made by another command.
            message = re.sub(r"[Ff]it with", "scaling fit", message)
            assert advised.foreign(message, own) == set(), text
        say(text, file)

    monkeypatch.setattr(words, "say", checked)


@pytest.fixture(scope="session")
def refuse_other_runs() -> Callable[[Plan, pd.DataFrame], None]:
    """Fails where a table is not of the runs of a plan, by their ids and by what they are."""
    names = [
        "run_id",
        "run_kind",
        "params_total",
        "tokens",
        "seed",
        "batch_tokens",
        "learning_rate",
    ]

    def compare(plan: Plan, table: pd.DataFrame) -> None:
        planned = [
            {"run_id": run.run_id, "run_kind": run.run_kind, **run_columns(run, plan.corpus)}
            for run in plan.runs
        ]
        rows = (pd.DataFrame(each)[names].sort_values(names) for each in (planned, table))
        np.testing.assert_array_equal(*(each.to_numpy() for each in rows))

    return compare


# One size, from the start to each of its budgets.
STUDY = """\
name = "grid"
[model]
head_dim = 8
aspect_ratio = 16
[data]
source = "{folder}/*.txt"
sequence_length = 16
holdout_fraction = 0.2
allow_repeats = true
[training]
schedule = "cosine"
batch_sequences = 4
learning_rate = 0.02
warmup_tokens = 256
weight_decay = 0.1
beta1 = 0.9
beta2 = 0.95
clip_norm = 1.0
[grid]
kind = "product"
params = [3400]
tokens = {tokens}
[evaluation]
tokens = 400
every_tokens = 768
"""


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny study, with its text, and returns its path."""

    def write(tokens: str = "[1536]") -> Path:
        for number in range(8):
            (tmp_path / f"{number}.txt").write_text(f"we the people {number} " * 40)
        study = tmp_path / "grid.toml"
        study.write_text(STUDY.format(folder=tmp_path, tokens=tokens))
        return study

    return write
