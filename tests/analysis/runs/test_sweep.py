"""The best rate of a sweep: recovered where it is known, a bound where it is an end."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.runs.sweep import best_rows, from_json, optima, sweep, to_json
from analysis.runs.table import read_runs, usable
from scaling.store.records import Refusal

REFERENCE = Path(__file__).parents[3] / "results" / "reference" / "tune"
SIZES = (1e7, 1e8, 1e9)
RATES = np.geomspace(1e-4, 1.6e-2, 8)


def best_rate(params: float) -> float:
    return 1e-3 * (params / 1e8) ** -0.3


def swept(
    loss: Callable[[np.ndarray], np.ndarray], noise: float = 0.0, seeds: int = 1, seed: int = 0
):
    """A table of SIZES × RATES; `loss` is of the logarithm of the rate over the best."""
    rng = np.random.default_rng(seed)
    rows = [
        {"params": n, "tokens": 1e10, "learning_rate": rate, "seed": s,
         "loss": 3.0 - 0.1 * np.log10(n / 1e8) + loss(np.log(rate / best_rate(n)))}
        for n in SIZES for rate in RATES for s in range(seeds)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    return table.assign(loss=table["loss"] + noise * rng.standard_normal(len(table)))


def parabola(x: np.ndarray) -> np.ndarray:
    return 0.04 * x**2


def lopsided(x: np.ndarray) -> np.ndarray:
    return 0.04 * x**2 * np.exp(0.2 * x)


def test_the_bottom_of_a_parabola_is_found_exactly() -> None:
    found = sweep(swept(parabola), "learning_rate")
    assert [each.params for each in found.cells] == list(SIZES)
    for each in found.cells:
        assert each.optimum == pytest.approx(best_rate(each.params), rel=1e-6)
        assert each.edge is None and each.loss == min(each.losses)


def test_a_curve_steeper_on_one_side_moves_the_optimum_by_less_than_a_tenth_of_a_step() -> None:
    step = np.log(RATES[1] / RATES[0])
    for each in sweep(swept(lopsided), "learning_rate").cells:
        assert abs(np.log(each.optimum / best_rate(each.params))) < step / 10


@pytest.mark.parametrize(("curve", "seeds"), [(parabola, 1), (parabola, 3), (lopsided, 1)])
def test_intervals_hold_the_true_best_rate(curve: Callable, seeds: int) -> None:
    cells = [
        each
        for seed in range(30)
        for each in sweep(swept(curve, 0.004, seeds, seed), "learning_rate").cells
        if each.interval is not None
    ]
    held = [each.interval.low <= best_rate(each.params) <= each.interval.high for each in cells]
    assert len(held) > 80
    assert 0.85 <= np.mean(held) <= 1.0  # nominal .9; .95 usual, since two readings share it


def test_the_noise_is_that_of_seeds_where_there_are_seeds() -> None:
    found = sweep(swept(parabola, 0.01, seeds=6), "learning_rate")
    assert found.noise == pytest.approx(0.01, rel=0.15)  # 120 degrees of freedom
    three = swept(parabola, 0.001).query("3e-4 < learning_rate < 2e-3 and params == 1e8")
    assert sweep(three, "learning_rate").noise is None  # three points leave nothing over


@pytest.mark.parametrize(("keep", "edge"), [(slice(0, 4), "highest"), (slice(5, 8), "lowest")])
def test_a_best_at_the_end_of_the_sweep_is_a_bound_and_said(keep: slice, edge: str) -> None:
    table = swept(parabola)
    table = table[table["params"].eq(1e8) & table["learning_rate"].isin(RATES[keep])]
    found = sweep(table, "learning_rate")
    assert [each.edge for each in found.bounds] == [edge]
    assert found.bounds[0].optimum is None and found.bounds[0].interval is None
    assert (
        f"the {edge} learning_rate tried is the best at 1 of 1 (N, D), 100M × 10B:"
        in found.warnings[0]
    )
    with pytest.raises(Refusal, match="1 with the best learning_rate is an end of its sweep"):
        usable(optima(table, found))


def test_a_curve_that_falls_to_the_end_of_the_sweep_is_a_bound_whatever_was_best() -> None:
    losses = [2.001, 2.000, 2.045, 2.060]  # the second is the best by noise alone
    table = pd.DataFrame(
        {"params": 1e8, "tokens": 1e10, "learning_rate": RATES[:4], "loss": losses}
    )
    (bound,) = sweep(table, "learning_rate").cells
    assert (bound.optimum, bound.edge, bound.value) == (None, "lowest", RATES[1])


def test_the_rows_of_the_best_value_stay_with_all_their_seeds() -> None:
    table = swept(parabola, 0.001, seeds=3)
    found = sweep(table, "learning_rate")
    chosen = usable(best_rows(table, found))
    assert len(chosen.rows) == 9 and len(chosen.excluded) == len(table) - 9
    assert set(chosen.rows["learning_rate"]) == {each.value for each in found.cells}
    assert set(chosen.excluded["reason"]) == {"another learning_rate is better at this N and D"}


def test_optima_are_the_bottoms_and_no_rates_of_the_grid() -> None:
    table = swept(parabola)
    rows = usable(optima(table, sweep(table, "learning_rate"))).rows
    assert list(rows["learning_rate"]) == pytest.approx([best_rate(n) for n in SIZES], rel=1e-6)


def test_the_shipped_sweep_gives_the_optima_that_its_rule_states() -> None:
    table = read_runs(REFERENCE, params_column="params_non_embedding")
    found = sweep(table, "learning_rate")
    # scaling/planning/rule_files/learning_rate/sotu-bytes.toml, in the order of N, then D.
    assert [each.optimum for each in found.cells] == pytest.approx(
        [0.0393, 0.02195, 0.01233, 0.01004, 0.00498, 0.003942], rel=1e-3
    )
    assert found.warnings == () and found.bounds == ()
    # At the ends of N and D an interval reaches the end of what was tried.
    assert [each.edge for each in found.cells] == ["highest", *[None] * 4, "lowest"]


def test_a_sweep_is_read_back_from_its_file() -> None:
    found = sweep(swept(parabola, 0.002), "learning_rate")
    assert from_json(json.loads(json.dumps(to_json(found)))) == found


def test_a_fit_of_the_best_names_what_was_left_out_and_what_is_only_a_bound() -> None:
    table = swept(parabola, 0.001)
    table = table[table["learning_rate"] <= 1.2e-3]  # the best of 1e7 and 1e8 lie above
    grid = pd.concat(
        [table.assign(tokens=d, loss=table["loss"] + 50 / d**0.3) for d in (1e9, 4e9, 2e10)]
    )
    found = fit(law("chinchilla"), best_rows(grid, sweep(grid, "learning_rate")), bootstrap=0)
    assert found.data.n == 9 and len(found.excluded) == len(grid) - 9
    assert "highest learning_rate tried is the best at 6 of 9" in found.cautions[0]


@pytest.mark.parametrize("named", [True, False])
def test_another_axis_of_a_swept_study_is_named_whose_every_run_has_a_variant(named: bool) -> None:
    """Two optimisers at the same rates: no loss is the mean of both."""
    both = pd.concat(
        [
            table.assign(
                **{"optimizer": name} if named else {},
                loss=table["loss"] + off,
                variant=[f'optimizer="{name}" rate={rate}' for rate in table["learning_rate"]],
            )
            for table in [swept(parabola)]
            for name, off in (("adamw", 0.0), ("muon", 0.1))
        ]
    )
    varies = "optimizer" if named else "variant"
    with pytest.raises(
        Refusal, match=rf"{varies} varies too .* \(\d+ values\).*--where '{varies}=="
    ):
        sweep(both, "learning_rate")


def test_another_axis_of_the_sweep_is_named() -> None:
    table = swept(parabola)
    both = pd.concat([table.assign(warmup=w, loss=table["loss"] + w / 100) for w in (1, 2)])
    with pytest.raises(Refusal, match=r"warmup varies too .* \(2 values\).*--where 'warmup=="):
        sweep(both, "learning_rate")


def test_what_is_no_sweep_is_refused() -> None:
    with pytest.raises(Refusal, match="at most 2 values at one N and D"):
        sweep(swept(parabola).query("learning_rate < 3e-4"), "learning_rate")
    with pytest.raises(Refusal, match="no column 'rate'"):
        sweep(swept(parabola), "rate")
    with pytest.raises(Refusal, match="level = 90"):
        sweep(swept(parabola), "learning_rate", level=90)


def test_an_optimum_far_off_is_to_be_swept_again_and_no_row_has_it_to_leave_out() -> None:
    grid = pd.concat([swept(parabola).assign(tokens=d) for d in (1e9, 4e9, 2e10)])
    odd = (grid["params"] == 1e8) & (grid["tokens"] == 4e9)
    off = np.log(grid["learning_rate"] / (3 * best_rate(1e8)))
    grid = grid.assign(loss=grid["loss"].mask(odd, 3.0 + parabola(off))).reset_index(drop=True)
    made = fit(law("steplaw_lr"), optima(grid, sweep(grid, "learning_rate")), bootstrap=0)
    (said,) = [each for each in made.cautions if "times the scatter" in each]
    assert said.endswith("Sweep it again, with more seeds or values") and "--where" not in said
