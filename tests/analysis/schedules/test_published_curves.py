"""The benchmark on which M1 to M4 and the broken law were compared, fitted whole.

Alabdulmohsin et al. 2022, arXiv:2209.06640: learning curves of language tasks, scored by the RMSE
of log loss on the part that was not fitted.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import Fit, Status, fit
from analysis.laws.catalogue import law

LAWS = ("m1", "m2", "m3", "m4", "bnsl_1")
NESTED = [("m1", "m2"), ("m1", "m3"), ("m2", "m4"), ("m1", "bnsl_1"), ("m2", "bnsl_1")]


@pytest.fixture(scope="module")
def curves(reference: Callable[[str], Path]) -> dict[str, pd.DataFrame]:
    whole = pd.read_csv(reference("revisiting_lang/benchmark.lang.csv"))
    whole = whole.rename(columns={"Seen Examples": "tokens", "Loss": "loss"})
    keys = ["Domain", "Task", "Model"]
    return {" ".join(key): rows for key, rows in whole.groupby(keys)}


def fitted(rows: pd.DataFrame, name: str) -> Fit:
    return fit(law(name), rows[rows["Training"] == 1], objective="log_l2", bootstrap=0)


def missed(found: Fit, rows: pd.DataFrame) -> float:
    later = rows[rows["Training"] == 0]
    error = np.log(found.predict({"tokens": later["tokens"]}) / later["loss"].to_numpy())
    return float(np.sqrt(np.mean(error**2)))


def test_a_pure_power_law_extrapolates_the_date_task_as_badly_as_printed(
    curves: dict[str, pd.DataFrame],
) -> None:
    # Caballero et al. 2023, arXiv:2210.14891, extrapolation to language, M1: 3.19e-2 and 2.86e-2.
    for shots, printed in ((1, 0.0319), (2, 0.0286)):
        rows = curves[f"BB ('date', '{shots}-shot') 262M"]
        power, floored = fitted(rows, "m1"), fitted(rows, "m2")
        assert missed(power, rows) == pytest.approx(printed, abs=5e-5)
        assert missed(floored, rows) < 0.25 * printed


@pytest.mark.slow
def test_every_curve_is_fitted_and_a_law_is_never_worse_than_its_own_limit(
    curves: dict[str, pd.DataFrame],
) -> None:
    assert len(curves) == 20
    for name, rows in curves.items():
        found = {each: fitted(rows, each) for each in LAWS}
        for each, one in found.items():
            assert one.reason and np.isfinite(one.rmse_log), f"{each} on {name}"
            assert each == "bnsl_1" or one.status is not Status.FAILED, f"{each} on {name}"
        for simple, general in NESTED:
            better, worse = found[general].objective.value, found[simple].objective.value
            assert better <= worse * (1 + 1e-3), f"{general} against {simple} on {name}"
