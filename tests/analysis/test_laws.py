from __future__ import annotations

import numpy as np
import pytest

from analysis.expression import derivative, evaluate, symbols
from analysis.laws import LAWS, Law, law
from analysis.published import PUBLISHED, published
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
def test_derivatives_agree_with_differences(name: str) -> None:
    chosen, at, step = law(name), sample(law(name)), 1e-6
    for node in symbols(chosen.loss):
        assert node.symbol is not None
        letter = node.symbol.name
        up, down = at | {letter: at[letter] + step}, at | {letter: at[letter] - step}
        rise = (evaluate([chosen.loss], up)[0] - evaluate([chosen.loss], down)[0]) / (2 * step)
        exact = evaluate([derivative(chosen.loss, node)], at)[0]
        assert exact == pytest.approx(rise, rel=1e-6, abs=1e-8)


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
