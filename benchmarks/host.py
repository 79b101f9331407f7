"""How long do checkpoints, evaluations and task windows hold up the steps of a run?

    python benchmarks/host.py [--study FILE] [--params N] [--calls N] [--json FILE]

The first calls of a study's run of about so many parameters (the smallest of
experiments/quickstart.toml if none is given: about a minute on a free core) are trained again and
again: with nothing between them, with a checkpoint, an evaluation or both after every eighth, and
with half of every batch made of tasks, whose windows nobody has made, without and with evaluations
that put the tasks to the model. They take turns, so that what else the machine does meets all of
them. A step's time is that between two calls as the loop sees it, over the steps of the call; each
percentile is also given as a ratio to that of the run with nothing between its calls. A checkpoint
after every eighth call is far more than a study asks for: where the disk takes longer than eight
calls, it is the disk that is measured. What evaluations compile is part of the longest steps.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.devices import expected_platform
from scaling.store.records import write_json
from scaling.training.flags import Slot, worker_environment

if TYPE_CHECKING:
    from scaling.data.corpus import Corpus
    from scaling.spec import RunSpec

Row = dict[str, Any]  # `variant`, and milliseconds a step by the name of a percentile
QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.toml"
ROUNDS = 2
EVERY = 8  # calls
ALONE = "alone"
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=QUICKSTART)
    parser.add_argument("--params", type=float, default=0.0)
    parser.add_argument("--calls", type=int, default=34, help="at least 5")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Before jax is imported; a cache of its own, so that nothing is there already.
        flags = worker_environment(Slot(expected_platform()))
        os.environ.update({**flags, "SCALING_CACHE": f"{folder}/cache"})
        rows = measured(options.study, options.params, options.calls, ROUNDS, Path(folder))
    ratios = ratios_of(rows)
    print(f"{'':18}{'milliseconds a step':^32}  {'ratio to ' + ALONE:^28}")
    print(f"{'':18}" + "".join(f"{name:>8}" for name in PERCENTILES), end="  ")
    print("".join(f"{name:>7}" for name in PERCENTILES))
    for row in rows:
        print(f"{row['variant']:18}" + "".join(f"{row[name]:8.3f}" for name in PERCENTILES), end="")
        print("  " + "".join(f"{ratios[_ratio(row, name)]:7.2f}" for name in PERCENTILES))
    if options.json:
        write_json(options.json, {"rows": rows, "ratios": ratios})


def ratios_of(rows: Sequence[Row]) -> dict[str, float]:
    """Each percentile over that of the run with nothing between its calls."""
    (alone,) = (row for row in rows if row["variant"] == ALONE)
    return {_ratio(row, name): row[name] / alone[name] for row in rows for name in PERCENTILES}


def _ratio(row: Row, percentile: str) -> str:
    return f"{percentile}: {row['variant']} / {ALONE}"


def measured(study: Path, params: float, calls: int, rounds: int, folder: Path) -> list[Row]:
    """Of each way to train, the percentiles of a step's milliseconds over all rounds."""
    from experiments.cli.join.plan import plan_study
    from scaling.data.prepare import prepare
    from scaling.study import read_study
    from scaling.training.jax_setup import configure_jax

    configure_jax()
    read = read_study(study)
    plan = plan_study(read).plan
    corpus = prepare(read.data, folder / "cache" / "corpora")
    trunks = [run for run in plan.runs if run.run_kind == "trunk"]
    runs = variants(min(trunks, key=lambda run: abs(run.params.total - params)))
    found: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds):
        for place, (name, run) in enumerate(runs.items()):
            results = folder / f"{name}-{number}"
            # Another seed has other task windows, which nobody has made.
            own = replace(run, seed=len(runs) * number + place)
            found[name] += step_seconds(own, corpus, results, calls)
    return [
        {
            "variant": name,
            **{p: float(1e3 * np.percentile(times, q)) for p, q in PERCENTILES.items()},
        }
        for name, times in found.items()
    ]


def variants(run: RunSpec) -> Mapping[str, RunSpec]:
    """The same run with more and less between its steps."""
    from scaling.planning.layout import STEPS_PER_CALL
    from scaling.tasks.mix import TaskMix, TaskSpec

    never = run.schedule.steps + 1
    often = EVERY * (run.hardware.steps_per_call or STEPS_PER_CALL)
    alone = replace(run, tasks=None, checkpoint_at=(), checkpoint_every=never, evaluate_every=never)
    tasks = TaskMix(run.batch_sequences // 2, (TaskSpec("copy"), TaskSpec("addition")), (0, 1), 64)
    return {
        ALONE: alone,
        "checkpoints": replace(alone, checkpoint_every=often),
        "evaluations": replace(alone, evaluate_every=often),
        "both": replace(alone, checkpoint_every=often, evaluate_every=often),
        "task windows": replace(alone, tasks=tasks),
        "task evaluations": replace(alone, tasks=tasks, evaluate_every=often),
    }


def step_seconds(run: RunSpec, corpus: Corpus, folder: Path, calls: int) -> list[float]:
    """The seconds of a step of each call but the first, which is compiled, and the last two.

    The last is judged and saved in every variant.
    """
    from scaling.training.loop import Interrupted, Progress, train

    seen: list[tuple[int, float]] = []

    def report(progress: Progress) -> None:
        seen.append((progress.step, time.perf_counter()))

    with suppress(Interrupted):
        train(run, folder, corpus, report=report, should_stop=lambda: len(seen) >= calls)
    times = [(later - earlier) / (end - first) for (first, earlier), (end, later) in pairwise(seen)]
    return times[1:-2]


if __name__ == "__main__":
    main()
