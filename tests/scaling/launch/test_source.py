"""Which program trains is known by a digest of its source."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from scaling.launch import source
from scaling.launch.source import source_digest


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this program, which the digest is of."""
    for name in source.PACKAGES:
        shutil.copytree(source.ROOT / name, tmp_path / name)
    monkeypatch.setattr(source, "ROOT", tmp_path)
    return tmp_path


def test_a_copy_elsewhere_is_the_same_program(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = source_digest()
    assert len(copied) == 64
    monkeypatch.undo()
    assert source_digest() == copied


@pytest.mark.parametrize("file", ["models/decoder/layers.py", "models/devices.toml"])
def test_a_change_of_its_source_is_another_program(copy: Path, file: str) -> None:
    before = source_digest()
    path = copy / file
    path.write_text(path.read_text() + "# more\n")
    assert source_digest() != before


def test_so_is_a_file_that_was_renamed_and_not_what_python_leaves_behind(copy: Path) -> None:
    before = source_digest()
    (copy / "models" / "__pycache__" / "x.pyc").parent.mkdir(exist_ok=True)
    (copy / "models" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert source_digest() == before
    (copy / "scaling" / "schedule.py").rename(copy / "scaling" / "schedules.py")
    assert source_digest() != before
