"""Rates by hand."""

from __future__ import annotations

import numpy as np
import pytest

from scaling.schedule import Schedule, learning_rates

TRUNK = Schedule(peak=0.8, warmup_steps=4, steps=100, decay="none", decay_steps=0)
BRANCH = Schedule(peak=0.8, warmup_steps=4, steps=60, decay="1-sqrt", decay_steps=4)


def test_warmup_is_linear_and_wastes_no_step_at_zero() -> None:
    assert learning_rates(TRUNK, 0, 6).tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


def test_a_trunk_never_decays() -> None:
    assert set(learning_rates(TRUNK, 4, 500).tolist()) == {float(np.float32(0.8))}


def test_a_branch_runs_at_its_trunks_rates_up_to_and_at_the_branch_point() -> None:
    upto = BRANCH.decay_start + 1
    assert learning_rates(BRANCH, 0, upto).tolist() == learning_rates(TRUNK, 0, upto).tolist()


def test_one_minus_sqrt_has_the_values_of_the_paper() -> None:
    """Hägele et al. 2024, eq. 4: 1 - sqrt(0), 1 - sqrt(1/4), 1 - sqrt(2/4), 1 - sqrt(3/4)."""
    expected = [0.8, 0.4, 0.8 * (1 - 0.5**0.5), 0.8 * (1 - 0.75**0.5)]
    # Float32 rates.
    assert learning_rates(BRANCH, 56, 4).tolist() == pytest.approx(expected, rel=1e-7)


def test_linear_decay_falls_in_equal_steps() -> None:
    linear = Schedule(0.8, 0, 8, "linear", 4)
    assert learning_rates(linear, 3, 5).tolist() == pytest.approx([0.8, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize("decay", ["1-sqrt", "linear", "cosine"])
def test_every_step_of_a_decay_still_moves_and_none_rises(decay: str) -> None:
    rates = learning_rates(Schedule(1.0, 10, 200, decay, 190), 10, 190)  # type: ignore[arg-type]
    assert (np.diff(rates) < 0).all()
    assert rates[-1] > 0


def test_cosine_passes_its_middle_halfway_and_ends_at_a_tenth() -> None:
    cosine = Schedule(1.0, 10, 110, "cosine", 100)
    middle, end = learning_rates(cosine, 60, 1), learning_rates(cosine, 110, 1)
    assert (float(middle[0]), float(end[0])) == pytest.approx((0.55, 0.1))


def test_rates_are_a_function_of_the_absolute_step() -> None:
    whole = learning_rates(BRANCH, 0, 60)
    parts = np.concatenate([learning_rates(BRANCH, first, 5) for first in range(0, 60, 5)])
    assert whole.dtype == np.float32 and (whole == parts).all()
