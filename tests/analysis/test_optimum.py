"""A law's optimum on the line C = 6ND: closed form, numeric, and the two against each other."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.expression import amplitude, exponent, feature
from analysis.laws import Law, law
from analysis.optimum import compute_optimal, minimise, numeric_optimal
from analysis.published import published

N, D = feature("N", "params"), feature("D", "tokens")
KAPLAN_ND = Law(
    "kaplan_nd",
    ((amplitude("N_c") / N) ** (exponent("alpha_N") / exponent("alpha_D")) + amplitude("D_c") / D)
    ** exponent("alpha_D"),
    source="Kaplan et al. 2020, eq. 1.5",
)
KAPLAN_TABLE_2 = {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103}


def draws(size: int = 500) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    centre = published("besiroglu-2024").coefficients
    return {k: v * np.exp(0.1 * noise.normal(size=size)) for k, v in centre.items()}


@pytest.mark.parametrize("flops", [1e12, 1e18, 5.76e23, 1e29])
def test_chinchillas_optimum_is_hoffmanns_equation_4(flops):
    c = published("chinchilla-2022").coefficients
    g = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    a = c["beta"] / (c["alpha"] + c["beta"])
    best = compute_optimal(law("chinchilla"), c, flops)
    assert float(best.params) == pytest.approx(g * (flops / 6) ** a, rel=1e-12)
    assert float(best.tokens) == pytest.approx((flops / 6) ** (1 - a) / g, rel=1e-12)


@pytest.mark.parametrize("flops", [1e12, 1e21, 1e27])
def test_the_numeric_optimum_agrees_with_the_closed_form(flops):
    closed = compute_optimal(law("chinchilla"), draws(), flops)
    numeric = numeric_optimal(law("chinchilla"), draws(), flops)
    assert numeric.params == pytest.approx(closed.params, rel=1e-6)
    assert numeric.tokens == pytest.approx(closed.tokens, rel=1e-6)
    assert numeric.loss == pytest.approx(closed.loss, rel=1e-12)


@pytest.mark.parametrize("flops", [1e15, 1e21])
def test_a_law_without_a_closed_form_here_finds_the_optimum_its_algebra_gives(flops):
    # x = (N_c/N)^r + D_c/D with r = alpha_N/alpha_D is least where r·(N_c/N)^r = D_c/D.
    c = KAPLAN_TABLE_2
    r = c["alpha_N"] / c["alpha_D"]
    params = (r * c["N_c"] ** r / c["D_c"] * (flops / 6)) ** (1 / (1 + r))
    best = compute_optimal(KAPLAN_ND, c, flops)
    assert float(best.params) == pytest.approx(params, rel=1e-6)


def test_no_other_size_on_the_isoflop_line_has_a_lower_loss():
    for source in (published("chinchilla-2022"), published("besiroglu-2024")):
        best = compute_optimal(source.law, source.coefficients, 1e21)
        sizes = float(best.params) * np.geomspace(0.01, 100, 2001)
        assert source.predict({"params": sizes, "tokens": 1e21 / 6 / sizes}).min() >= best.loss


def test_the_optimum_spends_exactly_the_budget():
    best = compute_optimal(law("chinchilla"), draws(), 3e20)
    assert 6 * best.params * best.tokens == pytest.approx(3e20, rel=1e-12)


def test_equal_formulas_share_the_closed_form_whatever_their_name():
    c = published("chinchilla-2022").coefficients
    named = Law("mine", law("chinchilla").loss, source="here")
    assert (
        compute_optimal(named, c, 1e20).params == compute_optimal(law("chinchilla"), c, 1e20).params
    )


def test_a_term_that_vanishes_leaves_no_optimum_inside():
    c = dict(published("chinchilla-2022").coefficients, A=0.0)
    assert not compute_optimal(law("chinchilla"), c, 1e20).interior
    assert not numeric_optimal(law("chinchilla"), c, 1e20).interior


def test_minimise_finds_the_lower_of_two_valleys_and_a_kink():
    two = minimise(lambda x: (x**2 - 4) ** 2 + x, np.array([-5.0]), np.array([5.0]))
    kink = minimise(lambda x: np.abs(x - 1.2345), np.array([-5.0]), np.array([5.0]))
    assert two == pytest.approx([min(np.roots([4, 0, -16, 1]))], abs=1e-9)
    assert kink == pytest.approx([1.2345], abs=1e-3)


def test_minimise_ends_at_the_bound_a_function_falls_towards():
    assert minimise(lambda x: x, np.zeros(1), np.ones(1)) == pytest.approx([0.0], abs=1e-6)
    assert minimise(lambda x: -x, np.zeros(1), np.ones(1)) == pytest.approx([1.0], abs=1e-6)
