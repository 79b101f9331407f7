"""Every row of a batch is minimised by itself, and says how its descent ended."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.array import Array
from analysis.solver.newton import Ended, Local, Tolerances, minimise


class Valley:
    """Rosenbrock's curved valley, as deep as the weight of the row; infinite beyond x = 9."""

    lower, upper, block = np.array([-10.0, -10.0]), np.array([10.0, 10.0]), 64

    def local(self, point: Array, weights: Array, majorise: bool) -> Local:
        x, y = point.T
        depth, gap = weights[:, 0], y - x**2
        value = np.where(x > 9, np.inf, depth * (100 * gap**2 + (1 - x) ** 2))
        gradient = np.stack([-400 * x * gap - 2 * (1 - x), 200 * gap], axis=1)
        residuals = np.stack([np.stack([-20 * x, 10 + 0 * x]), np.stack([-1 + 0 * x, 0 * x])])
        majoriser = 2 * np.einsum("rpb,rqb->bpq", residuals, residuals)
        hessian = majoriser.copy()
        hessian[:, 0, 0] -= 400 * gap
        by = depth[:, None, None]
        return Local(value, by[:, :, 0] * gradient, by * hessian, by * majoriser)


FREE = np.zeros(2, dtype=bool)
START = np.array([[-1.2, 1.0], [3.0, -4.0], [9.5, 0.0]])


def test_every_row_reaches_its_minimum_from_its_own_start() -> None:
    found = minimise(Valley(), START, np.array([[1.0], [1e6], [1.0]]), FREE,
                     tolerances=Tolerances(negligible=1e-25))  # fmt: skip
    assert found.theta[:2] == pytest.approx(np.ones((2, 2)), rel=1e-9)
    assert found.converged.tolist() == [True, True, False]
    assert found.ended[2] == Ended.NOWHERE and np.isinf(found.value[2])


def test_a_row_without_steps_left_is_not_converged() -> None:
    found = minimise(Valley(), START[:1], np.ones((1, 1)), FREE, tolerances=Tolerances(steps=3))
    assert found.ended.tolist() == [Ended.STEPS] and not found.converged.any()


def test_a_fixed_coordinate_stays_and_a_bound_holds() -> None:
    valley, weights = Valley(), np.ones((1, 1))
    fixed = np.array([True, False])
    held = minimise(valley, START[:1], weights, fixed, tolerances=Tolerances())
    assert held.theta[0] == pytest.approx([-1.2, 1.44])
    valley.upper = np.array([0.5, 10.0])
    bounded = minimise(valley, START[:1], weights, FREE, tolerances=Tolerances())
    assert bounded.theta[0] == pytest.approx([0.5, 0.25]) and bounded.converged.all()
