from __future__ import annotations

import numpy as np
import pytest

from analysis.laws.catalogue import LAWS, law
from analysis.laws.formula import exponent, feature, latex_name, log
from analysis.laws.jets import evaluate, exponential, variable
from analysis.laws.law import Law
from analysis.laws.published import PUBLISHED, published
from analysis.laws.structure import curvature, symbols
from scaling.store.records import Refusal


def sample(chosen: Law, seed: int = 0) -> dict[str, float]:
    """A value for every letter, where the law is well behaved."""
    rng = np.random.default_rng(seed)
    values = {
        name: rng.uniform(2, 5) if symbol.feature else rng.uniform(0.2, 0.9)
        for name, symbol in chosen.symbols.items()
    }
    return values | {"e_0": 3.0} if "e_0" in values else values  # M4 needs e_0 above E


@pytest.mark.parametrize("name", LAWS)
def test_first_and_second_derivatives_agree_with_differences(name: str) -> None:
    chosen, at, step = law(name), sample(law(name)), 1e-6

    def jet(**moved: float):
        letters = {n: variable(x, i) for i, (n, x) in enumerate((at | moved).items())}
        return evaluate(chosen.loss, letters)

    here = jet()
    for i, letter in enumerate(at):
        up, down = (jet(**{letter: at[letter] + by}) for by in (step, -step))
        rise = (up.value - down.value) / (2 * step)
        assert here.gradient[i] == pytest.approx(rise, rel=1e-6, abs=1e-8)
        for j in range(len(at)):
            bend = (up.gradient[j] - down.gradient[j]) / (2 * step)
            found = here.hessian.get((max(i, j), min(i, j)), 0.0)
            assert found == pytest.approx(bend, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", LAWS)
def test_a_second_derivative_that_is_not_computed_is_said_to_vanish_everywhere(name: str) -> None:
    chosen, at = law(name), sample(law(name))
    numbers = {node: i for i, node in enumerate(symbols(chosen.loss))}
    letters = {e.symbol.name: variable(at[e.symbol.name], i) for e, i in numbers.items()}
    computed = set(evaluate(chosen.loss, letters).hessian)
    pairs = [[numbers[e] for e in pair] for pair in curvature(chosen.loss)]
    assert computed <= {(max(pair), min(pair)) for pair in pairs}


def test_by_the_logarithm_of_a_positive_letter_derivatives_are_those_of_the_chain_rule() -> None:
    x = feature("x", "x")
    raw = evaluate(x**3 + x, {"x": variable(2.0, 0)})
    found = evaluate(x**3 + x, {"x": exponential(2.0, 0)}, {"x": variable(np.log(2.0), 0)})
    assert found.value == pytest.approx(raw.value)
    assert found.gradient[0] == pytest.approx(2 * raw.gradient[0])
    assert found.hessian[0, 0] == pytest.approx(4 * raw.hessian[0, 0] + 2 * raw.gradient[0])


@pytest.mark.parametrize("name", LAWS)
def test_every_law_names_its_source_and_its_formula(name: str) -> None:
    chosen = law(name)
    assert "20" in chosen.source
    assert all(c in chosen.formula for c in chosen.coefficients)
    assert chosen.features


def test_chinchilla_reads_as_in_the_paper() -> None:
    assert law("chinchilla").formula == "L = E + A/N^alpha + B/D^beta"
    assert law("chinchilla").features == ("params", "tokens")


def test_a_prediction_broadcasts_over_draws() -> None:
    draws = {"N_c": np.array([[1e13], [9e13]]), "alpha_N": np.array([[0.07], [0.08]])}
    predicted = law("kaplan_n").predict(draws, {"params": np.array([1e6, 1e8, 1e10])})
    assert predicted.shape == (2, 3)
    assert predicted[1, 2] == pytest.approx((9e13 / 1e10) ** 0.08)


def test_hoffmann_predicts_chinchilla_itself() -> None:
    # Hoffmann et al. 2022, eq. 10 at 70B parameters and 1.4T tokens.
    loss = published("chinchilla-2022").predict({"params": 70e9, "tokens": 1.4e12})
    assert loss == pytest.approx(1.69 + 406.4 / 70e9**0.34 + 410.7 / 1.4e12**0.28, rel=1e-12)
    assert loss == pytest.approx(1.9366, abs=5e-5)


def test_published_numbers_name_every_coefficient_of_their_law() -> None:
    for entry in PUBLISHED.values():
        assert set(entry.coefficients) == set(entry.law.coefficients)
        assert entry.source and entry.params_convention


def test_what_is_unknown_or_missing_is_refused_by_name() -> None:
    with pytest.raises(Refusal, match=r"chinchila.*chinchilla"):
        law("chinchila")
    with pytest.raises(Refusal, match="besiroglu-2024"):
        published("hoffman")
    with pytest.raises(Refusal, match="feature 'tokens'"):
        published("chinchilla-2022").predict({"params": 1e9})


def test_m3_has_no_floor_beside_its_own() -> None:
    # Alabdulmohsin et al. 2022, section 2: the error at infinite x is b·gamma^c.
    at = {"b": 200.0, "gamma": 1e-11, "c": 0.25}
    assert set(law("m3").coefficients) == set(at)
    assert law("m3").predict(at, {"tokens": 1e30}) == pytest.approx(200 * 1e-11**0.25)


def test_the_numbered_equation_is_cited_where_there_is_one() -> None:
    assert [law(m).source.split(", ")[-1] for m in ("m1", "m2", "m3")] == [
        "section 2 (M1)", "section 2 (M2)", "section 2 (M3)",
    ]  # fmt: skip
    assert "section 3, eq. (M4)" in law("m4").source and "chance" in law("m4").note
    assert law("routed").source.endswith("eq. 1")
    assert "appendix A" in published("muennighoff-2023").source


@pytest.mark.parametrize("name", LAWS)
def test_the_latex_of_every_law_names_its_letters_and_can_be_drawn(name: str) -> None:
    from matplotlib.mathtext import MathTextParser

    chosen = law(name)
    MathTextParser("agg").parse(f"${chosen.latex}$")
    assert all(latex_name(letter) in chosen.latex for letter in chosen.symbols)


def test_latex_reads_as_in_the_papers() -> None:
    assert law("chinchilla")._repr_latex_() == f"${law('chinchilla').latex}$"
    assert law("chinchilla").latex == r"L = E + \frac{A}{N^{\alpha}} + \frac{B}{D^{\beta}}"
    assert law("kaplan_n").latex == r"L = \left(\frac{N_{c}}{N}\right)^{\alpha_{N}}"
    assert law("steplaw_lr").latex == r"\mathrm{learning\_rate} = k \, N^{a} \, D^{b}"
    assert latex_name("X_start") == r"X_{\mathrm{start}}" and latex_name("c0") == "c_{0}"
    x, y = feature("x", "x"), feature("y", "y")
    assert (1e-5 * (x - y)).latex == r"1 \times 10^{-5} \, \left(x - y\right)"
    assert (2 / (x * log(1 - y))).latex == r"\frac{2}{x \, \log\left(1 - y\right)}"


def test_a_formula_in_text_is_refused_and_a_source_need_not_be_given() -> None:
    with pytest.raises(Refusal, match=r"loss is 'E \+ A/N', not a formula\. Build it from floor"):
        Law("mine", "E + A/N")  # type: ignore[arg-type]
    mine = Law("mine", feature("N", "params") ** -exponent("alpha"))
    assert mine.source == "" and mine.coefficients == ("alpha",)
