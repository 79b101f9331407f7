from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.allocation.envelope import envelope
from analysis.laws.catalogue import law
from analysis.laws.published import Published
from scaling.store.records import Refusal


def runs_of(alpha: float, beta: float, sizes: int = 8, spread: float = 16.0) -> pd.DataFrame:
    """Noise-free runs: each size at 8 token counts about its compute-optimal one."""
    c = {"E": 1.7, "A": 400.0, "alpha": alpha, "B": 2000.0, "beta": beta}
    truth = Published("made up", law("chinchilla"), c, "all", "this test")
    params = np.geomspace(1e7, 1e10, sizes)
    best = (beta * c["B"] / (alpha * c["A"]) * params**alpha) ** (1 / beta)
    tokens = best[:, None] * np.geomspace(1 / spread, spread, 8)
    table = pd.DataFrame({"params": np.repeat(params, 8), "tokens": tokens.ravel()})
    features = {name: table[name].to_numpy() for name in ("params", "tokens")}
    return table.assign(loss=truth.predict(features))


@pytest.mark.parametrize(("alpha", "beta"), [(0.35, 0.35), (0.34, 0.28), (0.45, 0.25)])
def test_the_exponents_are_those_of_the_law_also_where_alpha_and_beta_differ(
    alpha: float, beta: float
) -> None:
    found = envelope(runs_of(alpha, beta)).allocation()
    assert found.of_params.exponent == pytest.approx(beta / (alpha + beta), abs=1e-3)
    assert found.of_tokens.exponent == pytest.approx(alpha / (alpha + beta), abs=1e-3)


def test_a_staircase_of_winning_sizes_would_be_too_flat_and_crossings_are_not() -> None:
    lower = envelope(runs_of(0.35, 0.35, sizes=5))
    losses = np.array([curve(np.log(lower.flops)) for curve in lower.curves])
    middle = (lower.flops > lower.crossings["flops"].min()) & (
        lower.flops < lower.crossings["flops"].max()
    )
    winners = lower.params[np.nanargmin(losses[:, middle], axis=0)]
    staircase = np.polyfit(np.log(lower.flops[middle]), np.log(winners), 1)[0]
    assert staircase < 0.5 * (1 - 0.5 / 3**2)  # three whole steps
    assert lower.allocation().of_params.exponent == pytest.approx(0.5, abs=1e-3)


def test_the_envelope_is_at_or_below_every_run() -> None:
    table = runs_of(0.34, 0.28)
    lower = envelope(table)
    flops = np.log(6 * table["params"] * table["tokens"]).to_numpy()
    assert (np.interp(flops, np.log(lower.flops), lower.loss) <= table["loss"] + 1e-3).all()


def test_a_size_that_is_best_only_because_its_rivals_end_is_not_an_optimum() -> None:
    table = runs_of(0.35, 0.35)
    small, large = table[table["params"] < 3e8], table[table["params"] > 3e8]
    lower = envelope(pd.concat([small, large.groupby("params").tail(2)]))
    assert lower.at_edge > 0
    assert lower.allocation().of_params.exponent == pytest.approx(0.5, abs=5e-3)


def test_trunks_are_left_out_and_seeds_and_copies_averaged() -> None:
    table = runs_of(0.34, 0.28).assign(run_kind="cooldown", status="completed")
    trunks = table.assign(run_kind="trunk", loss=1.0)
    seeds = [table.assign(loss=table["loss"] + off) for off in (-0.1, 0.1, 0.1, -0.1)]
    found = envelope(pd.concat([trunks, *seeds])).allocation().of_params.exponent
    assert found == pytest.approx(envelope(table).allocation().of_params.exponent)


@pytest.mark.slow
@pytest.mark.parametrize("each", ["run", "size"])
def test_intervals_hold_the_exponent_at_least_as_often_as_they_say(each: str) -> None:
    table = runs_of(0.35, 0.35, sizes=10)
    rng = np.random.default_rng(0)
    inside, draws = 0, 150
    for _ in range(draws):
        noise = rng.normal(0, 0.003, 80 if each == "run" else 10)  # a trunk's runs share it
        noisy = table["loss"] * np.exp(noise if each == "run" else np.repeat(noise, 8))
        interval = envelope(table.assign(loss=noisy)).allocation(0.9).of_params.interval
        assert interval is not None
        inside += interval.low <= 0.5 <= interval.high
    assert inside / draws > 0.84


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: t.assign(params=1e8), "1 sizes have two or more budgets"),
        (lambda t: t.drop_duplicates("params"), "0 sizes have two or more budgets"),
        (lambda t: t.assign(loss=np.nan), "loss is empty in all 64 rows"),
        (lambda t: t[t["params"] < 3e7], "2 best at some compute. An exponent takes 3"),
        (lambda t: t.groupby("params").nth([0, 1]), "0 crossings; 14 changes"),
    ],
)
def test_a_table_without_an_envelope_says_why(
    change: Callable[[pd.DataFrame], pd.DataFrame], reason: str
) -> None:
    with pytest.raises(Refusal, match=reason):
        envelope(change(runs_of(0.35, 0.35))).allocation()


def test_porians_tuned_runs_have_the_published_exponent(reference: Callable[[str], Path]) -> None:
    runs = pd.read_csv(reference("porian/isoflop_points.csv"))
    found = envelope(runs[runs["hparams"] == "tuned"]).allocation(0.95).of_params
    assert found.interval is not None
    assert found.interval.low < 0.4970 < found.interval.high
    assert np.ptp(found.interval) < 0.05
