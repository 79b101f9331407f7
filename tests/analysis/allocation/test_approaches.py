from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.allocation.approaches import Approach, Approaches, approaches, comparable
from analysis.allocation.envelope import envelope
from analysis.figures.isoflop import optima_figures
from analysis.fitting.files import load_fit, save_fit
from analysis.fitting.fit import Fit, fit
from analysis.interval import Interval
from analysis.laws.catalogue import LAWS, law
from analysis.laws.optimum import compute_optimal
from analysis.laws.published import Published, published
from analysis.runs.filter import meets
from scaling.store.records import Refusal

BUDGETS = np.geomspace(1e18, 1e21, 7)


def isoflops(truth: Published, noise: float = 0.0, width: float = 0.7) -> pd.DataFrame:
    """Nine sizes about the best at each budget, the sizes of neighbours the same."""
    rng = np.random.default_rng(0)
    ladder = 10 ** np.arange(4.0, 14.0, 0.125)
    tables = []
    for flops in BUDGETS:
        best = float(compute_optimal(truth.law, truth.coefficients, float(flops)).params)
        params = ladder[np.abs(np.log10(ladder / best)) < width]
        features = {"params": params, "tokens": flops / (6 * params)}
        error = np.exp(rng.normal(0, noise, len(params)))
        tables.append(pd.DataFrame({**features, "loss": truth.predict(features) * error}))
    return pd.concat(tables, ignore_index=True)


def fitted(table: pd.DataFrame, **settings: Any) -> Fit:
    return fit(law("chinchilla"), table, checks=False, **{"bootstrap": 200, **settings})


def by_method(found: Approaches) -> dict[str, Approach]:
    return {each.method: each for each in found.rows}


def test_all_four_find_the_exponent_and_the_size_of_a_noise_free_law() -> None:
    truth = published("besiroglu-2024")
    found = approaches(fitted(isoflops(truth)))
    exponent = 0.3658 / (0.3478 + 0.3658)
    best = compute_optimal(truth.law, truth.coefficients, found.flops)
    assert list(by_method(found)) == ["1 envelope", "2 parabola", "2 Akima", "3 law"]
    for each in found.rows:
        assert each.exponent == pytest.approx(exponent, abs=3e-3)
        assert each.params == pytest.approx(float(best.params), rel=0.04)
        assert each.tokens == pytest.approx(float(best.tokens), rel=0.04)
    assert BUDGETS[0] < found.flops < BUDGETS[-1]
    assert "agree with the law" in found.sentence


def test_with_noise_the_intervals_hold_the_truth_and_overlap() -> None:
    found = approaches(fitted(isoflops(published("besiroglu-2024"), noise=0.003)))
    for each in found.rows:
        assert each.interval is not None
        assert each.interval.low < 0.3658 / 0.7136 < each.interval.high
    assert "disagree" not in found.sentence


def test_a_budget_counted_otherwise_is_placed_at_6nd() -> None:
    table = isoflops(published("besiroglu-2024"))
    labelled = table.assign(budget_flops=6 * table["params"] * table["tokens"] * 1.15)
    one, other = approaches(fitted(table)), approaches(fitted(labelled))
    assert one.flops == pytest.approx(other.flops)
    for a, b in zip(one.rows, other.rows, strict=True):
        assert a.params == pytest.approx(b.params)


def test_on_besiroglus_points_all_agree_with_hoffmanns_three_answers(
    epoch: pd.DataFrame,
) -> None:
    found = by_method(approaches(fitted(epoch.head(240))))
    # Hoffmann et al. 2022, table 2: 0.50, 0.49 and 0.46; Besiroglu's refit of the last 0.51.
    printed = {"1 envelope": 0.50, "2 parabola": 0.49, "2 Akima": 0.49, "3 law": 0.513}
    for method, answer in printed.items():
        interval = found[method].interval
        assert interval is not None
        assert interval.low < answer < interval.high


