"""`import scaling_laws` is what scripts and notebooks see."""

import subprocess
import sys
from pathlib import Path

import pytest

import scaling_laws

ROOT = Path(__file__).parents[1]
RUNS = ROOT / "results" / "reference" / "quickstart" / "runs.csv"


def python(code: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter in a folder, which comes before everything else on its path."""
    return subprocess.run(
        [sys.executable, *flags, "-c", code], cwd=folder, capture_output=True, text=True
    )


def test_every_name_is_found_and_the_names_that_types_see_are_the_same():
    assert all(callable(getattr(scaling_laws, name)) for name in scaling_laws.__all__)
    assert sorted(scaling_laws.__all__) == sorted(scaling_laws._MODULES)
    assert dir(scaling_laws) == sorted(scaling_laws.__all__)
    with pytest.raises(AttributeError, match="no attribute 'fits'"):
        scaling_laws.fits  # noqa: B018


def test_importing_it_loads_nothing_and_using_it_loads_no_jax(tmp_path):
    code = (
        "import sys, scaling_laws\n"
        "assert not {'numpy', 'pandas', 'analysis', 'scaling'} & {*sys.modules}\n"
        f"runs = scaling_laws.read_runs({str(RUNS)!r})\n"
        "fitted = scaling_laws.fit(scaling_laws.law('chinchilla'), runs)\n"
        "scaling_laws.recommend(fitted, flops=[1e14])\n"
        "loaded = {*sys.modules}\n"
        "assert not {'jax', 'flax', 'models', 'matplotlib', 'seaborn'} & loaded\n"
    )
    done = python(code, tmp_path, "-W", "error")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["analysis", "scaling"])
@pytest.mark.parametrize("place", ["{}.py", "{}/__init__.py"])
def test_a_file_of_the_users_that_was_imported_under_our_name_is_named(name, place, tmp_path):
    theirs = tmp_path / place.format(name)
    theirs.parent.mkdir(exist_ok=True)
    theirs.touch()
    done = python(f"import {name}, scaling_laws; scaling_laws.fit", tmp_path)
    assert done.stderr.splitlines()[-1].startswith(
        f"ImportError: {theirs} was imported as {name!r}"
    )
    assert "Rename your file or folder" in done.stderr


def test_a_file_of_the_users_that_is_not_imported_yet_hides_nothing(tmp_path):
    (tmp_path / "analysis.py").write_text("raise RuntimeError('theirs')")
    (tmp_path / "models.py").write_text("mine = 1")
    code = "import scaling_laws as sl; print(sl.law('chinchilla').name); import models; models.mine"
    done = python(code, tmp_path)
    assert done.stdout == "chinchilla\n", done.stderr
    assert f"{tmp_path / 'analysis.py'} has the name of a package of scaling_laws" in done.stderr
    assert "models.py" not in done.stderr
