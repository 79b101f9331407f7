"""The parts of the room of emergence import one another in one direction."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOM = Path(__file__).parents[3] / "analysis" / "emergence"
# What each part may import besides itself. scores: tables of scores; response: curves and their
# noise; inference: verdicts on one curve; forecast: scores of larger models.
MAY_IMPORT = {
    "scores": set(),
    "response": {"scores"},
    "inference": {"scores", "response"},
    "forecast": {"scores", "response"},
    "pass_at_k": {"scores", "response", "inference"},
    "exact_match": {"scores"},
    "big_bench": set(),
    "response_surface": set(),
}


def parts_imported(part: str) -> set[str]:
    """The other parts of the room that a part imports, inside functions too."""
    files = (ROOM / part).glob("*.py") if (ROOM / part).is_dir() else [ROOM / f"{part}.py"]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    modules = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    words = [module.split(".") for module in modules]
    return {each[2] for each in words if each[:2] == ["analysis", "emergence"]} - {part}


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_a_part_imports_only_those_before_it(part: str) -> None:
    assert parts_imported(part) <= MAY_IMPORT[part]


def test_every_part_of_the_room_has_its_place() -> None:
    found = {each.stem for each in ROOM.iterdir() if each.suffix == ".py" or each.is_dir()}
    assert found - {"__init__", "__pycache__"} == set(MAY_IMPORT)
