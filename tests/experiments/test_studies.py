"""The studies that ship can be planned, and every field of a study is documented."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

import pytest

from experiments.cli.__main__ import main
from experiments.cli.join.plan import plan_study
from models.decoder.config import ModelConfig
from models.decoder.settings import DecoderSettings
from scaling import study as studies
from scaling.study import read_study

FOLDER = Path(__file__).parents[2] / "experiments"
SECTIONS = (
    *(DecoderSettings, studies.DataSection, studies.SourceSection, studies.TrainingSection),
    *(studies.ProductGrid, studies.LadderGrid, studies.IsoflopGrid, studies.EvaluationSection),
    *(studies.Hardware, studies.TasksSection, studies.Study),
)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_study_that_ships_is_planned_and_listed(path: Path) -> None:
    study = read_study(path)
    assert study.name == path.stem
    assert plan_study(study).plan.points
    assert f"`{path.name}`" in (FOLDER / "README.md").read_text()


def test_every_field_of_a_study_is_documented() -> None:
    text = (FOLDER.parent / "docs" / "studies.md").read_text()
    code = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    code += re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    code += re.findall(r"^## (.*)", text, re.MULTILINE)
    words = set(re.findall(r"[a-z_0-9]+", " ".join(code)))
    fields = {field.name for section in SECTIONS for field in dataclasses.fields(section)}
    dialect = {
        f.name for f in dataclasses.fields(ModelConfig) if f.default is not dataclasses.MISSING
    }
    assert not (fields | dialect) - words


def test_a_plan_that_repeats_its_text_shows_how_often(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scaling", "plan", str(FOLDER / "repeat.toml")])
    assert main() == 0
    header, *rows = capsys.readouterr().out.splitlines()
    capped = [row for row in rows if " 4.19M " in row and row.endswith("=262144")]
    assert "epochs" in header and capped
    assert all(re.search(r" 16 +data.unique_tokens=262144$", row) for row in capped)
