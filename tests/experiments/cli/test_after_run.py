"""What `scaling run` says of itself: how far it is, on how many devices, and what comes after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from experiments.cli.join.plan import plan_file
from experiments.cli.progress import Watch
from experiments.cli.render.run import counts_text, next_text, slots_text
from scaling.launch.slots import Host, slots_of
from scaling.launch.watch import Snapshot


def line(capsys: pytest.CaptureFixture[str], **fields: Any) -> str:
    common = {"runs_done": 3, "runs": 12, "flops_done": 1e9, "flops": 4e9, "tokens_per_s": 2e4}
    with Watch() as watch:
        watch(Snapshot(**{**common, "seconds": 60.0, "flops_per_s": 1e9 / 60, **fields}))
    return capsys.readouterr().out.strip()


def test_a_progress_line_says_nothing_that_is_not_known(capsys: Any) -> None:
    assert line(capsys) == "3/12 runs,  25% of FLOPs, 20k tokens/s, 3 min left"
    assert line(capsys, tokens_per_s=0.0) == "3/12 runs,  25% of FLOPs, 3 min left"
    assert line(capsys, flops_per_s=None) == "3/12 runs,  25% of FLOPs, 20k tokens/s"
    begun = line(capsys, runs_done=0, flops_done=0.0, tokens_per_s=0.0)
    assert begun == "0/12 runs,   0% of FLOPs, no steps yet"


def test_the_time_left_is_shown_once_a_tenth_is_done(capsys: Any) -> None:
    early = line(capsys, runs_done=1, flops_done=3.9e8)
    assert early == "1/12 runs,  10% of FLOPs, 20k tokens/s"
    assert line(capsys, runs_done=1, flops_done=4.1e8).endswith(", 3.59 min left")


def test_the_runs_of_a_plan_are_counted_with_their_trunks_and_points() -> None:
    planned = plan_file(Path(__file__).parents[3] / "experiments" / "smoke.toml")
    assert counts_text(planned.plan) == "18 runs (6 trunks, 12 points)"


def test_the_last_progress_line_says_how_long_it_took(capsys: Any) -> None:
    ended = line(capsys, runs_done=12, flops_done=4e9, tokens_per_s=0.0, seconds=300.0)
    assert ended == "12/12 runs, 100% of FLOPs in 5 min"


def test_the_last_progress_line_is_printed_once(capsys: Any) -> None:
    ended = Snapshot(12, 12, 4e9, 4e9, 0.0, 300.0, 0)
    with Watch() as watch:
        for _ in range(3):  # the workers still have to exit
            watch(ended)
    assert capsys.readouterr().out.count("12/12 runs") == 1


def table(sizes: int, lengths: int, variants: tuple[str | None, ...] = (None,)) -> pd.DataFrame:
    rows = [
        {"params_total": 1e6 * 2**n, "tokens": 1e7 * 2**d, "variant": variant}
        for n in range(sizes)
        for d in range(lengths)
        for variant in variants
    ]
    return pd.DataFrame(rows).assign(status="completed")


def test_a_grid_that_tells_a_law_is_to_be_fitted() -> None:
    assert next_text(Path("r/g"), table(4, 3), "chinchilla") == (
        "Next: scaling fit r/g --law chinchilla"
    )


def test_trunks_which_a_fit_leaves_out_are_not_counted() -> None:
    ends = table(3, 2).assign(run_kind="cooldown")
    trunks = table(3, 1).assign(run_kind="trunk")
    said = next_text(Path("r/g"), pd.concat([ends, trunks]), "chinchilla")
    assert "scaling fit" not in said and "the 6 completed runs lie at 6" in said


@pytest.mark.parametrize("variants", [(None,), ("rate=0.01", "rate=0.02", "rate=0.04")])
def test_no_fit_is_advised_to_fewer_points_than_coefficients(variants: Any) -> None:
    said = next_text(Path("r/g"), table(2, 2, variants), "chinchilla")
    assert "scaling fit" not in said and "needs 7 runs at 5 or more" in said
    assert said.endswith("lie at 4.")


def test_variants_are_advised_to_be_fitted_one_by_one() -> None:
    said = next_text(Path("r/g"), table(4, 3, ("model.qk=True", "model.qk=False")), "chinchilla")
    assert "--where variant==model.qk=" in said and "each variant has its own law" in said


def test_no_fit_is_advised_where_nothing_was_completed() -> None:
    nothing = table(4, 3).assign(status="diverged")
    assert "the 0 completed runs lie at 0" in next_text(Path("r/g"), nothing, "chinchilla")


CORES = Host("cpu", "cpu", ("0",))
H200 = Host("gpu", "NVIDIA H200", tuple("01234567"))
TPU = Host("tpu", "TPU v5 lite", tuple("0123"))


@pytest.mark.parametrize(
    ("host", "asked", "said"),
    [
        (CORES, {"workers": 2}, "2 runs at once, each on one core"),
        (CORES, {"workers": 1}, "1 run at a time, on one core"),
        (H200, {}, "8 runs at once, each on one NVIDIA H200"),
        (H200, {"devices_per_run": 2}, "4 runs at once, each on 2 NVIDIA H200"),
        (H200, {"devices_per_run": 8}, "1 run at a time, on 8 NVIDIA H200"),
        (H200, {"runs_per_device": 2}, "16 runs at once, 2 to each NVIDIA H200"),
        (TPU, {}, "1 run at a time, on 4 TPU v5 lite"),
        (TPU, {"devices_per_run": 1}, "4 runs at once, each on one TPU v5 lite"),
    ],
)
def test_a_launch_says_what_it_trains_on(host: Host, asked: Any, said: str) -> None:
    assert slots_text(slots_of(host, **asked), 100) == said


def test_devices_that_would_idle_are_named_before_training() -> None:
    said = slots_text(slots_of(H200, devices_per_run=3), 100)
    assert "2 runs at once" in said and "warning: of 8 devices 2 idle (6, 7)" in said
    said = slots_text(slots_of(H200, workers=3), 100)
    assert "of 8 devices 5 idle (3, 4, 5, 6, 7)" in said
    assert "warning: 3 runs are left for 8 workers" in slots_text(slots_of(H200), 3)
