"""Time, money and memory of a run, against runs whose cost was printed."""

from __future__ import annotations

import re

import pytest

from analysis.recommend.cost import cost
from experiments.cli.join.devices import device_named
from models.devices import devices
from scaling.store.records import Refusal


# Touvron et al. 2023 (arXiv:2302.13971): 65.2B parameters on 1.4T tokens, "around 380 tokens/s
# /GPU" on 2048 A100 with 80 GB, "approximately 21 days", 1,022,362 GPU-hours (sections 2.4, 6).
def test_llama_65B_takes_the_gpu_hours_its_makers_printed():
    device = device_named("a100-80gb")
    mfu = 380 * 6 * 65.2e9 / device.peak["bf16"]
    run = cost(6 * 65.2e9 * 1.4e12, 65.2e9, device, count=2048, mfu=mfu)
    assert run.device_hours == pytest.approx(1_022_362, rel=0.01)
    assert run.seconds / 86_400 == pytest.approx(21, rel=0.02)


def test_dollars_are_hours_times_the_list_price_or_none():
    run = cost(1e22, 7e9, device_named("h100-sxm"), count=8, mfu=0.4)
    assert run.dollars == pytest.approx(run.device_hours * 6.88)
    assert cost(1e22, 7e9, device_named("mi300x"), count=8, mfu=0.4).dollars is None


def test_twice_the_devices_take_half_the_time_and_the_same_device_hours():
    one, two = (cost(1e22, 1e9, device_named("h100-sxm"), count=k, mfu=0.4) for k in (8, 16))
    assert one.seconds == 2 * two.seconds
    assert one.device_hours == two.device_hours
    assert one.state_bytes == 2 * two.state_bytes


def test_what_cannot_fit_is_refused_with_the_least_number_of_devices():
    device = device_named("h100-sxm")
    with pytest.raises(Refusal, match=r"70B parameters need 140 GB .* at least 14 devices"):
        cost(1e24, 70e9, device, count=8, mfu=0.4)
    assert cost(1e24, 70e9, device, count=14, mfu=0.4).state_bytes <= device.memory


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mfu": 0.0}, "mfu = 0"),
        ({"mfu": 40.0}, "mfu = 40"),
        ({"count": 0}, "count = 0"),
        ({"dtype": "fp4"}, "dtype = fp4 has no peak .* fp8, bf16"),
        ({"flops": -1.0}, "flops = -1"),
        ({"params": float("nan")}, "params = nan"),
    ],
)
def test_a_cost_of_nothing_possible_is_refused(change, words):
    usual = {"flops": 1e22, "params": 1e9, "count": 8, "mfu": 0.4, "dtype": "bf16"}
    with pytest.raises(Refusal, match=words):
        cost(device=device_named("h100-sxm"), **{**usual, **change})


def test_the_accelerators_people_rent_are_there():
    known = set(devices())
    assert {f"tpu-{each}" for each in ("v4", "v5e", "v5p", "v6e")} <= known
    assert {"a100-40gb", "a100-80gb", "h100-sxm", "h100-pcie", "h200", "b200"} <= known
    assert {"mi300x", "l4", "a10"} <= known


def test_a_device_is_meant_whose_name_begins_so():
    with pytest.raises(Refusal, match=r"Did you mean h100-sxm or h100-pcie\?"):
        device_named("h100")


def test_every_figure_of_the_table_has_a_dated_source():
    for each in devices().values():
        assert re.search(r"\b20\d\d\b", each.source), each.name
        assert (each.price is None) == (each.price_date == "")
        assert each.price is None or each.price_source


def test_number_formats_of_half_the_width_are_about_twice_as_fast():
    for each in devices().values():
        if "fp8" in each.peak:
            assert each.peak["fp8"] == pytest.approx(2 * each.peak["bf16"], rel=0.01)
        if "tf32" in each.peak:
            assert each.peak["bf16"] == pytest.approx(2 * each.peak["tf32"], rel=0.025)  # rounded


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("peak = { bf16 = 1e12 }\nmemory = 1e9", "no source"),
        ('peak = { bf16 = -1.0 }\nmemory = 1e9\nsource = "x 2024"', "bf16 = -1"),
        ('peak = { bf16 = 1e12 }\nmemory = 1e9\nsource = "x"\nprice = 2.0', "price_date"),
        ('peak = { bf16 = 1e12 }\nmemory = 1e9\nsource = "x"\ncores = 2', "'cores'"),
    ],
)
def test_ones_own_table_is_checked_and_used(tmp_path, text, words):
    path = tmp_path / "mine.toml"
    path.write_text(f"[mine]\n{text}\n")
    with pytest.raises(Refusal, match=words):
        device_named("mine", path)
    path.write_text('[mine]\npeak = { bf16 = 1e14 }\nmemory = 1e11\nsource = "mine, 2026"\n')
    assert cost(1e20, 1e9, device_named("mine", path), count=1, mfu=0.5).seconds == 2e6
    assert device_named("h100-sxm", path) == device_named("h100-sxm")
    with pytest.raises(Refusal, match=r"no device 'yours' in .*mine.toml. Known: .*tpu-v6e, mine"):
        device_named("yours", path)


def test_ones_own_price_replaces_the_list_price(tmp_path):
    path = tmp_path / "contract.toml"
    path.write_text(
        '[h100-sxm]\npeak = { bf16 = 989e12 }\nmemory = 80e9\nsource = "data sheet, 2023"\n'
        'price = 2.0\nprice_source = "contract"\nprice_date = "2026-11"\n'
    )
    run = cost(1e22, 7e9, device_named("h100-sxm", path), count=8, mfu=0.4)
    assert run.dollars == pytest.approx(2 * run.device_hours)


def test_the_line_for_the_terminal_says_price_and_date():
    text = cost(1e22, 7e9, device_named("h100-sxm"), count=8, mfu=0.4).text()
    assert text.startswith(
        "8 × h100-sxm at 40% of 9.89e14 FLOP/s (bf16): 36.6 days, 7.02k device-hours"
    )
    assert "p5.48xlarge" in text and "2026-07-28" in text
