"""Numbers are written in the reader's units, to the digits their interval supports."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.text import (
    COMPARED,
    against,
    bytes_text,
    count_of,
    counted,
    decimal,
    dollars,
    duration,
    factor,
    human,
    quotient,
    scientific,
    sizes,
    value_of,
    with_interval,
)

WRITERS = [human, scientific, decimal]
VALUES = st.floats(1e-6, 1e26)
OFF = st.floats(1.0001, 1e4)  # how far the ends of an interval lie, as factors


@pytest.mark.parametrize(
    ("value", "span", "text"),
    [
        (1.317e9, (1.1e9, 1.6e9), "1.32B"),
        (1.317e9, (1.316e9, 1.318e9), "1.3170B"),
        (1.317e9, (0.1e9, 5e9), "1.3B"),
        (3.397e9, (1.2e9, 9.8e9), "3.4B"),
        (49.07e9, (17e9, 140e9), "49B"),
        (14.44, (1.7, 117.0), "14"),
        (131e9, (20e9, 500e9), "131B"),
        (820_123.0, (700_000.0, 900_000.0), "820k"),
        (999_700.0, (100_000.0, 9_000_000.0), "1.0M"),
        (739.4e6, (111e6, 4.7e9), "739M"),
        (2784.25e12, None, "2.78e15"),
        (1.317e9, None, "1.32B"),
        (1e6, None, "1M"),
        (23.0, None, "23"),
        (0.31, (0.2, 0.4), "0.310"),
        (2.31e17, None, "2.31e17"),
    ],
)
def test_a_count_is_written_with_a_suffix_and_the_digits_its_interval_supports(value, span, text):
    assert human(value, span) == text


@pytest.mark.parametrize(("value", "text"), [(1e21, "1e21"), (5.76e23, "5.76e23"), (3e8, "3e8")])
def test_flops_come_out_as_they_are_typed(value, text):
    assert scientific(value) == text


@pytest.mark.parametrize(
    ("value", "span", "text"),
    [
        (1.81712, (1.78, 1.86), "1.82"),
        (1.81712, (1.8168, 1.8174), "1.8171"),
        (2.27, (0.012, 9.1), "2.3"),
        (0.5, None, "0.5000"),
        (8e-16, (8e-16, 1.6), "8.0e-16"),
        (62_100.0, (1.1e-69, 2.8e78), "6.2e4"),
        (2134.0, (float("nan"), float("nan")), "2.1e3"),
    ],
)
def test_a_plain_number_is_rounded_where_its_interval_stops(value, span, text):
    assert decimal(value, span) == text


def test_zero_and_what_is_not_finite_are_written_as_they_are():
    assert [human(0.0), human(float("inf")), decimal(float("nan"))] == ["0", "inf", "nan"]


def test_a_column_called_n_is_said_to_be_a_column() -> None:
    assert (count_of("params_total"), count_of("N")) == ("params_total", "column N")


def test_one_of_a_thing_is_not_many() -> None:
    assert [counted(n, "change") for n in (0, 1, 2000)] == [
        "0 changes",
        "1 change",
        "2,000 changes",
    ]


def unit(text: str) -> float:
    """Of the last digit of a printed number."""
    number = text.rstrip("TBMk")
    mantissa, _, exponent = number.partition("e")
    scale = value_of(text) / float(number) * 10.0 ** int(exponent or 0)
    return scale * 10.0 ** -len(mantissa.partition(".")[2])


def digits(text: str) -> int:
    """How many significant digits a printed number has."""
    return len(text.rstrip("TBMk").partition("e")[0].replace(".", "").lstrip("-0"))


@given(value=VALUES, below=OFF, above=OFF, write=st.sampled_from(WRITERS))
def test_a_printed_number_reads_back_to_half_a_unit_of_its_last_digit(value, below, above, write):
    span = (value / below, value * above)
    for number in (value, *span):
        text = write(number, span)
        assert abs(value_of(text) - number) <= 0.5001 * unit(text)


@given(value=VALUES, below=OFF, above=OFF, write=st.sampled_from(WRITERS))
def test_a_printed_number_has_two_digits_and_three_within_a_factor_of_two(
    value, below, above, write
):
    span = (value / below, value * above)
    least = 3 if span[1] <= 2 * span[0] else 2
    assert min(digits(write(number, span)) for number in (value, *span)) >= least


def ones(text: str) -> int:
    """How many digits stand before the point, which no rounding cuts."""
    return len(text.rstrip("TBMk").partition(".")[0])


@given(value=VALUES, below=OFF, above=OFF, write=st.sampled_from(WRITERS))
def test_no_number_has_more_digits_than_a_wide_interval_supports(value, below, above, write):
    span = (value / below / 2, value * above)
    for number in (value, *span):
        assert digits(text := write(number, span)) <= max(2, min(3, ones(text)))


@given(params=st.floats(1e3, 1e26), ratio=st.floats(0.05, 1e4), off=st.floats(2, 1e4))
def test_sizes_of_wide_intervals_and_of_none_have_three_digits(params, ratio, off):
    tokens = params * ratio
    spans = (*((v / off, v * off) for v in (params, tokens)), (ratio / off**2, ratio * off**2))
    for each in ((), spans):
        n, d, printed = sizes(params, tokens, *each)
        assert max(digits(n), digits(d)) <= 3
        assert digits(printed) <= max(2, min(3, ones(printed)))


@given(params=st.floats(1e3, 1e13), ratio=st.floats(0.05, 1e4), off=OFF)
def test_a_reader_who_divides_tokens_by_parameters_finds_the_ratio_that_is_printed(
    params, ratio, off
):
    tokens = params * ratio
    spans = (*((v / off, v * off) for v in (params, tokens)), (ratio / off**2, ratio * off**2))
    for each in ((), spans):
        n, d, printed = sizes(params, tokens, *each)
        assert abs(value_of(printed) - value_of(d) / value_of(n)) <= 0.5001 * unit(printed)
        assert abs(value_of(printed) - ratio) <= 0.5001 * unit(printed) + 0.0101 * ratio


@given(params=st.floats(1e3, 1e13), ratio=st.floats(0.05, 1e4), off=OFF)
def test_six_n_d_as_printed_is_the_budget_to_one_percent(params, ratio, off):
    tokens = params * ratio
    n, d, _ = sizes(params, tokens, *((v / off, v * off) for v in (params, tokens)))
    assert 6 * value_of(n) * value_of(d) == pytest.approx(6 * params * tokens, rel=0.0101)


@given(one=VALUES, other=VALUES)
def test_a_printed_factor_is_that_of_the_printed_numbers_and_right_to_one_percent(one, other):
    wide = [human(v, (v / 3, v * 3), COMPARED) for v in (one, other)]
    printed = quotient(*wide)
    assert printed == factor(value_of(wide[0]) / value_of(wide[1]))
    assert abs(value_of(printed) - one / other) <= 0.5001 * unit(printed) + 0.0101 * one / other


def test_a_size_beside_another_is_not_larger_and_a_smaller_factor_at_once():
    own, other = (human(v, (v / 3, v * 3), COMPARED) for v in (2.9e9, 2.67e9))
    assert (own, other, quotient(other, own)) == ("2.90B", "2.67B", "0.92")


def test_an_interval_is_written_with_one_place_where_it_is_narrow():
    assert with_interval(decimal, 0.998, (0.92, 1.13)) == "0.998 [0.920 … 1.130]"
    assert with_interval(human, 2e9, (2e9, 2e9)) == "2B"
    assert math.isclose(value_of("1.3170B"), 1.317e9)


def test_times_memory_and_money_are_said_in_units_of_their_size() -> None:
    times = [duration(each) for each in (4e-5, 45, 200, 1e5, 3e6, 1e12)]
    assert times == ["under a second", "45 s", "3.33 min", "27.8 h", "34.7 days", "31,688 years"]
    sizes = [bytes_text(each) for each in (62_400, 451e6, 12.34e9, 1.5e12)]
    assert sizes == ["62.4 kB", "451 MB", "12.3 GB", "1,500 GB"]
    assert [dollars(each) for each in (6e-7, 0.3123, 12.3, 4.5e6)] == [
        "under $0.01", "$0.31", "$12.3", "$4.5M",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "limits", "text"),
    [
        (0.012, (0.01, 0.05), "0.012"),
        (0.00996, (0.01, 0.05), "0.00996"),
        (0.0099, (0.01,), "0.0099"),
        (0.0499, (0.01, 0.05), "0.0499"),
        (2.994, (3,), "2.99"),
        (2.978, (3,), "2.98"),
        (3.0, (3,), "3"),
    ],
)
def test_a_number_is_never_rounded_across_the_limit_it_is_compared_with(value, limits, text):
    assert against(value, *limits) == text


def test_an_interval_that_is_not_known_is_not_written():
    assert with_interval(decimal, 0.92, (math.nan, math.nan)) == "0.92"
