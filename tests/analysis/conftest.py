"""What the tests of the analysis share: published runs, and runs made by a known law."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, fit
from analysis.laws.catalogue import law
from analysis.laws.published import Published

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


@pytest.fixture(scope="session")
def grid_fit() -> Fit:
    """A fit with draws to a grid of four sizes and four token counts, with .4% noise."""
    sizes, budgets = (25e3, 98e3, 332e3, 786e3), (0.5e6, 1e6, 2e6, 4e6)
    table = pd.DataFrame([(n, d) for n in sizes for d in budgets], columns=["params", "tokens"])
    exact = 0.8 + 12 / table["params"] ** 0.31 + 620 / table["tokens"] ** 0.53
    noise = np.exp(0.004 * np.random.default_rng(0).normal(size=len(table)))
    return fit(law("chinchilla"), table.assign(loss=exact * noise), bootstrap=200)


@pytest.fixture(scope="session")
def trained() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A trunk and a cooldown branch for each of two sizes; one branch diverges at its end."""
    runs, steps = [], []
    for size in (25e3, 98e3):
        for run, first, last in ((f"trunk{size:.0f}", 1, 800), (f"branch{size:.0f}", 640, 800)):
            step = np.arange(first, last + 1)
            loss = 1.2 + 3 / step**0.3 - (run < "c") * 0.1 * (step - first) / 160
            if run == "branch98000":
                loss[-5:] = np.nan
            validated = np.where(step % 400 == 0, loss, np.nan)
            flops = 6.5 * size * 1024 * step
            columns = {"step": step, "flops": flops, "loss": loss, "val_loss": validated}
            steps.append(pd.DataFrame({"run_id": run, **columns}))
            kind = "trunk" if run.startswith("trunk") else "cooldown"
            runs.append({"run_id": run, "params_total": size, "run_kind": kind})
    return pd.DataFrame(runs), pd.concat(steps, ignore_index=True)
