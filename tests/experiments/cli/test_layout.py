"""A command is found by its name, and what it calls lies in rooms below it."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

from experiments.cli.__main__ import MODULES
from experiments.cli.app import app

CLI = Path(__file__).resolve().parents[3] / "experiments" / "cli"

# In their order: each imports only itself and those before it.
ROOMS = (
    {"text", "words"},  # what may be printed, and how what is given is read
    {"app", "table_options", "progress", "addresses", "output"},  # what commands have in common
    {"join"},  # where training and analysis meet
    {"render"},  # the text of a result
    {"launchers"},  # how `run` has runs trained
    set(MODULES.values()),  # the commands, a module each
    {"__main__"},
)


def place(module: str) -> int:
    """The number of the room of `experiments.cli.<module>`."""
    (found,) = [at for at, room in enumerate(ROOMS) if module.split(".")[0] in room]
    return found


def imported(path: Path) -> set[str]:
    """The modules of the command line that a module imports when it runs, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    ours = "experiments.cli."
    return {name.removeprefix(ours) for name in names if name.startswith(ours)}


def test_a_module_imports_only_from_its_own_room_and_those_before_it() -> None:
    for path in CLI.rglob("*.py"):
        module = ".".join(path.relative_to(CLI).with_suffix("").parts)
        if path.stem == "__init__":
            continue
        for other in imported(path):
            assert place(other) <= place(module), f"{module} imports {other}"


def test_no_command_imports_another() -> None:
    commands = set(MODULES.values())
    for name in commands:
        others = {other.split(".")[0] for other in imported(CLI / f"{name}.py")}
        assert not others & commands, name


def test_every_command_is_a_function_of_the_module_of_its_name() -> None:
    for name, module in MODULES.items():
        import_module(f"experiments.cli.{module}")
        target = app.commands[name]
        assert getattr(target, "__module__", None) == f"experiments.cli.{module}"
        assert module in (name, "evaluate")
    assert sorted(MODULES) == sorted(app.commands)
