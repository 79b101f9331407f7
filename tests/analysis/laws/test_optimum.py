"""A law's optimum on the line C = 6ND: closed form, numeric, and the two against each other."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.laws.catalogue import LAWS, A, B, D, E, N, alpha, beta, law
from analysis.laws.formula import exponent, positive
from analysis.laws.law import Law
from analysis.laws.optimum import closed_form, compute_optimal, numeric_optimal
from analysis.laws.published import published
from analysis.laws.repeated import limit


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


COEFFICIENTS = {
    "chinchilla": {"E": 1.7, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28},
    "chinchilla_tied": {"E": 1.7, "A": 406.4, "alpha": 0.34, "B": 1410.7},
    "chinchilla_coupled": {"E": 1.7, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28},
    "chinchilla_power": {"E": 1.7, "A": 906.4, "alpha": 0.4, "B": 2e4, "beta": 0.5, "gamma": 0.7},
    "kaplan_nd": {"N_c": 6.4e13, "alpha_N": 0.076, "D_c": 1.8e13, "alpha_D": 0.103},
    "overtraining": {"E": 1.7, "a": 150.0, "b": 190.0, "eta": 0.14},
}


def test_the_closed_forms_are_those_of_every_law_of_params_and_tokens_in_the_registry():
    qualify = {
        name
        for name, each in LAWS.items()
        if each.target == "loss" and set(each.features) == {"params", "tokens"}
    }
    assert qualify == set(COEFFICIENTS)


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("flops", [1e15, 1e24])
def test_every_closed_form_of_the_registry_agrees_with_the_numeric_optimum(name, flops):
    assert closed_form(law(name), COEFFICIENTS[name]) is not None
    closed = compute_optimal(law(name), COEFFICIENTS[name], flops)
    numeric = numeric_optimal(law(name), COEFFICIENTS[name], flops)
    assert float(numeric.params) == pytest.approx(float(closed.params), rel=1e-6)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_every_closed_form_is_the_law_it_stands_for(name):
    form = closed_form(law(name), COEFFICIENTS[name])
    n, d = np.geomspace(1e6, 1e12, 7), np.geomspace(3e9, 1e13, 7)
    a, b = form.terms["params"], form.terms["tokens"]
    terms = np.exp(a.log_factor) * n**-a.power + np.exp(b.log_factor) * d**-b.power
    predicted = law(name).predict(COEFFICIENTS[name], {"params": n, "tokens": d})
    assert form.floor + terms**form.outer == pytest.approx(predicted, rel=1e-12)


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


def test_a_formula_in_another_order_is_the_same_law():
    """Its closed form, price of repeats and rival laws are the same; its text is not."""
    c = published("chinchilla-2022").coefficients
    chinchilla = law("chinchilla")
    turned = Law("mine", N**-alpha * A + (B * (1 / D) ** beta + E), source="here")
    assert turned.form is chinchilla.form and turned.loss is not chinchilla.loss
    assert turned.coefficients[0] == "alpha" and turned.formula != chinchilla.formula
    assert closed_form(turned, c) is not None
    assert compute_optimal(turned, c, 1e20).params == compute_optimal(chinchilla, c, 1e20).params
    assert limit(turned, 1e9).given == limit(chinchilla, 1e9).given
    # Another bound, name or exponent is another law.
    for other in (
        E + A / N**alpha + B / D**alpha,
        E + A / N**alpha + B / D ** exponent("beta", upper=1.0),
        E + A / N**alpha - B / D**beta,
    ):
        assert Law("other", other, source="here").form is not chinchilla.form
    assert len({each.form for each in LAWS.values()}) == len({each.loss for each in LAWS.values()})


def test_an_own_law_of_falling_powers_of_n_and_d_has_a_closed_form_too():
    gamma, K = exponent("gamma"), positive("K")
    tied = Law("tied otherwise", E + A / N ** (2 * gamma) + K * B / (3 * D) ** gamma, source="here")
    joint = Law("no floor", ((A / N) ** gamma + (K / D) ** alpha) ** beta, source="here")
    c = {"E": 1.7, "A": 2e4, "B": 300.0, "gamma": 0.21, "K": 1.3, "alpha": 0.4, "beta": 0.7}
    for own in (tied, joint):
        form = closed_form(own, c)
        a, b = form.terms["params"], form.terms["tokens"]
        terms = np.exp(a.log_factor) * 1e9**-a.power + np.exp(b.log_factor) * 1e10**-b.power
        predicted = own.predict(c, {"params": 1e9, "tokens": 1e10})
        assert form.floor + terms**form.outer == pytest.approx(predicted, rel=1e-12)
        closed, numeric = (each(own, c, 1e21) for each in (compute_optimal, numeric_optimal))
        assert float(numeric.params) == pytest.approx(float(closed.params), rel=1e-6)


def test_a_law_that_is_more_than_a_falling_power_of_each_has_none():
    c = {"E": 1.7, "A": 400.0, "alpha": 0.3, "B": 300.0, "beta": 0.3}
    for other in (
        E + A / N**alpha + B / D**beta + 1 / D,
        E + A / (N * D) ** alpha + B / D**beta,
        E + A / N**alpha - B / D**beta,
        E + A / (N + 1) ** alpha + B / D**beta,
        E + A / N**alpha + B * D**beta,  # rises with D
    ):
        assert closed_form(Law("other", other, source="here"), c) is None


def test_a_term_that_vanishes_leaves_no_optimum_inside():
    c = dict(published("chinchilla-2022").coefficients, A=0.0)
    assert not compute_optimal(law("chinchilla"), c, 1e20).interior
    assert not numeric_optimal(law("chinchilla"), c, 1e20).interior
