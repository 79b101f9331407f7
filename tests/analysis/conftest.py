"""What the tests of the analysis share: published runs, and runs made by a known law."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.published import Published

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def reference() -> Callable[[str], Path]:
    """The path of a published data set, which has no licence to be kept in the repository."""
    folder = Path(os.environ.get("SCALING_REFERENCE_DATA") or REPOSITORY / "../shared/data")

    def find(name: str) -> Path:
        if not (folder / name).exists():
            pytest.skip(f"no reference data at {folder / name} (set SCALING_REFERENCE_DATA)")
        return folder / name

    return find


@pytest.fixture(scope="session")
def epoch(reference: Callable[[str], Path]) -> pd.DataFrame:
    """The 245 points read off Hoffmann's figure by Besiroglu et al., losses rising."""
    raw = pd.read_csv(reference("epoch-chinchilla/svg_extracted_data.csv"))
    params, flops = raw["Model Size"], raw["Training FLOP"]
    table = pd.DataFrame({"params": params, "tokens": flops / (6 * params), "loss": raw["loss"]})
    return table.sort_values("loss").reset_index(drop=True)


@pytest.fixture(scope="session")
def grid() -> pd.DataFrame:
    """Eight sizes by six budgets."""
    params, tokens = np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 6))
    return pd.DataFrame({"params": params.ravel(), "tokens": tokens.ravel()})


@pytest.fixture(scope="session")
def simulate() -> Callable[..., pd.DataFrame]:
    """Runs whose loss is a published law's, times log-normal noise."""

    def make(
        truth: Published, design: pd.DataFrame, noise: float = 0.0, seed: int = 0
    ) -> pd.DataFrame:
        features = {name: design[name].to_numpy() for name in truth.law.features}
        error = np.random.default_rng(seed).normal(0, noise, len(design))
        return design.assign(loss=truth.predict(features) * np.exp(error))

    return make
