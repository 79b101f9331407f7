from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fit import fit
from analysis.isoflop import Method, allocation, budgets, isoflop_optima
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


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_exponents_are_exact_on_a_symmetric_centred_surface(method: Method) -> None:
    runs = isoflops(surface(0.35, 0.35), width=0.5, sizes=21)
    found = allocation(isoflop_optima(runs, method))
    assert found.params.exponent == pytest.approx(0.5, abs=1e-6)
    assert found.tokens.exponent == pytest.approx(0.5, abs=1e-6)


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_exponents_are_close_where_alpha_and_beta_differ(method: Method) -> None:
    runs = isoflops(surface(0.34, 0.28), width=0.5, drift=0.2, sizes=9)
    found = allocation(isoflop_optima(runs, method))
    assert found.params.exponent == pytest.approx(0.28 / 0.62, abs=2e-3)
    assert found.tokens.exponent == pytest.approx(0.34 / 0.62, abs=2e-3)


@pytest.mark.parametrize("method", ["akima", "parabola"])
def test_intervals_hold_the_exponent_as_often_as_they_say(method: Method) -> None:
    runs = isoflops(surface(0.35, 0.35), width=0.5)
    rng = np.random.default_rng(0)
    inside, draws = 0, 200
    for _ in range(draws):
        noisy = runs.assign(loss=runs["loss"] * np.exp(rng.normal(0, 0.002, len(runs))))
        interval = allocation(isoflop_optima(noisy, method)).params.interval
        assert interval is not None
        inside += interval.low <= 0.5 <= interval.high
    assert inside / draws == pytest.approx(0.9, abs=0.06)


def test_a_label_names_the_budgets_and_a_row_without_one_belongs_to_none() -> None:
    runs = isoflops(surface(0.35, 0.35), width=0.5)
    jitter = np.exp(np.random.default_rng(0).normal(0, 0.05, len(runs)))
    labelled = runs.assign(
        budget_flops=runs["flops"],
        flops=runs["flops"] * jitter,  # as another count of compute would have it
        tokens=runs["flops"] / (6 * runs["params"]),
    )
    strays = labelled.assign(budget_flops=np.nan, loss=0.1)
    optima = isoflop_optima(pd.concat([labelled, strays]), "parabola")
    expected = isoflop_optima(runs, "parabola")
    assert optima[["flops", "params", "tokens"]].to_numpy() == pytest.approx(
        expected[["flops", "params", "tokens"]].to_numpy()
    )


def test_without_a_label_or_flops_equal_6nd_is_a_budget() -> None:
    runs = isoflops(surface(0.35, 0.35), width=0.5)
    counted = runs.assign(tokens=runs["flops"] / (6 * runs["params"])).drop(columns="flops")
    assert [each.flops for each in budgets(counted)] == pytest.approx(BUDGETS.tolist())


def test_trunks_and_unfinished_runs_are_in_no_budget() -> None:
    runs = isoflops(surface(0.35, 0.35), width=0.5).assign(run_kind="full", status="completed")
    bad = runs.assign(loss=0.1)
    everything = pd.concat([runs, bad.assign(run_kind="trunk"), bad.assign(status="diverged")])
    assert isoflop_optima(everything)["params"].tolist() == isoflop_optima(runs)["params"].tolist()


def test_runs_of_any_compute_chained_together_are_no_budget() -> None:
    params = np.geomspace(1e7, 1e9, 100)
    runs = pd.DataFrame({"params": params, "flops": np.geomspace(1e18, 1.5e18, 100)})
    with pytest.raises(Refusal, match="compute that differs by more than 10%"):
        isoflop_optima(runs.assign(loss=3 + np.log(params / 1e8) ** 2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.assign(params=1e8), "too few sizes"),
        (lambda t: t.assign(loss=3.0), "the same loss at every size"),
        (lambda t: t.assign(loss=3 + 1e-9 * t["params"]), "its smallest size"),
        (lambda t: t.assign(loss=3 - 0.01 * np.log(t["params"])), "its largest size"),
        (lambda t: t.assign(loss=np.nan), "not a positive finite number"),
        (lambda t: t.assign(budget_flops="1e18 or so"), "budget_flops = 1e18 or so"),
        (lambda t: t.drop(columns="flops"), "no column 'tokens'"),
    ],
)
def test_a_table_without_a_minimum_says_why(
    change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason):
        isoflop_optima(change(isoflops(surface(0.35, 0.35), width=0.5)))


def test_an_exponent_takes_two_budgets_and_an_interval_three() -> None:
    optima = isoflop_optima(isoflops(surface(0.35, 0.35), width=0.5))
    with pytest.raises(Refusal, match=r"1 of 1 budget .*An exponent takes two"):
        allocation(optima.head(1))
    assert allocation(optima.head(2)).params.interval is None
    assert allocation(optima.head(3)).params.interval is not None


def test_every_row_twice_changes_nothing() -> None:
    runs = isoflops(surface(0.45, 0.25), width=0.5)
    twice = isoflop_optima(pd.concat([runs, runs], ignore_index=True))
    assert twice["params"].tolist() == pytest.approx(isoflop_optima(runs)["params"].tolist())


@pytest.mark.parametrize(
    ("convention", "of_params", "of_tokens"),
    [("kaplan_no_embed_with_lm_head", 0.54, 0.49), ("chinchilla_all_params", 0.37, 0.50),
     ("transformer_only", 0.70, 0.41)],
)  # fmt: skip
def test_nanochats_published_exponents_of_its_published_optima(
    reference: Callable[[str], Path], convention: str, of_params: float, of_tokens: float
) -> None:
    optima = pd.read_csv(reference("nanochat/isoflop_optima.csv"))
    chosen = optima[optima["param_convention"] == convention]
    found = allocation(chosen.rename(columns={"eff_params": "params"}))
    assert found.params.exponent == pytest.approx(of_params, abs=0.02)
    assert found.tokens.exponent == pytest.approx(of_tokens, abs=0.02)


def test_porians_tuned_runs_have_the_published_exponent_and_its_interval(
    reference: Callable[[str], Path],
) -> None:
    runs = pd.read_csv(reference("porian/isoflop_points.csv"))
    found = allocation(isoflop_optima(runs[runs["hparams"] == "tuned"], "akima"), 0.95).params
    assert found.exponent == pytest.approx(0.4970, abs=5e-4)
    assert found.interval is not None
    assert found.interval.low < 0.491 < 0.505 < found.interval.high  # ours knows no noise level
