"""One curve carried on: by laws that it may follow, and by the schedule that it is to follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.laws.published import MULTI_POWER
from analysis.schedules.annealing import losses
from analysis.schedules.carry_on import carry_on
from analysis.schedules.curves import read
from analysis.schedules.extrapolate import extrapolate
from scaling.store.records import Refusal

X = np.geomspace(1e3, 1e6, 25)
SEEN, LATER = X < 1e5, X >= 1e5
LAW = MULTI_POWER["100M"]
PEAK, WARMUP, STEPS = 3e-4, 100, 4000


def noisy(loss: np.ndarray, sd: float, seed: int = 0) -> np.ndarray:
    return loss * np.exp(sd * np.random.default_rng(seed).normal(size=len(loss)))


def test_a_power_law_with_a_floor_is_carried_on_to_a_tenth_of_a_percent() -> None:
    loss = 1.5 + 20 * X**-0.4
    found = extrapolate(X[SEEN], loss[SEEN], X[LATER])
    assert found.loss == pytest.approx(loss[LATER], rel=1e-3)
    assert ((found.low < loss[LATER]) & (loss[LATER] < found.high)).all()


def test_a_break_that_was_seen_is_carried_on_and_a_power_law_alone_would_miss_it() -> None:
    loss = 3 * (X / 1e3) ** -0.1 * (1 + (X / 1e4) ** (1 / 0.3)) ** -0.09
    found = extrapolate(X[SEEN], loss[SEEN], X[LATER])
    slope, level = np.polyfit(np.log(X[SEEN]), np.log(loss[SEEN]), 1)
    straight = np.exp(level + slope * np.log(X[LATER]))
    error, plain = (np.abs(np.log(each / loss[LATER])).max() for each in (found.loss, straight))
    assert 3 * error < plain


def test_the_interval_widens_with_noise_and_with_the_distance() -> None:
    loss = 1.5 + 20 * X**-0.4
    widths = []
    for sd in (1e-3, 1e-2):
        found = extrapolate(X[SEEN], noisy(loss, sd)[SEEN], X[LATER])
        width = np.log(found.high / found.low)
        assert (np.diff(width) > 0).all()
        widths.append(width[-1])
    assert widths[1] > 3 * widths[0]


def test_neither_the_unit_of_x_nor_that_of_the_loss_nor_the_order_of_rows_matters() -> None:
    loss = noisy(1.5 + 20 * X**-0.4, 3e-3)[SEEN]
    plain = extrapolate(X[SEEN], loss, X[LATER]).loss
    assert extrapolate(7 * X[SEEN], loss, 7 * X[LATER]).loss == pytest.approx(plain, rel=1e-9)
    assert extrapolate(X[SEEN], 5 * loss, X[LATER]).loss == pytest.approx(5 * plain, rel=1e-5)
    assert extrapolate(X[SEEN][::-1], loss[::-1], X[LATER]).loss == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(
    ("x", "loss", "words"),
    [
        ([1, 2, 3, 4], [4, 3, 2, 1], "x has 4 different values"),
        ([1, 2, 3, 4, 5], [4, 3, 2, 1], "x has 5 values and loss 4"),
        ([1, 2, 3, 4, 5], [4, 3, 2, 1, 0], "loss has values that are not positive"),
        ([0, 2, 3, 4, 5], [5, 4, 3, 2, 1], "x has values that are not positive"),
    ],
)
def test_what_cannot_be_carried_on_is_refused(x: list[int], loss: list[int], words: str) -> None:
    with pytest.raises(Refusal, match=words):
        extrapolate(x, loss, [10])


# --- a run and its schedule -----------------------------------------------------------------------


def made(rates: np.ndarray) -> pd.DataFrame:
    """Losses of the law of the published 100M model at every 40th step."""
    rows = pd.DataFrame({"curve": "a", "step": range(len(rates)), "lr": rates, "loss": np.nan})
    told = ((rows["step"] > WARMUP) & (rows["step"] % 40 == 39)).to_numpy()
    return rows.assign(loss=losses(LAW, read(rows), told, None)).drop(columns="curve")


def schedule(decay: bool) -> np.ndarray:
    rates = np.full(STEPS, PEAK)
    rates[:WARMUP] = PEAK * np.arange(WARMUP) / WARMUP
    if decay:
        rates[3000:] = PEAK * np.linspace(1, 0.02, 1000)
    return rates


def test_a_constant_rate_is_carried_on_without_a_schedule() -> None:
    whole = made(schedule(decay=False))
    found = carry_on(whole[whole["step"] < 2000], to=STEPS - 1)
    end = whole["loss"].iloc[-1]
    assert found.loss == pytest.approx(end, rel=3e-3)
    assert found.interval.low < end < found.interval.high
    assert "step 3,999: loss" in str(found) and found.frame["step"].iloc[0] == 2000


def test_what_a_decay_will_gain_is_forecast_before_it_begins() -> None:
    whole = made(schedule(decay=True))
    seen = whole[whole["step"] < 2500]
    end, kept = whole["loss"].iloc[-1], carry_on(seen, to=STEPS - 1).loss
    found = carry_on(seen, schedule=whole)
    assert found.loss < kept - 0.02
    assert found.interval.low < end < found.interval.high
    like = carry_on(seen, schedule=whole, like=MULTI_POWER["25M"])
    assert abs(like.loss - end) < 0.02
    widths = [each.interval.high - each.interval.low for each in (like, found)]
    assert widths[0] < 0.7 * widths[1]  # another run tells what a decay gains


def test_a_run_is_carried_on_to_a_step_within_its_schedule() -> None:
    whole = made(schedule(decay=True))
    found = carry_on(whole[whole["step"] < 2500], schedule=whole, to=3500)
    assert found.frame["step"].iloc[-1] == 3500
    assert found.frame["lr"].iloc[-1] == pytest.approx(whole["lr"][3500])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "to: give the last step"),
        ({"to": 100}, "to = 100 is not after the curve's last step, 1999"),
        ({"schedule": "past"}, "schedule ends before the curve's last step, 1999"),
        ({"schedule": "whole", "to": 10**5}, "to = 100000 is beyond the schedule"),
        ({"schedule": "whole", "like": {"B": 1.0}}, "like has no C"),
        ({"to": 10**4, "level": 1}, "level = 1 is not between"),
    ],
)
def test_a_rest_that_is_not_there_is_refused(options: dict[str, object], words: str) -> None:
    whole = made(schedule(decay=True))
    parts = {"past": whole[whole["step"] < 1000], "whole": whole}
    if "schedule" in options:
        options = {**options, "schedule": parts[str(options["schedule"])]}
    with pytest.raises(Refusal, match=words):
        carry_on(whole[whole["step"] < 2000].dropna(), warmup_steps=WARMUP, **options)  # type: ignore[arg-type]


# --- published learning curves --------------------------------------------------------------------

# RMSE of log loss on the extrapolated part, by domain: the best of M1 to M4 and the broken law.
BEST = {"BB": 0.00828, "LM": 0.00083, "NMT": 0.01050}


def test_published_curves_are_carried_on_as_well_as_by_the_best_of_five_laws(
    reference: Callable[[str], Path],
) -> None:
    whole = pd.read_csv(reference("revisiting_lang/benchmark.lang.csv"))
    errors: dict[str, list[float]] = {}
    for (domain, _, _), rows in whole.groupby(["Domain", "Task", "Model"]):
        seen, later = rows[rows["Training"] == 1], rows[rows["Training"] == 0]
        found = extrapolate(seen["Seen Examples"], seen["Loss"], later["Seen Examples"])
        error = np.log(found.loss / later["Loss"].to_numpy())
        errors.setdefault(domain, []).append(float(np.sqrt(np.mean(error**2))))
    means = {domain: np.mean(each) for domain, each in errors.items()}
    assert means["BB"] < 0.9 * BEST["BB"] and means["NMT"] < 0.9 * BEST["NMT"]
    assert means["LM"] < 1.1 * BEST["LM"]
