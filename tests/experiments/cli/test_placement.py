"""How sizes are laid out, and whether they fit, is said of the devices that were asked for."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.__main__ import main
from experiments.cli.join.devices import device_named
from experiments.cli.join.placement import placed_here, placed_on, places_for
from experiments.cli.render.layouts import placing_text
from scaling.data.prepare import declared
from scaling.hardware import Hardware
from scaling.launch.slots import Host
from scaling.planning.plan import Plan, make_plan
from scaling.spec import RunSpec
from scaling.store.records import Refusal
from scaling.study import read_study
from scaling.training.compiling import Compiled, Topology

STUDY = Path("experiments/accelerator.toml")
H200 = Host("gpu", "NVIDIA H200", tuple("01234567"), 130e9)


@pytest.fixture(scope="module")
def plan() -> Plan:
    study = read_study(STUDY)
    return make_plan(study, declared(study.data))


@pytest.fixture(scope="module")
def derived(plan: Plan) -> list[RunSpec]:
    """Its runs, with nothing asked of their layout."""
    return [replace(run, hardware=Hardware()) for run in plan.runs]


@pytest.mark.parametrize("name", ["h100-sxm", "h200", "tpu-v5e", "tpu-v5p", "a100-40gb"])
def test_the_study_for_accelerators_fits_eight_devices(derived: list[RunSpec], name: str) -> None:
    placing = placed_on(derived, device_named(name), 8)
    assert placing.verdict == "fits"
    assert len(placing.sizes) == len({run.model for run in derived})
    layouts = {each.run.params.total: each.layout.execution for each in placing.sizes}
    assert layouts[min(layouts)].remat == "none"  # 12M parameters compute nothing again


def test_a_size_that_does_not_fit_is_said_beside_those_that_do(derived: list[RunSpec]) -> None:
    placing = placed_on(derived, device_named("l4"), 1)
    assert placing.verdict == "does not fit" and placing.sizes
    header, columns, *rows = placing_text(placing)
    assert (
        header == "Layouts on 1 × l4, with 22.1 GB for each (92% of its data sheet's):"
        and "remat" in columns
    )
    lost = [row for row in rows if row.startswith("Does not fit 1 × l4: params = ")]
    assert len(lost) == len(placing.too_large) and "Give each run" in lost[0]
    with pytest.raises(Refusal, match="params = "):
        placing.refuse_too_large()


def test_sizes_that_are_laid_out_alike_are_one_line(plan: Plan) -> None:
    small = [replace(run, dtype="float32") for run in plan.runs][:1]
    host = Host("cpu", "cpu", ("0",))
    (line,) = placing_text(placed_here(small, places_for(small, host)))
    assert line.startswith("Layout of every size on 1 × CPU: microbatch ")
    assert line.endswith(" on each device.") and len(line) < 250 and line.count("\n") == 1


def test_a_worker_is_given_the_devices_and_the_memory_of_its_slot(derived: list[RunSpec]) -> None:
    largest = max(derived, key=lambda run: run.params.total)
    alone = placed_here([largest], places_for([largest], H200)).target
    shared = placed_here([largest], places_for([largest], H200, runs_per_device=2)).target
    several = placed_here([largest], places_for([largest], H200, devices_per_run=4)).target
    assert (alone.devices, shared.devices, several.devices) == (1, 1, 4)
    assert (alone.memory, shared.memory) == (130e9, 65e9)
    # A kind that nobody knows has what jax says, and what says nothing is small, as in a worker.
    unknown = replace(H200, kind="NVIDIA X1")
    unnamed = placed_here([largest], places_for([largest], unknown)).target
    assert unnamed == replace(alone, capability=None)
    small = replace(unknown, memory=None)
    assert placed_here([largest], places_for([largest], small)).target.devices > 1


def test_runs_that_do_not_fit_a_part_of_a_device_are_refused_with_how_many_may_share_it(
    derived: list[RunSpec],
) -> None:
    largest = max(derived, key=lambda run: run.params.total)
    words = (
        r"^--runs-per-device 16: .* parameters .* do not fit 1/16 of NVIDIA H200\. Give at most "
    )
    with pytest.raises(Refusal, match=words) as error:
        places_for(derived, H200, runs_per_device=16)
    most = int(str(error.value).split()[-1].rstrip("."))
    assert 1 < most < 16
    placing = placed_here([largest], places_for([largest], H200, runs_per_device=most))
    assert placing.target.devices == 1 and not placing.too_large
    with pytest.raises(Refusal, match="do not fit"):
        places_for([largest], H200, runs_per_device=most + 1)
    small = replace(H200, kind="NVIDIA L4", memory=22e9)
    with pytest.raises(Refusal, match=r"1/2 of NVIDIA L4\. Leave it out\."):
        places_for([largest], small, runs_per_device=2)
    assert len(places_for(derived[:1], H200, runs_per_device=2).slots) == 16


def test_a_batch_that_makes_small_microbatches_alone_is_said_with_a_better_one(
    derived: list[RunSpec],
) -> None:
    odd = [replace(run, batch_sequences=127) for run in derived]
    *_, said = placing_text(placed_on(odd, device_named("h200"), 1))
    assert " ".join(said.split()) == (
        "warning: a device's share of batch_sequences = 127 divides into microbatches of 1 × "
        "2,048 tokens, and 1 × h200 could take more than four times as many, which are faster. "
        "Give batch_sequences = 128."
    )
    assert "warning" not in "".join(placing_text(placed_on(derived, device_named("h200"), 1)))


def test_a_run_that_needs_several_devices_gets_them(derived: list[RunSpec]) -> None:
    largest = max(derived, key=lambda run: run.params.total)
    host = replace(H200, kind="NVIDIA L4", memory=22e9)
    placing = placed_here([largest], places_for([largest], host))
    assert placing.target.devices > 1 and not placing.too_large


def test_a_plan_for_devices_shows_layouts_and_times_and_nothing_of_this_machine(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ("--device", "h100-sxm", "--count", "8", "--mfu", "0.4", "--json", tmp_path / "p.json")
    monkeypatch.setattr(sys, "argv", ["scaling", "plan", *map(str, (STUDY, *words))])
    assert main() == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert "time on 8 h100-sxm" in header and "memory" not in header
    assert any(re.match(r"Layouts? .*on 8 × h100-sxm", line) for line in lines)
    assert "years" not in "\n".join(lines) and "e+03 GB" not in "\n".join(lines)
    told = json.loads((tmp_path / "p.json").read_text())
    (placing,) = told["memory"]
    assert (placing["verdict"], placing["platform"], placing["count"]) == ("fits", "gpu", 8)
    assert {size["layout"]["execution"]["attention"] for size in placing["sizes"]} == {"cudnn"}
    assert max(size["memory"]["total"] for size in placing["sizes"]) == placing["needed_bytes"]
    assert {run["hours"] for run in told["runs"]} == {None} and told["compiled"] is None


def test_a_grid_that_its_devices_cannot_train_is_refused_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """On one small GPU; what is asked for is refused alike, whatever the memory."""
    host = replace(H200, kind="NVIDIA L4", devices=("0",), memory=22e9)
    monkeypatch.setattr("scaling.launch.slots.this_host", lambda: host)
    monkeypatch.setattr("scaling.training.flags.version", lambda name: "0.11.1")
    words: tuple[Any, ...] = ("run", STUDY, "--dry-run", "--results", tmp_path)
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    assert main() == 2
    said = capsys.readouterr().err
    assert said.startswith("scaling run: error: params = ")
    assert len(said.splitlines()) > 1 and said.count("Give each run") == len(said.splitlines())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("needed", "word"), [(12e9, "and fits"), (17e9, "and does not fit")])
def test_a_compiled_step_is_said_beside_the_estimate(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    needed: float,
    word: str,
) -> None:
    asked: list[RunSpec] = []

    def compiled(run: RunSpec, topology: Topology) -> Compiled:
        asked.append(run)
        return Compiled(needed, 63.0)

    monkeypatch.setattr("experiments.cli.join.placement.compile_step", compiled)
    words = ("plan", STUDY, "--compile", "tpu-v5e:2x4", "--json", tmp_path / "p.json")
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, words)])
    assert main() == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"needs {needed / 1e9:.0f} GB on each chip of 16 GB, {word}. The estimate is " in said
    told = json.loads((tmp_path / "p.json").read_text())["compiled"]
    assert told["fits"] == (word == "and fits") and told["topology"] == "tpu-v5e:2x4"
    assert [run.run_id for run in asked] == [told["run_id"]]
    assert told["estimated_bytes"] < 16e9