def test_the_law_reads_porians_exponent_a_tenth_below_their_own_minima(
    reference: Callable[[str], Path],
) -> None:
    runs = pd.read_csv(reference("porian/isoflop_points.csv"))
    chosen = (runs["warmup"] == "long") & (runs["param_count"] == "standard")
    found = approaches(fitted(runs[chosen]))
    rows = by_method(found)
    assert rows["2 Akima"].exponent == pytest.approx(0.7009, abs=5e-3)
    assert rows["1 envelope"].exponent == pytest.approx(0.7009, abs=5e-3)
    assert rows["2 Akima"].exponent - rows["3 law"].exponent > 0.1
    assert "2 Akima cannot be separated from the law" in found.sentence  # whose interval is wide


def cut_by_total_n(table: pd.DataFrame) -> pd.DataFrame:
    """The sizes of `table` at budgets of equal 6·N·D with the embedding, true in N without it."""
    budget = 6 * table["params"] * table["tokens"]
    total = table["params"] + 2e8 * (table["params"] / 1e9) ** 0.5  # width grows as √N
    cut = table.assign(budget_flops=budget, tokens=budget / (6 * total))
    features = {name: cut[name].to_numpy() for name in ("params", "tokens")}
    return cut.assign(loss=published("besiroglu-2024").predict(features))


def test_budgets_cut_by_total_n_are_no_isoflops_of_the_non_embedding_n() -> None:
    # Noise-free, and true in the N fitted, so that the law and the envelope are right.
    found = approaches(fitted(cut_by_total_n(isoflops(published("besiroglu-2024")))))
    rows = by_method(found)
    for method in ("2 parabola", "2 Akima"):
        assert rows[method].exponent is None
        assert "budgets were cut at another count of compute" in rows[method].reason
    for method in ("1 envelope", "3 law"):
        assert rows[method].exponent == pytest.approx(0.5126, abs=3e-3)
    assert "parabola is biased" not in found.sentence


def approach(method: str, exponent: float | None, width: float | None = 0.02) -> Approach:
    if exponent is None:
        return Approach(method, None, None, None, None, "", "there was nothing")
    span = None if width is None else Interval(exponent - width, exponent + width)
    return Approach(method, exponent, span, 1e9, 2e10, "runs", "")


@pytest.mark.parametrize(
    ("exponents", "said"),
    [
        ((0.51, 0.49, 0.50, 0.5), "0.01, within the intervals (up to ± 0.02)"),
        ((0.51, 0.49, 0.50, 0.5), "1 envelope, 2 parabola and 2 Akima agree with the law"),
        ((0.51, 0.56, 0.50, 0.5), "2 parabola disagrees: a lies 0.06 above the law's"),
        ((0.51, 0.56, 0.50, 0.5), "a parabola is biased where alpha and beta differ"),
        ((0.51, 0.49, 0.40, 0.5), "2 Akima disagrees: a lies 0.1 below"),
        ((0.51, 0.49, 0.40, 0.5), "assumes no form of the loss"),
        ((None, None, None, 0.5), "Only the law gives an exponent here (approaches 1 and 2: there"),
        ((0.51, 0.49, 0.50, None), "The law has no exponent to compare with: there was nothing"),
    ],
)
def test_the_sentence_says_who_disagrees_which_way_and_why(
    exponents: tuple[float | None, ...], said: str
) -> None:
    names = ("1 envelope", "2 parabola", "2 Akima", "3 law")
    rows = tuple(approach(name, a) for name, a in zip(names, exponents, strict=True))
    assert said in Approaches(1e20, 0.9, rows).sentence


def test_a_reading_apart_from_the_law_is_a_caution_and_agreement_none() -> None:
    law_row = approach("3 law", 0.5)
    alike, apart = (
        Approaches(1e20, 0.9, (approach("1 envelope", a), law_row)) for a in (0.51, 0.6)
    )
    assert alike.cautions == ()
    assert "1 envelope 0.600 [0.580 … 0.620], 3 law 0.500" in apart.cautions[0]


