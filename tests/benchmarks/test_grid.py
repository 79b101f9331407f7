"""The grid that is measured is read as one that was trained, in a folder and in a bucket alike."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from scaling.data.prepare import declared
from scaling.planning.plan import make_plan
from scaling.store.results import results_at
from scaling.store.table import publish_table
from scaling.study import read_study

Script = Callable[[str], ModuleType]


@pytest.fixture
def in_both(script: Script, tmp_path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The run tables of a grid of two sizes, from a folder and from a bucket."""
    grid = script("grid")
    (tmp_path / "study.toml").write_text(
        grid.STUDY.format(params=[5_000_000, 9_000_000, 20_000_000],
                          tokens=[10**9, 2 * 10**9, 4 * 10**9], seeds=list(range(5)))
    )  # fmt: skip
    study = read_study(tmp_path / "study.toml")
    plan = make_plan(study, declared(study.data))
    grid.write_results(plan, tmp_path / "results")
    address = f"file://{tmp_path}/bucket"
    grid.write_bucket(plan, address)
    return tuple(
        publish_table(results_at(place)).table for place in (tmp_path / "results", address)
    )


def test_the_bucket_holds_what_the_folder_holds(
    in_both: tuple[pd.DataFrame, pd.DataFrame],
) -> None:
    folder, bucket = in_both
    assert folder["status"].value_counts().to_dict() == {"completed": 52, "failed": 2}
    pd.testing.assert_frame_equal(folder, bucket)
