"""No message advises an option that the command, or the one it names, does not have."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from experiments.cli.__main__ import MODULES

ROOT = Path(__file__).resolve().parents[3]


def said(file: Path) -> list[str]:
    """The sentences of a module that are no docstrings, with {} for what is put in."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docs = {ast.get_docstring(node, clean=False) for node in ast.walk(tree)
            if isinstance(node, documented)}  # fmt: skip
    texts, parts = [], set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts |= {id(each) for each in node.values}
            pieces = (e.value if isinstance(e, ast.Constant) else "{}" for e in node.values)
            texts.append("".join(map(str, pieces)))
        elif isinstance(node, ast.Constant) and id(node) not in parts:
            texts.append(str(node.value))
    return [text for text in texts if " " in text and text not in docs]


def test_every_option_that_is_named_is_one_of_a_command(advised) -> None:
    of_slurm = {"--cpus-per-task", "--jobs", "--ntasks-per-node"}
    known = {"--version", *of_slurm}.union(*map(advised.of, MODULES))
    for package in ("analysis", "experiments", "scaling"):
        for file in (ROOT / package).rglob("*.py"):
            for text in said(file):
                assert advised.named(text) <= known or "--xla" in text, (file, text)


@pytest.mark.parametrize("module", sorted(set(MODULES.values())))
def test_a_command_names_its_own_options(module: str, advised) -> None:
    own = set().union(*(advised.of(name) for name, place in MODULES.items() if place == module))
    for text in said(ROOT / "experiments" / "cli" / f"{module}.py"):
        assert advised.foreign(text, own) == set(), text