@pytest.mark.parametrize(
    ("akima", "said"),
    [
        (
            approach("2 Akima", 0.54, 0.1),
            "2 Akima agrees with the law, a differing by at most 0.04",
        ),
        (
            approach("2 Akima", 0.7, 0.55),
            "2 Akima cannot be separated from the law (a differs by 0.2, interval ± 0.55)",
        ),
        (approach("2 Akima", 0.503, 0.001), "2 Akima agrees with the law"),
        (approach("2 Akima", 0.5, None), "2 Akima: no interval to compare by"),
    ],
)
def test_wide_intervals_are_no_agreement(akima: Approach, said: str) -> None:
    law_row = approach("3 law", 0.5, 0.0 if akima.exponent == 0.503 else 0.02)
    found = Approaches(1e20, 0.9, (approach("1", None), approach("2", None), akima, law_row))
    assert said in found.sentence
    assert ("agree" in found.sentence) == ("agree" in said)


def test_without_an_interval_of_the_law_nothing_is_compared() -> None:
    rows = (*(approach(name, 0.5) for name in ("1 envelope", "2 parabola", "2 Akima")),)
    found = Approaches(1e20, 0.9, (*rows, approach("3 law", 0.5, None)))
    assert "1 envelope, 2 parabola and 2 Akima: no interval to compare by" in found.sentence


