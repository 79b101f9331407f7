"""The tables by which decisions and forecasts are judged hold each run once, and no trunk."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from analysis.runs.table import usable


@pytest.fixture
def bench(script):
    return script("decisions")


def test_the_own_studys_trunks_are_no_runs_and_its_branches_keep_their_trunk(
    bench: ModuleType, tmp_path: Path
) -> None:
    [own] = bench.tables(tmp_path)  # where no published table lies
    whole = pd.read_csv(bench.ROOT / "results/reference/isoflop/runs.csv")
    assert len(own.runs) == len(usable(whole).rows) < len(whole)
    assert own.runs["trunk_id"].nunique() == (whole["run_kind"] == "trunk").sum()


def test_a_source_is_what_was_trained_at_once_and_no_run_has_two_counts(
    bench: ModuleType,
) -> None:
    found = list(bench.tables(bench.DATA))
    if len(found) == 1:
        pytest.skip(f"no reference data at {bench.DATA} (set SCALING_REFERENCE_DATA)")
    assert len({each.source for each in found}) == 5
    porian = [each for each in found if each.source == "porian"]
    assert len(porian) == 4  # Kaplan's count of the runs of another is no table of its own
    for each in found:
        assert list(each.runs)[:3] == ["params", "tokens", "loss"]
        assert np.isfinite(each.runs[["params", "tokens", "loss"]]).all(axis=None)


def test_every_source_weighs_alike_in_a_mean_whatever_its_tables_and_budgets(
    bench: ModuleType,
) -> None:
    rows = [
        {"source": source, "table": table, "way": way, "excess %": excess, "excess": excess / 100}
        for source, table, excess in (("a", "1", 1.0), ("a", "2", 3.0), ("b", "3", 6.0))
        for way in bench.WAYS
        for _ in range(3 if source == "a" else 1)
    ]
    found = bench.answered_alone(pd.DataFrame(rows))
    assert (found["mean"] == 4.0).all()
    assert (found["budgets"] == 7).all()
