"""The study for accelerators is costed before anything is bought, and its step lowers for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli.__main__ import main
from experiments.cli.join.devices import device_named

STUDY = "experiments/accelerator.toml"


def scaling(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["scaling", *map(str, arguments)])
    return main()


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> dict:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    device = ("--device", "h100-sxm", "tpu-v5p", "--count", "16", "--mfu", "0.4")
    command = [sys.executable, "-m", "experiments.cli", "plan", STUDY, *device, "--json", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return json.loads(path.read_text())


def test_every_run_of_a_budget_costs_the_budget_within_one_percent(planned: dict) -> None:
    runs = pd.DataFrame(planned["runs"])
    points = runs[runs["run_kind"] == "cooldown"]
    budgets = sorted(points["budget_flops"].unique())
    assert (budgets[0], budgets[-1], len(budgets)) == (1e17, 1e20, 7)
    assert (points["flops_6nd"] / points["budget_flops"] - 1).abs().max() < 0.01
    assert (points[points["seed"] == 0].groupby("budget_flops").size() == 7).all()


def test_the_cost_on_a_device_is_the_grids_flops_over_what_the_device_does(planned: dict) -> None:
    for bill, name in zip(planned["cost"], ("h100-sxm", "tpu-v5p"), strict=True):
        rate = 16 * 0.4 * device_named(name).peak["bf16"]
        assert bill["seconds"] == pytest.approx(planned["flops_spent"] / rate)
        assert bill["device_hours"] == pytest.approx(16 * bill["seconds"] / 3600)
        price = device_named(name).price
        assert price is not None and bill["dollars"] == pytest.approx(price * bill["device_hours"])


def test_devices_that_a_microbatch_cannot_use_are_not_priced(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    device = ("--device", "h100-sxm", "--mfu", "0.4", "--count", "48")
    assert scaling(monkeypatch, "plan", STUDY, *device) == 2
    said = capsys.readouterr().err
    assert "batch_sequences = 256 does not divide among 48 devices" in said


def test_a_plan_is_for_devices_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    own = tmp_path / "own.toml"
    own.write_text('[mine]\npeak = { bf16 = 1e15 }\nmemory = 400e9\nsource = "me"\n')
    words = ("--device", "mine", "--devices", own, "--mfu", "0.5")
    assert scaling(monkeypatch, "plan", STUDY, *words) == 0
    assert "1 × mine at 50% of 1e15 FLOP/s (bf16)" in capsys.readouterr().out
    assert scaling(monkeypatch, "plan", STUDY, "--devices", own) == 2
    assert "--devices needs a device. Give --device too" in capsys.readouterr().err


def test_what_was_planned_as_declared_is_not_trained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    assert scaling(monkeypatch, "run", STUDY, "--results", tmp_path) == 2
    assert "data/tokens/*.bin' is not on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    assert scaling(monkeypatch, "run", STUDY, "--results", tmp_path, "--dry-run") == 0
    assert "Nothing was written" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


LOWERED = """
import jax, numpy as np
from pathlib import Path
import jax._src.cudnn.fused_attention_stablehlo as cudnn
from models.sharding import make_mesh
from scaling.data.prepare import declared
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Target
from scaling.planning.plan import make_plan
from scaling.training.step import make_program
from scaling.study import read_study

# What asks for a GPU's libraries, which are not here.
cudnn.check_cudnn_version = lambda: 91000
cudnn.check_compute_capability = lambda capability: True
study = read_study(Path("experiments/accelerator.toml"))
runs = make_plan(study, declared(study.data)).runs
sizes = sorted({run.model: run for run in runs}.values(), key=lambda run: run.flops_per_token)
targets = {"tpu": Target("tpu", 8, 16e9), "cuda": Target("gpu", 8, 80e9)}
for run in (sizes[0], sizes[len(sizes) // 2], sizes[-1]):
    for platform, target in targets.items():
        layout = layout_of(run, target)
        mesh = make_mesh(**{layout.sharding: 8})
        program = make_program(run.architecture, run.model, run.optimizer, 0, layout, mesh)
        batch = (layout.steps_per_call, run.batch_sequences, run.sequence_length + 1)
        traced = program.train.trace(
            program.abstract,
            jax.ShapeDtypeStruct(batch, np.int32),
            jax.ShapeDtypeStruct(batch[:1], np.float32),
        )
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        kernel = {"tpu": "tpu_custom_call", "cuda": "__cudnn$fmha"}[platform]
        assert "bf16" in text and "mhlo.num_partitions = 8" in text and kernel in text, platform
        print(run.model.n_layers, platform, len(text))
"""


@pytest.mark.slow
def test_steps_of_all_sizes_lower_for_eight_devices_of_tpu_and_cuda() -> None:
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", LOWERED],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [platform for _, platform, _ in lines] == ["tpu", "cuda"] * 3
    layers, _, lengths = (np.array(column) for column in zip(*lines, strict=True))
    assert list(layers[::2].astype(int)) == [5, 12, 30]
    # Scanned layers: the largest has more than twice the layers and a shorter program.
    unrolled, scanned = lengths.astype(int)[2:].reshape(2, 2)
    assert (scanned < unrolled).all()
