"""How long do checkpoints, evaluations and task windows hold up the steps of a run?

    python benchmarks/host.py [--study FILE] [--params N] [--calls N] [--json FILE]

The first calls of a study's run of about so many parameters (the smallest of
experiments/quickstart.toml if none is given: under a minute on a free core) are trained again and
again: with nothing between them, with a checkpoint, an evaluation or both after every eighth, and
with half of every batch made of tasks, whose windows nobody has made. They take turns, so that
what else the machine does meets all of them. A step's time is that between two calls as the loop
sees it, over the steps of the call; each percentile is also given as a ratio to that of the run
with nothing between its calls. A checkpoint after every eighth call is far more than a study asks
for: where the disk takes longer than eight calls, it is the disk that is measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaling.store.records import write_json
from scaling.training.flags import worker_environment

if TYPE_CHECKING:
    from scaling.data.corpus import Corpus
    from scaling.spec import RunSpec

QUICKSTART = Path(__file__).parents[1] / "experiments" / "quickstart.toml"
ROUNDS = 2
EVERY = 8  # calls
ALONE = "alone"
Row = dict[str, dict[str, float]]
PERCENTILES = {"p50": 50, "p90": 90, "p99": 99, "max": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", type=Path, default=QUICKSTART)
    parser.add_argument("--params", type=float, default=0.0)
    parser.add_argument("--calls", type=int, default=34)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        # Before jax is imported; a cache of its own, so that nothing is there already.
        os.environ.update({**worker_environment(), "SCALING_CACHE": f"{folder}/cache"})
        rows = measured(options.study, options.params, options.calls, Path(folder))
    for row in rows.values():
        row["ratio"] = {name: row["ms"][name] / rows[ALONE]["ms"][name] for name in row["ms"]}
    print(f"{'':12}{'milliseconds a step':^32}  {'ratio to ' + ALONE:^28}")
    print(f"{'':12}" + "".join(f"{name:>8}" for name in PERCENTILES), end="  ")
    print("".join(f"{name:>7}" for name in PERCENTILES))
    for name, row in rows.items():
        print(f"{name:12}" + "".join(f"{value:8.3f}" for value in row["ms"].values()), end="  ")
        print("".join(f"{value:7.2f}" for value in row["ratio"].values()))
    if options.json:
        write_json(options.json, rows)


def measured(
    study: Path, params: float, calls: int, folder: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """Of each way to train, the percentiles of a step's milliseconds over all rounds."""
    from experiments.planning import plan_study
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
    for number in range(ROUNDS):
        for name, run in runs.items():
            # Another seed has other task windows, which nobody has made.
            results = folder / f"{name}-{number}"
            found[name] += step_seconds(replace(run, seed=number), corpus, results, calls)
    return {
        name: {"ms": {p: float(1e3 * np.percentile(times, q)) for p, q in PERCENTILES.items()}}
        for name, times in found.items()
    }


def variants(run: RunSpec) -> Mapping[str, RunSpec]:
    """The same run with more and less between its steps."""
    from scaling.planning.layout import STEPS_PER_CALL
    from scaling.tasks.mix import TaskMix, TaskSpec

    never = run.schedule.steps + 1
    often = EVERY * (run.hardware.steps_per_call or STEPS_PER_CALL)
    alone = replace(run, tasks=None, checkpoint_at=(), checkpoint_every=never, evaluate_every=never)
    tasks = TaskMix(run.batch_sequences // 2, (TaskSpec("copy"), TaskSpec("addition")), (0,), 8)
    return {
        ALONE: alone,
        "checkpoints": replace(alone, checkpoint_every=often),
        "evaluations": replace(alone, evaluate_every=often),
        "both": replace(alone, checkpoint_every=often, evaluate_every=often),
        "task windows": replace(alone, tasks=tasks),
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
