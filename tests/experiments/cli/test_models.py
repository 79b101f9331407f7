"""What `scaling models` prints and writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.__main__ import main
from models.decoder.config import ModelConfig
from models.decoder.presets import PRESETS

ROOT = Path(__file__).resolve().parents[3]


def scaling(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    return main()


def test_every_preset_is_listed_with_its_source(monkeypatch, capsys):
    assert scaling(monkeypatch, "models") == 0
    shown = capsys.readouterr().out
    assert {line.split()[0] for line in shown.splitlines() if line} >= set(PRESETS)
    assert all(each.source[:30] in shown for each in PRESETS.values())


def test_a_prefix_chooses_a_family_and_json_rebuilds_its_models(monkeypatch, tmp_path):
    assert scaling(monkeypatch, "models", "Pythia", "--json", tmp_path / "models.json") == 0
    written = json.loads((tmp_path / "models.json").read_text())["models"]
    assert len(written) == 10
    for each in written:
        assert ModelConfig(**each["config"]) == PRESETS[each["name"]].config
        assert each["params_total"] == each["published"]


def test_a_contradiction_is_shown_in_its_row(monkeypatch, capsys):
    assert scaling(monkeypatch, "models", "gpt3-xl") == 0
    assert "24 heads × 128 = 3072, not 2048" in capsys.readouterr().out


def test_a_prefix_of_nothing_is_refused_with_the_families(monkeypatch, capsys):
    assert scaling(monkeypatch, "models", "bert") == 2
    assert "Families: gpt1, gpt2, gpt3, chinchilla" in capsys.readouterr().err


def test_the_catalogue_never_loads_jax():
    code = (
        "import sys; sys.argv = ['scaling', 'models']\n"
        "from experiments.cli.__main__ import main\n"
        "assert main() == 0 and 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
