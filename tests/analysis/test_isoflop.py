from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.isoflop import isoflop_optima
from analysis.laws import law
from analysis.published import Published
from scaling.records import Refusal

BUDGETS = np.geomspace(1e18, 1e21, 7)


def surface(alpha: float, beta: float) -> Published:
    coefficients = {"E": 1.7, "A": 400.0, "alpha": alpha, "B": 2000.0, "beta": beta}
    return Published("made up", law("chinchilla"), coefficients, "all", "this test")


def best_size(truth: Published, flops: np.ndarray) -> np.ndarray:
    """Hoffmann et al. 2022, eq. 4."""
    c = truth.coefficients
    total = c["alpha"] + c["beta"]
    ratio = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / total)
    return np.asarray(ratio * (flops / 6) ** (c["beta"] / total))


def isoflops(truth: Published, width: float, drift: float = 0.0, sizes: int = 9) -> pd.DataFrame:
    """Noise-free runs over ±`width` decades in N around the optimum. `drift` moves the middle
    of the sizes by that many decades from the first budget to the last."""
    shift = 10 ** (drift * np.linspace(-0.5, 0.5, len(BUDGETS)))
    middle = (best_size(truth, BUDGETS) * shift)[:, None]
    params = (middle * np.logspace(-width, width, sizes)).ravel()
    flops = np.repeat(BUDGETS, sizes)
    loss = truth.predict({"params": params, "tokens": flops / (6 * params)})
    return pd.DataFrame({"flops": flops, "params": params, "loss": loss})


def exponent_error(truth: Published, runs: pd.DataFrame, method: str = "parabola") -> float:
    optima = isoflop_optima(runs, method)  # type: ignore[arg-type]
    found = fit(law("allocation_n"), optima, objective="log_l2", bootstrap=0)
    c = truth.coefficients
    return found.coefficients["a"] - c["beta"] / (c["alpha"] + c["beta"])


def test_a_parabola_is_right_on_a_symmetric_centred_surface() -> None:
    truth = surface(0.35, 0.35)
    runs = isoflops(truth, width=1.0)
    optima = isoflop_optima(runs, "parabola")
    assert optima["params"].to_numpy() == pytest.approx(best_size(truth, BUDGETS), rel=1e-6)
    assert optima["flops"].tolist() == pytest.approx(BUDGETS.tolist())


def test_unequal_exponents_bias_the_parabola_and_wider_sampling_makes_it_worse() -> None:
    # Czech et al. 2026, arXiv:2603.22339: no noise, and still the wrong optimum.
    truth = surface(0.45, 0.25)
    off = [
        float(np.mean(np.log10(isoflop_optima(isoflops(truth, width), "parabola")["params"]
                               / best_size(truth, BUDGETS))))
        for width in (0.25, 0.5, 1.0)
    ]  # fmt: skip
    assert abs(off[0]) > 1e-3
    assert abs(off[2]) > 3 * abs(off[1]) > 9 * abs(off[0]) / 2
    # A constant factor in N leaves the exponent alone.
    assert exponent_error(truth, isoflops(truth, 1.0)) == pytest.approx(0, abs=1e-6)


def test_sizes_that_drift_off_centre_bias_the_exponent_itself() -> None:
    truth = surface(0.45, 0.25)
    runs = isoflops(truth, width=1.0, drift=1.0)
    bias = exponent_error(truth, runs)
    assert abs(bias) > 0.005
    assert abs(exponent_error(truth, runs, "akima")) < abs(bias) / 3


def test_the_law_itself_has_no_such_bias() -> None:
    truth = surface(0.45, 0.25)
    runs = isoflops(truth, width=1.0, drift=1.0)
    runs["tokens"] = runs["flops"] / (6 * runs["params"])
    found = fit(law("chinchilla"), runs, bootstrap=0)
    assert found.coefficients == pytest.approx(truth.coefficients, rel=1e-6)


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_an_optimum_at_the_edge_of_the_sizes_is_refused(method: str) -> None:
    truth = surface(0.35, 0.35)
    runs = isoflops(truth, width=1.0)
    centre = np.repeat(best_size(truth, BUDGETS), 9)
    cut = runs[(runs["params"] < 0.9 * centre) | (runs["flops"] > BUDGETS[0] * 1.01)]
    optima = isoflop_optima(cut, method)  # type: ignore[arg-type]
    assert optima["params"].isna().tolist() == [True] + [False] * 6
    assert "too few" in optima["reason"][0] or "edge" in optima["reason"][0]


def test_a_parabola_that_opens_downwards_has_no_optimum() -> None:
    runs = isoflops(surface(0.35, 0.35), width=1.0)
    with pytest.raises(Refusal, match="downwards"):
        isoflop_optima(runs.assign(loss=10 - runs["loss"]), "parabola")


def test_seeds_of_one_size_are_averaged_and_budgets_within_a_percent_are_one() -> None:
    runs = isoflops(surface(0.35, 0.35), width=1.0)
    above = runs.assign(loss=runs["loss"] * 1.01)
    below = runs.assign(flops=runs["flops"] * 1.001, loss=runs["loss"] * 0.99)
    again = pd.concat([above, below])
    optima = isoflop_optima(again, "parabola")
    assert len(optima) == len(BUDGETS)
    assert optima["points"].tolist() == [9] * len(BUDGETS)
