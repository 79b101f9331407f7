"""How many clusters carry a coefficient: known designs, and a dense calculation of the same."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from analysis.fitting.effective_clusters import stretched, support
from analysis.fitting.fit import fit
from analysis.laws.catalogue import law
from analysis.laws.published import published
from analysis.solver.priors import Prior
from analysis.solver.problem import Data, jacobian, to_theta

CHINCHILLA, TRUTH = law("chinchilla"), published("besiroglu-2024").coefficients
THETA = to_theta(CHINCHILLA, TRUTH)
POWER = law("kaplan_d")
MEAN = to_theta(POWER, {"D_c": 1e13, "alpha_D": 0.1})
NONE = np.zeros(5, dtype=bool)


def chinchilla(n: int = 60, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    params = rng.choice(np.geomspace(1e7, 1e10, 8), n)
    tokens = params * np.exp(rng.uniform(1, 6, n))
    columns = {"params": params, "tokens": tokens}
    loss = CHINCHILLA.predict(TRUTH, columns) * np.exp(rng.normal(0, 0.01, n))
    return Data({"N": params, "D": tokens}, loss)


def of_mean(counts: list[int], weights: np.ndarray | None = None):
    """What a mean rests on: the level of a power law whose exponent is held."""
    clusters = np.repeat(np.arange(len(counts)), counts)
    data = Data({"D": np.full(len(clusters), 1e9)}, np.ones(len(clusters)))
    weights = np.ones(len(clusters)) if weights is None else weights
    held = np.array([False, True])
    return support(POWER, data, MEAN, clusters, weights, held).of(np.array([1.0, 0.0]))


def test_of_a_mean_of_equal_clusters_all_count_and_one_degree_of_freedom_is_spent():
    basis = of_mean([4] * 8)
    assert tuple(basis) == pytest.approx((8, 8, np.sqrt(8 / 7), 7))


def test_clusters_of_unlike_size_count_as_by_their_shares():
    basis = of_mean([7, 3])
    assert basis.clusters == pytest.approx(100 / 58)
    assert of_mean([1, 1, 1], np.array([7.0, 3.0, 1e-9])).clusters == pytest.approx(100 / 58)
    assert not basis.enough and of_mean([2, 2, 2]).enough


def test_it_agrees_with_the_matrices_written_out():
    data = chinchilla()
    clusters, weights = np.arange(60) % 11, np.linspace(0.5, 2, 60)
    found = support(CHINCHILLA, data, THETA, clusters, weights, NONE)
    rows = jacobian(CHINCHILLA, data, THETA) * np.sqrt(weights / weights.mean())[:, None]
    inverse = np.linalg.pinv(rows)
    maker = np.eye(60) - rows @ inverse
    for j in range(5):
        parts = np.where(clusters == np.arange(11)[:, None], inverse[j], 0.0)  # a row a cluster
        form = parts @ maker @ parts.T
        each, whole = (parts**2).sum(axis=1), float(inverse[j] @ inverse[j])
        expected = (
            whole**2 / (each**2).sum(),
            each.sum() ** 2 / (each**2).sum(),
            np.sqrt(whole / np.trace(form)),
            np.trace(form) ** 2 / (form**2).sum(),
        )
        assert tuple(found.of(np.eye(5)[j])) == pytest.approx(expected, rel=1e-6)


def test_bell_and_mccaffrey_put_the_variance_right():
    # Least squares, errors of one size: scale² times the mean sandwich is the true variance.
    data, rng = chinchilla(30), np.random.default_rng(1)
    clusters = np.arange(30) % 6
    found = support(CHINCHILLA, data, THETA, clusters, np.ones(30), NONE)
    inverse = np.linalg.pinv(jacobian(CHINCHILLA, data, THETA))
    errors = rng.normal(size=(4000, 30))
    left = errors - errors @ (jacobian(CHINCHILLA, data, THETA) @ inverse).T
    for j in range(5):
        sums = np.stack([(left * inverse[j])[:, clusters == k].sum(axis=1) for k in range(6)])
        sandwich = (sums**2).sum(axis=0)
        basis = found.of(np.eye(5)[j])
        true = float(inverse[j] @ inverse[j])
        assert basis.scale**2 * sandwich.mean() == pytest.approx(true, rel=0.1)
        freedom = 2 * sandwich.mean() ** 2 / sandwich.var()
        assert basis.freedom == pytest.approx(freedom, rel=0.15)


def test_a_strong_prior_is_as_good_as_many_clusters_and_a_weak_one_changes_nothing():
    data, clusters = chinchilla(), np.arange(60) % 6

    def behind(sd: float) -> float:
        prior = {"alpha": Prior(TRUTH["alpha"], sd)}
        made = support(CHINCHILLA, data, THETA, clusters, np.ones(60), NONE, prior)
        return made.coefficients(CHINCHILLA)["alpha"].clusters

    free = support(CHINCHILLA, data, THETA, clusters, np.ones(60), NONE)
    assert behind(100.0) == pytest.approx(free.coefficients(CHINCHILLA)["alpha"].clusters, rel=1e-3)
    assert behind(1e-4) > 100


def test_no_more_clusters_count_than_there_are_where_a_prior_carries_a_part():
    data, clusters = chinchilla(), np.arange(60) % 6
    for sd in (1e-3, 0.01, 0.1):
        prior = {"alpha": Prior(TRUTH["alpha"], sd)}
        made = support(CHINCHILLA, data, THETA, clusters, np.ones(60), NONE, prior)
        for basis in made.coefficients(CHINCHILLA).values():
            assert basis.own <= 6 + 1e-9 and basis.own <= basis.clusters * (1 + 1e-9)
    table = pd.DataFrame({"params": data.features["N"], "tokens": data.features["D"],
                          "loss": data.observed, "trunk_id": clusters})  # fmt: skip
    found = fit(CHINCHILLA, table, prior={"alpha": Prior(0.35, 0.02)}, bootstrap=20, checks=False)
    assert max(found.effective_clusters.values()) <= 6
    assert any("alpha" in w and ", and by a prior; 12 or more are" in w for w in found.warnings)


def test_what_the_rows_were_not_to_tell_rests_on_none_of_them():
    known = np.array([True, False, False, False, False])
    made = support(CHINCHILLA, chinchilla(), THETA, np.arange(60) % 6, np.ones(60), known)
    assert tuple(made.coefficients(CHINCHILLA)["E"]) == (np.inf, np.inf, 1.0, np.inf)


def test_clusters_that_a_fit_passes_through_say_nothing_of_its_error():
    # Three trunks of one size each, and three coefficients of N: no residual is left between them.
    params = np.repeat([1e8, 1e9, 1e10], 2)
    data = Data({"N": params, "D": np.full(6, 1e30)}, np.ones(6))
    known = np.array([False, False, False, True, True])
    basis = support(CHINCHILLA, data, THETA, np.arange(6) // 2, np.ones(6), known).of(np.eye(5)[0])
    assert np.isnan(basis.scale) and not basis.enough
    assert np.isnan(stretched(np.ones(5), 0.0, basis)).all()


def test_draws_that_are_normal_become_students_t():
    basis = of_mean([3] * 6)
    normal = np.random.default_rng(0).permutation(np.linspace(0, 1, 20_002)[1:-1])
    values = 2.0 + 0.5 * student.ppf(normal, np.inf)
    for level in (0.5, 0.9, 0.99):
        reach = basis.scale * 0.5 * student.ppf(0.5 + level / 2, 5)
        ends = np.quantile(stretched(values, 2.0, basis) - 2, [(1 - level) / 2, (1 + level) / 2])
        assert ends == pytest.approx([-reach, reach], rel=0.04)  # 200 draws beyond
