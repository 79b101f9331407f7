"""Data flows one way, and so do imports."""

import ast
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from analysis import arguments
from scaling import quantity

ROOT = Path(__file__).parents[1]
PACKAGES = ("models", "scaling", "analysis", "experiments")
ALLOWED = {
    "models": {"models"},
    "scaling": {"models", "scaling"},
    # What a grid leaves on disk, and nothing of how it came there.
    "analysis": {
        *("analysis", "scaling.remedies", "scaling.store.records", "scaling.store.steps"),
    },
    "experiments": set(PACKAGES),
}

# The rooms of a package in their order: each imports only itself and those before it.
ROOMS = {
    "scaling": (
        *(
            "quantity",
            "fields",
            "hardware",
            "engines",
            "optimizers",
            "schedule",
            "remedies",
            "store",
            "given",
            "study_errors",
            "model_section",
            "evaluation_section",
        ),
        *("study", "data", "tasks", "spec", "planning", "training", "launch"),
    ),
    "analysis": (
        *("array", "arguments", "plain", "interval", "text", "laws", "runs", "solver", "fitting"),
        *("allocation", "schedules", "forecast", "recommend", "emergence", "design", "figures"),
    ),
}


def imported(path: Path) -> set[str]:
    """Full names of everything a module imports when it runs, wherever in it."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []  # a name for the type checker is no dependency
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_follow_the_data(package):
    for path in (ROOT / package).rglob("*.py"):
        for name in imported(path):
            if name.split(".")[0] in PACKAGES:
                allowed = ALLOWED[package]
                known = name in allowed or name.rpartition(".")[0] in allowed
                assert known or name.split(".")[0] in allowed, f"{path} imports {name}"


def modules(*packages: str) -> dict[str, Path]:
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if path.stem != "__init__"
    }


@pytest.mark.parametrize("package", ROOMS)
def test_a_room_imports_only_rooms_before_it(package):
    known, rooms = modules(package), ROOMS[package]
    assert {name.split(".")[1] for name in known} == set(rooms)
    for name, path in known.items():
        for other in imported(path) & set(known):
            above = rooms.index(other.split(".")[1])
            assert above <= rooms.index(name.split(".")[1]), f"{name} imports {other}"


def test_both_halves_know_the_same_bounds_of_numbers():
    assert (arguments.LEAST, arguments.MOST) == (quantity.LEAST, quantity.MOST)


def test_the_tower_of_analysis_stays_low():
    known = modules("analysis")
    arrows = {name: imported(path) & set(known) for name, path in known.items()}

    def levels(arrows: dict[str, set[str]]) -> int:
        @cache
        def of(name: str) -> int:
            return 1 + max((of(other) for other in arrows[name]), default=0)

        return max(map(of, arrows))

    packages = {path.parent.name for path in (ROOT / "analysis").glob("*/__init__.py")}
    between: dict[str, set[str]] = {name: set() for name in packages}
    for name, others in arrows.items():
        if (room := name.split(".")[1]) in packages:
            between[room] |= {other.split(".")[1] for other in others} & packages - {room}
    assert levels(between) <= 9
    assert levels(arrows) <= 20  # files


def test_no_module_is_part_of_an_import_cycle():
    # Imports inside functions count too: a cycle that is deferred is still a cycle.
    known = modules(*PACKAGES)
    arrows = {name: imported(path) & set(known) for name, path in known.items()}

    def reaches(start: str, goal: str) -> bool:
        seen, todo = set(), [start]
        while todo:
            for name in arrows[todo.pop()] - seen:
                if name == goal:
                    return True
                seen.add(name)
                todo.append(name)
        return False

    assert {name for name in known if reaches(name, name)} == set()


def test_analysis_works_where_jax_and_flax_are_not_installed():
    names = sorted(modules("analysis"))
    code = (
        "import sys, importlib\n"
        "for name in ('jax', 'flax', 'optax', 'orbax', 'models'): sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_training_works_where_only_what_it_needs_is_installed():
    # A machine with a GPU is rented with jax, flax, optax, orbax, pandas, pyarrow and pydantic; of
    # these flax itself brings rich.
    blocked = ("tyro", "tokenizers", "datasets", "lm_eval", "scipy", "matplotlib", "seaborn")
    names = sorted({*modules("models", "scaling")} - {"scaling.training.lm_eval"})
    code = (
        "import sys, importlib\n"
        f"for name in {blocked!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize(
    "arguments",
    [
        ["laws"],
        ["recommend", "published:chinchilla-2022", "--flops", "1e21"],
        ["fit", "runs.csv", "--bootstrap", "0"],
    ],
)
def test_analysis_commands_never_load_jax(arguments, tmp_path):
    shutil.copy(ROOT / "results/reference/quickstart/runs.csv", tmp_path)
    code = (
        "import sys\n"
        f"sys.argv = ['scaling', *{arguments!r}]\n"
        "from experiments.cli.__main__ import main\n"
        "assert main() == 0\n"
        "assert 'jax' not in sys.modules and 'flax' not in sys.modules\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, stdout=subprocess.DEVNULL
    )


def test_modules_stay_short():
    long = {name: len(path.read_text().splitlines()) for name, path in modules(*PACKAGES).items()}
    # "~400": the same slack everywhere, so that nothing is cut in two for a handful of lines.
    assert {name: lines for name, lines in long.items() if lines > 440} == {}
