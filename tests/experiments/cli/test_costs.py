"""A grid's time on a device rests on a share of its peak that was given or measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.join import costs
from experiments.cli.join.costs import Bill, bill_of, missing
from experiments.cli.join.devices import DeviceOptions, device_named
from scaling.data.prepare import declared
from scaling.planning.plan import Plan, make_plan
from scaling.spec import spent_flops
from scaling.store.records import Refusal
from scaling.study import read_study

H200 = device_named("h200")


@pytest.fixture(scope="module")
def plan() -> Plan:
    study = read_study(Path("experiments/accelerator.toml"))
    return make_plan(study, declared(study.data))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """What a benchmark could have written: 20% of the peak at 1M parameters, 50% at 1T."""
    usual = {"variant": "default", "dtype": "bfloat16", "device_kind": "NVIDIA H200"}
    rows = [{**usual, "params_total": n, "mfu": mfu} for n, mfu in ((1e6, 0.2), (1e12, 0.5))]
    path = tmp_path / "accelerator-h200.json"
    path.write_text(
        json.dumps(
            {"date": "2026-11-29T10:00:00+00:00", "versions": {"jax": "0.11.2"}, "rows": rows}
        )
    )
    return path


def bill(plan: Plan, **asked: Any) -> Bill | None:
    device, file = asked.pop("device", H200), asked.pop("file", None)
    return bill_of(plan, device, DeviceOptions(**asked), file)


def test_each_runs_time_is_by_what_was_measured_at_its_size(plan: Plan, file: Path) -> None:
    made = bill(plan, file=file)
    assert made is not None
    # Six decades of size for .3 of share: .05 a decade.
    for run, seconds in zip(plan.runs, made.seconds, strict=True):
        digits = len(str(run.params.total)) - 1
        share = spent_flops(run) / (seconds * H200.peak["bf16"])
        assert 0.2 + 0.05 * (digits - 6) <= share < 0.2 + 0.05 * (digits - 5)
    assert made.cost.seconds == pytest.approx(sum(made.seconds), rel=1e-9)
    assert "one device at 1M to 1T parameters (accelerator-h200.json, 2026" in made.basis
    assert "outside" not in made.basis and "communication" not in made.basis


def test_what_was_not_measured_is_said(plan: Plan, file: Path) -> None:
    found = json.loads(file.read_text())
    file.write_text(json.dumps({**found, "rows": found["rows"][:1]}))
    made = bill(plan, file=file, count=8)
    assert made is not None
    sizes = len({run.params.total for run in plan.runs})
    assert f"{sizes} of {sizes} sizes lie outside" in made.basis
    assert "the loss to communication between devices was not measured" in made.basis


def test_a_given_share_is_taken_instead(
    plan: Plan, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "RESULTS", file.parent)
    made = bill(plan, mfu=0.4, file=None)
    assert made is not None and made.basis == "0.4 of the peak, from --mfu"
    assert made.cost.mfu == pytest.approx(0.4, rel=1e-12)
    assert sum(made.seconds) == pytest.approx(plan.flops_spent / (0.4 * 989e12), rel=1e-9)


def test_a_measurement_of_the_checkout_is_found_by_the_devices_kind(
    plan: Plan, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "RESULTS", file.parent)
    assert bill(plan, file=None) == bill(plan, file=file)
    l4 = device_named("l4")
    assert bill(plan, file=None, device=l4) is None
    assert "on l4 (benchmarks/accelerator.py" in missing([H200, l4], [bill(plan, file=None)])  # type: ignore[list-item]


def test_a_file_that_says_nothing_of_the_device_is_refused(plan: Plan, file: Path) -> None:
    with pytest.raises(Refusal, match=r"has no row of l4 in bfloat16\. Give --mfu"):
        bill(plan, file=file, device=device_named("l4"))


def test_bfloat16_says_nothing_of_other_number_formats(plan: Plan, file: Path) -> None:
    assert bill(plan, file=file, dtype="fp8") is None
    single = replace(plan, runs=(replace(plan.runs[0], dtype="float32"), *plan.runs[1:]))
    with pytest.raises(Refusal, match="is for bfloat16; runs are in float32"):
        bill(single, file=file)


def test_a_bill_is_of_the_peak_that_the_plans_products_have(plan: Plan) -> None:
    single = replace(plan, runs=(replace(plan.runs[0], dtype="float32"), *plan.runs[1:]))
    found = {one.cost.dtype for one in (bill(plan, mfu=0.4), bill(single, mfu=0.4)) if one}
    assert found == {"bf16", "tf32"}
    with pytest.raises(Refusal, match=r"float32 on mi300x: give --dtype, one of fp8"):
        bill(single, mfu=0.4, device=device_named("mi300x"))
