"""Whether devices hold a run is said of the devices that were asked for, with what would fit."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.__main__ import main
from experiments.devices import device_named
from experiments.placing import place, placed, to_text
from models.decoder.sizes import count_params
from scaling.data.prepare import declared
from scaling.hardware import Hardware
from scaling.planning.layout import Layout
from scaling.planning.memory import step_memory
from scaling.planning.plan import Plan, make_plan
from scaling.study import read_study

STUDY = Path("experiments/accelerator.toml")


@pytest.fixture(scope="module")
def plan() -> Plan:
    study = read_study(STUDY)
    return make_plan(study, declared(study.data))


def test_the_estimate_is_what_libtpu_compiles_where_it_was_compiled(plan: Plan) -> None:
    each = placed(plan, device_named("tpu-v5e"), 8)
    assert each.memory.state == pytest.approx(3.3e9, rel=0.01)
    assert each.needed == pytest.approx(3.3e9 + 10.1e9, rel=0.03)  # tests/agreement
    assert each.verdict == "fits"


def test_state_is_divided_among_the_devices_and_activations_follow_the_microbatch(
    plan: Plan,
) -> None:
    run = max(plan.runs, key=lambda run: run.flops_per_token)
    one = step_memory(run, Layout(2))
    eight = step_memory(run, Layout(16, devices=8, sharding="fsdp"))
    assert one.state == 12 * count_params(run.model).total == 8 * eight.state
    assert one.activations == eight.activations


def test_what_does_not_fit_is_said_with_a_change_that_does(plan: Plan) -> None:
    run = max(plan.runs, key=lambda run: run.flops_per_token)
    for remat, tokens in (("none", 4096), ("full", None)):
        hardware = Hardware(tokens, "scanned", remat, sharding="fsdp")
        large = replace(run, dtype="bfloat16", hardware=hardware)
        each = place(large, device_named("h100-sxm"), 8)
        assert each.verdict != "fits"
        said = re.search(r"It (?:may|does) not fit\. Give (.*): about", to_text(each))
        assert said is not None
        found = re.search(r"microbatch_tokens = (\d+)", said[1])
        changed = replace(
            hardware,
            microbatch_tokens=int(found[1]) if found else tokens,
            remat="full" if 'remat = "full"' in said[1] else remat,
        )
        assert place(replace(large, hardware=changed), each.device, 8).verdict == "fits"


def test_a_plan_for_devices_shows_their_memory_and_their_time_and_nothing_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--device", "h100-sxm", "--count", "8", "--mfu", "0.4", "--json", tmp_path / "p.json")
    monkeypatch.setattr(sys, "argv", ["scaling", "plan", *map(str, (STUDY, *words))])
    assert main() == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert "on each  time on 8 h100-sxm" in header and "memory" not in header
    assert "years" not in "\n".join(lines) and "e+03 GB" not in "\n".join(lines)
    told = json.loads((tmp_path / "p.json").read_text())
    assert [each["verdict"] for each in told["memory"]] == ["fits"]
    assert {run["hours"] for run in told["runs"]} == {None}