def test_two_points_without_an_interval_neither_agree_nor_disagree() -> None:
    rows = (*(approach(name, None) for name in "12"), approach("2 Akima", 0.9, None))
    found = Approaches(1e20, 0.9, (*rows, approach("3 law", 0.5)))
    assert "2 Akima: no interval to compare by" in found.sentence
    assert "agree" not in found.sentence


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        (
            lambda t: t.iloc[::9],
            "1 sizes have two or more budgets",
            "at most 2 sizes at equal compute",
        ),
        (
            lambda t: t.assign(budget_flops=-1.0),
            "",
            "budget_flops is not a positive finite number in 80 of 80 rows",
        ),
        (lambda t: t.assign(budget_flops=1e18), "", "cut at another count of compute"),
        (
            lambda t: pd.concat([t.assign(variant="lr=1"), t.assign(variant="lr=2")]),
            "2 variants of the study (select one: --where 'variant==lr=1')",
            "2 variants of the study (select one: --where 'variant==lr=1')",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_a_reason_and_the_fit_stands(
    change: Callable[[pd.DataFrame], pd.DataFrame], first: str, second: str
) -> None:
    found = by_method(approaches(fitted(change(isoflops(published("besiroglu-2024"))))))
    assert found["2 parabola"].exponent is None
    assert first in found["1 envelope"].reason
    assert second in found["2 parabola"].reason
    assert found["3 law"].exponent == pytest.approx(0.5126, abs=1e-3)


def test_a_row_without_a_budget_belongs_to_none_and_rows_twice_change_nothing() -> None:
    table = isoflops(published("besiroglu-2024"))
    once = approaches(fitted(table.assign(budget_flops=6 * table["params"] * table["tokens"])))
    labelled = table.assign(budget_flops=6 * table["params"] * table["tokens"])
    strays = table.assign(budget_flops=np.nan, tokens=table["tokens"] * 1.3)
    features = {name: strays[name].to_numpy() for name in ("params", "tokens")}
    strays["loss"] = published("besiroglu-2024").predict(features)
    again = approaches(fitted(pd.concat([labelled, labelled, strays], ignore_index=True)))
    for method in ("2 parabola", "2 Akima"):
        assert by_method(again)[method].exponent == pytest.approx(by_method(once)[method].exponent)
        assert by_method(again)[method].used == "7 of 7 budgets"


def test_only_a_law_of_params_and_tokens_can_be_compared(grid: pd.DataFrame) -> None:
    assert {name for name in LAWS if comparable(LAWS[name])} >= {"chinchilla", "kaplan_nd"}
    assert not comparable(law("allocation_n")) and not comparable(law("kaplan_n"))
    table = grid.assign(loss=1.7 + 400 / grid["params"] ** 0.34)
    with pytest.raises(Refusal, match="cannot divide"):
        approaches(fit(law("kaplan_n"), table, bootstrap=0))


def test_they_are_kept_beside_the_fit_which_loads_with_them_and_without(tmp_path: Path) -> None:
    table = isoflops(published("besiroglu-2024"))
    made = fitted(table.assign(budget_flops=6 * table["params"] * table["tokens"]))
    save_fit(made, tmp_path / "with.json", {"approaches": approaches(made).to_json()})
    save_fit(made, tmp_path / "without.json")
    loaded = load_fit(tmp_path / "with.json")
    assert loaded.coefficients == load_fit(tmp_path / "without.json").coefficients
    # The budgets' labels are kept with the rows, so that a figure is of the same budgets.
    assert approaches(loaded).sentence == approaches(made).sentence


def test_figures_are_drawn_where_there_is_something_to_see() -> None:
    table = isoflops(published("besiroglu-2024"))
    drawn = optima_figures(fitted(table, bootstrap=0))
    assert list(drawn) == ["isoflop", "envelope"]
    left, right = drawn["isoflop"].axes[:2]
    assert left.get_legend().get_texts()[0].get_text() == "C = 1e18"
    assert "a = 0.512" in right.get_legend().get_texts()[0].get_text()
    assert optima_figures(fitted(table.iloc[::9], bootstrap=0)) == {}


def test_no_figure_shows_what_the_sentence_refuses() -> None:
    table = isoflops(published("besiroglu-2024"))
    two_sizes = table[table["params"].isin(table["params"].value_counts().index[:2])]
    fit_of_two = replace(fitted(table, bootstrap=0), table=two_sizes)
    assert len(envelope(two_sizes).crossings) == 1
    assert "2 best at some compute" in by_method(approaches(fit_of_two))["1 envelope"].reason
    assert optima_figures(fit_of_two) == {}
    assert list(optima_figures(fitted(cut_by_total_n(table), bootstrap=0))) == ["envelope"]
    swept = pd.concat([table.assign(variant="lr=1"), table.assign(variant="lr=2")])
    assert optima_figures(fitted(swept, bootstrap=0)) == {}


def test_several_variants_are_warned_of_also_when_the_fit_is_loaded(tmp_path: Path) -> None:
    table = isoflops(published("besiroglu-2024"))
    variants = ["a.rate=0.5 b.norm=true", "a.rate=1 b.norm=true"]
    both = pd.concat([table.assign(variant=name) for name in variants], ignore_index=True)
    swept = fitted(both)
    warned = [each for each in swept.warnings if "2 variants" in each]
    assert warned and "--where 'variant==a.rate=0.5 b.norm=true'" in warned[0]
    save_fit(swept, tmp_path / "swept.json")
    assert by_method(approaches(load_fit(tmp_path / "swept.json")))["2 parabola"].exponent is None
    one = fitted(both[meets(both, [f"variant=={variants[1]}"])])
    assert not any("variant" in each for each in one.warnings)
    assert by_method(approaches(one))["2 parabola"].exponent is not None


def test_a_row_far_off_the_law_makes_no_minimum_and_no_envelope() -> None:
    table = isoflops(published("besiroglu-2024"), noise=0.003)
    slipped = table.assign(loss=table["loss"].where(table.index != 30, 10 * table["loss"]))
    found, without = approaches(fitted(slipped)), approaches(fitted(table.drop(30)))
    for mine, other in zip(found.rows[:3], without.rows[:3], strict=True):
        assert mine.exponent == pytest.approx(other.exponent, rel=1e-12)
        assert "1 row far off the law left out" in mine.reason
