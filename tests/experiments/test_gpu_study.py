"""The study for one GPU: planned without its text, within its budget, and lowered for CUDA."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from experiments.cli.__main__ import main
from scaling.data.packages import PackageList
from scaling.data.prepare import declared
from scaling.planning.plan import Plan, make_plan
from scaling.spec import spent_flops
from scaling.study import read_study

STUDY = Path("experiments/gpu.toml")
LIST = Path("experiments/corpora/packages.toml")


@pytest.fixture(scope="module")
def plan() -> Plan:
    study = read_study(STUDY)
    return make_plan(study, declared(study.data))


def test_it_lies_two_decades_above_the_quickstart_at_a_tenth_of_a_gpu_for_minutes(
    plan: Plan,
) -> None:
    quickstart = read_study(Path("experiments/quickstart.toml")).grid.max_run_flops
    assert quickstart is not None
    assert max(point.flops_6nd for point in plan.points) > 100 * quickstart
    assert sum(map(spent_flops, plan.runs)) < 0.1 * 989e12 * 240


def test_no_run_sees_its_text_more_than_four_times(plan: Plan) -> None:
    assert max(run.tokens for run in plan.runs) < 4 * plan.corpus.train_tokens


def test_a_trunk_makes_a_cluster_and_twelve_carry_a_bootstrap(plan: Plan) -> None:
    assert len({run.trunk_id for run in plan.runs}) >= 12


def test_its_packages_are_listed_and_fetched_by_the_same_names() -> None:
    raw = json.dumps(tomllib.loads(LIST.read_text()))
    listed = TypeAdapter(PackageList).validate_json(raw)
    wanted = subprocess.run(["make", "-n", "packages"], capture_output=True, text=True, check=True)
    assert "corpora/packages.toml" in wanted.stdout
    header = LIST.read_text().split("[[package]]")[0]
    assert all(f"{each.name}=={each.version}" in header for each in listed.package)


def test_a_dry_run_where_the_packages_are_not_writes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for options, code in ((["--dry-run"], 0), ([], 2)):
        command = ["scaling", "run", str(STUDY), "--results", str(tmp_path), *options]
        monkeypatch.setattr(sys, "argv", command)
        assert main() == code
    said = capsys.readouterr()
    assert "Nothing was written" in said.out
    assert "pip download --no-deps -d packages sympy==" in said.err
    assert not list(tmp_path.iterdir())


LOWERED = """
import sys
from pathlib import Path
import jax, numpy as np
import jax._src.cudnn.fused_attention_stablehlo as cudnn
# What is asked of the driver here is asked on the machine that trains.
cudnn.check_cudnn_version = lambda: 91000
cudnn.check_compute_capability = lambda *_: True
from models.sharding import make_mesh
from scaling.data.prepare import declared
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Target
from scaling.planning.plan import make_plan
from scaling.training.step import make_program
from scaling.study import read_study

for name in sys.argv[1:]:
    study = read_study(Path(name))
    runs = sorted(make_plan(study, declared(study.data)).runs, key=lambda run: run.flops_per_token)
    for run in (runs[0], runs[-1]):
        layout = layout_of(run, Target("gpu", 1, 80e9))
        program = make_program(
            run.architecture, run.model, run.optimizer, run.seed, layout, make_mesh()
        )
        batch = (layout.steps_per_call, run.batch_sequences, run.sequence_length + 1)
        lowered = program.train.trace(
            program.abstract,
            jax.ShapeDtypeStruct(batch, np.int32),
            jax.ShapeDtypeStruct(batch[:1], np.float32),
        ).lower(lowering_platforms=("cuda",))
        print(study.name, layout.execution.attention, "fmha" in lowered.as_text())
"""


@pytest.mark.slow
def test_the_smallest_and_the_largest_step_lower_for_a_gpu() -> None:
    studies = (str(STUDY), "experiments/h100-day.toml")
    done = subprocess.run(
        [sys.executable, "-c", LOWERED, *studies],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["gpu", "gpu", "h100-day", "h100-day"]
    assert all((attention == "cudnn") == (fused == "True") for _, attention, fused in lines)
