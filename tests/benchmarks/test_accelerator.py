"""The benchmark of accelerators measures what it says, and a row that fails costs itself alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from models.decoder.sizes import count_params

Script = Callable[[str], ModuleType]


@pytest.fixture
def bench(script: Script) -> ModuleType:
    return script("accelerator")


def test_the_models_are_those_that_are_named(bench: ModuleType) -> None:
    sizes = {name: count_params(case.model).total for name, case in bench.cases(False).items()}
    # Radford et al. 2019, as released: 124M and 355M.
    assert sizes["12x768"] == 124_439_808 and sizes["24x1024"] == 354_823_168
    assert sizes["30M"] == pytest.approx(30e6, rel=0.05)
    eight = bench.cases(False)["8x512"].model
    assert (eight.n_layers, eight.d_model, eight.n_heads, eight.head_dim) == (8, 512, 4, 128)


def test_the_first_two_models_come_first_and_nothing_twice(bench: ModuleType) -> None:
    for pairs in (False, True):
        rows = [
            (case.name, variant.name)
            for case, variants in bench.plan_of(bench.cases(False), pairs)
            for variant in variants
        ]
        both = ["default", "torch"] if pairs else ["default"]
        assert rows[: 2 * len(both)] == [(c, v) for c in ("8x512", "12x768") for v in both]
        assert len(set(rows)) == len(rows) and ("24x1024", "default") in rows


def test_a_variant_is_another_value_at_the_same_microbatch(bench: ModuleType) -> None:
    case = bench.cases(False)["12x768"]
    execution = {"layers": "unrolled", "remat": "none", "attention": "cudnn", "loss": "whole"}
    layout = {"microbatch_sequences": 64, "devices": 2, "execution": execution}
    kept = {v.name: bench.held(v, layout, case, True) for v in bench.VARIANTS}
    assert {name for name, found in kept.items() if found is None} == {"remat none", "loss whole"}
    others = {"layers": "unrolled", "loss": "whole", "microbatch_tokens": 32 * 1024}
    assert kept["remat full"].changes == {"remat": "full", **others}
    assert kept["attention plain"].changes == {"attention": "plain"}
    deterministic = next(v for v in bench.VARIANTS if v.name == "deterministic")
    assert bench.held(deterministic, layout, case, False) is None  # a CPU always is


def process(bench: ModuleType, folder: Path, code: str, seconds: float = 60) -> Any:
    log = folder / "log"
    with log.open("wb") as said:
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
        )
    return bench.Process(child, log, time.monotonic() + seconds)


@pytest.mark.parametrize(
    "code, seconds, reason",
    [
        ("import sys; sys.exit('CUDA is gone')", 60, "exit code 1: CUDA is gone"),
        ("""print('{"reason": "no memory"}')""", 60, "no memory"),
        ("import time; time.sleep(60)", 0.1, "time was up"),
    ],
)
def test_a_process_that_fails_says_why(
    bench: ModuleType, tmp_path: Path, code: str, seconds: float, reason: str
) -> None:
    row = process(bench, tmp_path, code, seconds)
    with row.process, pytest.raises(bench.Failed, match=reason):
        try:
            row.answer()
        finally:
            row.process.kill()


def rows(bench: ModuleType, path: Path, *given: tuple[str, str, float | None]) -> Any:
    report = bench.Report(path)
    for name, variant, seconds in given:
        case = bench.cases(False)[name]
        device = {"kind": "NVIDIA H200", "platform": "gpu", "count": 1, "memory": 1}
        ready = {"device": device, "compile_s": 1.0, "layout": {}, "modelled_bytes": 1.0}
        answers = [{"tokens": 1_000_000, "s": seconds, "peak_bytes": 7}] if seconds else []
        report.add(case, variant, ready, answers, None if seconds else "no memory")
    return report


def test_ratios_and_floors_are_of_the_rows(bench: ModuleType, tmp_path: Path) -> None:
    report = rows(
        bench,
        tmp_path / "rows.json",
        ("12x768", "default", 2.0),
        ("12x768", "torch", 3.0),
        ("12x768", "attention plain", 8.0),
        ("8x512", "default", None),
    )
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written["ratios"] == report.ratios()
    assert report.ratios() == {
        "12x768: modelled / peak memory": pytest.approx(1 / 7),
        "12x768: default / torch": pytest.approx(1.5),
        "12x768: attention plain / default": pytest.approx(0.25),
    }
    first, *_, failed = written["rows"]
    # 500k tokens/s of 8.04e8 FLOPs on a peak of 9.89e14.
    expected = 5e5 * first["flops_per_token"] / 989e12
    assert first["mfu"] == pytest.approx(expected, rel=1e-3) and first["peak_bytes"] == 7
    assert first["mfu_causal"] < first["mfu"] and first["dtype"] == "bfloat16"
    assert failed["reason"] == "no memory" and failed["tokens_per_s"] is None
    met = {said.split(":")[0]: said.endswith(": met") for said in report.floors()}
    assert not met["MFU of 24x1024"] and not met["MFU of 8x512"]
    assert met["MFU of 12x768"] == (first["mfu"] >= 0.45)
    assert "12x768: modelled / peak memory: 0.143, within 15%: MISSED" in report.floors()


@pytest.mark.slow
def test_rows_are_measured_in_processes_of_their_own(bench: ModuleType, tmp_path: Path) -> None:
    report = bench.Report(None)
    made = bench.Bench(True, bench.Slot("cpu"), tmp_path, time.monotonic() + 300, report)
    splash = bench.Variant("attention splash", {"attention": "splash"})
    made.measure(bench.cases(True)["12x768"], [bench.DEFAULT_VARIANT, splash])
    good, bad = sorted(report.rows, key=lambda row: row["variant"] != "default")
    assert good["tokens_per_s"] > 0 and good["reason"] is None and good["modelled_bytes"] > 0
    assert bad["tokens_per_s"] is None and 'attention = "splash" needs a TPU' in bad["reason"]


def test_a_row_measured_alone_has_as_much_of_the_memory_as_a_worker(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    real = subprocess.Popen

    def started(command: list[str], *, env: dict[str, str], **more: Any) -> Any:
        seen.append(env["XLA_CLIENT_MEM_FRACTION"])
        return real([sys.executable, "-c", ""], env=env, **more)

    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(bench.subprocess, "Popen", started)
    slot = bench.Slot("gpu", ("0",))
    made = bench.Bench(True, slot, tmp_path, time.monotonic() + 60, bench.Report(None))
    case = bench.cases(True)["12x768"]
    made.measure(case, [bench.DEFAULT_VARIANT, bench.TORCH])
    made.measure(case, [bench.DEFAULT_VARIANT])
    assert seen == [bench.SHARE, bench.SHARE, "0.920"]


LOWERED = """
import sys
sys.path.insert(0, "benchmarks")
import accelerator, jax, numpy as np
import jax._src.cudnn.fused_attention_stablehlo as cudnn
# What is asked of the driver here is asked on the machine that measures.
cudnn.check_cudnn_version = lambda: 91000
cudnn.check_compute_capability = lambda *_: True
from models.sharding import make_mesh
from scaling.planning.deriving import layout_of
from scaling.planning.layout import Target
from scaling.training.step import make_program

for case in accelerator.cases(False).values():
    run = accelerator.run_of(case, accelerator.Hardware())
    layout = layout_of(run, Target("gpu", 1, 80e9))
    program = make_program(run.architecture, run.model, run.optimizer, 0, layout, make_mesh())
    batch = (layout.steps_per_call, case.batch_sequences, case.length + 1)
    lowered = program.train.trace(
        program.abstract,
        jax.ShapeDtypeStruct(batch, "int32"),
        jax.ShapeDtypeStruct(batch[:1], "float32"),
    ).lower(lowering_platforms=("cuda",))
    print(case.name, layout.execution.attention, "fmha" in lowered.as_text())
"""


@pytest.mark.slow
def test_what_is_measured_lowers_for_a_gpu() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOWERED],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == ["8x512", "12x768", "24x1024", "30M"]
    assert all((attention == "cudnn") == (fused == "True") for _, attention, fused in lines)
