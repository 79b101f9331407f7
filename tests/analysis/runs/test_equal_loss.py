"""The compute that a variant saves is the factor that was put into its losses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis.runs.equal_loss import EqualLoss, equal_loss
from scaling.store.records import Refusal

SIZES, TOKENS, RATES = (25e3, 98e3, 332e3), (0.5e6, 1e6, 2e6), (0.5, 0.71, 1.0, 1.41, 2.0, 2.83)
SAVED = 1.4  # tokens for which the base needs as many as 1.4 times
COST = {"adamw": 1.0, "muon": 1.1}  # FLOPs of a token, in 6N
BEST = {"adamw": 1.0, "muon": 1.6}  # of the factor on the rate


def runs(noise: float = 0.0, shared: float = 0.0, seeds: int = 3, seed: int = 0) -> pd.DataFrame:
    """As experiments/muon.toml leaves them; `shared` is what a seed does to both optimisers."""
    rng = np.random.default_rng(seed)
    common = {(n, s): shared * rng.normal() for n in SIZES for s in range(seeds)}

    def loss(name: str, n: float, d: float, rate: float) -> float:
        tokens = d * (SAVED if name == "muon" else 1.0)
        off = np.log(rate / BEST[name])
        return 0.9 + 12 / n**0.31 + 600 / tokens**0.53 + 0.03 * off**2

    return pd.DataFrame(
        {"params": n, "tokens": d, "learning_rate": 0.01 * rate, "optimizer": name, "seed": s,
         "flops": 6 * n * d * COST[name], "variant": f"{name} {rate}",
         "loss": loss(name, n, d, rate) + common[n, s] + noise * rng.normal()}
        for name in COST for n in SIZES for d in TOKENS for rate in RATES for s in range(seeds)
    )  # fmt: skip


def compared(table: pd.DataFrame) -> EqualLoss:
    return equal_loss(table, "optimizer", "adamw", "muon")


def test_the_ratio_is_the_tokens_saved_over_what_a_token_costs_more() -> None:
    found = compared(runs())
    assert [each.params for each in found.sizes] == [*SIZES]
    for each in found.sizes:
        assert each.ratio == pytest.approx(SAVED / 1.1, rel=1e-3)
    assert found.ratio == pytest.approx(SAVED / 1.1, rel=1e-3)
    turned = equal_loss(runs(), "optimizer", "muon", "adamw")
    assert turned.ratio == pytest.approx(1 / found.ratio, rel=1e-6)


def test_intervals_hold_the_ratio_and_what_seeds_share_widens_none() -> None:
    held, widths = [], {0.0: [], 0.02: []}
    for shared in widths:
        for seed in range(15):
            found = compared(runs(0.003, shared, seed=seed))
            assert found.interval is not None and not found.warnings
            held.append(found.interval.holds(SAVED / 1.1))
            widths[shared].append(found.interval.width)
    assert np.mean(held) >= 0.8  # nominal .9, of 30
    assert np.median(widths[0.02]) < 1.3 * np.median(widths[0.0])


def test_other_seeds_are_not_paired_and_said() -> None:
    table = runs(0.003, 0.02)
    other = table["optimizer"].eq("muon")
    found = compared(table.assign(seed=table["seed"] + 3 * other))
    paired = compared(table)
    assert "have not the same three or more seeds" in found.warnings[0]
    assert found.interval is not None and paired.interval is not None
    assert found.interval.width > 1.5 * paired.interval.width


def test_seeds_at_the_smallest_budget_alone_pair_nothing_and_it_is_said() -> None:
    """Both sides of one seed elsewhere: drawn with one number, their noise would fall out."""
    table = runs(0.003)
    replicated = table[table["seed"].eq(0) | table["tokens"].eq(min(TOKENS))]
    found = compared(replicated)
    assert "vary independently" in found.warnings[0]
    assert found.interval is not None


def test_losses_that_one_never_reached_give_no_ratio() -> None:
    table = runs()
    table["loss"] += 0.5 * table["optimizer"].eq("adamw")
    found = compared(table)
    assert found.ratio is None and found.interval is None
    assert {each.reason for each in found.sizes} == {"no loss was reached by both"}


def test_a_size_whose_best_rates_are_ends_has_no_ratio() -> None:
    table = runs()
    table = table[(table["params"] > 3e4) | (table["learning_rate"] < 0.012)]
    small, *others = compared(table).sizes
    assert small.ratio is None and "fewer than two numbers of tokens" in small.reason
    assert all(each.ratio == pytest.approx(SAVED / 1.1, rel=1e-3) for each in others)


def test_a_variant_that_was_not_trained_is_refused() -> None:
    with pytest.raises(Refusal, match="optimizer = 'lion' is in no row"):
        equal_loss(runs(), "optimizer", "adamw", "lion")
    with pytest.raises(Refusal, match="no column flops"):
        compared(runs().drop(columns="flops"))
